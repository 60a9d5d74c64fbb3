"""From runs to numbers: a tidy table of every arm and load, and the paired differences between arms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.asked.options import Options
from experiments.tried.bands import Bands
from experiments.tried.cell import Cell, Load
from sim.machine import Machine
from sim.results.intervals import Interval, Paired, paired, replicated
from sim.results.percentiles import Floats
from sim.results.runs import CACHE_COUNTS, COUNTS, LATENCIES, LEVELS, QUANTITIES
from sim.scenario import Scenario
from sim.systems import System
from workloads.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

CACHED = " + prefix cache"
POLICIES = ("prefill_first", "inflight_batching")
ARMS = tuple(policy + cache for policy in POLICIES for cache in ("", CACHED))
SATURATED = "gpu_seconds_per_request_at_saturation"

PAIRED_PERCENTILES = tuple((metric, level) for metric in LATENCIES for level in (0.5, 0.99))
PAIRED_QUANTITIES = (
    "mean_ttft_seconds",
    "mean_end_to_end_seconds",
    "goodput_share",
    "busy_share",
    "gpu_seconds_per_request",
)


@dataclass(frozen=True)
class Arm:
    """One way to serve.

    Attributes
    ----------
    scenario, machine : how; only policies share a machine. The scenario has no trace of its own.
    system : the product, None for a policy.
    """

    scenario: Scenario
    machine: Machine
    system: System | None = None

    def of(self, trace: Trace) -> Scenario:
        """Return the scenario with a trace."""
        return replace(self.scenario, trace=trace)


@dataclass(frozen=True)
class Comparison:
    """Everything that a comparison found.

    Attributes
    ----------
    options : as run, with every default filled in.
    by_name : the arms in order, by name.
    cells : by arm and requests per second.
    capacities : served requests per second of each arm with all requests at once, one a replication.
    notes : what a reader must know about the workload.
    elapsed_seconds : how long it took.
    interrupted : whether loads are missing because somebody stopped it.
    bands : of every arm at the load shown, at other plausible constants; empty unless asked for.
    """

    options: Options
    by_name: Mapping[str, Arm]
    cells: dict[tuple[str, float], Cell]
    capacities: dict[str, Floats]
    notes: tuple[str, ...]
    elapsed_seconds: float
    interrupted: bool = False
    bands: Bands = field(default_factory=dict)

    @property
    def arms(self) -> tuple[str, ...]:
        """The names of the arms, in order."""
        return tuple(self.by_name)

    @property
    def machine(self) -> Machine:
        """What all policies share; of systems, that of the first: only model and devices are common."""
        return self.by_name[self.arms[0]].machine

    @property
    def systems(self) -> dict[str, System]:
        """The products compared, by name; empty if the arms are policies."""
        return {name: arm.system for name, arm in self.by_name.items() if arm.system}

    @property
    def devices(self) -> int:
        """Devices of the replica."""
        return self.by_name[self.arms[0]].scenario.parallelism.devices

    @property
    def recorded(self) -> bool:
        """Whether intervals come from time blocks of one recorded trace."""
        return self.options.is_recorded

    @property
    def capacity(self) -> float:
        """Of the first arm: of policies, `prefill_first` without cache [requests/s]."""
        return float(self.capacities[self.arms[0]].mean())

    @cached_property
    def loads(self) -> tuple[Load, ...]:
        """The loads that were run, ascending."""
        return tuple(cell.load for (arm, _), cell in self.cells.items() if arm == self.arms[0])

    def cell(self, arm: str, load: Load) -> Cell:
        """Return one arm at one load."""
        return self.cells[arm, load.requests_per_second]

    @cached_property
    def shown(self) -> Load:
        """The load that figures and files show: the highest at which every arm is stable and its p99 TTFT is known.

        If there is none, the highest at which every arm is stable; else the lowest.
        """
        stable = [load for load in self.loads if all(self.cell(arm, load).verdict.stable for arm in self.arms)]
        p99 = LEVELS.index(0.99)
        known = [
            load
            for load in stable
            if not any(self.cell(arm, load).percentiles["TTFT"][p99].refused for arm in self.arms)
        ]
        return (known or stable or [self.loads[0]])[-1]

    @cached_property
    def summary(self) -> pd.DataFrame:
        """One row for each arm, load and number; times in seconds; see `_cell_rows`."""
        import pandas as pd

        rows = [row for cell in self.cells.values() for row in _cell_rows(cell, self._named(cell.arm))]
        for arm, values in self.capacities.items():
            head = {**self._named(arm), "load": np.inf, "verdict": "saturated"}
            capacity, work = replicated(values), replicated(self.devices / values)
            rows += [{**head, "metric": "capacity_requests_per_second", **_numbers(capacity)}]
            rows += [{**head, "metric": SATURATED, **_numbers(work)}]
        columns = ("arm", "policy", "prefix_cache", "load", "share_of_capacity", "speed", "metric", "level")
        numbers = ("estimate", "low", "high", "samples", "method", "verdict")
        return pd.DataFrame(rows, columns=[*columns, *numbers])

    def _named(self, arm: str) -> dict[str, Any]:
        """Return the columns that say which arm a row is about."""
        chosen = self.by_name[arm]
        policy = chosen.system.rules.policy if chosen.system else arm.removesuffix(CACHED)
        return {"arm": arm, "policy": policy, "prefix_cache": bool(chosen.scenario.prefix_cache)}

    @cached_property
    def differences(self) -> pd.DataFrame:
        """One row for each pair of arms, load and number: second minus first, same traces; see `_pairs`."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for effect, within, first, second in _pairs(self):
            head = {"effect": effect, "within": within, "first": first, "second": second}
            for load in self.loads:
                a, b = self.cell(first, load), self.cell(second, load)
                at = {"load": load.requests_per_second, "share_of_capacity": load.share_of_capacity}
                rows += [{**head, **at, **row} for row in _difference_rows(a, b)]
            work = [self.devices / self.capacities[arm] for arm in (first, second)]
            saturated = _paired_numbers(paired(work[0], work[1]))
            rows.append({**head, "load": np.inf, "metric": SATURATED, **saturated})
        columns = ("effect", "within", "first", "second", "load", "share_of_capacity", "metric", "level")
        numbers = ("difference", "low", "high", "percent", "percent_low", "percent_high", "variance_reduction")
        return pd.DataFrame(rows, columns=[*columns, *numbers, "method"])


def _pairs(comparison: Comparison) -> Iterator[tuple[str, str, str, str]]:
    """Yield (what differs, what is the same, first arm, second arm); every system against the first."""
    if comparison.systems:
        first, *others = comparison.arms
        yield from (("system", "model and devices", first, other) for other in others)
        return
    for cache, within in (("", "no cache"), (CACHED, "prefix cache")):
        yield "policy", within, POLICIES[0] + cache, POLICIES[1] + cache
    for policy in POLICIES:
        yield "cache", policy, policy, policy + CACHED


def _cell_rows(cell: Cell, named: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield percentiles (metric TTFT, TPOT, ITL or E2E with a level) and the other numbers (level NaN) of a cell."""
    load, verdict = cell.load, cell.verdict
    head = {**named, "load": load.requests_per_second}
    head |= {"share_of_capacity": load.share_of_capacity, "speed": load.speed}
    head |= {"verdict": "stable" if verdict.stable else "overloaded"}
    for metric in LATENCIES:
        for level, interval in zip(LEVELS, cell.percentiles[metric], strict=True):
            yield {**head, "metric": metric, "level": level, **_numbers(interval)}
    for name in QUANTITIES:
        yield {**head, "metric": name, **_numbers(cell.quantity(name))}
    for name in (*COUNTS, *CACHE_COUNTS):
        yield {**head, "metric": name, "estimate": cell.counts[name], "method": "all requests of all runs"}
    for name, value in (
        ("backlog_growth_per_second", verdict.growth_per_second),
        ("horizon_seconds", verdict.horizon_seconds),
    ):
        yield {**head, "metric": name, "estimate": value, "method": verdict.reason}


def _numbers(interval: Interval) -> dict[str, Any]:
    return {
        "estimate": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "samples": interval.samples,
        "method": interval.method,
    }


def _difference_rows(a: Cell, b: Cell) -> Iterator[dict[str, Any]]:
    refusal = next((f"{cell.arm}: overloaded" for cell in (a, b) if not cell.verdict.stable), "")
    for metric, level in PAIRED_PERCENTILES:
        place = LEVELS.index(level)
        weak = [cell.percentiles[metric][place] for cell in (a, b) if cell.percentiles[metric][place].refused]
        head = {"metric": metric, "level": level}
        if refusal or weak:
            yield {**head, "method": refusal or weak[0].method}
            continue
        (whole_a, each_a), (whole_b, each_b) = a.percentiles_by_section[metric], b.percentiles_by_section[metric]
        pooled = float(whole_a[place]), float(whole_b[place])
        yield {**head, **_paired_numbers(paired(each_a[:, place], each_b[:, place], pooled, a.within_one))}
    for name in PAIRED_QUANTITIES:
        if refusal:
            yield {"metric": name, "method": refusal}
            continue
        both = paired(a.per_section(name), b.per_section(name), within_trace=a.within_one)
        yield {"metric": name, **_paired_numbers(both)}


def _paired_numbers(result: Paired) -> dict[str, Any]:
    difference, percent = result.difference, result.percent
    if np.isnan(percent.estimate):  # nothing to be a percentage of
        percent = replace(percent, low=float("nan"), high=float("nan"))
    return {
        "difference": difference.estimate,
        "low": difference.low,
        "high": difference.high,
        "percent": percent.estimate,
        "percent_low": percent.low,
        "percent_high": percent.high,
        "variance_reduction": result.variance_reduction,
        "method": difference.method,
    }
