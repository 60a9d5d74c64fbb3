"""Pools that only count blocks, with and without pinned prefixes, against one that spells out who holds what."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sim.engine.content import content_tree
from sim.engine.replica import content_paths, first_segments
from sim.scheduling.cohort import Cohort
from sim.scheduling.kv_pool import BlockPool
from sim.scheduling.pinned_prefixes import PinnedPrefixes
from sim.scheduling.sequence import Sequence
from tests.strategies import symbols, traces
from workloads.trace import Trace


class CountedPool(RuleBasedStateMachine):
    """Admit, compute, decode, finish and preempt at random; keep a list of blocks for every sequence."""

    @initialize(
        trace=traces(most=40), blocks=st.sampled_from([8, 16, 40]), size=st.sampled_from([1, 4, 16]), pins=st.booleans()
    )
    def begin(self, trace: Trace, blocks: int, size: int, pins: bool) -> None:
        self.size, self.pins = size, pins
        self.pool = (PinnedPrefixes if pins else BlockPool)(blocks, size)
        self.cohort = Cohort(size)
        self.text = symbols(trace)
        paths = content_paths(tree := content_tree(trace, 1))
        declared = first_segments(trace.segments)
        self.waiting = [
            Sequence(i, 0, int(prompt), int(output), int(output), paths[run] if run >= 0 else (), declared[i])
            for i, (prompt, output, run) in enumerate(
                zip(trace.prompt_tokens, trace.output_tokens, tree.deepest, strict=True)
            )
        ]
        self.running: list[Sequence] = []
        self.computing: list[Sequence] = []
        self.pinned: dict[tuple, Sequence] = {}
        self.own: dict[Sequence, int] = {}

    def prefix(self, sequence: Sequence) -> tuple:
        blocks = min(sequence.prefix, sequence.prompt) // self.size if self.pins else 0
        return tuple(self.text[sequence.index][: blocks * self.size])

    def in_blocks(self, tokens: int) -> int:
        return -(-tokens // self.size)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def admit(self, data: st.DataObject) -> None:
        sequence = self.waiting[data.draw(st.integers(0, len(self.waiting) - 1))]
        prefix = self.prefix(sequence)
        first = self.pinned.get(prefix) if prefix else None
        hit, used = self.pool.match(sequence)
        assert used == (self.in_blocks(len(prefix)) if first else 0)
        computed = first is not None and first.generated
        assert hit == (min(len(prefix), (sequence.tokens - 1) // self.size * self.size) if computed else 0)
        blocks = self.in_blocks(sequence.tokens)
        if blocks - used > self.pool.free:
            return
        self.waiting.remove(sequence)
        self.pool.admit(sequence, blocks, sequence.tokens)
        if prefix:
            self.pinned.setdefault(prefix, sequence)
        self.own[sequence] = blocks - self.in_blocks(len(prefix))
        sequence.computed, sequence.allocated = hit, sequence.tokens
        self.computing.append(sequence)

    @precondition(lambda self: self.computing)
    @rule()
    def compute(self) -> None:
        for sequence in self.computing:
            sequence.computed = sequence.tokens
            sequence.generated += 1
            if sequence.generated < sequence.target:
                self.cohort.join(sequence)
                self.running.append(sequence)
            else:
                self.leave(sequence, keep=False)
        self.computing = []

    @precondition(lambda self: self.running and self.cohort.demand(1) <= self.pool.free)
    @rule()
    def decode(self) -> None:
        for sequence in self.running:
            self.own[sequence] += self.cohort.computed(sequence) % self.size == 0
        self.pool.take(self.cohort.demand(1))
        for sequence in self.cohort.advance(1):
            self.running.remove(sequence)
            self.leave(sequence, keep=False)

    @precondition(lambda self: self.running)
    @rule()
    def preempt(self) -> None:
        sequence = self.cohort.newest()
        self.cohort.remove(sequence)
        self.running.remove(sequence)
        self.leave(sequence, keep=True)
        sequence.computed = sequence.allocated = 0
        self.waiting.append(sequence)

    def leave(self, sequence: Sequence, *, keep: bool) -> None:
        self.pool.release(sequence, findable=sequence.computed, keep=keep)
        del self.own[sequence]

    @rule()
    def rest(self) -> None:
        """Do nothing, so that a step is possible when everybody has left."""

    @invariant()
    def every_block_is_free_or_held_or_pinned(self) -> None:
        if hasattr(self, "pool"):
            pinned = sum(self.in_blocks(len(prefix)) for prefix in self.pinned)
            assert self.pool.free == self.pool.total - sum(self.own.values()) - pinned
            assert self.pool.free >= 0
            assert self.pool.evicted == 0


TestCountedPool = CountedPool.TestCase
TestCountedPool.settings = settings(stateful_step_count=60)
