"""Traces whose requests ask for several replies: swapped over the host link, charged, and told in the result."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim import Scenario, simulate
from sim.engine.clock import seconds, uniform_clock
from sim.engine.replay import FINISHED, Replay, replay
from sim.results.attribution import attribute
from sim.scheduling.batch import Limits
from sim.scheduling.schedulers import PREEMPTIONS, SCHEDULERS
from tests.strategies import clocks, limits, traces
from workloads import models
from workloads.trace import Trace

CLOCK = uniform_clock(1000, 1, 9000)


def pair(best_of: int, *, prompt: int = 40, output: int = 60) -> Trace:
    """Return two equal requests at once."""
    return Trace(np.zeros(2), np.full(2, prompt), np.full(2, output), np.full(2, output), best_of=np.full(2, best_of))


def test_every_reply_is_generated_and_one_is_waited_for() -> None:
    outcome = replay(pair(3, output=5), Limits(100), SCHEDULERS["prefill_first"], CLOCK)
    assert outcome.finish.tolist() == [1080 + 4 * 1006] * 2
    assert (outcome.iterations.decodes * outcome.iterations.iterations).sum() == 2 * 3 * 4


def test_replies_that_find_no_block_are_swapped_out_and_back_and_each_block_is_charged_twice() -> None:
    tight = Limits(blocks=24)  # two prompts of 3 blocks, and 2 x 2 x 6 blocks at the end
    free, charged = (
        replay(pair(2), tight, SCHEDULERS["prefill_first"], replace(CLOCK, host_block_ticks=ticks)) for ticks in (0, 50)
    )
    assert (free.outcome == FINISHED).all()
    assert free.preemptions.tolist() == [0, 1]
    assert free.iterations.new_tokens.sum() == 80, "nothing is computed anew"
    moved = int(free.iterations.end[-1]) - int(charged.iterations.end[-1])
    assert moved < 0 == moved % (2 * 50)
    assert (charged.finish > free.finish).all()


@pytest.mark.parametrize(("name", "computed_anew"), [("prefill_first", True), ("prefill_first_swap", False)])
def test_one_reply_is_computed_anew_unless_the_scheduler_swaps_everybody(name: str, computed_anew: bool) -> None:
    outcome = replay(pair(1), Limits(blocks=11), SCHEDULERS[name], CLOCK)
    assert (outcome.outcome == FINISHED).all()
    assert outcome.preemptions.sum() > 0
    assert (outcome.iterations.new_tokens.sum() > 80) == computed_anew


def test_every_way_to_preempt_can_be_asked_for_by_name() -> None:
    assert {scheduler.preemption for scheduler in SCHEDULERS.values()} == set(PREEMPTIONS)
    gentle = [scheduler for scheduler in SCHEDULERS.values() if scheduler.preemption == "none"]
    for scheduler in gentle:
        assert not replay(pair(1), Limits(blocks=11, context=112), scheduler, CLOCK).preemptions.any()


@given(trace=traces(), bounds=limits(), clock=clocks(), most=st.sampled_from([2, 4]), coast=st.booleans())
def test_gaps_and_parts_add_up_with_several_replies(trace, bounds, clock, most, coast) -> None:
    trace = replace(trace, best_of=np.random.default_rng(len(trace)).integers(1, most + 1, len(trace)))
    outcome, other = (
        replay(trace, bounds, SCHEDULERS["prefill_first"], clock, coast=how) for how in (coast, not coast)
    )
    assert outcome.finish.tobytes() == other.finish.tobytes()
    served = outcome.outcome == FINISHED
    found = attribute(bounds, outcome)
    np.testing.assert_array_equal(found.ttft.sum(axis=0)[served], (outcome.first_token - outcome.arrival)[served])
    np.testing.assert_array_equal(found.end_to_end.sum(axis=0)[served], (outcome.finish - outcome.arrival)[served])
    assert (found.end_to_end >= found.ttft).all()
    if served.all():
        values, counts = outcome.iterations.inter_token_gaps()
        assert counts.sum() == (trace.best_of * (trace.output_tokens - 1)).sum()
        assert (values * counts).sum() == (trace.best_of * (outcome.finish - outcome.first_token)).sum()


def swapping() -> tuple[Scenario, Replay]:
    """Return a scenario under pressure and what happens in it."""
    trace = pair(2, prompt=1000, output=2000)
    trace = replace(trace, arrival_seconds=np.array([0.0, 0.01]))
    scenario = Scenario(trace, model="llama-2-13b", hardware="l20", tensor=1, utilisation=0.7)
    blocks = scenario.machine.limits.blocks
    wanted = 1.3 * blocks * 16 / 4 - 1000  # replies that would need 1.3 times the pool
    trace = replace(trace, output_tokens=np.full(2, int(wanted)), max_tokens=np.full(2, int(wanted)))
    scenario = replace(scenario, trace=trace, context=int(wanted) + 1000)
    return scenario, simulate(scenario).replay


def test_a_scenario_has_the_swap_space_and_the_host_link_of_its_machine() -> None:
    scenario, outcome = swapping()
    model = models.load("llama-2-13b")
    block_bytes = 16 * model.layers * 2 * model.kv_heads * model.head * 2
    assert scenario.machine.limits.host_blocks == 4 * 2**30 // block_bytes
    assert seconds(scenario.machine.clock.host_block_ticks) == pytest.approx(block_bytes / 32e9, rel=0.02)
    assert (outcome.outcome == FINISHED).all()
    assert outcome.preemptions.tolist() == [0, 1]


def test_a_swap_space_that_is_too_small_ends_the_run_as_it_ends_the_server() -> None:
    scenario, _ = swapping()
    with pytest.raises(ValueError, match=r"host_blocks is \d+; allowed: enough for all that is swapped out"):
        simulate(replace(scenario, swap_bytes=2**24))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"policy": "chunked_prefill"}, r"best_of is above 1 .* prefill_first"),
        ({"prefix_cache": True}, r"prefix_cache is True; allowed where requests are swapped: none, vllm-0.3"),
        ({"asynchronous": True}, r"asynchronous is True; allowed for requests with several replies: False"),
    ],
)
def test_what_does_not_go_with_several_replies_is_refused(asked: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        simulate(Scenario(pair(2), **asked))


def test_a_request_wants_at_least_one_reply() -> None:
    with pytest.raises(ValueError, match="best_of of request 1 is 0; allowed: at least 1"):
        replace(pair(2), best_of=np.array([1, 0]))
