"""What is stored when a batch lands, and what that changes for those who wait."""

from __future__ import annotations

import numpy as np
import pytest

from sim.engine.clock import uniform_clock
from sim.engine.replay import replay
from sim.scheduling.batch import Limits
from sim.scheduling.schedulers import SCHEDULERS
from workloads.trace import Segments, Trace


@pytest.mark.parametrize("cache", ["tensorrt-llm", "sglang"])
def test_a_prompt_in_flight_lets_somebody_in_when_it_lands_whether_iterations_are_planned_at_once_or_not(cache):
    trace = Trace(
        np.zeros(4),
        np.array([28, 35, 27, 26]),
        np.array([3, 5, 1, 11]),
        np.array([3, 5, 1, 11]),
        segments=Segments.from_lists([[(1, 0, 24)], [(1, 0, 32)], [(1, 0, 24)], [(0, 0, 24)]]),
    )
    limits = Limits(blocks=12, block_tokens=4, sequences=2, tokens=64, context=96)
    coasted, stepped = (
        replay(
            trace,
            limits,
            SCHEDULERS["prefill_first"],
            uniform_clock(1, 1, 4096),
            prefix_cache=cache,
            coast=coast,
            asynchronous=True,
        )
        for coast in (True, False)
    )
    assert coasted.first_token.tolist() == stepped.first_token.tolist()
    assert coasted.cached_tokens[1] > 0


def test_a_batch_planned_while_another_runs_does_not_find_its_prompts() -> None:
    trace = Trace(
        np.zeros(2),
        np.array([64, 64]),
        np.array([9, 9]),
        np.array([9, 9]),
        segments=Segments.from_lists([[(1, 0, 60)]] * 2),
    )
    found = [
        replay(
            trace,
            Limits(blocks=100, tokens=64),
            SCHEDULERS["chunked_prefill"],
            uniform_clock(2000, 1, 4096),
            prefix_cache="sglang",
            asynchronous=asynchronous,
        ).cached_tokens.tolist()
        for asynchronous in (False, True)
    ]
    # The first fills a batch; the second finds it in the next one, unless that was planned meanwhile.
    assert found == [[0, 48], [0, 0]]
