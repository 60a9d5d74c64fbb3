"""The engine against a plain scheduler with the rules of vLLM V1, synchronous and asynchronous, batch for batch."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.engine.clock import TICKS_PER_SECOND, uniform_clock
from sim.engine.replay import REJECTED, replay
from sim.scheduling.batch import Limits
from sim.scheduling.policies.chunked_prefill import chunked_prefill
from sim.scheduling.schedulers import Scheduler
from tests.plain_scheduler import PlainScheduler, Request, Rules, run
from tests.strategies import limits, symbols, traces
from workloads.trace import Segments, Trace

rules = st.builds(Rules, st.sampled_from([0, 0, 1, 5]), st.booleans(), st.sampled_from([0, 0, 2]))


@given(
    trace=traces(),
    bounds=limits(),
    tokens=st.sampled_from([3, 16, 100]),
    rules=rules,
    base=st.sampled_from([1, 100]),
    cache=st.booleans(),
    asynchronous=st.booleans(),
)
def test_the_engine_runs_the_batches_of_a_plain_scheduler(trace, bounds, tokens, rules, base, cache, asynchronous):
    alone = replace(trace, previous=None, think_seconds=None)
    bounds = replace(bounds, paddings=None, tokens=tokens, watermark_blocks=0)
    assert_same(alone, bounds, rules, base, cache, asynchronous)


PINNED = {
    "a sequence about to leave is preempted for a prompt": (
        Trace(np.zeros(3), np.array([1, 3, 2]), np.array([1, 1, 1]), np.array([1, 1, 1])),
        Limits(blocks=5, block_tokens=1, sequences=16, tokens=5, context=5),
        Rules(longest_chunk=2, reserve_whole_prompt=False),
    ),
    "a prompt quotes what is being written in front of it": (
        Trace(
            np.array([0, 21, 23, 44]) / TICKS_PER_SECOND,
            np.array([3, 2, 3, 12]),
            np.array([2, 16, 2, 9]),
            np.array([2, 16, 2, 9]),
            segments=Segments.from_lists(
                [[], [(-1, 0, 2)], [(-1, 0, 2), (-2, 2, 1)], [(-1, 0, 2), (-2, 2, 10)]],
            ),
        ),
        Limits(blocks=22, block_tokens=1, sequences=16, tokens=2, context=22),
        Rules(longest_chunk=3),
    ),
    "both fill the same block, the decoding sequence first": (
        Trace(
            np.zeros(3),
            np.array([1, 10, 3]),
            np.array([9, 1, 2]),
            np.array([9, 1, 2]),
            segments=Segments.from_lists([[], [(-1, 0, 9)], []]),
        ),
        Limits(blocks=6, block_tokens=2, sequences=16, tokens=5, context=12),
        Rules(longest_chunk=1, reserve_whole_prompt=False),
    ),
}


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("case", PINNED)
def test_rare_meetings_come_out_as_in_a_plain_scheduler(case, asynchronous):
    trace, bounds, rules = PINNED[case]
    assert_same(trace, bounds, rules, 1, trace.segments is not None, asynchronous)


def assert_same(alone: Trace, bounds: Limits, rules: Rules, base: int, cache: bool, asynchronous: bool) -> None:
    scheduler = Scheduler(partial(chunked_prefill, **vars(rules)), "vLLM V1", cuts_prompts=True)
    clock = uniform_clock(base, 1, 4096)
    ours = replay(alone, bounds, scheduler, clock, prefix_cache=cache, coast=False, asynchronous=asynchronous)

    plain = PlainScheduler(bounds, rules, symbols(alone), cache)
    requests = ask(alone, ours.arrival, bounds.context, ours.outcome == REJECTED)
    batches = run(plain, requests, base, 2 if asynchronous else 1)

    log = ours.iterations
    assert log.start.tolist() == [batch.start for batch in batches]
    assert (log.new_tokens + log.decodes).tolist() == [batch.tokens for batch in batches]
    for theirs in requests:
        index = theirs.index
        assert ours.first_token[index] == theirs.first_token
        assert ours.finish[index] == theirs.finish
        assert ours.preemptions[index] == theirs.preemptions
        assert ours.cached_tokens[index] == theirs.cached
    assert plain.pool.free == bounds.blocks
    if cache:
        assert ours.evicted_blocks == plain.pool.evicted


def ask(trace: Trace, arrival: np.ndarray, context: int, is_rejected: np.ndarray) -> list[Request]:
    requests = []
    for index in np.flatnonzero(~is_rejected).tolist():
        prompt, output = int(trace.prompt_tokens[index]), int(trace.output_tokens[index])
        longest = max(output, min(int(trace.max_tokens[index]), context - prompt))
        requests.append(Request(index, int(arrival[index]), prompt, output, longest))
    return sorted(requests, key=lambda request: (request.arrival, request.index))
