"""The radix tree over runs against one that spells out every token: same hits, same evictions, always."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sim.engine.clock import TICKS_PER_SECOND, uniform_clock
from sim.engine.content import content_tree
from sim.engine.replay import replay
from sim.engine.replica import content_paths
from sim.scheduling.batch import Limits
from sim.scheduling.cohort import Cohort
from sim.scheduling.radix_cache import EVICTION, RadixCache
from sim.scheduling.schedulers import SCHEDULERS
from sim.scheduling.sequence import Sequence
from tests.radix_token_by_token import PlainRadix
from tests.strategies import symbols, traces
from workloads.trace import Segments, Trace


class TwoTrees(RuleBasedStateMachine):
    """Look up, admit, compute in chunks, decode, finish and preempt at random, and compare after every step."""

    @initialize(
        trace=traces(most=40),
        tokens=st.sampled_from([128, 256, 640]),
        page=st.sampled_from([1, 4, 16]),
        eviction=st.sampled_from(sorted(EVICTION)),
    )
    def begin(self, trace: Trace, tokens: int, page: int, eviction: str) -> None:
        self.cohort = Cohort(page)
        self.tree = RadixCache(tokens // page, page, eviction)
        self.plain = PlainRadix(tokens // page, page, symbols(trace), eviction)
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
        path = self.plain.match(sequence.index, sequence.tokens)
        hit, used = self.tree.match(sequence)
        assert hit == sum(len(node.text) for node in path)
        assert used == sum(len(node.text) // self.plain.page for node in path if node.users)
        pages = -(-sequence.tokens // self.plain.page)
        if pages - used > self.tree.free:
            return
        self.waiting.remove(sequence)
        self.plain.admit(sequence.index, sequence.tokens, path)
        self.tree.admit(sequence, pages, sequence.tokens)
        sequence.computed, sequence.allocated = hit, sequence.tokens
        self.computing.append(sequence)

    @precondition(lambda self: self.computing)
    @rule(data=st.data())
    def compute(self, data: st.DataObject) -> None:
        done = []
        for sequence in self.computing:
            sequence.computed += data.draw(st.integers(1, sequence.tokens - sequence.computed))
            self.plain.store(sequence.index, sequence.computed, sequence.prompt)
            self.tree.store(sequence, sequence.computed)
            if sequence.computed == sequence.tokens:
                done.append(sequence)
        for sequence in done:
            self.computing.remove(sequence)
            sequence.generated += 1
            if sequence.generated < sequence.target:
                self.cohort.join(sequence)
                self.running.append(sequence)
            else:
                self.finish(sequence)

    @precondition(lambda self: self.running and self.cohort.demand(1) <= self.tree.free)
    @rule()
    def decode(self) -> None:
        pages = self.cohort.demand(1)
        self.plain.available -= pages
        self.tree.take(pages)
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

    @rule()
    def settle(self) -> None:
        self.plain.settle()
        self.tree.settle()

    def finish(self, sequence: Sequence, *, keep: bool = False) -> None:
        held = max(sequence.computed, sequence.allocated)
        self.plain.release(sequence.index, sequence.computed, held, sequence.prompt, keep=keep)
        self.tree.release(sequence, findable=sequence.computed, keep=keep)

    @invariant()
    def both_agree(self) -> None:
        if hasattr(self, "tree"):
            assert self.tree.free == self.plain.free
            assert self.tree.evicted == self.plain.evicted
            assert self.tree.cached_blocks() == self.plain.free - self.plain.available

    def teardown(self) -> None:
        if not hasattr(self, "tree"):
            return
        for sequence in list(self.running):
            self.cohort.remove(sequence)
            self.finish(sequence)
        for sequence in list(self.computing):
            self.finish(sequence)
        assert self.tree.free == self.tree.total, "a page was lost"


TestTwoTrees = TwoTrees.TestCase
TestTwoTrees.settings = settings(stateful_step_count=60)


def served(prompts, segments, arrivals, *, output=20, blocks=1000, page=1, cache="sglang", scheduler="prefill_first"):
    """Return the chunks computed, as (request, tokens computed before, tokens), and what happened."""
    trace = Trace(
        np.array(arrivals) / TICKS_PER_SECOND,
        np.array(prompts),
        np.full(len(prompts), output),
        np.full(len(prompts), output),
        segments=Segments.from_lists(segments),
    )
    limits = Limits(blocks=blocks, block_tokens=page, tokens=1024, context=1024)
    outcome = replay(trace, limits, SCHEDULERS[scheduler], uniform_clock(1000, 1, 2048), prefix_cache=cache)
    return [tuple(row) for row in outcome.iterations.chunks[:, 1:4].tolist()], outcome


def test_a_prompt_is_found_to_the_token_but_for_its_last_one() -> None:
    for page, found in ((1, 99), (16, 96), (64, 64)):
        chunks, _ = served([100, 100], [[(7, 0, 100)], [(7, 0, 100)]], [0, 50_000], page=page)
        assert chunks == [(0, 0, 100), (1, found, 100 - found)]


def test_a_later_turn_finds_prompt_and_reply_but_for_its_last_token() -> None:
    # 100 tokens and the 19 that were fed back are written; the twentieth was only said.
    chunks, _ = served([100, 150], [[], [(-1, 0, 120)]], [0, 50_000])
    assert chunks == [(0, 0, 100), (1, 119, 31)]


def test_prompts_of_one_iteration_do_not_find_each_other_and_then_share_memory() -> None:
    chunks, outcome = served([100, 100, 100], [[(7, 0, 100)]] * 3, [0, 0, 3000])
    assert chunks == [(0, 0, 100), (1, 0, 100), (2, 99, 1)]
    # The double of the second was given back; each decodes into pages of its own.
    free = outcome.iterations.free_blocks
    assert free[0] == 1000 - 200
    assert 1000 - 100 - 2 * 3 <= free[1] <= 1000 - 100 - 2


def test_a_leaf_is_given_up_whole_and_the_reply_before_its_prompt() -> None:
    # 119 tokens of the first two texts are kept of 300; what the third lacks at last goes from the oldest reply, of 19.
    for prompt, given_up in ((43, 0), (44, 19), (62, 19), (63, 119)):
        _, outcome = served([100, 100, prompt], [[], [], []], [0, 50_000, 100_000], blocks=300)
        assert outcome.evicted_blocks == given_up


def test_an_unknown_order_of_eviction_is_refused() -> None:
    with pytest.raises(ValueError, match=r"eviction is 'random'; allowed: lru, lfu, fifo, mru, filo"):
        RadixCache(10, 1, "random")


def test_the_longest_prefix_goes_first_to_the_token() -> None:
    texts = [[(7, 0, 60)], [(7, 0, 30)], [(7, 0, 31)]]
    chunks, _ = served([60, 100, 90], texts, [0, 100, 101], scheduler="longest_prefix_first", output=2)
    assert chunks == [(0, 0, 60), (2, 31, 59), (1, 30, 70)]
