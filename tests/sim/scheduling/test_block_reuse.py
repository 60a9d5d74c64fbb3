"""Block reuse in nodes of many blocks against one that keeps every block: same hits, same evictions, always."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sim.engine.clock import TICKS_PER_SECOND, uniform_clock
from sim.engine.content import content_tree
from sim.engine.replay import replay
from sim.engine.replica import content_paths
from sim.scheduling.batch import Limits
from sim.scheduling.block_reuse import BlockReuse
from sim.scheduling.cohort import Cohort
from sim.scheduling.schedulers import SCHEDULERS
from sim.scheduling.sequence import Sequence
from tests.reuse_block_by_block import PlainReuse
from tests.strategies import symbols, traces
from workloads.trace import Segments, Trace


class TwoPools(RuleBasedStateMachine):
    """Admit, compute, decode, finish and preempt at random in both pools, and compare them after every step."""

    @initialize(
        trace=traces(most=40),
        blocks=st.sampled_from([8, 16, 40]),
        block_tokens=st.sampled_from([4, 8, 16]),
        only_at_end=st.booleans(),
    )
    def begin(self, trace: Trace, blocks: int, block_tokens: int, only_at_end: bool) -> None:
        self.trace = trace
        self.cohort = Cohort(block_tokens)
        self.pool = BlockReuse(blocks, block_tokens, only_at_end=only_at_end)
        self.plain = PlainReuse(blocks, block_tokens, symbols(trace), only_at_end=only_at_end)
        paths = content_paths(tree := content_tree(trace, 1))
        self.waiting = [
            Sequence(i, 0, int(prompt), int(output), int(output), paths[run] if run >= 0 else ())
            for i, (prompt, output, run) in enumerate(
                zip(trace.prompt_tokens, trace.output_tokens, tree.deepest, strict=True)
            )
        ]
        self.computing: list[Sequence] = []
        self.running: list[Sequence] = []

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def admit(self, data: st.DataObject) -> None:
        sequence = self.waiting[data.draw(st.integers(0, len(self.waiting) - 1))]
        found, _, tokens = self.plain.match(sequence.index, sequence.tokens)
        hit, used = self.pool.match(sequence)
        assert hit == tokens
        if not self.plain.only_at_end:
            assert used == sum(block.users > 0 for block in found)
        missing = self.pool.first_missing(sequence)
        assert (missing and missing[1]) == self.plain.first_missing(sequence.index, sequence.tokens)
        blocks = -(-sequence.tokens // self.pool.block_tokens)
        if blocks - used > self.pool.free:
            return
        self.waiting.remove(sequence)
        self.plain.admit(sequence.index, sequence.tokens)
        self.pool.admit(sequence, blocks, sequence.tokens)
        sequence.computed = sequence.allocated = sequence.tokens
        self.computing.append(sequence)

    @precondition(lambda self: self.computing)
    @rule()
    def compute(self) -> None:
        computing, self.computing = self.computing, []
        for sequence in computing:
            self.plain.finish_prompt(sequence.index, sequence.prompt, sequence.computed)
            self.pool.store(sequence, sequence.computed)
            sequence.generated += 1
            if sequence.generated < sequence.target:
                self.cohort.join(sequence)
                self.running.append(sequence)
        for sequence in computing:
            if not sequence.is_decoding:
                self.finish(sequence)

    @precondition(lambda self: self.running and self.cohort.demand(1) <= self.pool.free)
    @rule()
    def decode(self) -> None:
        for sequence in self.running:
            self.plain.grow(sequence.index, self.cohort.computed(sequence))
        self.pool.take(self.cohort.demand(1))
        for sequence in self.cohort.advance(1):
            self.running.remove(sequence)
            self.finish(sequence)

    @precondition(lambda self: self.running)
    @rule()
    def preempt(self) -> None:
        sequence = self.cohort.newest()
        self.cohort.remove(sequence)
        self.running.remove(sequence)
        self.finish(sequence, keep=True)
        sequence.computed = sequence.allocated = 0
        self.waiting.append(sequence)

    def finish(self, sequence: Sequence, *, keep: bool = False) -> None:
        self.plain.release(sequence.index, sequence.computed)
        self.pool.release(sequence, findable=sequence.computed, keep=keep)

    @rule()
    def rest(self) -> None:
        """Do nothing, so that a step is possible when everybody has left."""

    @invariant()
    def both_agree(self) -> None:
        if hasattr(self, "pool"):
            assert self.pool.free == self.plain.free
            assert self.pool.evicted == self.plain.evicted
            assert self.pool.cached_blocks() == count(self.plain.root) - 1

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        for sequence in list(self.running):
            self.cohort.remove(sequence)
            self.finish(sequence)
        for sequence in list(self.computing):
            self.finish(sequence)
        assert self.pool.free == self.pool.total, "a block was lost"


def count(block) -> int:
    return 1 + sum(count(child) for child in block.children.values())


TestTwoPools = TwoPools.TestCase
TestTwoPools.settings = settings(stateful_step_count=60)


def served(prompts, segments, arrivals, *, cache="tensorrt-llm", scheduler="inflight_batching", tokens=1024):
    """Return the chunks computed, as (request, tokens computed before, tokens), with blocks of 16 tokens."""
    trace = Trace(
        np.array(arrivals) / TICKS_PER_SECOND,
        np.array(prompts),
        np.full(len(prompts), 20),
        np.full(len(prompts), 20),
        segments=Segments.from_lists(segments),
    )
    limits = Limits(blocks=100, block_tokens=16, tokens=tokens, context=1024)
    outcome = replay(trace, limits, SCHEDULERS[scheduler], uniform_clock(1000, 1, 2048), prefix_cache=cache)
    return [tuple(row) for row in outcome.iterations.chunks[:, 1:4].tolist()], outcome


SHARED = [[(7, 0, 100)], [(7, 0, 100)]]


def test_a_prompt_is_found_when_it_is_computed_and_in_2024_when_its_reply_was_complete() -> None:
    # Of 100 tokens six blocks are full; the first four of the seventh are stored with the reply, 20 iterations later.
    for cache, arrival, found in (
        ("tensorrt-llm", 3000, 96),
        ("tensorrt-llm", 90_000, 100),
        ("tensorrt-llm-2024", 3000, 0),
        ("tensorrt-llm-2024", 90_000, 100),
    ):
        chunks, _ = served([100, 120], SHARED, [0, arrival], cache=cache)
        assert chunks == [(0, 0, 100), (1, found, 120 - found)]


def test_a_prompt_waits_one_iteration_for_what_another_computes_and_those_behind_do_not_wait() -> None:
    chunks, outcome = served([100, 120, 50], [*SHARED, []], [0, 0, 0])
    assert chunks == [(0, 0, 100), (2, 0, 50), (1, 96, 24)]
    assert outcome.first_token.tolist() == [1150, 1150 + 1026, 1150]
    chunks, _ = served([100, 120, 50], [*SHARED, []], [0, 0, 0], cache="tensorrt-llm-2024")
    assert chunks == [(0, 0, 100), (1, 0, 120), (2, 0, 50)]


def test_the_last_token_of_a_prompt_is_computed_even_if_all_of_it_is_stored() -> None:
    chunks, _ = served([96, 96], [[(7, 0, 96)], [(7, 0, 96)]], [0, 90_000])
    assert chunks == [(0, 0, 96), (1, 95, 1)]


def test_a_first_chunk_behind_a_block_found_in_part_ends_with_a_block() -> None:
    chunks, _ = served([40, 200], [[(7, 0, 40)], [(7, 0, 40)]], [0, 90_000], scheduler="inflight_chunked", tokens=64)
    assert chunks == [(0, 0, 40), (1, 40, 56), (1, 96, 64), (1, 160, 40)]
