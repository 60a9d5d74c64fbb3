"""What a replica did, as events of the Chrome trace format, which ui.perfetto.dev and chrome://tracing open.

Format: Trace Event Format, Google, 2016. Times are microseconds since the start of the run, rounded to nanoseconds so
that neighbours neither overlap nor part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.engine.clock import TICKS_PER_SECOND
from sim.engine.replay import FINISHED
from sim.engine.spending import SPENT_ON, Spending
from sim.results.attribution import States
from sim.results.percentiles import Integers
from sim.results.result import Result
from sim.scheduling.batch import Refusal

Event = dict[str, Any]

ITERATIONS = 1
"""Thread of the iterations; requests are asynchronous, on tracks of their own."""

MOST_ITERATIONS, MOST_REQUESTS = 50_000, 5_000
"""More in a window are sampled: a bar is then a whole stretch of decoding, and requests are taken evenly."""


def chrome_events(result: Result, name: str, process: int, begin: int, end: int) -> list[Event]:
    """Return what a run did between two moments, in order of time.

    Iterations are bars (`X`) with what was in their batch and the resource that took most of their time, requests are
    asynchronous (`b`, `e`) with their states nested in them, preemptions are instants (`i`), KV blocks, queue and
    running sequences are counters (`C`).
    What crosses an edge of the window is cut there.

    Parameters
    ----------
    name, process : what to call the replica, and its number.
    begin, end : [ticks].

    Raises
    ------
    ValueError
        If the window is empty.
    """
    if not 0 <= begin < end:
        raise ValueError(f"timeline: a window from tick {begin} to {end}; allowed: an end after a start of 0 or more")
    log = result.iterations
    rows = np.flatnonzero((log.end > begin) & (log.start < end))
    named = [
        _meta(process, 0, "process_name", {"name": name}),
        _meta(process, 0, "process_sort_index", {"sort_index": process}),
        _meta(process, ITERATIONS, "thread_name", {"name": "iterations"}),
    ]
    timed = [
        *_counters(result, process, rows, begin),
        *_bars(result, process, rows, begin, end),
        *_preemptions(result, process, begin, end),
        *_requests(result, process, begin, end),
    ]
    return named + sorted(timed, key=lambda event: float(event["ts"]))  # stable: an inner end stays before an outer


def _meta(process: int, thread: int, name: str, values: dict[str, Any]) -> Event:
    return {"ph": "M", "name": name, "pid": process, "tid": thread, "args": values}


def _microseconds(ticks: Integers) -> list[float]:
    return [float(time) for time in np.round(ticks * (1e9 / TICKS_PER_SECOND)) / 1e3]


def _counters(result: Result, process: int, rows: Integers, begin: int) -> Iterator[Event]:
    log = result.iterations
    times = _microseconds(np.maximum(log.start[rows], begin))
    values = {
        "kv_blocks": {"used": (result.limits.blocks - log.free_blocks[rows]).tolist()},
        "sequences": {"waiting": log.waiting[rows].tolist(), "decoding": log.decodes[rows].tolist()},
    }
    for counter, series in values.items():
        for place, ts in enumerate(times):
            shown = {label: numbers[place] for label, numbers in series.items()}
            yield {"ph": "C", "name": counter, "pid": process, "tid": 0, "ts": ts, "args": shown}


def _bars(result: Result, process: int, rows: Integers, begin: int, end: int) -> Iterator[Event]:
    log = result.iterations
    count = log.iterations[rows]
    sampled = count.sum() > MOST_ITERATIONS
    steps = np.ones_like(count) if sampled else count
    row = np.repeat(rows, steps)
    index = np.arange(len(row)) - np.repeat(np.cumsum(steps) - steps, steps)
    start = log.start[row] + index * log.first[row] + log.growth[row] * (index * (index - 1) // 2)
    stop = log.end[row] if sampled else start + log.first[row] + log.growth[row] * index
    seen = (stop > begin) & (start < end)
    row, index, start, stop = row[seen], index[seen], np.maximum(start[seen], begin), np.minimum(stop[seen], end)
    columns: dict[str, npt.NDArray[np.signedinteger[Any]]] = {
        "iterations": log.iterations[row] if sampled else np.ones_like(row),
        "prompts": log.prompts[row],
        "prompt_tokens": log.new_tokens[row],
        "cached_tokens": log.cached_context[row],
        "decoding": log.decodes[row],
        "decode_context_tokens": log.context[row] + index * log.decodes[row],
        "first_tokens": log.samples[row],
        "refused_for": log.refusal[row],
        "bound_by": Spending(result.replay.clock).rows(log).argmax(axis=0)[row],
    }
    resources = list(SPENT_ON)
    names = list(columns)
    cells = zip(*(column.tolist() for column in columns.values()), strict=True)
    for ts, until, values in zip(_microseconds(start), _microseconds(stop), cells, strict=True):
        batch = dict(zip(names, values, strict=True))
        batch["refused_for"] = Refusal(batch["refused_for"]).name.lower()
        batch["bound_by"] = resources[batch["bound_by"]]
        kind = "decode" if not batch["prompts"] else "mixed" if batch["decoding"] else "prefill"
        bar = {"ph": "X", "name": kind, "cat": "iteration", "pid": process, "tid": ITERATIONS, "ts": ts}
        yield bar | {"dur": round(until - ts, 3), "args": batch}


def _preemptions(result: Result, process: int, begin: int, end: int) -> Iterator[Event]:
    log = result.iterations
    lost = log.pauses[log.pauses[:, 2] == 1]
    # It is decided on when the row before ends.
    moment = log.end[lost[:, 0] - 1]
    inside = (moment >= begin) & (moment < end)
    for ts, request in zip(_microseconds(moment[inside]), lost[inside, 1].tolist(), strict=True):
        instant = {"ph": "i", "name": "preemption", "cat": "preemption", "pid": process, "tid": ITERATIONS, "ts": ts}
        yield instant | {"s": "t", "args": {"request": request}}


def _requests(result: Result, process: int, begin: int, end: int) -> Iterable[Event]:
    replay, trace = result.replay, result.trace
    here = (replay.outcome == FINISHED) & (replay.arrival < end) & (replay.finish > begin)
    chosen = np.flatnonzero(here)
    if len(chosen) > MOST_REQUESTS:
        chosen = chosen[np.linspace(0, len(chosen) - 1, MOST_REQUESTS).round().astype(np.int64)]
    states = _states_of(result, chosen)
    for request in chosen.tolist():
        about = {
            "prompt_tokens": int(trace.prompt_tokens[request]),
            "output_tokens": int(trace.output_tokens[request]),
            "cached_tokens": int(replay.cached_tokens[request]),
            "preemptions": int(replay.preemptions[request]),
        }
        whole = (f"request {request}", int(replay.arrival[request]), int(replay.finish[request]))
        opened, closed = _pair(process, request, *whole, begin, end)
        yield opened | {"args": about}
        for state in states[request]:
            if state[2] > begin and state[1] < end and state[2] > state[1]:
                yield from _pair(process, request, *state, begin, end)
        yield closed


def _states_of(result: Result, chosen: Integers) -> dict[int, list[tuple[str, int, int]]]:
    """Return the states that each request goes through, in order, as name and from when to when [ticks]."""
    log, states = result.iterations, States(result.replay)
    found: dict[int, list[tuple[str, int, int]]] = {request: [] for request in chosen.tolist()}

    def enter(name: str, request: Integers, begin: Integers, end: Integers) -> None:
        for row in zip(request.tolist(), begin.tolist(), end.tolist(), strict=True):
            if row[0] in found:
                found[row[0]].append((name, row[1], row[2]))

    enter("front end", states.requests, result.replay.arrival[states.requests], states.queued)
    admitted = log.start[states.admitted]
    enter("queue", states.requests, states.queued, admitted)
    enter("prefill", states.requests, admitted, log.end[states.computed - 1])
    for name, stretches in (("decode", states.decoding), ("preempted", states.preempted)):
        enter(name, stretches[:, 0], log.end[stretches[:, 1] - 1], log.end[stretches[:, 2] - 1])
    return {request: sorted(rows, key=lambda row: row[1:]) for request, rows in found.items()}


def _pair(process: int, request: int, name: str, start: int, stop: int, begin: int, end: int) -> tuple[Event, Event]:
    """Return the begin and the end of an asynchronous event; all of one request have one id."""
    both = {"cat": "request", "name": name, "id": f"{process}.{request}", "pid": process, "tid": 0}
    first, last = _microseconds(np.array([max(start, begin), min(stop, end)]))
    return {"ph": "b", **both, "ts": first}, {"ph": "e", **both, "ts": last}
