"""The highest rate that keeps a promise: a bisection that runs more replications where the answer is not yet known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from experiments.asked.slo import Clause, margins
from sim.results.goodput import Objectives
from sim.results.percentiles import Floats, percentiles
from sim.results.result import Result
from sim.results.runs import LATENCIES, Runs
from sim.results.separation import LOOKS, decided, probability_positive

START = 0.7
"""Share of the computed capacity that is tried first."""

LEAST_SHARE = 0.02
"""Share of the computed capacity at which a replica has next to nobody to wait for."""

MOST_STEPS = 60


@dataclass(frozen=True)
class Trial:
    """What some replications at one rate say.

    Attributes
    ----------
    rate : [requests/s]
    margins : (replications, clauses) by how much the share within each bound exceeds its level.
    values : (clauses,) the percentiles of all replications together, requests that were not served aside [s].
    stable : whether the replica keeps up.
    growth : how fast its backlog grows [requests/s].
    decision : 1 if every clause is known to be met, -1 if one is known to be missed or the replica is overloaded, 0 if
        all replications do not tell.
    """

    rate: float
    margins: Floats
    values: Floats
    stable: bool
    growth: float
    decision: int

    @property
    def replications(self) -> int:
        """How many there were."""
        return len(self.margins)

    @cached_property
    def margin(self) -> float:
        """By how much the clause nearest to its bound is met, on average; -1 if the replica is overloaded."""
        return float(self.margins.mean(axis=0).min()) if self.stable else -1.0

    @property
    def probability(self) -> float:
        """How likely all clauses are met, from the least certain one."""
        if not self.stable:
            return 0.0
        return min(probability_positive(column) for column in self.margins.T)

    @property
    def worst(self) -> int:
        """The clause that is nearest to being missed, or missed by most, in standard errors."""
        error = self.margins.std(axis=0) + 1e-12
        return int(np.argmin(self.margins.mean(axis=0) / error))


@dataclass(frozen=True)
class Found:
    """Where the promise ends.

    Attributes
    ----------
    trials : by ascending rate.
    """

    trials: tuple[Trial, ...]

    @property
    def low(self) -> float:
        """The highest rate at which every clause is known to be met; NaN if there is none."""
        return max((trial.rate for trial in self.trials if trial.decision == 1), default=float("nan"))

    @property
    def high(self) -> float:
        """The lowest rate at which a clause is known to be missed; NaN if there is none."""
        return min((trial.rate for trial in self.trials if trial.decision == -1), default=float("nan"))

    @property
    def rate(self) -> float:
        """Where the average margin crosses zero, between the two; NaN if the promise is broken at any rate."""
        if np.isnan(self.low):
            return float("nan")
        inside = [trial for trial in self.trials if self.low <= trial.rate <= (self.high if self.high > 0 else np.inf)]
        return _crossing([(trial.rate, trial.margin) for trial in inside])

    @property
    def by_seed(self) -> Floats:
        """The rate at which each replication on its own crosses, (replications,), for paired comparisons.

        One replication's own crossing is as biased as a percentile of a short run; what two candidates make of the same
        replication may still be compared.
        """
        count = min(trial.replications for trial in self.trials)

        def own(trial: Trial, place: int) -> float:
            return float(trial.margins[place].min()) if trial.stable else min(-1e-9, float(trial.margins[place].min()))

        return np.array([_crossing([(trial.rate, own(trial, i)) for trial in self.trials]) for i in range(count)])

    def at(self, rate: float) -> Trial:
        """Return the trial at a rate."""
        return next(trial for trial in self.trials if trial.rate == rate)


def search(
    simulate: Callable[[float, int], Result],
    clauses: Sequence[Clause],
    capacity: float,
    devices: int,
    *,
    recorded: bool = False,
    looks: Sequence[int] = LOOKS,
    tolerance: float = 0.02,
) -> Found:
    """Find the highest rate at which all clauses are met.

    The same seeds at every rate are the same requests coming faster or slower, so that neighbouring rates differ by
    the rate alone. At each rate replications are added until every clause is known to be met or one to be missed, or
    the last look has been taken; rates near the end of the promise stay undecided and make up the interval. Both of its
    ends are bisected until they are known to within `tolerance`. The lower one must be known from all replications: a
    few that met no burst know too little of bursts.

    Parameters
    ----------
    simulate : (rate [requests/s], seed) -> result. A recorded trace has no other seed than 1.
    clauses : what is promised.
    capacity : requests/s served when all arrive at once: where the search begins.
    devices : of the replica.
    recorded : whether there is one run alone, whose time blocks are looked at once.
    looks : after how many replications to look.
    tolerance : relative.
    """
    trials: dict[float, Trial] = {}
    all_looks = (1,) if recorded else tuple(looks)

    def probe(rate: float, from_look: int = 0) -> int:
        rate = float(f"{rate:.4g}")  # so that it can be typed
        if rate not in trials or from_look:
            trials[rate] = _trial(simulate, clauses, rate, devices, recorded, all_looks[from_look:])
        return trials[rate].decision

    def found() -> Found:
        return Found(tuple(trials[rate] for rate in sorted(trials)))

    _bracket(probe, capacity)
    confirmed: set[float] = set()
    while True:
        for rate in _steps(trials, tolerance):
            probe(rate)
        low = found().low
        if np.isnan(low) or low in confirmed:
            return found()
        confirmed.add(low)
        if len(all_looks) > 1:
            probe(low, len(all_looks) - 1)


def _bracket(probe: Callable[[float], int], capacity: float) -> None:
    """Try rates until one is known to be met and one to be missed, or nearly nothing is too much."""
    share = START
    while probe(share * capacity) != -1 and share < 8:
        share = 1.0 if share < 1 else 1.25 * share
    share = START
    while probe(share * capacity) != 1 and share > LEAST_SHARE:
        share = max(LEAST_SHARE, share / 2)


def _steps(trials: dict[float, Trial], tolerance: float) -> Iterator[float]:
    """Yield rates between what is known to be met and known to be missed, until both ends are near enough."""
    for _ in range(MOST_STEPS):
        found = Found(tuple(trials[rate] for rate in sorted(trials)))
        low, high = found.low, found.high
        if np.isnan(low) or np.isnan(high):
            return
        open_rates = [trial.rate for trial in found.trials if low < trial.rate < high]
        gaps = [(low, min(open_rates, default=high)), (max(open_rates, default=low), high)]
        below, above = max(gaps, key=lambda gap: gap[1] / gap[0])
        middle = float(f"{np.sqrt(below * above):.4g}")
        if above / below <= 1 + tolerance or middle in trials or low >= high:
            return
        yield middle


def _trial(
    simulate: Callable[[float, int], Result],
    clauses: Sequence[Clause],
    rate: float,
    devices: int,
    recorded: bool,
    looks: Sequence[int],
) -> Trial:
    results: list[Result] = []
    for look in looks:
        results += [simulate(rate, seed) for seed in range(len(results) + 1, look + 1)]
        runs = Runs(tuple(results), recorded, Objectives(), devices)
        found, verdict = margins(clauses, runs.sections), runs.verdict
        known = [decided(column, among=len(clauses)) for column in found.T]
        decision = -1 if -1 in known or not verdict.stable else int(all(sign == 1 for sign in known))
        if decision:
            break
    return Trial(rate, found, _values(clauses, runs), verdict.stable, verdict.growth_per_second, decision)


def _values(clauses: Sequence[Clause], runs: Runs) -> Floats:
    samples = {metric: runs.samples(metric) for metric in LATENCIES if any(metric == c.metric for c in clauses)}
    together = {
        metric: (np.concatenate(values), None if counts is None else np.concatenate(counts))
        for metric, (values, counts) in samples.items()
    }
    return np.array([percentiles(together[c.metric][0], [c.level], together[c.metric][1])[0] for c in clauses])


def _crossing(points: Sequence[tuple[float, float]]) -> float:
    """Return where a line through ascending rates and their margins first falls below zero."""
    for (before, margin), (after, next_margin) in pairwise(points):
        if margin < 0:
            return before
        if next_margin < 0:
            if next_margin <= -1.0:  # overloaded: there is no line to it
                return before
            return before + (after - before) * margin / (margin - next_margin)
    return points[-1][0]
