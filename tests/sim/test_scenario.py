"""Switches of a scenario: what memory in one piece, without paging, does to seats and to those who wait."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sim import Scenario, simulate
from sim.scheduling.batch import Refusal
from workloads.synthetic.chat import chat
from workloads.trace import Trace

CONTEXT = 4096


@pytest.fixture(scope="module")
def trace() -> Trace:
    return chat(np.random.default_rng(5), 200, 20.0, system_prompt_tokens=0, context_tokens=CONTEXT)


@pytest.mark.parametrize("policy", ["prefill_first", "inflight_batching", "orca", "chunked_prefill"])
def test_without_paging_as_many_sequences_run_as_have_room_for_the_longest_context(trace: Trace, policy: str) -> None:
    scenario = Scenario(trace, policy=policy, context=CONTEXT, paged_attention=False)
    limits = scenario.machine.limits
    pieces = limits.blocks * limits.block_tokens // CONTEXT
    assert pieces - 1 <= limits.sequences <= pieces
    result = simulate(scenario)
    log = result.replay.iterations
    assert log.decodes.max() <= limits.sequences
    assert not result.replay.preemptions.any()
    assert Refusal.SEATS in log.refusal
    assert Refusal.BLOCKS not in log.refusal


def test_paging_lets_more_run_and_serves_the_last_one_sooner(trace: Trace) -> None:
    paged = simulate(Scenario(trace, context=CONTEXT))
    in_one_piece = simulate(Scenario(trace, context=CONTEXT, paged_attention=False))
    assert paged.replay.iterations.decodes.max() > 2 * in_one_piece.replay.iterations.decodes.max()
    assert paged.finish_seconds.max() < in_one_piece.finish_seconds.max()


def test_without_paging_nothing_is_shared_and_a_context_too_long_is_refused(trace: Trace) -> None:
    scenario = Scenario(trace, paged_attention=False)
    with pytest.raises(ValueError, match="prefix_cache is True; allowed with paged_attention=False: False"):
        simulate(replace(scenario, prefix_cache=True))
    most = scenario.machine.limits.blocks * 16
    with pytest.raises(ValueError, match=f"context is {most} tokens; allowed without paged attention: at most"):
        assert replace(scenario, context=most, tokens=8192).machine


def test_without_cuda_graphs_an_iteration_takes_as_long_as_its_kernels_are_started(trace: Trace) -> None:
    fast = Scenario(trace, "h200-sxm", tensor=4, context=CONTEXT)
    graphs, eager = (simulate(replace(fast, cuda_graphs=on)) for on in (True, False))
    least = 40 * 45e-3 / 80  # Llama-2-13B has half the layers of the model whose 45 ms were measured
    assert np.nanmin(graphs.tpot_seconds) < least <= np.nanmin(eager.tpot_seconds)
    slower = simulate(replace(fast, cuda_graphs=False, least_iteration_seconds=0.05))
    assert np.nanmin(slower.tpot_seconds) >= 0.05


def test_a_machine_says_where_its_kv_blocks_hold_what_nobody_will_read():
    (flag,) = Scenario(model="gemma-2-2b", hardware="h100-sxm").machine.flags
    assert "all 26 layers, 13 of which see only 4,096 tokens" in flag
    assert not Scenario(model="llama-3.1-8b", hardware="h100-sxm").machine.flags
