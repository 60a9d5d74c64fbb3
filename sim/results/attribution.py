"""Where the time of a request went: parts that are disjoint, have names, and sum to its latency to the tick."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sim.engine.clock import IterationClock, seconds
from sim.engine.log import Iterations
from sim.engine.replay import FINISHED, Replay
from sim.engine.spending import HOST, LINK, SPENT_ON, Spending, apportioned
from sim.results.percentiles import Integers
from sim.scheduling.batch import Limits, Refusal

if TYPE_CHECKING:
    import pandas as pd

PARTS = {
    "seats": "waiting for a seat",
    "token_budget": "waiting for room in an iteration",
    "kv_blocks": "waiting for KV blocks",
    "policy": "waiting until the policy admits anybody",
    "front_end": "front end",
    "behind_prefill": "waiting for a prompt in flight",
    "behind_decode": "waiting for a decode in flight",
    "own_prefill": "computing the own prompt",
    "shared_prefill": "others' work beside the own prompt",
    "own_decode": "decoding",
    "prefill_stall": "stalls by prompts of others",
    "held": "pauses for want of tokens or KV blocks",
    "preemption": "preemption and recomputation",
    "swap": "swapping to the host and back",
    "communication": "communication between devices",
    "host": "host work",
}
"""The parts of a latency, in words; see `Attribution`."""

OWN = ("front_end", "own_prefill", "own_decode", "communication", "host")
"""The parts that a request would also have if it were alone."""

_PART = {name: place for place, name in enumerate(PARTS)}
_SEATS, _TOKENS, _BLOCKS, _POLICY = (_PART[name] for name in ("seats", "token_budget", "kv_blocks", "policy"))
_WAITS = range(_POLICY + 1)
_DECODING = tuple(_PART[name] for name in ("own_decode", "prefill_stall", "held", "swap", "communication", "host"))


@dataclass(frozen=True)
class Attribution:
    """Latencies split into `PARTS`.

    Once it is through the `front_end`, a request is in one of four states until its last token.

    *In the queue*, until the iteration that computes the first piece of its prompt begins. What is left of the
    iteration in flight at its arrival is `behind_prefill` if that iteration computes any prompt, else `behind_decode`.
    Later iterations were decided on without it: they count as what the ledger was short of, `seats`, `kv_blocks` or
    `token_budget`, by its reason to refuse the head of the queue. Of several shortages seats come first, then tokens:
    an iteration that leaves no seat counts as `seats`, else one that leaves no token as `token_budget`. Where no reason
    was logged, it is `token_budget` if prompts were computed, else `kv_blocks` if somebody was preempted, and `policy`
    otherwise (a static batch lets nobody in).

    *In prefill*, until the prompt is computed and the first token is out. In an iteration that computes a piece of it,
    `own_prefill` is what this piece alone would take, and the rest, for prompts and decodes of others in the same
    iteration, `shared_prefill`. An iteration without a piece of it counts as if it were still in the queue.

    *Decoding*. An iteration in which it decodes is `own_decode`, up to what the same decodes would take without any
    prompt; the rest is `prefill_stall`, and so is every iteration in which nobody decodes. `held` is an iteration that
    it had to sit out while others decoded.

    *Preempted*. All time from a preemption until everything lost is computed anew, and a token is out, is `preemption`;
    of one that is swapped out, all until its next token is `swap`, and so is what moving its blocks delays others.

    What is its own splits further by what device and host do (`SPENT_ON`): a launch takes what it takes, all else of an
    operator's time belongs to the resource that it waits for. Links are the part `communication`, the host is `host`:
    the fixed part of an iteration, and whatever an engine takes beyond the device. The rest is own prefill and decode.

    Where replies come all at once, the first token comes with the last one, and waiting for the end of the batch counts
    as decoding.

    Attributes
    ----------
    ttft, end_to_end : (parts, requests) [ticks], in the order of `PARTS`; none is negative, the columns sum to time to
        first token and time to last token; zeros where a request was not served.
    spent : (len(SPENT_ON), requests) [ticks], own work up to the last token by resource: the columns sum to
        `own_prefill`, `own_decode`, `communication` and `host`.
    """

    ttft: Integers
    end_to_end: Integers
    spent: Integers

    def part(self, name: str) -> Integers:
        """Return one part of the end-to-end times, (requests,) [ticks]."""
        return np.asarray(self.end_to_end[_PART[name]], dtype=np.int64)

    def table(self) -> pd.DataFrame:
        """Return a row for each request, with a column in seconds for each part of TTFT and of end-to-end time."""
        import pandas as pd

        return pd.DataFrame(
            {f"ttft_{name}_seconds": seconds(self.ttft[place]) for name, place in _PART.items()}
            | {f"end_to_end_{name}_seconds": seconds(self.end_to_end[place]) for name, place in _PART.items()}
            | {f"own_{name}_seconds": seconds(spent) for name, spent in zip(SPENT_ON, self.spent, strict=True)}
        )


def attribute(limits: Limits, replay: Replay) -> Attribution:
    """Split the latencies of a run; see `Attribution` for the rules.

    Everything follows from the log: cumulative sums over its rows, looked up where states begin and end.
    """
    first, later = np.zeros((2, len(PARTS), len(replay.arrival)), dtype=np.int64)
    spent = np.zeros((len(SPENT_ON), len(replay.arrival)), dtype=np.int64)
    if not (replay.outcome == FINISHED).any():
        return Attribution(first, later, spent)
    rows = Rows(replay.iterations, limits, replay.clock)
    states = States(replay)
    first[_PART["front_end"], states.requests] = states.queued - replay.arrival[states.requests]
    _add_queue(first, rows, states)
    _add_prefill(first, spent, rows, states)
    _add_decoding(later, spent, rows, states)
    _add_preempted(first, later, rows, states)
    if not replay.streams:
        first += later  # nobody sees a token before the last one is out
        later[:] = 0
    return Attribution(first, first + later, spent)


def joined(found: Sequence[Attribution], replica: Integers) -> Attribution:
    """Return what several replicas spent on their requests as one, where `replica` (requests,) says who served each."""
    columns: dict[str, Integers] = {}
    for column in fields(Attribution):
        whole = np.zeros((len(getattr(found[0], column.name)), len(replica)), dtype=np.int64)
        for number, part in enumerate(found):
            whole[:, replica == number] = getattr(part, column.name)
        columns[column.name] = whole
    return Attribution(**columns)


class Rows:
    """The log by what a row means to those who wait, and to those who decode."""

    def __init__(self, log: Iterations, limits: Limits, clock: IterationClock) -> None:
        """Read it, under the limits and the clock of the run."""
        self.log, self.clock, self.spending = log, clock, Spending(clock)
        self._window = limits.window
        self.start, self.duration, self.end = log.start, log.duration, log.end
        # Idle before a row; nobody who waits or decodes should ever meet any.
        self.gap = np.concatenate([[0], log.start[1:] - self.end[:-1]])
        self.cause = _causes(log, limits)

    @cached_property
    def waited(self) -> Integers:
        """Time spent up to the begin of each row (waits, rows + 1) by what was waited for [ticks]."""
        spent = self.duration * (np.arange(len(_WAITS))[:, None] == self.cause)
        spent[_POLICY] += self.gap
        return cumulated(spent)

    @cached_property
    def moved(self) -> Integers:
        """What each row takes to move blocks from or to the memory of the host (rows,) [ticks]."""
        return self.spending.moved(self.log)

    @cached_property
    def own_decoding(self) -> Integers:
        """What each row spends on decoding, up to what the same decodes would take alone (SPENT_ON, rows) [ticks]."""
        log = self.log
        own = np.where(log.decodes > 0, self.duration - self.moved, 0)
        mixed = np.flatnonzero((log.decodes > 0) & (log.prompts > 0))
        seen = dict(log.sights.tolist())
        columns = (mixed, log.decodes[mixed], log.context[mixed])
        own[mixed] = [
            self.clock.iteration(0, 0, 0, 0, count, context, window_keys=seen.get(row, 0))
            for row, count, context in zip(*(column.tolist() for column in columns), strict=True)
        ]
        rows = np.flatnonzero(log.decodes > 0)
        spent = np.zeros((len(SPENT_ON), len(own)), dtype=np.int64)
        replies = log.decodes + np.where(log.prompts > 0, 0, log.idle_each)
        spent[:, rows] = self.spending.decoding(log.iterations[rows], replies[rows], own[rows])
        short = mixed[own[mixed] > self.duration[mixed]]  # one kernel for both may be faster than one for each
        spent[:, short] = apportioned(self.duration[short], spent[:, short])
        return spent

    @cached_property
    def decoding(self) -> Integers:
        """What each row is to a sequence that has its first token (len(_DECODING), rows) [ticks]."""
        spent = self.own_decoding
        own = spent.sum(axis=0)
        link, host = spent[LINK], spent[HOST]
        stall = self.duration - own - self.moved
        return np.stack([own - link - host, stall, np.zeros_like(own), self.moved, link, host])

    def alone(self, cached: Integers, tokens: Integers, ends: Integers) -> Integers:
        """Return what iterations of a single piece of a prompt each would take [ticks]."""
        pairs = tokens * cached + tokens * (tokens + 1) // 2
        none = np.zeros_like(tokens)
        columns = [ends, tokens, pairs, cached, none, none]
        if window := self._window:
            growing = np.clip(window - cached, 0, tokens)  # tokens whose window is not full
            seen = growing * cached + growing * (growing + 1) // 2 + (tokens - growing) * window
            columns += [seen, np.minimum(cached, window - 1)]
        sums = zip(*(column.tolist() for column in columns), strict=True)
        return np.array([self.clock.iteration(*chunk) for chunk in sums], dtype=np.int64)

    def left_in_flight(self, row: Integers, moment: Integers) -> Integers:
        """Return how long the iteration of a row in which a moment lies still takes from then on [ticks]."""
        first, growth, elapsed = self.log.first[row], self.log.growth[row], moment - self.start[row]

        def reached(count: Integers) -> Integers:
            return np.asarray(count * first + growth * (count * (count - 1) // 2), dtype=np.int64)

        # The root in floating point is off by one at most where numbers are large; integers decide.
        linear = first - growth / 2
        root = 2.0 * elapsed / (linear + np.sqrt(linear * linear + 2.0 * growth * elapsed))
        count = np.clip(np.ceil(root).astype(np.int64), 1, self.log.iterations[row])
        while (short := reached(count) < elapsed).any():
            count += short
        while (far := (count > 1) & (reached(count - 1) >= elapsed)).any():
            count -= far
        return reached(count) - elapsed


def _causes(log: Iterations, limits: Limits) -> Integers:
    """Return what those in the queue of each row waited for: one of `_WAITS`."""
    unknown = log.refusal == Refusal.NONE
    return np.select(
        [
            (log.refusal == Refusal.SEATS) | (log.decodes + log.prompts >= limits.sequences),
            log.decodes + log.new_tokens >= limits.tokens,
            log.refusal == Refusal.TOKENS,
            log.refusal == Refusal.BLOCKS,
            unknown & (log.prompts > 0),
            unknown & (log.preempted > 0),
        ],
        [_SEATS, _TOKENS, _TOKENS, _BLOCKS, _TOKENS, _BLOCKS],
        _POLICY,
    )


class States:
    """When the served requests changed from one state to another, as rows of the log.

    Attributes
    ----------
    requests : (served,) indices; `queued`, [ticks], and `admitted`, their first row, belong to them.
    computed : (served,) the row before which the first prefill ends: the one behind its last, or where it is preempted.
    chunks : rows of the log's chunks that lie in the first prefill.
    held, wasted, returned : (pauses, 2) row and request; `wasted` are decodes for nothing after the last token, and
        `returned` the first ones of those who were swapped.
    decoding, preempted : (stretches, 3) request, first row, and the row behind the last one.
    is_first, is_swap : (preempted stretches,) whether the first token comes at the end of it; whether nothing was
        computed anew, but swapped.
    """

    def __init__(self, replay: Replay) -> None:
        """Read them from the log."""
        log = replay.iterations
        served = replay.outcome == FINISHED
        self.requests = np.flatnonzero(served)
        self.queued = replay.queued[self.requests]
        chunks = log.chunks[served[log.chunks[:, 1]]].astype(np.int64)  # pairs of query and key need 64 bits
        # An asynchronous engine may take the seat of somebody whose last token is about to come.
        going = log.end[log.pauses[:, 0] - 1] < replay.finish[log.pauses[:, 1]]
        pauses = log.pauses[served[log.pauses[:, 1]] & going].astype(np.int64)
        self.held = pauses[pauses[:, 2] == 0, :2]
        self.wasted = log.pauses[log.pauses[:, 2] == 2, :2].astype(np.int64)
        self.admitted = np.empty(len(served), dtype=np.int64)
        self.admitted[chunks[::-1, 1]] = chunks[::-1, 0]  # the last assignment, the first chunk, stays
        self.admitted = self.admitted[self.requests]
        ends, self.returned = chunks[chunks[:, 4] == 1, :2], pauses[pauses[:, 2] == 3, :2]
        request, row, token = _turns(np.concatenate([ends, self.returned]), pauses[pauses[:, 2] == 1])
        opens = np.diff(request, prepend=-1) != 0
        was_token = np.roll(token, 1) & ~opens
        self.computed = row[opens]
        until = np.empty(len(served), dtype=np.int64)
        until[self.requests] = self.computed
        self.chunks = chunks[chunks[:, 0] < until[chunks[:, 1]]]
        # A stretch of decoding begins with a token and ends with what comes next.
        last = np.searchsorted(log.end, replay.finish[request]) + 1
        after = np.where(np.roll(opens, -1), last, np.roll(row, -1))
        self.decoding = np.stack([request, row, after], axis=1)[token]
        # A preempted stretch begins with the first preemption behind a token and ends with the next token.
        begins = ~token & (opens | was_token)
        ends = token & ~was_token & ~opens
        self.preempted = np.stack([request[begins], row[begins], row[ends]], axis=1)
        self.is_first = opens[begins]
        back = self.returned[:, 1] * (len(log.start) + 1) + self.returned[:, 0]
        self.is_swap = np.isin(self.preempted[:, 0] * (len(log.start) + 1) + self.preempted[:, 2] - 1, back)


def decodes_of_unserved(replay: Replay) -> tuple[Integers, Integers, Integers]:
    """Return `decoding`, `held` and `returned` of `States` for requests that were never served.

    They decode until they are preempted, or to the end of the log.
    """
    log, lost = replay.iterations, replay.outcome != FINISHED
    chunks, pauses = (rows[lost[rows[:, 1]]].astype(np.int64) for rows in (log.chunks, log.pauses))
    held, preempted, returned = (pauses[pauses[:, 2] == kind, :2] for kind in (0, 1, 3))
    request, row, token = _turns(np.concatenate([chunks[chunks[:, 4] == 1, :2], returned]), preempted)
    closes = np.diff(request, append=-1) != 0
    after = np.where(closes, len(log.start), np.roll(row, -1))
    return np.stack([request, row, after], axis=1)[token], held, returned


def _turns(ends: Integers, preempted: Integers) -> tuple[Integers, Integers, npt.NDArray[np.bool_]]:
    """Return every end of a (re)computation and every preemption, by request, then in order of time.

    Returns request, row from which on it counts, and whether it is an end of a computation, so that a token is out.
    """
    request = np.concatenate([ends[:, 1], preempted[:, 1]])
    row = np.concatenate([ends[:, 0] + 1, preempted[:, 0]])
    token = np.concatenate([np.ones(len(ends), dtype=bool), np.zeros(len(preempted), dtype=bool)])
    order = np.lexsort((~token, row, request))
    return request[order], row[order], token[order]


def _add_queue(parts: Integers, rows: Rows, states: States) -> None:
    request, arrival, admitted = states.requests, states.queued, states.admitted
    here = np.searchsorted(rows.end, arrival, side="right")
    waits = here < admitted
    parts[_POLICY, request] += np.where(waits, rows.gap[admitted], rows.start[admitted] - arrival)
    request, arrival, admitted, here = (column[waits] for column in (request, arrival, admitted, here))
    for part in _WAITS:
        parts[part, request] += rows.waited[part, admitted] - rows.waited[part, here + 1]
    # The row at the arrival: idle before it, or in it the rest of an iteration in flight, then those that follow.
    inside = np.maximum(arrival, rows.start[here])
    parts[_POLICY, request] += inside - arrival
    flight = np.where(arrival > rows.start[here], rows.left_in_flight(here, inside), 0)
    parts[np.where(rows.log.prompts[here] > 0, _PART["behind_prefill"], _PART["behind_decode"]), request] += flight
    parts[rows.cause[here], request] += rows.end[here] - inside - flight


def _add_prefill(parts: Integers, spent: Integers, rows: Rows, states: States) -> None:
    request, admitted = states.requests, states.admitted
    for part in _WAITS:
        parts[part, request] += rows.waited[part, states.computed] - rows.waited[part, admitted]
    parts[_POLICY, request] -= rows.gap[admitted]
    row, request, cached, tokens, ends = states.chunks.T
    duration, base = rows.duration[row], rows.clock.base
    own = np.minimum(duration, rows.alone(cached, tokens, ends))
    split = rows.spending.prompts(cached, tokens, ends, own - base)
    split[HOST] += base
    _add(spent, request, split)
    np.add.at(parts, (rows.cause[row], request), -duration)
    np.add.at(parts[_PART["own_prefill"]], request, own - split[LINK] - split[HOST])
    np.add.at(parts[_PART["communication"]], request, split[LINK])
    np.add.at(parts[_PART["host"]], request, split[HOST])
    np.add.at(parts[_PART["shared_prefill"]], request, duration - own)


def _add_decoding(parts: Integers, spent: Integers, rows: Rows, states: States) -> None:
    request, begin, end = states.decoding.T
    row, paused = states.held.T
    for targets, values in (([parts[part] for part in _DECODING], rows.decoding), (spent, rows.own_decoding)):
        total = cumulated(values)
        _add(targets, request, total[:, end] - total[:, begin])
        _add(targets, paused, -values[:, row])
    idle = cumulated(rows.gap)
    np.add.at(parts[_PART["held"]], request, idle[end] - idle[begin])
    np.add.at(parts[_PART["held"]], paused, rows.duration[row])


def _add(parts: Iterable[Integers], request: Integers, values: Integers) -> None:
    """Add values (parts, entries) to the columns of their requests."""
    for part, value in zip(parts, values, strict=True):
        np.add.at(part, request, value)


def _add_preempted(first: Integers, later: Integers, rows: Rows, states: States) -> None:
    request, begin, end = states.preempted.T
    lost = rows.end[end - 1] - rows.end[begin - 1]
    part = np.where(states.is_swap, _PART["swap"], _PART["preemption"])
    for parts, chosen in ((first, states.is_first), (later, ~states.is_first)):
        np.add.at(parts, (part[chosen], request[chosen]), lost[chosen])


def cumulated(values: Integers) -> Integers:
    """Return the sums of all values before each place and the last (..., n + 1)."""
    start = np.zeros((*values.shape[:-1], 1), dtype=np.int64)
    return np.concatenate([start, np.cumsum(values, axis=-1)], axis=-1)
