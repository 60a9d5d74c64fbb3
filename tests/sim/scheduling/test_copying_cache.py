"""The prefix cache of vLLM 0.4 against a scheduler that keeps every block and looks at each of them in every step."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, replace
from itertools import count, takewhile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sim.engine.clock import IterationClock, ticks, uniform_clock
from sim.engine.content import content_tree
from sim.engine.replay import FINISHED, REJECTED, replay
from sim.engine.replica import content_paths
from sim.scenario import Scenario, simulate
from sim.scheduling.batch import Limits
from sim.scheduling.copying_ledger import CopyingLedger
from sim.scheduling.policies.prefill_first import prefill_first
from sim.scheduling.schedulers import SCHEDULERS
from sim.scheduling.sequence import Sequence
from tests.strategies import clocks, limits, symbols, traces
from workloads.trace import Segments, Trace


@dataclass(eq=False)
class Block:
    """A physical block and all that is known of it."""

    key: Hashable
    tokens: int
    users: int = 0
    last_used: int = -1
    computed: bool = False


class Blocks:
    """The allocator in its plainest form."""

    def __init__(self, total: int) -> None:
        self.unused = total
        self.live: dict[Hashable, Block] = {}
        self.idle: dict[Hashable, Block] = {}
        self.evicted = 0
        self._private = count()

    @property
    def free(self) -> int:
        return self.unused + len(self.idle)

    def allocate(self, key: Hashable, tokens: int) -> Block:
        key = ("private", next(self._private)) if key is None else key
        if key in self.idle:
            self.live[key] = self.idle.pop(key)
        elif key not in self.live:
            self.live[key] = self.fresh(key, tokens)
        self.live[key].users += 1
        return self.live[key]

    def fresh(self, key: Hashable, tokens: int) -> Block:
        if self.unused:
            self.unused -= 1
            return Block(key, tokens)
        chosen = next(iter(self.idle.values()))
        for block in self.idle.values():
            if block.last_used > chosen.last_used:
                break
            if block.tokens > chosen.tokens:
                chosen = block
        del self.idle[chosen.key]
        self.evicted += 1
        return Block(key, tokens)

    def give_back(self, block: Block) -> None:
        block.users -= 1
        if not block.users:
            self.idle[block.key] = self.live.pop(block.key)

    def rename(self, block: Block, key: Hashable) -> None:
        del self.live[block.key]
        block.key = key
        self.live[key] = block


class Plain:
    """Prompts first, every block of every running request touched in every step."""

    def __init__(self, trace: Trace, bounds: Limits, clock: IterationClock, requests: list[int]) -> None:
        self.bounds, self.clock, self.size = bounds, clock, bounds.block_tokens
        self.text = symbols(trace)
        self.target = trace.output_tokens.tolist()
        self.prompt = trace.prompt_tokens.tolist()
        self.arrival = ticks(trace.arrival_seconds).tolist()
        self.coming = deque(requests)
        self.waiting: deque[int] = deque()
        self.running: list[int] = []
        self.length = dict(enumerate(self.prompt))
        self.tables: dict[int, list[Block]] = {}
        self.blocks = Blocks(bounds.blocks)
        self.cached: dict[int, int] = {}
        self.finish: dict[int, int] = {}
        self.now = self.step = 0

    def key(self, request: int, end: int) -> Hashable:
        return tuple(self.text[request][: min(end, self.length[request])])

    def serve(self) -> None:
        while self.coming or self.waiting or self.running:
            if not self.waiting and not self.running:
                self.now = max(self.now, self.arrival[self.coming[0]])
            while self.coming and self.arrival[self.coming[0]] <= self.now:
                self.waiting.append(self.coming.popleft())
            self.iterate()

    def iterate(self) -> list[int]:
        """Run one iteration and return who was in it."""
        self.step += 1
        planned, hits = self.prompts()
        if not planned:
            planned, hits = self.decodes(), {}
        for request in planned:
            for block in self.tables[request]:
                block.last_used = self.step
            for block in self.tables[request][: max(0, self.length[request] // self.size - 1)]:
                block.computed = True
        self.run(planned, hits)
        return planned

    def prompts(self) -> tuple[list[int], dict[int, int]]:
        bounds, planned, hits = self.bounds, [], {}
        while self.waiting:
            head = self.waiting[0]
            tokens, lengths = self.length[head], [self.length[r] for r in planned]
            needed = -(-tokens // self.size)
            if tokens > min(bounds.tokens, bounds.context) or needed > bounds.blocks - bounds.watermark_blocks:
                self.waiting.popleft()
                continue
            if self.blocks.free - needed < bounds.watermark_blocks or len(self.running) >= bounds.sequences:
                break
            if bounds.paddings is None:
                if sum(lengths) + tokens > bounds.tokens:
                    break
            else:
                rectangle = max([*lengths, tokens]) * (len(lengths) + 1)
                if rectangle > bounds.tokens or rectangle - sum(lengths) - tokens > bounds.paddings:
                    break
            self.waiting.popleft()
            ends = [(i + 1) * self.size for i in range(needed)]
            table = self.tables[head] = [self.blocks.allocate(self.key(head, end), end) for end in ends]
            hits[head] = self.size * len(list(takewhile(lambda block: block.computed, table[:-1])))
            self.cached.setdefault(head, hits[head])
            self.running.append(head)
            planned.append(head)
        return planned, hits

    def decodes(self) -> list[int]:
        left, done = deque(self.running), []
        while left:
            request = left.popleft()
            while not self.blocks.free:
                victim = left.pop() if left else request
                self.leave(victim)
                self.waiting.appendleft(victim)
                if victim == request:
                    break
            else:
                self.append(request)
                done.append(request)
        return done

    def append(self, request: int) -> None:
        table, tokens, blocks = self.tables[request], self.length[request], self.blocks
        end = -(-tokens // self.size) * self.size
        key = self.key(request, tokens) if tokens == end else None
        if len(table) * self.size < tokens:
            table.append(blocks.allocate(key, end))
        elif table[-1].users > 1:
            old, table[-1] = table[-1], blocks.allocate(key, end)
            blocks.give_back(old)
        elif key in blocks.live or key in blocks.idle:
            blocks.give_back(table[-1])
            table[-1] = blocks.allocate(key, end)
        elif key is not None:
            blocks.rename(table[-1], key)

    def leave(self, request: int) -> None:
        self.running.remove(request)
        for block in self.tables.pop(request):
            self.blocks.give_back(block)

    def run(self, planned: list[int], hits: dict[int, int]) -> None:
        if not planned:
            return
        if hits:
            new = [self.length[r] - hits[r] for r in planned]
            if self.bounds.paddings is not None:  # computed as a rectangle
                new = [max(new)] * len(new)
            pairs = sum(n * hits[r] + n * (n + 1) // 2 for n, r in zip(new, planned, strict=True))
            self.now += self.clock.iteration(len(planned), sum(new), pairs, sum(hits.values()), 0, 0)
        else:
            context = sum(self.length[r] - 1 for r in planned)
            self.now += self.clock.iteration(0, 0, 0, 0, len(planned), context)
        for request in planned:
            self.length[request] += 1
        for request in sorted(planned, key=str):
            if self.length[request] == self.prompt[request] + self.target[request]:
                self.leave(request)
                self.finish[request] = self.now


@given(trace=traces(most=40), bounds=limits(), clock=clocks())
def test_looking_only_where_something_changes_is_looking_everywhere(trace, bounds, clock):
    trace = replace(trace, previous=None, think_seconds=None)
    outcome = replay(trace, bounds, SCHEDULERS["prefill_first"], clock, prefix_cache="vllm-0.4")
    plain = Plain(trace, bounds, clock, np.flatnonzero(outcome.outcome != REJECTED).tolist())
    plain.serve()
    served = np.flatnonzero(outcome.outcome == FINISHED).tolist()
    assert {request: int(outcome.finish[request]) for request in served} == plain.finish
    assert {request: int(outcome.cached_tokens[request]) for request in served} == {r: plain.cached[r] for r in served}
    assert outcome.evicted_blocks == plain.blocks.evicted


class TwoServers(RuleBasedStateMachine):
    """Let requests arrive and iterations run at random in both, and compare every block count after each."""

    @initialize(trace=traces(most=40), bounds=limits())
    def begin(self, trace: Trace, bounds: Limits) -> None:
        self.plain = Plain(trace, bounds, uniform_clock(1, 1, 4096), [])
        self.ledger = CopyingLedger(bounds)
        paths = content_paths(tree := content_tree(trace, 1))
        self.coming = deque(
            Sequence(i, i, int(prompt), int(output), int(output), paths[run] if run >= 0 else ())
            for i, (prompt, output, run) in enumerate(
                zip(trace.prompt_tokens, trace.output_tokens, tree.deepest, strict=True)
            )
        )

    @precondition(lambda self: self.coming)
    @rule()
    def arrive(self) -> None:
        sequence = self.coming.popleft()
        self.ledger.waiting.append(sequence)
        self.plain.waiting.append(sequence.index)

    @rule()
    def iterate(self) -> None:
        ran = self.run_ours()
        theirs: list[int] = []
        while not theirs and (self.plain.waiting or self.plain.running):
            theirs = self.plain.iterate()
        assert sorted(ran) == sorted(theirs)

    def run_ours(self) -> list[int]:
        ledger = self.ledger
        while True:
            ledger.begin()
            prefill_first(ledger)
            if ledger.chunks or ledger.decodes or not (ledger.preempted or ledger.ignored):
                break
        ran = [sequence.index for sequence, _ in ledger.chunks]
        finished = []
        if ledger.decodes:
            ran += [sequence.index for sequence in ledger.cohort.members()]
            finished = ledger.complete(1)
        for sequence, chunk in ledger.chunks:
            ledger.complete_chunk(sequence, chunk)
            if sequence.generated < sequence.target:
                ledger.cohort.join(sequence)
            else:
                finished.append(sequence)
        for sequence in finished:
            ledger.retire(sequence)
        return ran

    @invariant()
    def both_agree(self) -> None:
        if hasattr(self, "ledger"):
            pool, plain = self.ledger.pool, self.plain
            assert pool.free == plain.blocks.free
            assert pool.evicted == plain.blocks.evicted
            assert pool.total - pool.free == len(plain.blocks.live), "a block in use was lost or counted twice"

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            while self.ledger.waiting or self.ledger.running:
                self.iterate()
                self.both_agree()
            assert self.ledger.pool.free == self.ledger.pool.total, "a block was lost"


TestTwoServers = TwoServers.TestCase
TestTwoServers.settings = settings(stateful_step_count=60)


def repeated(prompt: int, arrivals: list[float], output: int = 40) -> Trace:
    n = len(arrivals)
    return Trace(
        np.array(arrivals),
        np.full(n, prompt),
        np.full(n, output),
        np.full(n, output),
        Segments.from_lists([[(0, 0, prompt)]] * n),
    )


@pytest.mark.parametrize(("prompt", "hit"), [(64, 48), (70, 48), (80, 64), (16, 0)])
def test_the_last_full_block_counts_only_when_the_next_one_is_full(prompt, hit):
    trace = repeated(prompt, [0.0, 1e-6], output=1)
    outcome = replay(
        trace, Limits(100), SCHEDULERS["prefill_first"], uniform_clock(1000, 1, 9000), prefix_cache="vllm-0.4"
    )
    assert outcome.cached_tokens.tolist() == [0, hit]


def test_equal_prompts_of_one_batch_share_memory_and_not_time():
    trace = repeated(70, [0.0] * 10)
    outcome = replay(
        trace, Limits(60), SCHEDULERS["prefill_first"], uniform_clock(1000, 1, 9000), prefix_cache="vllm-0.4"
    )
    assert not outcome.cached_tokens.any()
    assert outcome.iterations.new_tokens[0] == 700
    # Five blocks for all of the prompts, then a copy of the last one for each but the last.
    assert outcome.iterations.free_blocks[:2].tolist() == [55, 46]


def test_a_cache_that_copies_refuses_policies_that_cut_prompts():
    with pytest.raises(ValueError, match="prefill_first"):
        simulate(Scenario(trace=repeated(8, [0.0]), policy="inflight_batching", prefix_cache="vllm-0.4"))
    with pytest.raises(ValueError, match="vllm-1"):
        simulate(Scenario(trace=repeated(8, [0.0]), prefix_cache="none such"))
