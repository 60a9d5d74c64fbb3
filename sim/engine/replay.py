"""A trace in, what happened out: one replica serves every request of a trace."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from simpy import Environment, Event

from sim.engine.clock import IterationClock, ticks
from sim.engine.content import ContentTree, content_tree
from sim.engine.engine import ARRIVAL, Engine, Moment
from sim.engine.log import Iterations
from sim.scheduling.batch import Limits
from sim.scheduling.ledger import Ledger, Policy
from sim.scheduling.ledgers import ledger_of
from sim.scheduling.pinned_prefixes import PinnedPrefixes
from sim.scheduling.prefix_cache import Run
from sim.scheduling.schedulers import Scheduler
from sim.scheduling.sequence import Sequence
from workloads.trace import Segments, Trace

UNFINISHED, FINISHED, REJECTED, IGNORED = range(4)
OUTCOMES = ("unfinished", "finished", "rejected", "ignored")
_CHUNK = 4096


@dataclass(frozen=True)
class Replay:
    """What happened to each request (arrays of shape (requests,)) and in each iteration.

    Attributes
    ----------
    arrival, queued, first_token, finish : [ticks]; -1 where it never happened. `queued` is when the scheduler sees it,
        which a front end makes later than its arrival.
    cached_tokens, preemptions : counts.
    outcome : index into `OUTCOMES`. `rejected`: longer than the context or than the machine could ever hold, refused on
        arrival. `ignored`: given up by the scheduler. `unfinished`: still waiting when nothing could go on.
    iterations : the log.
    clock : what an iteration costs.
    evicted_blocks : cached blocks given up for others.
    streams : whether clients see tokens one by one; if not, the first comes with the last.
    """

    arrival: npt.NDArray[np.int64]
    queued: npt.NDArray[np.int64]
    first_token: npt.NDArray[np.int64]
    finish: npt.NDArray[np.int64]
    cached_tokens: npt.NDArray[np.int64]
    preemptions: npt.NDArray[np.int64]
    outcome: npt.NDArray[np.int8]
    iterations: Iterations
    clock: IterationClock
    evicted_blocks: int
    streams: bool = True


def replay(
    trace: Trace,
    limits: Limits,
    scheduler: Scheduler,
    clock: IterationClock,
    *,
    prefix_cache: bool | str = False,
    coast: bool = True,
    asynchronous: bool = False,
) -> Replay:
    """Serve a trace on one replica until everybody has left or nothing can go on.

    Parameters
    ----------
    prefix_cache : whether there is one, or which of `sim.scheduling.caches.CACHES`. Where clients declare what they
        share, it is the first segment of the prompt.
    coast : False to step iteration by iteration.
    asynchronous : whether an iteration is planned while the one before runs; see `Engine`.

    Raises
    ------
    ValueError
        If cache or `asynchronous` do not go with the scheduler.
    """
    if asynchronous and (scheduler.pads or scheduler.to_end):
        raise ValueError(f"asynchronous is True; allowed for {scheduler.system}: False")
    server = _Replica(
        trace, limits, scheduler, clock, prefix_cache=prefix_cache, coast=coast, asynchronous=asynchronous
    )
    server.env.run()
    return server.outcome()


def serve_sequences(
    sequences: Iterable[Sequence],
    ledger: Ledger,
    policy: Policy,
    clock: IterationClock,
    *,
    started: Callable[[Sequence, int], None],
    ended: Callable[[Sequence, int, bool], None],
    observe: Callable[[Ledger, int], None] | None = None,
    coast: bool = True,
    asynchronous: bool = False,
) -> None:
    """Serve sequences made by hand, each at its `arrival`; see `Engine` for the functions that are called."""
    env = Environment(initial_time=0)
    engine = Engine(
        env,
        ledger,
        policy,
        clock,
        started=started,
        ended=ended,
        observe=observe,
        coast=coast,
        asynchronous=asynchronous,
    )

    def arrive(sequence: Sequence) -> Callable[[Event], None]:
        return lambda _: engine.receive(sequence)

    for sequence in sequences:
        Moment(env, sequence.arrival, arrive(sequence), ARRIVAL)
    env.run()


class _Replica:
    """The arrivals of a trace, an engine to serve them, and the columns in which they end."""

    def __init__(
        self,
        trace: Trace,
        limits: Limits,
        scheduler: Scheduler,
        clock: IterationClock,
        *,
        prefix_cache: bool | str,
        coast: bool,
        asynchronous: bool,
    ) -> None:
        n = len(trace)
        self.trace = trace
        self.limits = limits
        self._most_tokens = (limits.blocks - limits.watermark_blocks) * limits.block_tokens
        self._streams = scheduler.streams
        self._longest_prompt = limits.context if scheduler.cuts_prompts else limits.tokens
        self.env = Environment(initial_time=0)
        self.ledger = ledger_of(limits, scheduler, prefix_cache)
        self.engine = Engine(
            self.env,
            self.ledger,
            scheduler.policy,
            clock,
            started=self._started,
            ended=self._ended,
            coast=coast,
            asynchronous=asynchronous,
        )
        self.arrival = array("q", ticks(trace.arrival_seconds).tobytes())
        self.first_token = array("q", np.full(n, -1, dtype=np.int64).tobytes())
        self.finish = array("q", self.first_token)
        self.cached = array("i", bytes(4 * n))
        self.preemptions = array("i", bytes(4 * n))
        self.state = array("b", bytes(n))
        self._paths: list[tuple[Run, ...]] = []
        self._deepest: npt.NDArray[np.int64] | None = None
        self._declared: list[int] = []
        pool = self.ledger.pool
        if trace.segments is not None and pool.content_tokens:
            tree = content_tree(trace, pool.content_tokens)
            self._paths, self._deepest = content_paths(tree), tree.deepest
            if isinstance(pool, PinnedPrefixes):
                self._declared = first_segments(trace.segments)
        self._followers: dict[int, list[int]] = {}
        if trace.previous is not None:
            for request in np.flatnonzero(trace.previous >= 0).tolist():
                self._followers.setdefault(int(trace.previous[request]), []).append(request)
        self._coming = self._in_order()
        self._next = next(self._coming, None)
        self._await_next(0)

    def _in_order(self) -> Iterator[tuple[int, int, int, int, int, int]]:
        """Yield (arrival, index, prompt, output, longest reply, run) of the requests that wait for nobody."""
        trace = self.trace
        free = np.arange(len(trace)) if trace.previous is None else np.flatnonzero(trace.previous < 0)
        arrival = np.frombuffer(self.arrival, dtype=np.int64)
        for start in range(0, len(free), _CHUNK):
            rows = free[start : start + _CHUNK]
            run = np.full(len(rows), -1) if self._deepest is None else self._deepest[rows]
            columns = (
                arrival[rows],
                rows,
                trace.prompt_tokens[rows],
                trace.output_tokens[rows],
                trace.max_tokens[rows],
            )
            yield from zip(*(column.tolist() for column in (*columns, run)), strict=True)

    def _await_next(self, now: int) -> None:
        if self._next is not None:
            Moment(self.env, self._next[0] - now, self._arrive, ARRIVAL)

    def _arrive(self, _: Event) -> None:
        now = int(self.env.now)
        while self._next is not None and self._next[0] == now:
            arrival, index, prompt, output, longest, run = self._next
            self._next = next(self._coming, None)
            self._deliver(index, arrival, prompt, output, longest, run)
        self._await_next(now)

    def _deliver(self, index: int, arrival: int, prompt: int, output: int, longest: int, run: int) -> None:
        context = self.limits.context
        if longest > context - prompt:
            longest = max(output, context - prompt)
        sequence = Sequence(index, arrival, prompt, output, longest, self._paths[run] if run >= 0 else ())
        if self.trace.priority is not None:
            sequence.priority = int(self.trace.priority[index])
        if self._declared:
            sequence.prefix = self._declared[index]
        tokens = prompt + output
        if tokens > context or prompt > self._longest_prompt or tokens - 1 > self._most_tokens:
            self._leave(sequence, arrival, REJECTED)
        else:
            self.engine.receive(sequence)

    def _started(self, sequence: Sequence, now: int) -> None:
        self.first_token[sequence.index] = now

    def _ended(self, sequence: Sequence, now: int, served: bool) -> None:
        if sequence.cached_tokens:
            self.cached[sequence.index] = sequence.cached_tokens
        if sequence.preemptions:
            self.preemptions[sequence.index] = sequence.preemptions
        self._leave(sequence, now, FINISHED if served else IGNORED)

    def _leave(self, sequence: Sequence, now: int, outcome: int) -> None:
        index = sequence.index
        self.state[index] = outcome
        if outcome == FINISHED:
            self.finish[index] = now
            if not self._streams:
                self.first_token[index] = now
        if self._followers:
            for follower in self._followers.get(index, ()):
                self._release(follower, now)

    def _release(self, request: int, now: int) -> None:
        trace = self.trace
        think = 0 if trace.think_seconds is None else int(ticks(trace.think_seconds[request]))
        self.arrival[request] = at = max(self.arrival[request], now + think)
        row = (
            request,
            at,
            int(trace.prompt_tokens[request]),
            int(trace.output_tokens[request]),
            int(trace.max_tokens[request]),
            -1 if self._deepest is None else int(self._deepest[request]),
        )
        if at == now:
            self._deliver(*row)
        else:
            Moment(self.env, at - now, lambda _: self._deliver(*row), ARRIVAL)

    def outcome(self) -> Replay:
        """Return the columns as arrays."""
        return Replay(
            arrival=np.frombuffer(self.arrival, dtype=np.int64),
            queued=np.frombuffer(self.arrival, dtype=np.int64),
            first_token=np.frombuffer(self.first_token, dtype=np.int64),
            finish=np.frombuffer(self.finish, dtype=np.int64),
            cached_tokens=np.frombuffer(self.cached, dtype=np.int32).astype(np.int64),
            preemptions=np.frombuffer(self.preemptions, dtype=np.int32).astype(np.int64),
            outcome=np.frombuffer(self.state, dtype=np.int8),
            iterations=self.engine.log.columns(),
            clock=self.engine.clock,
            evicted_blocks=getattr(self.ledger.pool, "evicted", 0),
            streams=self._streams,
        )


def content_paths(tree: ContentTree) -> list[tuple[Run, ...]]:
    """Return for each run the runs from the root to it."""
    paths: list[tuple[Run, ...]] = []
    for first, last, parent in zip(tree.first.tolist(), tree.last.tolist(), tree.parent.tolist(), strict=True):
        before = paths[parent] if parent >= 0 else ()
        paths.append((*before, Run(first, last)))
    return paths


def first_segments(segments: Segments) -> list[int]:
    """Return for each request the tokens of its first segment, 0 if it has none."""
    first, after = segments.offsets[:-1], segments.offsets[1:]
    lengths = np.zeros(len(first), dtype=np.int64)
    lengths[after > first] = segments.length[first[after > first]]
    return [int(length) for length in lengths]
