"""Recorded runs of real servers replayed: how far latencies are off, request by request and at percentiles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from experiments.scoreboard.groups import Floats, Goals, Skipped
from experiments.scoreboard.score import Row, errors_pct
from experiments.scoreboard.servers import TABLE, Recorded
from hardware_profiles.profile import HardwareProfile
from sim.engine.clock import seconds
from sim.machine import Machine
from sim.physics import calibration
from sim.physics.efficiency import Efficiency
from sim.physics.memory import runtime_reserve, weight_bytes_per_device
from sim.results.result import Result
from sim.scenario import simulate

PERCENTILES = (50, 90, 99)
NONE: Goals = (None, None)
KV_BLOCKS: Goals = (10, 5)
END_TO_END: Goals = (12, 6)
TPOT: dict[int | None, Goals] = {None: (10, 5), 50: (10, 5), 99: (12, 8)}
TTFT: Goals = (12, 10)
TTFT_OVERLOADED: Goals = (20, 15)


@dataclass(frozen=True)
class _Level:
    name: str
    constants: Efficiency

    def goal(self, goals: Goals) -> float | None:
        """Return what to reach at this level; nothing is promised of the bare datasheet."""
        return {"generic": goals[0], "calibrated": goals[1]}.get(self.name)


def rows_of(runs: Iterable[Recorded | Skipped]) -> list[Row]:
    """Score runs at every level there is, with the recorded number of KV blocks and with the predicted one."""
    rows: list[Row] = []
    for run in runs:
        if isinstance(run, Skipped):
            rows.append(Row(run.table, run.hardware, run.model, "skipped", run.rows, note=run.reason))
            continue
        try:
            for level in _levels(run.scenario.hardware):
                rows += _scored(run, level)
        except ValueError as error:
            rows.append(Row(TABLE, run.hardware, run.name, "skipped", len(run.scenario.workload), note=str(error)))
    return rows


def _levels(hardware: HardwareProfile | str) -> Iterator[_Level]:
    assert isinstance(hardware, HardwareProfile)
    for name in calibration.LEVELS:
        if name != "calibrated" or calibration.find(hardware.name):
            yield _Level(name, calibration.load(name, hardware, "vllm"))


def _scored(run: Recorded, level: _Level) -> list[Row]:
    machine = replace(run.scenario, efficiency=level.constants).machine
    predicted = machine.limits.blocks
    pools = {"given blocks": run.blocks, "predicted blocks": predicted}
    rows = [_pool(run, machine, level)] if run.blocks and level.name != "datasheet" else []
    for pool, blocks in pools.items():
        if blocks:
            # vLLM V1 keeps one block that it never hands out.
            limits = replace(machine.limits, blocks=max(1, blocks - 1))
            rows += _latencies(run, level, pool, replace(machine, limits=limits))
    return rows


def _pool(run: Recorded, machine: Machine, level: _Level) -> Row:
    """Return how many blocks were predicted beside those that the server had, and what they rest on."""
    assert run.blocks
    model, limits = machine.model, machine.limits
    error = 100 * (limits.blocks / run.blocks - 1)
    goal = level.goal(KV_BLOCKS)
    weights = weight_bytes_per_device(model.model, model.precision, model.parallelism)
    reserve = runtime_reserve(model.model, model.parallelism, limits.tokens, limits.sequences)
    terms = {"usable": model.hardware.memory.usable_bytes * run.scenario.utilisation, "weights": weights}
    terms |= {name.removesuffix("_bytes"): value for name, value in reserve.terms().items() if value}
    words = ", ".join(f"{name} {value / 1e9:.2f} GB" for name, value in terms.items())
    note = f"{run.name}: {limits.blocks:,} KV blocks predicted, {run.blocks:,} recorded: {words}"
    return _row(run, level, "KV blocks", 1, (abs(error), abs(error), error), goal, note)


def _latencies(run: Recorded, level: _Level, pool: str, machine: Machine) -> Iterator[Row]:
    result = simulate(run.scenario, machine)
    measured = {"TTFT": run.ttft_seconds, "TPOT": run.tpot_seconds, "end to end": run.end_to_end_seconds}
    first_token = since_queued_seconds(result) if run.ttft_is_since_queued else result.ttft_seconds
    simulated = (first_token, result.tpot_seconds, result.end_to_end_seconds)
    note = f"{run.name}, {level.name}, {pool}: {', '.join(_circumstances(run, machine, result))}"
    for (quantity, truth), times in zip(measured.items(), simulated, strict=True):
        known = np.isfinite(truth) & np.isfinite(times)
        if not known.any():
            continue
        truth, times = truth[known], times[known]
        for percentile in (None, *PERCENTILES):
            goal = level.goal(_goals(quantity, percentile, overloaded=run.is_overloaded))
            if percentile is None:
                errors, statistic = errors_pct(times, truth), "per request"
            else:
                error = 100 * float(np.percentile(times, percentile) / np.percentile(truth, percentile) - 1)
                errors, statistic = (abs(error), abs(error), error), f"p{percentile}"
            yield _row(run, level, f"{pool}, {quantity} {statistic}", len(truth), errors, goal, note)


def since_queued_seconds(result: Result) -> Floats:
    """Return the time to first token as vLLM counts it (requests,) [s].

    Its engine looks at its queue once per iteration, so that an arrival is noticed when the iteration in flight ends.
    """
    log = result.iterations
    rows = np.repeat(np.arange(len(log.start)), log.iterations)
    step = np.arange(len(rows)) - np.repeat(np.cumsum(log.iterations) - log.iterations, log.iterations)
    begin = log.start[rows] + step * log.first[rows] + log.growth[rows] * (step * (step - 1) // 2)
    end = begin + log.first[rows] + log.growth[rows] * step
    order = np.argsort(begin, kind="stable")  # data ranks begin together, stages one after the other
    begin, end = begin[order], end[order]
    arrival = result.replay.arrival
    place = np.maximum(np.searchsorted(begin, arrival, side="left") - 1, 0)  # an arrival at a start is in time for it
    running = len(begin) > 0 and (begin[place] < arrival) & (arrival < end[place])
    queued = np.where(running, end[place] if len(end) else 0, arrival)
    return result.ttft_seconds - seconds(queued - arrival)


def _goals(quantity: str, percentile: int | None, *, overloaded: bool) -> Goals:
    if quantity == "end to end":
        return END_TO_END
    if quantity == "TPOT":
        return TPOT.get(percentile, NONE)
    if percentile in (None, 50):
        return TTFT_OVERLOADED if overloaded else TTFT
    return NONE


def utilisation(run: Recorded, machine: Machine) -> float:
    """Return the time to serve all requests if they came at once, by the time in which they came; above 1: overloaded.

    The share of busy time says nothing: a machine is busy whenever one sequence decodes.
    """
    trace = run.scenario.workload
    burst = replace(trace, arrival_seconds=np.zeros(len(trace)))
    seconds_at_once = simulate(replace(run.scenario, trace=burst), machine).makespan_seconds
    return seconds_at_once / trace.duration_seconds if trace.duration_seconds else np.inf


def _circumstances(run: Recorded, machine: Machine, result: Result) -> Iterator[str]:
    """Yield what must stand beside the errors of a replay."""
    yield f"{machine.limits.blocks + 1:,} KV blocks"
    yield f"utilisation {100 * utilisation(run, machine):.0f} %"
    yield "recorded as overloaded" if run.is_overloaded else "recorded without overload"
    served = int(np.isfinite(result.end_to_end_seconds).sum())
    if served < len(result.trace):
        yield f"only {served:,} of {len(result.trace):,} requests served"
    yield from machine.flags


def _row(
    run: Recorded, level: _Level, what: str, n: int, errors: tuple[float, float, float], goal: float | None, note: str
) -> Row:
    median, p90, bias = (round(error, 2) for error in errors)
    met = None if goal is None else errors[0] <= goal
    return Row(TABLE, run.hardware, f"{run.name}, {what}", level.name, n, median, p90, bias, goal, met, note)
