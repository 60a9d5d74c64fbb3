"""How far a time may be off on a chip that nobody calibrated: constants drawn from intervals, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from sim.physics.efficiency import RATES, Efficiency, generic
from sim.physics.iteration import IterationModel
from sim.physics.roofline import Floats, most_memory
from sim.physics.totals import Totals

LOW, HIGH = 0.05, 0.95
"""Where the ends of an interval lie in the distribution that is drawn from: 90 % of the draws are inside."""


@dataclass(frozen=True)
class Interval:
    """Where a constant lies on nine of ten chips: the value itself, or a factor on the constant in the centre.

    Drawn uniformly, of the value or (`logarithmic`) of its logarithm.
    """

    low: float
    high: float
    logarithmic: bool = True

    def at(self, position: float) -> float:
        """Return the value at a position in the distribution, 0 to 1."""
        share = (position - LOW) / (HIGH - LOW)
        if self.logarithmic:
            return float(self.low * (self.high / self.low) ** share)
        return self.low + (self.high - self.low) * share


def _factor(spread: float) -> Interval:
    return Interval(1 / spread, spread)


INTERVALS: Mapping[str, Interval] = MappingProxyType(
    {
        "matrix arithmetic": Interval(0.60, 1.17, logarithmic=False),
        "matrix memory": Interval(0.70, 0.98, logarithmic=False),
        "matrix launch": Interval(0.5e-6, 25e-6),
        "narrow kernels": _factor(1.7),
        "experts": _factor(2.5),
        "prompt attention": _factor(2.0),
        "decode attention": _factor(2.0),
        "mixed attention": _factor(2.0),
        "elementwise": _factor(3.0),
        "other launches": _factor(3.0),
        "NVLink": _factor(1.6),
        "PCIe": _factor(3.0),
        "host": _factor(2.0),
    }
)
"""What is uncertain about a chip of which only the datasheet is known.

Matrix products: ranges over six GPUs (aiconfigurator-core 0.12.0, Apache-2.0) are compute .61-.91 where .83 is
expected, memory .77-.97, launch .65-23 us; wider here, since the next GPU may be outside. The other factors were chosen
so that the band holds most measurements of a chip that is left out (`experiments.scoreboard.coverage`): kernels differ
between libraries as much as between chips. Over PCIe datasheets are off by 3 to 10 times.
"""

ABSOLUTE = {"matrix memory": "memory", "matrix launch": "launch_seconds"}
"""Intervals of the value itself, and the field of `Efficiency.gemm` it is a value of."""

CALIBRATED = _factor(1.15)
"""The same for a constant that was fitted on this very chip: what such fits miss of kernels they never saw (the median
of the held-out errors in `sim/physics/calibrated` is 10 %), in an engine that is not the benchmark."""

KNOBS: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "gemm": ("matrix arithmetic", "matrix memory", "matrix launch"),
        "experts": ("experts", "experts", "other launches"),
        "quantise": ("elementwise", "elementwise", "other launches"),
        "elementwise": ("elementwise", "elementwise", "other launches"),
        "prefill_attention": ("prompt attention", "prompt attention", "other launches"),
        "decode_attention": ("decode attention", "decode attention", "other launches"),
        "mixed_attention": ("mixed attention", "mixed attention", "other launches"),
    }
)
"""What moves the reached compute, the reached memory and the launch of rates, by how their names begin.

A block of decoding attention takes longer where reading does.
"""

NARROW, NARROW_ENDS = "narrow kernels", ("_8bit", "_block", "_4bit")
"""What moves kernels of narrow numbers besides, and how their names end; passes that quantise read wide ones."""

DRAWS = 200


@dataclass(frozen=True)
class Band:
    """What lies between the 5th and the 95th percentile of the draws [s], shape of the totals."""

    low: Floats
    high: Floats


@dataclass(frozen=True)
class Swing:
    """What a number becomes when one uncertain constant alone goes to either end of its interval.

    Attributes
    ----------
    name : key of `INTERVALS`.
    slow, fast : the number with the constant at the end that costs time, and at the other.
    """

    name: str
    slow: float
    fast: float

    @property
    def width(self) -> float:
        """How much the constant matters."""
        return abs(self.slow - self.fast)


def band(model: IterationModel, totals: Totals, samples: int, rng: np.random.Generator) -> Band:
    """Return between which times an iteration lies with 90 % of the constants that are plausible.

    Equal generators give equal constants whatever the model and the totals, so that differences between two chips or
    two batches are not blurred by the draws (common random numbers).

    Parameters
    ----------
    model : with the constants in the middle; those that were calibrated are drawn from narrower intervals.
    samples : draws.
    """
    times = [
        replace(model, efficiency=constants, host_seconds=model.host_seconds * host).seconds(totals)
        for constants, host in draws(model.efficiency, samples, rng)
    ]
    return between(np.array(times))


def between(values: Floats) -> Band:
    """Return the band of numbers that were computed at drawn constants, shape (draws, ...) -> (...)."""
    if len(values) < 2:
        raise ValueError(f"samples={len(values)}; allowed are 2 and more")
    low, high = np.percentile(values, [100 * LOW, 100 * HIGH], axis=0)
    return Band(low, high)


def draws(centre: Efficiency, samples: int, rng: np.random.Generator) -> Iterator[tuple[Efficiency, float]]:
    """Yield constants and a factor on the engine's own time, `samples` of each."""
    for _ in range(samples):
        yield constants_at(centre, dict(zip(INTERVALS, rng.random(len(INTERVALS)).tolist(), strict=True)))


def tornado(number: Callable[[Efficiency, float], float], centre: Efficiency) -> list[Swing]:
    """Return what each uncertain constant does to a number on its own, largest first; without those that do nothing.

    Parameters
    ----------
    number : of constants and a factor on the engine's own time: an iteration's seconds, a percentile of a simulation.
    centre : where all other constants stay.
    """
    swings = [Swing(name, *(number(*constants_at(centre, {name: end})) for end in _ends(name))) for name in INTERVALS]
    return sorted((swing for swing in swings if swing.width), key=lambda swing: -swing.width)


def constants_at(centre: Efficiency, positions: Mapping[str, float]) -> tuple[Efficiency, float]:
    """Return constants, and a factor on the engine's own time, with some moved to positions in their distributions.

    Parameters
    ----------
    centre : constants to start from. Of those that were fitted the interval is `CALIBRATED`.
    positions : 0 to 1 by name in `INTERVALS`; what is not named stays where it is.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    if unknown := sorted(positions.keys() - INTERVALS.keys()):
        raise ValueError(f"uncertain constants {', '.join(unknown)}; allowed are {', '.join(INTERVALS)}")
    middle = generic().gemm if "gemm" in centre.fitted else centre.gemm

    def factor(name: str, fitted: bool) -> float:
        if name not in positions:
            return 1.0
        if fitted:
            return CALIBRATED.at(positions[name])
        value = INTERVALS[name].at(positions[name])
        return value / (getattr(middle, ABSOLUTE[name]) or np.inf) if name in ABSOLUTE else value

    changed: dict[str, Any] = {}
    for field in RATES:
        rate, kind = getattr(centre, field), next(kind for kind in KNOBS if field.startswith(kind))
        is_fitted = field in centre.fitted
        compute, memory, launch = (factor(name, is_fitted) for name in KNOBS[kind])
        if field.endswith(NARROW_ENDS) and kind != "quantise":
            narrow = factor(NARROW, is_fitted)
            compute, memory = compute * narrow, memory * narrow
        changed[field] = rate.scaled(launch, compute, memory, most_memory(field))
    fast = factor("NVLink", not centre.fitted.isdisjoint(("links", "nccl")))
    pcie = factor("PCIe", "links" in centre.fitted and centre.links.pcie_measured)
    links = _scaled_links(centre, fast, pcie)
    host = factor("host", centre.host_seconds is not None)
    changed["host_seconds"] = centre.host_seconds and centre.host_seconds * host
    return replace(centre, **changed, **links), host


def _ends(name: str) -> tuple[float, float]:
    """Return the position at which a constant costs most, and the other: launches and host time cost when high."""
    return (HIGH, LOW) if name in ("matrix launch", "other launches", "host") else (LOW, HIGH)


def _scaled_links(centre: Efficiency, fast: float, pcie: float) -> dict[str, Any]:
    links, nccl = centre.links, centre.nccl
    rate = links.pcie_bytes_per_second
    scaled = replace(
        links,
        one_shot_seconds=links.one_shot_seconds / fast,
        one_shot=min(1.0, links.one_shot * fast),
        peer_seconds=links.peer_seconds / fast,
        pcie_seconds=links.pcie_seconds / pcie,
        pcie_step_seconds=links.pcie_step_seconds / pcie,
        pcie_bytes_per_second=rate and rate * pcie,
    )
    alone = replace(
        nccl,
        launch_seconds=nccl.launch_seconds / fast,
        step_seconds=nccl.step_seconds / fast,
        low_latency=min(1.0, nccl.low_latency * fast),
        simple=min(1.0, nccl.simple * fast),
        switched=min(1.0, nccl.switched * fast),
    )
    return {"links": scaled, "nccl": alone}
