"""Declared prefixes stay, save computing once computed, and may fill the machine."""

from __future__ import annotations

import numpy as np

from sim.engine.clock import uniform_clock
from sim.engine.replay import FINISHED, STALLED, Replay, replay
from sim.scheduling.batch import Limits
from sim.scheduling.schedulers import SCHEDULERS
from workloads.trace import Segments, Trace


def served(keys: list[int], arrivals: list[float], blocks: int) -> Replay:
    n = len(keys)
    trace = Trace(
        np.array(arrivals),
        np.full(n, 60),
        np.full(n, 5),
        np.full(n, 5),
        Segments.from_lists([[(key, 0, 50)] for key in keys]),
    )
    clock = uniform_clock(1000, 1, 9000)
    return replay(trace, Limits(blocks), SCHEDULERS["prefill_first"], clock, prefix_cache="vllm-0.3")


def test_those_who_come_in_one_batch_share_memory_and_later_ones_share_time():
    outcome = served([1, 1, 1], [0.0, 0.0, 1e-6], 100)
    assert outcome.cached_tokens.tolist() == [0, 0, 48]
    # Four blocks each, of which three are the prefix.
    assert outcome.iterations.free_blocks[0] == 95


def test_prefixes_that_nobody_asks_for_again_fill_the_machine():
    outcome = served([1, 2, 3], [0.0, 1e-6, 2e-6], 9)
    assert outcome.outcome.tolist() == [FINISHED, FINISHED, STALLED]


def test_a_prompt_that_is_all_prefix_still_computes_a_token():
    trace = Trace(np.array([0.0, 1e-6]), *(np.full(2, n) for n in (48, 5, 5)), Segments.from_lists([[(1, 0, 48)]] * 2))
    clock = uniform_clock(1000, 1, 9000)
    outcome = replay(trace, Limits(100), SCHEDULERS["prefill_first"], clock, prefix_cache="vllm-0.3")
    assert outcome.cached_tokens.tolist() == [0, 32]
