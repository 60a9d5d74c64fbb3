"""What a few runs of one replica tell together: cut into sections, and every figure of them with its interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from sim.engine.clock import seconds
from sim.engine.replay import FINISHED, STALLED
from sim.results.goodput import Objectives, met
from sim.results.intervals import BLOCKS, Interval, percentile_intervals, percentile_sections, replicated
from sim.results.percentiles import Floats, Integers
from sim.results.result import Result
from sim.results.stability import Verdict, verdict
from sim.results.tails import PIECES
from sim.results.tokens import inter_token_windows
from sim.results.warmup import window

LATENCIES = ("TTFT", "TPOT", "ITL", "E2E")
LEVELS = (0.5, 0.9, 0.95, 0.99, 0.999)
COUNTS = ("preemptions", "rejected", "ignored", "stalled")
CACHE_COUNTS = ("saved_tokens", "evicted_tokens")


@dataclass(frozen=True)
class Section:
    """The requests of a run that arrive from `begin` up to `end` [s], and what the replica does in between.

    Every section is one independent replication, trimmed, or one time block of a trimmed recorded trace.
    """

    result: Result
    begin: float
    end: float
    windows: int

    @cached_property
    def counted(self) -> Integers:
        """Indices of the requests that arrive within, in order of arrival."""
        arrival = self.result.arrival_seconds
        inside = np.flatnonzero((arrival >= self.begin) & (arrival <= self.end))
        return inside[np.argsort(arrival[inside], kind="stable")]

    def latency(self, metric: str) -> Floats:
        """Return TTFT, TPOT or E2E of the counted requests [s], in order of arrival; NaN where there is none."""
        columns = {
            "TTFT": self.result.ttft_seconds,
            "TPOT": self.result.tpot_seconds,
            "E2E": self.result.end_to_end_seconds,
        }
        return columns[metric][self.counted]

    @cached_property
    def gaps(self) -> tuple[Floats, Integers]:
        """Inter-token latencies in between, roughly in order of time, and how often each occurs."""
        parts = inter_token_windows(self.result, np.linspace(self.begin, self.end, self.windows + 1))
        values, counts = zip(*parts, strict=True)
        return np.concatenate(values), np.concatenate(counts)

    def met(self, objectives: Objectives) -> npt.NDArray[np.bool_]:
        """Tell which of the counted requests met their objectives."""
        result, rows = self.result, self.counted
        return met(objectives, result.ttft_seconds[rows], result.tpot_seconds[rows], result.end_to_end_seconds[rows])

    @cached_property
    def _time_in_rows(self) -> tuple[Floats, ...]:
        """Part of each stretch of iterations that lies within [s], for each replica."""
        begin, end = self.begin, self.end
        return tuple(
            np.clip(seconds(log.end), begin, end) - np.clip(seconds(log.start), begin, end)
            for log, _ in self.result.logs
        )

    @property
    def _busy_seconds(self) -> float:
        return float(sum(times.sum() for times in self._time_in_rows))

    @property
    def busy_share(self) -> float:
        """Time in iterations by all time, on average over the replicas."""
        return self._busy_seconds / self.span / self.result.replicas

    @property
    def kv_occupancy(self) -> float:
        """Blocks in use by blocks in the pool, averaged over the time in iterations."""
        used = np.concatenate([1 - log.free_blocks / limits.blocks for log, limits in self.result.logs])
        weights = np.concatenate(self._time_in_rows)
        return float(np.average(used, weights=weights)) if weights.any() else 0.0

    @property
    def span(self) -> float:
        """From begin to end [s]."""
        return max(self.end - self.begin, 1e-12)

    @cached_property
    def _finished(self) -> Integers:
        """Indices of the requests that end within."""
        finish = self.result.finish_seconds
        return np.flatnonzero((finish >= self.begin) & (finish < self.end))

    @property
    def output_tokens_per_second(self) -> float:
        """Tokens of replies that end within, per second."""
        return float(self.result.trace.output_tokens[self._finished].sum()) / self.span

    @property
    def busy_seconds_per_request(self) -> float:
        """Time in iterations by requests that end within [s]; NaN if none does."""
        return self._busy_seconds / len(self._finished) if len(self._finished) else float("nan")

    @property
    def prefix_hit_share(self) -> float:
        """Prompt tokens found in the cache, of all prompt tokens of the counted requests that were served."""
        rows = self.counted[self.result.replay.outcome[self.counted] == FINISHED]
        asked = int(self.result.trace.prompt_tokens[rows].sum())
        return float(self.result.replay.cached_tokens[rows].sum()) / asked if asked else 0.0


@dataclass(frozen=True)
class Runs:
    """Runs of one replica under one load.

    Attributes
    ----------
    results : independent replications, or one run alone.
    within_one : whether the one run cannot be replicated, as a recorded trace cannot: its time blocks are the sections.
    objectives : what counts as answered in time.
    devices : that the replica consists of.
    """

    results: tuple[Result, ...]
    within_one: bool
    objectives: Objectives
    devices: int

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """The units of information: trimmed replications, or blocks of as many requests each of the trimmed trace."""
        if not self.within_one:
            pieces = max(1, round(PIECES / len(self.results)))
            return tuple(Section(result, *window(result.arrival_seconds), pieces) for result in self.results)
        result = self.results[0]
        begin, end = window(result.arrival_seconds)
        inside = np.sort(result.arrival_seconds[(result.arrival_seconds >= begin) & (result.arrival_seconds <= end)])
        starts = [float(block[0]) for block in np.array_split(inside, BLOCKS) if len(block)]
        ends = [*(float(np.nextafter(start, 0)) for start in starts[1:]), end]
        edges = zip([begin, *starts[1:]], ends, strict=True)
        return tuple(Section(result, first, last, PIECES // BLOCKS) for first, last in edges)

    @cached_property
    def verdict(self) -> Verdict:
        """Whether the replica keeps up with the load; requests that were turned away do not count."""
        admitted = [np.isin(result.replay.outcome, (FINISHED, STALLED)) for result in self.results]
        pairs = list(zip(self.results, admitted, strict=True))
        windows = [window(result.arrival_seconds) for result in self.results]
        return verdict(
            [result.arrival_seconds[rows] for result, rows in pairs],
            [result.finish_seconds[rows] for result, rows in pairs],
            [r.queue_ever_empty((begin + end) / 2, end) for r, (begin, end) in zip(self.results, windows, strict=True)],
        )

    def samples(self, metric: str) -> tuple[list[Floats], list[Integers] | None]:
        """Return a latency of each section in order of time, and how often each value occurs (None: once)."""
        if metric == "ITL":
            return [section.gaps[0] for section in self.sections], [section.gaps[1] for section in self.sections]
        return [section.latency(metric) for section in self.sections], None

    @cached_property
    def percentiles(self) -> dict[str, tuple[Interval, ...]]:
        """The percentiles `LEVELS` of each of `LATENCIES` [s], all refused if it is overloaded."""
        if not self.verdict.stable:
            return dict.fromkeys(LATENCIES, (self._no_steady_state,) * len(LEVELS))
        samples = {metric: self.samples(metric) for metric in LATENCIES}
        return {name: percentile_intervals(runs, LEVELS, n, self.within_one) for name, (runs, n) in samples.items()}

    @cached_property
    def percentiles_by_section(self) -> dict[str, tuple[Floats, Floats]]:
        """The same of all sections together, (levels,), and of each section, (sections, levels) [s]."""
        samples = {metric: self.samples(metric) for metric in LATENCIES}
        return {name: percentile_sections(runs, LEVELS, counts) for name, (runs, counts) in samples.items()}

    @property
    def _no_steady_state(self) -> Interval:
        return Interval(float("nan"), float("nan"), float("nan"), f"overloaded: {self.verdict.reason}", 0)

    def quantity(self, name: str) -> Interval:
        """Return one of `QUANTITIES` with its interval; what depends on the horizon is refused if overloaded."""
        if not self.verdict.stable and name in STEADY_ONLY:
            return self._no_steady_state
        interval = replicated(self.per_section(name))
        if self.within_one and not interval.refused:
            interval = replace(interval, method=f"t over {len(self.sections)} time blocks, within this trace")
        return interval

    def per_section(self, name: str) -> Floats:
        """Return a quantity of every section, (sections,)."""
        return np.array([QUANTITIES[name](self, section) for section in self.sections])

    @property
    def counts(self) -> dict[str, int]:
        """`COUNTS` and `CACHE_COUNTS` over all runs, trimmed or not."""
        outcomes = [result.outcomes for result in self.results]
        totals = {name: sum(outcome[name] for outcome in outcomes) for name in COUNTS[1:]}
        tokens = {name: sum(int(getattr(result, name)) for result in self.results) for name in CACHE_COUNTS}
        return {"preemptions": sum(int(result.replay.preemptions.sum()) for result in self.results)} | totals | tokens


def _mean(metric: str, runs: Runs, section: Section) -> float:
    values = section.latency(metric)
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _goodput(runs: Runs, section: Section) -> float:
    return float(section.met(runs.objectives).mean()) if len(section.counted) else float("nan")


QUANTITIES: dict[str, Callable[[Runs, Section], float]] = {
    "mean_ttft_seconds": partial(_mean, "TTFT"),
    "mean_end_to_end_seconds": partial(_mean, "E2E"),
    "goodput_share": _goodput,
    "goodput_per_second": lambda runs, section: float(section.met(runs.objectives).sum()) / section.span,
    "output_tokens_per_second": lambda runs, section: section.output_tokens_per_second,
    "prefix_hit_share": lambda runs, section: section.prefix_hit_share,
    "busy_share": lambda runs, section: section.busy_share,
    "gpu_seconds_per_request": lambda runs, section: runs.devices * section.busy_seconds_per_request,
    "kv_occupancy": lambda runs, section: section.kv_occupancy,
    "padding_share": lambda runs, section: section.result.padding_share,
}
"""What is reported besides percentiles, one number a section."""

STEADY_ONLY = ("mean_ttft_seconds", "mean_end_to_end_seconds", "goodput_share", "goodput_per_second")
"""What has no value of its own while the backlog grows."""
