"""The engine against a plain scheduler with the rules of vLLM V1, synchronous and asynchronous, batch for batch."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sim.engine.clock import uniform_clock
from sim.engine.replay import REJECTED, replay
from sim.scheduling.policies.chunked_prefill import chunked_prefill
from sim.scheduling.schedulers import Scheduler
from tests.block_by_block import symbols
from tests.plain_scheduler import PlainScheduler, Request, Rules, run
from tests.strategies import limits, traces
from workloads.trace import Trace

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
