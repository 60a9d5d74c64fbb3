"""What the uncertain constants of the cost model do to a whole simulation: bands around its results, and a tornado."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sim.physics.band import Swing, between, draws
from sim.physics.band import tornado as tornado_of
from sim.physics.efficiency import Efficiency
from sim.physics.roofline import Floats
from sim.results.result import Result
from sim.scenario import Scenario, simulate

LEVELS = (50, 90, 99)


@dataclass(frozen=True)
class Estimate:
    """A number at the constants in the middle, and what it becomes elsewhere.

    Attributes
    ----------
    point : at the scenario's own constants.
    values : at drawn ones, shape (draws,).
    low, high : 5th and 95th percentile of the values.
    """

    point: float
    values: Floats
    low: float
    high: float


def percentiles(result: Result) -> dict[str, float]:
    """Return the percentiles `LEVELS` of TTFT, TPOT and E2E over the requests that were served [s]; nan without any."""
    columns = {"TTFT": result.ttft_seconds, "TPOT": result.tpot_seconds, "E2E": result.end_to_end_seconds}
    found: dict[str, float] = {}
    for name, column in columns.items():
        known = column[np.isfinite(column)]
        values = np.percentile(known, LEVELS).tolist() if len(known) else [float("nan")] * len(LEVELS)
        found |= {f"{name} p{level}": value for level, value in zip(LEVELS, values, strict=True)}
    return found


def bands(
    scenario: Scenario,
    samples: int,
    rng: np.random.Generator,
    numbers: Callable[[Result], dict[str, float]] = percentiles,
) -> dict[str, Estimate]:
    """Return numbers of a simulation with the band in which they lie at 90 % of the constants that are plausible.

    The same requests are served again at every draw. Equal generators give equal constants whatever the scenario
    (common random numbers), so that `values` of two scenarios can be compared draw by draw.

    Parameters
    ----------
    samples : draws, 2 and more.
    numbers : what to read off a result.
    """
    if samples < 2:
        raise ValueError(f"samples={samples}; allowed are 2 and more")
    point = numbers(simulate(scenario))
    drawn = draws(scenario.machine.model.efficiency, samples, rng)
    rows = [numbers(simulate(at(scenario, constants, host))) for constants, host in drawn]
    found = {}
    for name, middle in point.items():
        values = np.array([row[name] for row in rows])
        band = between(values)
        found[name] = Estimate(middle, values, float(band.low), float(band.high))
    return found


def tornado(scenario: Scenario, number: Callable[[Result], float]) -> list[Swing]:
    """Return what each uncertain constant does on its own to a number of a simulation, largest first."""
    centre = scenario.machine.model.efficiency
    return tornado_of(lambda constants, host: number(simulate(at(scenario, constants, host))), centre)


def at(scenario: Scenario, constants: Efficiency, host: float) -> Scenario:
    """Return the scenario at other constants, and with the engine's own times multiplied by `host`."""
    return replace(
        scenario,
        efficiency=constants,
        host_seconds=scenario.host_seconds * host,
        least_iteration_seconds=scenario.least_iteration_seconds * host,
    )
