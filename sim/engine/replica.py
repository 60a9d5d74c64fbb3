"""One replica as the requests of a trace meet it: a request in, a sequence for its engine, or a refusal."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from simpy import Environment

from sim.engine.clock import AnyClock
from sim.engine.content import ContentTree, content_tree
from sim.engine.engines import engine_of
from sim.scheduling.batch import Limits, Refusal
from sim.scheduling.bounds import OracleCache
from sim.scheduling.pinned_prefixes import PinnedPrefixes
from sim.scheduling.prefix_cache import Run
from sim.scheduling.schedulers import Scheduler
from sim.scheduling.sequence import Sequence
from workloads.trace import Segments, Trace


@dataclass(frozen=True)
class Server:
    """How a replica serves; see `sim.engine.replay.replay`."""

    limits: Limits
    scheduler: Scheduler
    clock: AnyClock
    prefix_cache: bool | str = False
    asynchronous: bool = False
    checks_memory: bool | None = None


class Replica:
    """An engine, and what of a trace it has to know.

    Parameters
    ----------
    started, ended : see `Engine`.
    refused : called with the index of a request that can never be served here, and the time [ticks].
    alone : whether it will be asked for every request of the trace.
    """

    def __init__(
        self,
        env: Environment,
        trace: Trace,
        server: Server,
        *,
        started: Callable[[Sequence, int], None],
        ended: Callable[[Sequence, int, bool], None],
        refused: Callable[[int, int], None],
        alone: bool,
        coast: bool,
    ) -> None:
        """Start idle."""
        limits, scheduler = server.limits, server.scheduler
        several = trace.best_of is not None and bool((trace.best_of > 1).any())
        self.engine = engine_of(
            env,
            limits,
            scheduler,
            server.clock,
            server.prefix_cache,
            started=started,
            ended=ended,
            coast=coast,
            asynchronous=server.asynchronous,
            several_replies=several,
        )
        self.ledger = self.engine.ledgers[0]
        self._refused = refused
        self._context = limits.context
        self._limits, self._system = limits, scheduler.system
        checks = scheduler.checks_memory if server.checks_memory is None else server.checks_memory
        most_tokens = (limits.blocks - limits.watermark_blocks) * limits.block_tokens
        self._most_tokens = most_tokens if checks else limits.context
        self._longest_prompt = limits.tokens if checks and not scheduler.cuts_prompts else limits.context
        self._priority = None if trace.priority is None else array("q", trace.priority.astype(np.int64).tobytes())
        self._best_of = None if trace.best_of is None else array("q", trace.best_of.astype(np.int64).tobytes())
        self._deepest: array[int] | None = None
        self._paths: list[tuple[Run, ...]] | ContentPaths = []
        self._declared: list[int] = []
        pool = self.ledger.pool
        if trace.segments is not None and pool.content_tokens and server.prefix_cache not in (False, "none"):
            tree = content_tree(trace, pool.content_tokens)
            self._paths = content_paths(tree) if alone else ContentPaths(tree)
            self._deepest = array("q", tree.deepest.astype(np.int64).tobytes())
            if isinstance(pool, PinnedPrefixes):
                self._declared = first_segments(trace.segments)
        more = (self._deepest, self._priority, self._best_of, self._declared or None)
        self._says_more = any(column is not None for column in more)

    def foresee(self, order: npt.NDArray[np.int64]) -> None:
        """Tell a cache that knows the future in which order requests come, to whichever replica (requests,)."""
        pool, deepest = self.ledger.pool, self._deepest
        if isinstance(pool, OracleCache) and deepest is not None:
            pool.foresee((index, self._paths[deepest[index]]) for index in order.tolist() if deepest[index] >= 0)

    def accept(self, arrival: int, index: int, prompt: int, output: int, longest: int, late: bool = False) -> None:
        """Take in a request that arrives now [ticks]: its number, and its prompt, reply and longest reply [tokens].

        `late` : whether the decisions of this instant have been taken.
        """
        context = self._context
        if longest > context - prompt:
            longest = max(output, context - prompt)
        sequence = Sequence(index, arrival, prompt, output, longest)
        if self._says_more:
            self._describe(sequence)
        tokens = prompt + output
        if tokens > context or prompt > self._longest_prompt or tokens - 1 > self._most_tokens:
            if isinstance(self.ledger.pool, OracleCache):
                self.ledger.pool.forget(sequence)
            self._refused(index, arrival)
        else:
            self.engine.receive(sequence, late)

    def _describe(self, sequence: Sequence) -> None:
        """Add what a trace may say beyond lengths."""
        index = sequence.index
        if self._deepest is not None and (run := self._deepest[index]) >= 0:
            sequence.path = self._paths[run]
        if self._priority is not None:
            sequence.priority = self._priority[index]
        if self._best_of is not None:
            sequence.best_of = self._best_of[index]
        if self._declared:
            sequence.prefix = self._declared[index]

    def stalled(self) -> str:
        """Return which request nothing can go on with, and why, as the end of a sentence; "" if there is none."""
        looping, ledgers = self.engine.livelocked, self.engine.ledgers
        ledger = next((one for one in ledgers if one.swapped or one.waiting), self.ledger)
        head = looping or next(iter((*ledger.swapped, *ledger.waiting)), None)
        if head is None:
            return ""
        blocks = f"{self._limits.blocks_for(head.tokens)} of {self._limits.blocks} KV blocks"
        if looping:
            why = f"computed and preempted for ever (a livelock of {self._system}): it needs {blocks}"
        elif head in ledger.swapped:
            why = f"swapped out and finds no room to come back: it needs {blocks}, and a free one for each reply"
        elif ledger.refusal == Refusal.SEATS:
            why = f"never admitted: it needs {head.best_of} seats of {self._limits.sequences}"
        else:
            why = f"never admitted: it needs {blocks}"
        return f"request {head.index}, {why}"


class ContentPaths(dict[int, tuple[Run, ...]]):
    """For each run of a content tree the runs from the root to it, made when somebody asks for it.

    A run knows what one pool has cached of it, so every replica has runs of its own; of many, each sees few.
    """

    def __init__(self, tree: ContentTree) -> None:
        """Nothing has been asked for."""
        super().__init__()
        self._rows = tree.rows

    def __missing__(self, run: int) -> tuple[Run, ...]:
        """Make the path to a run, and those to the runs before it."""
        missing = []
        while run >= 0 and run not in self:
            missing.append(run)
            run = self._rows[run][2]
        path = self[run] if run >= 0 else ()
        for number in reversed(missing):
            first, last, _ = self._rows[number]
            path = self[number] = (*path, Run(first, last))
        return path


def content_paths(tree: ContentTree) -> list[tuple[Run, ...]]:
    """Return the same for all runs at once, which is faster where one replica will see them all."""
    paths: list[tuple[Run, ...]] = []
    for first, last, parent in tree.rows:
        paths.append((*paths[parent], Run(first, last)) if parent >= 0 else (Run(first, last),))
    return paths


def first_segments(segments: Segments) -> list[int]:
    """Return for each request the tokens of its first segment, 0 if it has none."""
    first, after = segments.offsets[:-1], segments.offsets[1:]
    lengths = np.zeros(len(first), dtype=np.int64)
    lengths[after > first] = segments.length[first[after > first]]
    return [int(length) for length in lengths]
