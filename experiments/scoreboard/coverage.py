"""How often measurements lie in the band of an unknown chip, when each measured chip in turn is left out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from experiments.scoreboard.groups import Group
from sim.physics import calibration
from sim.physics.band import draws
from sim.physics.efficiency import RATES, Efficiency, generic
from sim.physics.roofline import Rate

OLD = "pytorch"
"""The one stack whose kernels are years older than the others', and differ from them more than chips do."""

STRIDE = 10
"""Every tenth row is enough for a percentage."""


@dataclass(frozen=True)
class Coverage:
    """How many of the measured rows of one constant on one chip lie inside the band of 90 %."""

    hardware: str
    constant: str
    n: int
    covered_pct: float


def coverage(groups: Iterable[Group], samples: int, rng: np.random.Generator) -> list[Coverage]:
    """Return what part of the rows lies inside the band that the other chips alone would have given.

    The middle of the band is the mean of the other chips' calibrated constants (of a chip that nobody calibrated: the
    generic ones), and the intervals are those of `sim.physics.band`, whose widths were chosen looking at all chips of
    the calibration together.
    """
    together: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        if group.constant:
            together.setdefault((group.chip.name, group.constant), []).append(group)
    rows = []
    for (chip, constant), mine in sorted(together.items()):
        inside = []
        for old in sorted({group.stack == OLD for group in mine}):
            constants = [drawn for drawn, _ in draws(without(chip, old=old), samples, rng)]
            inside += [_inside(group, constants) for group in mine if (group.stack == OLD) == old]
        rows.append(Coverage(chip, constant, sum(map(len, inside)), round(100 * float(np.mean(np.hstack(inside))), 1)))
    return rows


def without(chip: str, *, old: bool = False) -> Efficiency:
    """Return the generic constants as they would be without one chip: means over the calibrations of the others.

    `old`: of the kernels of `OLD`, which all other times leave out.
    """
    others = [
        name for name in calibration.available() if not name.startswith(f"{chip}-") and name.endswith(f"-{OLD}") == old
    ]
    paths = [calibration.CALIBRATED / f"{name}.toml" for name in others]
    base = generic(stack=OLD if old else None)
    means: dict[str, Any] = {}
    for constant in RATES:
        rates = [
            getattr(calibration.read(path)[0], constant) for path in paths if constant in calibration.calibrated(path)
        ]
        if rates:
            means[constant] = _mean(rates, getattr(base, constant))
    return replace(base, **means)


def _mean(rates: list[Rate], rate: Rate) -> Rate:
    def mean(name: str) -> float:
        return float(np.exp(np.mean([np.log(getattr(each, name)) for each in rates])))

    sharpness = float(np.median([each.sharpness for each in rates]))
    return replace(
        rate, launch_seconds=mean("launch_seconds"), compute=mean("compute"), memory=mean("memory"), sharpness=sharpness
    )


def _inside(group: Group, constants: list[Efficiency]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    times = np.array([group.seconds(each)[::STRIDE] for each in constants])
    low, high = np.percentile(times, [5, 95], axis=0)
    measured = group.measured_seconds[::STRIDE]
    return np.asarray((measured >= low) & (measured <= high))
