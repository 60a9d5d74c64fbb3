"""Constants that explain a run of a server as its client saw it, found by replaying it again and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from experiments.scoreboard.clients import ClientRun
from experiments.scoreboard.groups import Floats
from experiments.scoreboard.score import errors_pct
from sim.physics.calibration import FOLDS
from sim.physics.efficiency import RATES, Efficiency
from sim.physics.roofline import most_memory
from sim.scenario import Scenario, simulate

TERMS = {"host and launches": 2.0, "memory": 1.3, "arithmetic": 1.4, "front end": 3.0}
"""What is fitted, as factors on the constants to start from, and by which factor each is expected to be off either way.

The engine's own time and the launches of its kernels cost every iteration the same, whatever is in it: no run tells
them apart, and they are moved together. What a run says nothing of stays where it was: the fit minimises errors and
unlikely factors together.
"""

SCALE = 0.03
"""Relative error of a latency that weighs as much as a factor that is off by what is expected of it; larger ones count
less and less (soft L1)."""

STEPS, SHIFT = (0.5, 0.2, 0.05), 10.0
"""Steps of a logarithm for slopes: over small ones a schedule jumps rather than bends. They are relative, so that
logarithms are shifted away from 0."""

POLISH, EVALUATIONS = 0.4, 120
"""First step without slopes, in parts of what is expected of a factor, and most replays of that search."""

LEAST_REQUESTS = 20

FACTOR = 20.0
"""Most that anything may be off either way."""


@dataclass(frozen=True)
class ClientFit:
    """Fitted factors.

    Attributes
    ----------
    factors, fold_factors : in the order of `TERMS`, of all requests, and without each part in turn.
    requests : measured ones.
    ttft_held_out_pct, tpot_held_out_pct : median, 90th percentile and signed median of the error on requests left out.
    """

    factors: tuple[float, ...]
    fold_factors: tuple[tuple[float, ...], ...]
    requests: int
    ttft_held_out_pct: tuple[float, float, float]
    tpot_held_out_pct: tuple[float, float, float]


def fit(run: ClientRun, scenario: Scenario) -> ClientFit:
    """Return the factors under which the scenario, serving the same requests, replies most as the server did.

    Parameters
    ----------
    scenario : the server at the constants to start from; its trace is that of the run.

    Raises
    ------
    ValueError
        Too few requests, or the server of the scenario cannot serve them.
    """
    count = len(run.trace)
    if count < LEAST_REQUESTS:
        raise ValueError(f"{run.trace.name}: {count} requests of {run.tool}; at least {LEAST_REQUESTS} are needed")
    part = np.arange(count) % FOLDS
    everything = _solve(run, scenario, np.ones(count, dtype=bool), (1.0,) * len(TERMS), STEPS)
    parts = [_solve(run, scenario, part != fold, everything, STEPS[-1:]) for fold in range(FOLDS)]
    first, gap = np.empty(count), np.empty(count)
    for fold, factors in enumerate(parts):
        ttft, tpot = _latencies(at(scenario, factors))
        first[part == fold], gap[part == fold] = ttft[part == fold], tpot[part == fold]
    known = np.isfinite(gap) & np.isfinite(run.tpot_seconds)
    held_out = errors_pct(first, run.ttft_seconds), errors_pct(gap[known], run.tpot_seconds[known])
    return ClientFit(everything, tuple(parts), count, *held_out)


def at(scenario: Scenario, factors: Sequence[float]) -> Scenario:
    """Return the server with its constants changed by factors, in the order of `TERMS`."""
    fixed, memory, arithmetic, front_end = factors
    assert scenario.efficiency is not None
    return replace(
        scenario,
        efficiency=scaled(scenario.efficiency, fixed, memory, arithmetic),
        host_seconds=scenario.host_seconds * fixed,
        front_end_seconds=scenario.front_end_seconds * front_end,
    )


def scaled(constants: Efficiency, launches: float, memory: float, arithmetic: float) -> Efficiency:
    """Return constants with all launches, all reached bandwidths and all reached peaks multiplied."""
    changed: dict[str, Any] = {}
    for name in RATES:
        changed[name] = getattr(constants, name).scaled(launches, arithmetic, memory, most_memory(name))
    return replace(constants, **changed)


def _latencies(scenario: Scenario) -> tuple[Floats, Floats]:
    result = simulate(scenario)
    if not np.isfinite(result.ttft_seconds).all():
        lost = int((~np.isfinite(result.ttft_seconds)).sum())
        raise ValueError(f"{lost} of {len(result.trace)} requests cannot be served with these limits; see --context")
    return result.ttft_seconds, result.tpot_seconds


def _solve(
    run: ClientRun, scenario: Scenario, mask: npt.NDArray[np.bool_], start: Sequence[float], steps: Sequence[float]
) -> tuple[float, ...]:
    """Minimise errors and unlikely factors together, along slopes over ever smaller steps, then without slopes."""
    from scipy.optimize import least_squares, minimize

    expected, bound = np.log(list(TERMS.values())), np.log(FACTOR)
    gaps, first_tokens = mask & np.isfinite(run.tpot_seconds), np.sort(run.ttft_seconds[mask])

    def residuals(shifted: Floats) -> Floats:
        logarithms = shifted - SHIFT
        ttft, tpot = _latencies(at(scenario, np.exp(logarithms).tolist()))
        # In which moment of an iteration a request arrives is chance, and a first token waits for its end: first tokens
        # are compared as distributions.
        errors = np.log(np.sort(ttft[mask]) / first_tokens), np.log(tpot[gaps] / run.tpot_seconds[gaps])
        return np.concatenate((*(error / SCALE for error in errors), logarithms / expected))

    def cost(shifted: Floats) -> float:
        return float(np.sum(np.sqrt(1 + residuals(shifted) ** 2) - 1))

    place, limits = np.log(start) + SHIFT, (SHIFT - bound, SHIFT + bound)
    for step in steps:
        place = least_squares(
            residuals,
            place,
            bounds=limits,
            loss="soft_l1",
            diff_step=[step / SHIFT] * len(TERMS),
            x_scale=expected,
            xtol=1e-5,
            ftol=1e-5,
            max_nfev=10 if len(steps) > 1 else 3,
        ).x
    if len(steps) == 1:  # begun at the end of another search
        return tuple(float(factor) for factor in np.exp(place - SHIFT))
    simplex = np.vstack([place, place + np.diag(POLISH * expected)])
    found = minimize(
        cost,
        place,
        method="Nelder-Mead",
        bounds=[limits] * len(TERMS),
        options={"initial_simplex": np.clip(simplex, *limits), "maxfev": EVALUATIONS, "xatol": 3e-3, "fatol": 1e-2},
    )
    return tuple(float(factor) for factor in np.exp(found.x - SHIFT))
