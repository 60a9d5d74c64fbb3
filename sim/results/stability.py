"""Whether a server keeps up: `stable`, or `overloaded` with the rate at which its backlog grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim.results.percentiles import Floats
from sim.results.warmup import steady, window

BLOCKS = 10
LEAST_SLOPE = 0.02  # seconds of delay gained per second: 2 % of the arrivals stay behind
LEAST_REQUESTS = 5 * BLOCKS
LEAST_T = 1.6  # standard errors; one jump of the delay, even in the middle of a block, gives at most 1.51
RULE = (
    "Overloaded: after the warm-up the time in system keeps rising with the time of arrival, by more than 0.02 seconds "
    "per second (2 % of the requests stay behind) and by more than 1.6 standard errors (from the rises between ten "
    "consecutive blocks, all replications together); or the queue is not empty once in the second half of what is "
    "counted, in most replications."
)


@dataclass(frozen=True)
class Verdict:
    """Whether a server keeps up with what is asked of it.

    Attributes
    ----------
    stable : False for `overloaded`: then percentiles depend on how long one looks and are not shown.
    growth_per_second : arrivals minus departures within the window, per second [requests/s], mean over the runs.
    horizon_seconds : length of that window, mean over the runs [s].
    reason : one clause for the reader.
    """

    stable: bool
    growth_per_second: float
    horizon_seconds: float
    reason: str


def verdict(
    arrival_seconds: Sequence[Floats], finish_seconds: Sequence[Floats], queue_ever_empty: Sequence[bool] = ()
) -> Verdict:
    """Judge the replications of one arm together.

    A queue that grows steadily makes each request wait longer than the one before: in a first-come-first-served queue
    with arrival rate r and departure rate d < r the delay gains r / d - 1 seconds per second. So the time in system is
    averaged in ten consecutive blocks of arrivals (after trimming as in `warmup`, and over the runs), and its rise
    must be large and steady (`RULE`). Delay rather than requests in system, because

    - filling the first batch raises the number in system, but not the delay;
    - when a trace asks more often, the number in system rises in proportion, the delay does not while it is served;
    - a server with long services is not mistaken for a slow one, whatever the length of the run.

    The test on the rises between blocks is exact for a queue without drift (a random walk) and errs towards `stable`
    for one in equilibrium, where the rises cancel; a single jump of the delay gives t = 1 to 1.51, below the bound.

    Measured with 2,000 requests, share called overloaded (1,000 / 400 experiments; M/M/64: 200 / 60):

    =======================================  =======  =========
    queue                                    one run  five runs
    =======================================  =======  =========
    M/M/1, load 0.5 or 0.8                   0.000    0.000
    M/M/1, load 0.9                          0.003    0.000
    M/M/1, load 0.95                         0.04     0.01
    M/M/1, load 1                            0.18     0.40
    M/M/1, load 1.05                         0.61     0.98
    M/M/1, load 1.1                          0.93     1.00
    M/M/64, load 0.9                         0.005    0.00
    M/M/64, load 1.05                        0.59     1.00
    bursts (squared variation 9), load 0.8   0.01     0.00
    bursts (squared variation 9), load 0.9   0.05     0.09
    bursts (squared variation 9), load 1.1   0.58     0.99
    no queue, arrival rate rising fourfold   0.00     0.00
    =======================================  =======  =========

    Parameters
    ----------
    arrival_seconds : one (requests,) array a replication.
    finish_seconds : the same shape; NaN if a request was never finished, which no stable server does. Leave out
        requests that were turned away. Where a policy starves some requests to serve later ones, give the finish
        times in ascending order (and the arrivals too): what counts is the distance between the two curves.
    queue_ever_empty : whether the waiting line of each replication was empty at least once in the second half of its
        `window`. Where the pace of a trace changes, a backlog may come and stay without growing all the time; requests
        then wait for those before them all along, which no stable server makes them do for so long.

    Raises
    ------
    ValueError
        If the two have different shapes.

    Examples
    --------
    >>> arrival = np.arange(1000.0)
    >>> verdict([arrival], [arrival + 30.0]).stable
    True
    >>> verdict([arrival], [30.0 + 1.25 * arrival])
    Verdict(stable=False, growth_per_second=0.2..., horizon_seconds=849.15,
            reason='time in system grows by 0.25 s per second')
    """
    if [len(run) for run in arrival_seconds] != [len(run) for run in finish_seconds]:
        raise ValueError("verdict: arrival_seconds and finish_seconds differ in length; allowed: one of each a request")
    order = [np.argsort(arrival, kind="stable") for arrival in arrival_seconds]
    runs = [(a[o], f[o]) for a, f, o in zip(arrival_seconds, finish_seconds, order, strict=True)]
    counted = [int(steady(arrival).sum()) for arrival, _ in runs]
    spans = [float(np.ptp(arrival)) if len(arrival) else 0.0 for arrival, _ in runs]
    if not runs or min(spans) <= 0:
        return Verdict(True, 0.0, 0.0, "all requests arrive at one instant: no queue can be seen to grow")
    growth, horizon = np.mean([_backlog_growth(*run) for run in runs], axis=0).tolist()
    lost = sum(int(np.isnan(finish).sum()) for _, finish in runs)
    if lost:
        return Verdict(False, growth, horizon, f"{lost} requests never finished")
    if min(counted) < LEAST_REQUESTS:
        reason = f"too few requests to tell: {min(counted)} counted in a run, {LEAST_REQUESTS} needed"
        return Verdict(True, growth, horizon, reason)
    slope, steadily = _trend(runs)
    if slope > LEAST_SLOPE and steadily:
        return Verdict(False, growth, horizon, f"time in system grows by {slope:.2g} s per second")
    if sum(queue_ever_empty) < len(queue_ever_empty) / 2:
        return Verdict(False, growth, horizon, "the queue is never empty in the second half")
    return Verdict(True, growth, horizon, "time in system does not keep growing")


def _trend(runs: Sequence[tuple[Floats, Floats]]) -> tuple[float, bool]:
    """Return the gain of delay per second between the first and the last block, and whether it is steady."""
    curves = []
    for arrival, finish in runs:
        keep = steady(arrival)
        centres = [float(block.mean()) for block in np.array_split(arrival[keep], BLOCKS)]
        delays = [float(block.mean()) for block in np.array_split((finish - arrival)[keep], BLOCKS)]
        if centres[-1] <= centres[0]:  # everything that counts arrives at one instant
            return 0.0, False
        curves.append(np.array(delays) / (centres[-1] - centres[0]))
    rises = np.diff(np.mean(curves, axis=0))
    error = float(rises.std(ddof=1)) * np.sqrt(len(rises))
    return float(rises.sum()), bool(rises.sum() > LEAST_T * error)


def _backlog_growth(arrival: Floats, finish: Floats) -> tuple[float, float]:
    """Return arrivals minus departures per second within the window [requests/s], and its length [s]."""
    begin, end = window(arrival)
    arrived, departed = (int(np.sum((times > begin) & (times <= end))) for times in (arrival, finish))
    return (arrived - departed) / (end - begin), end - begin
