"""The prefix cache of runs and extents against one that keeps every block: same hits, same evictions, always."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sim.engine.content import content_tree
from sim.engine.replica import content_paths
from sim.scheduling.cohort import Cohort
from sim.scheduling.flight import Flight
from sim.scheduling.prefix_cache import PrefixCache
from sim.scheduling.sequence import Sequence
from tests.block_by_block import BlockByBlock
from tests.strategies import symbols, traces
from workloads.trace import Segments, Trace


class TwoCaches(RuleBasedStateMachine):
    """Admit, decode, finish and preempt at random in both caches, and compare them after every step."""

    @initialize(
        trace=traces(most=40),
        blocks=st.sampled_from([8, 16, 40]),
        block_tokens=st.sampled_from([4, 8, 16]),
        unhashed_first=st.booleans(),
    )
    def begin(self, trace: Trace, blocks: int, block_tokens: int, unhashed_first: bool) -> None:
        self.trace = trace
        self.cohort = Cohort(block_tokens)
        findable = Flight(self.cohort).findable
        self.cache = PrefixCache(blocks, block_tokens, findable, unhashed_first=unhashed_first)
        self.plain = BlockByBlock(blocks, block_tokens, symbols(trace), unhashed_first=unhashed_first)
        tree = content_tree(trace, block_tokens)
        paths = content_paths(tree)
        self.paths = [paths[run] if run >= 0 else () for run in tree.deepest]
        self.waiting = [self.ask(index) for index in range(len(trace))]
        self.running: list[Sequence] = []

    def ask(self, index: int) -> Sequence:
        prompt, output = int(self.trace.prompt_tokens[index]), int(self.trace.output_tokens[index])
        return Sequence(index, 0, prompt, output, output, self.paths[index])

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def admit(self, data: st.DataObject) -> None:
        sequence = self.waiting[data.draw(st.integers(0, len(self.waiting) - 1))]
        for writer in self.running:
            self.plain.register(writer.index, self.cohort.computed(writer))
        found = self.plain.match(sequence.index, sequence.tokens)
        hit, used = self.cache.match(sequence)
        assert hit == len(found) * self.cache.block_tokens
        assert used == sum(self.plain.users[block] > 0 for block in found)
        blocks = -(-sequence.tokens // self.cache.block_tokens)
        if blocks - used > self.cache.free:
            return
        self.waiting.remove(sequence)
        self.plain.admit(sequence.index, sequence.tokens, found)
        self.cache.admit(sequence, blocks, sequence.tokens)
        sequence.computed = sequence.tokens
        sequence.generated += 1
        if sequence.generated < sequence.target:
            self.cohort.join(sequence)
            self.running.append(sequence)
        else:
            self.finish(sequence)

    @precondition(lambda self: self.running and self.cohort.demand(1) <= self.cache.free)
    @rule()
    def decode(self) -> None:
        for sequence in self.running:
            self.plain.grow(sequence.index, self.cohort.computed(sequence))
        self.cache.take(self.cohort.demand(1))
        for sequence in self.cohort.advance(1):
            self.running.remove(sequence)
            self.finish(sequence)

    @precondition(lambda self: self.running)
    @rule()
    def preempt(self) -> None:
        sequence = self.cohort.newest()
        self.cohort.remove(sequence)
        self.running.remove(sequence)
        self.plain.release(sequence.index, sequence.computed)
        self.cache.release(sequence, findable=sequence.computed, keep=True)
        sequence.computed = 0
        self.waiting.append(sequence)

    def finish(self, sequence: Sequence) -> None:
        self.plain.release(sequence.index, sequence.computed)
        self.cache.release(sequence, findable=sequence.computed, keep=False)

    @rule()
    def rest(self) -> None:
        """Do nothing, so that a step is possible when everybody has left."""

    @invariant()
    def both_agree(self) -> None:
        if hasattr(self, "cache"):
            assert self.cache.free == self.plain.free
            assert self.cache.cached_blocks() == len(self.plain.idle)
            assert self.cache.evicted == self.plain.evicted

    def teardown(self) -> None:
        if not hasattr(self, "cache"):
            return
        for sequence in list(self.running):
            self.cohort.remove(sequence)
            self.finish(sequence)
        assert self.cache.free == self.cache.total, "a block was lost"


TestTwoCaches = TwoCaches.TestCase
TestTwoCaches.settings = settings(stateful_step_count=60)


@pytest.mark.parametrize("block_tokens", [1, 16])
def test_the_tree_finds_what_comparing_tokens_finds(block_tokens: int) -> None:
    rng = np.random.default_rng(3)
    for _ in range(40):
        trace = _random_trace(rng)
        tree = content_tree(trace, block_tokens)
        spelled = [text[:-1] for text in symbols(trace)]  # the last token of a reply is never written
        for request, text in enumerate(spelled):
            others = (other for other in range(len(trace)) if other != request)
            shared = max(_common(text, spelled[other]) for other in others)
            run = tree.deepest[request]
            assert (tree.last[run] if run >= 0 else 0) == shared // block_tokens


def _common(a: list[Hashable], b: list[Hashable]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _random_trace(rng: np.random.Generator) -> Trace:
    n = 8
    rows = [[(int(rng.integers(0, 2)) + 5 * d, 0, int(rng.integers(1, 5)) * 8) for d in range(3)] for _ in range(n)]
    covered = np.array([sum(length for _, _, length in row) for row in rows])
    output = rng.integers(1, 9, n)
    for i in range(4, n):
        rows[i] = [*rows[i - 4], (3 - i, int(covered[i - 4]), int(output[i - 4]))]
        covered[i] = sum(length for _, _, length in rows[i])
    return Trace(
        np.zeros(n), covered + (np.arange(n) > 3) * rng.integers(0, 9, n), output, output, Segments.from_lists(rows)
    )
