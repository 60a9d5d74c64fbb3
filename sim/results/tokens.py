"""When each token of a reply was out, rebuilt from the iterations: nothing is recorded per token."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from sim.engine.clock import seconds
from sim.engine.log import Iterations
from sim.engine.replay import FINISHED
from sim.results.percentiles import Floats, Integers
from sim.results.result import Result
from sim.results.warmup import window


def has_token_times(result: Result) -> npt.NDArray[np.bool_]:
    """Tell which requests `token_times` can rebuild, (requests,): those served without a preemption, on one stage."""
    replay = result.replay
    rebuilt = (replay.outcome == FINISHED) & (replay.preemptions == 0) & (not replay.is_interleaved)
    return np.asarray(rebuilt, dtype=np.bool_)


def token_times(result: Result, requests: Integers) -> tuple[Integers, Floats]:
    """Return when every token of some requests was out.

    A sequence gets its first token when its prompt is computed and one more in every decoding iteration from then on
    until its last: its token times are a slice of the ends of all decoding iterations.

    Parameters
    ----------
    requests : (chosen,) indices of requests, in any order.

    Returns
    -------
    offsets : (chosen + 1,) row ``i`` is ``offsets[i]:offsets[i + 1]`` of the times.
    times : (tokens,) since the start of the trace [s]; the first of a row is the first token, the last the finish.

    Raises
    ------
    ValueError
        If a request was not served, or was preempted: the log does not say from when to when it paused.
    """
    chosen = np.asarray(requests, dtype=np.int64)
    known = has_token_times(result)[chosen]
    if not known.all():
        raise ValueError(
            f"token_times: request {chosen[np.argmin(known)]} was preempted or not served; allowed: requests of "
            "`has_token_times`"
        )
    replay = result.replay
    if result.replicas > 1:
        return _of_cluster(result, chosen)
    ends = decode_ends(result.iterations)
    first = replay.first_token[chosen]
    begin = np.searchsorted(ends, first, side="right")
    counts = np.searchsorted(ends, replay.finish[chosen], side="right") - begin + 1
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
    # Place 0 is the first token; place k the k-th decoding iteration behind it.
    at = np.minimum(np.repeat(begin, counts) + place - 1, max(len(ends) - 1, 0))
    decoded = ends[at] if len(ends) else np.zeros(len(place), dtype=np.int64)
    return offsets, seconds(np.where(place == 0, np.repeat(first, counts), decoded))


def _of_cluster(result: Result, chosen: Integers) -> tuple[Integers, Floats]:
    """Return `token_times` of requests that several replicas served."""
    where = result.replay.replica[chosen]
    rows: dict[int, Floats] = {}
    for number in np.unique(where).tolist():
        mine = np.flatnonzero(where == number)
        local = np.searchsorted(np.flatnonzero(result.replay.replica == number), chosen[mine])
        offsets, times = token_times(result.parts[number], local)
        rows |= dict(zip(mine.tolist(), np.split(times, offsets[1:-1]), strict=True))
    ordered = [rows[place] for place in range(len(chosen))]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in ordered])]).astype(np.int64)
    return offsets, np.concatenate([np.zeros(0), *ordered])


def decode_ends(iterations: Iterations) -> Integers:
    """Return the end of every single iteration that decoded, ascending [ticks]."""
    rows = np.flatnonzero(iterations.decodes > 0)
    steps = iterations.iterations[rows]
    number = np.arange(int(steps.sum())) - np.repeat(np.cumsum(steps) - steps, steps) + 1
    row = np.repeat(rows, steps)
    growth = iterations.growth[row] * (number * (number - 1) // 2)
    return np.asarray(iterations.start[row] + number * iterations.first[row] + growth, dtype=np.int64)


def inter_token_windows(result: Result, edges: Floats) -> list[tuple[Floats, Integers]]:
    """Return the gaps between tokens in consecutive windows of time, as (values [s], how often each occurs).

    Parameters
    ----------
    edges : (windows + 1,) ascending [s].
    """
    return [result.inter_token_seconds(since, until) for since, until in pairwise(edges.tolist())]


def longest_pause(result: Result) -> tuple[float, float]:
    """Return from when to when running requests waited longest for their next token, within the trimmed run [s]."""
    log = result.iterations
    rows = np.flatnonzero(log.decodes > 0)
    begin, end = window(result.arrival_seconds)
    if len(rows) < 2:
        return begin, begin
    stops, starts = seconds(log.end[rows[:-1]]), seconds(log.start[rows[1:]])
    # Time in which the replica had nothing to do paused nobody.
    pauses = np.where((stops >= begin) & (starts <= end), starts - stops - _idle_seconds(result, rows), -1.0)
    longest = int(np.argmax(pauses))
    return float(stops[longest]), float(starts[longest])


def _idle_seconds(result: Result, rows: Integers) -> Floats:
    """Return how long the replica did nothing between consecutive decoding rows [s]."""
    log = result.iterations
    worked = np.concatenate([[0], np.cumsum(log.duration)])
    between = worked[rows[1:]] - worked[rows[:-1] + 1]
    return seconds(log.start[rows[1:]] - log.end[rows[:-1]] - between)
