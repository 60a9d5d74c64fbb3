"""How often measurements lie in the band of an unknown chip, when each measured chip in turn is left out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from experiments.scoreboard.groups import Group
from hardware_profiles import load as load_hardware
from hardware_profiles.profile import HardwareProfile
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

    The middle of the band are the chip's generic constants, moved as the calibrated constants of the other chips are
    from theirs on average, and the intervals are those of `sim.physics.band`, whose widths were chosen looking at all
    chips of the calibration together.
    """
    together: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        if group.constant:
            together.setdefault((group.chip.name, group.constant), []).append(group)
    rows = []
    for (chip, constant), mine in sorted(together.items()):
        inside = []
        for old in sorted({group.stack == OLD for group in mine}):
            constants = [drawn for drawn, _ in draws(without(mine[0].chip, old=old), samples, rng)]
            inside += [_inside(group, constants) for group in mine if (group.stack == OLD) == old]
        rows.append(Coverage(chip, constant, sum(map(len, inside)), round(100 * float(np.mean(np.hstack(inside))), 1)))
    return rows


def without(chip: HardwareProfile, *, old: bool = False) -> Efficiency:
    """Return the generic constants of a chip as they would be without it, by the calibrations of the others.

    `old`: of the kernels of `OLD`, which all other times leave out.
    """
    others: list[tuple[Efficiency, Efficiency, tuple[str, ...]]] = []
    for path in (calibration.CALIBRATED / f"{name}.toml" for name in calibration.available()):
        name, _, stack = path.stem.rpartition("-")
        if name != chip.name and (stack == OLD) == old:
            others.append(
                (calibration.read(path)[0], generic(load_hardware(name), stack), calibration.calibrated(path))
            )
    base = generic(chip, OLD if old else None)
    moved: dict[str, Any] = {}
    for constant in RATES:
        pairs = [
            (getattr(own, constant), getattr(usual, constant)) for own, usual, known in others if constant in known
        ]
        if pairs:
            moved[constant] = _moved(getattr(base, constant), pairs)
    return replace(base, **moved)


def _moved(rate: Rate, pairs: list[tuple[Rate, Rate]]) -> Rate:
    """Return a generic rate times what calibrated ones are of theirs, in pairs (calibrated, generic)."""

    def moved(name: str) -> float:
        factors = [getattr(own, name) / getattr(usual, name) for own, usual in pairs]
        return float(getattr(rate, name) * np.exp(np.mean(np.log(factors))))

    return replace(
        rate,
        launch_seconds=moved("launch_seconds"),
        compute=min(1.0, moved("compute")),
        memory=min(max(1.0, rate.memory), moved("memory")),
        sharpness=float(np.median([own.sharpness for own, _ in pairs])),
    )


def _inside(group: Group, constants: list[Efficiency]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    times = np.array([group.seconds(each)[::STRIDE] for each in constants])
    low, high = np.percentile(times, [5, 95], axis=0)
    measured = group.measured_seconds[::STRIDE]
    return np.asarray((measured >= low) & (measured <= high))
