"""How requests end that can never be served: as under the real scheduler, counted, and in a time that ends."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.engine.clock import uniform_clock
from sim.engine.replay import FINISHED, IGNORED, OUTCOMES, REJECTED, STALLED, Replay, replay
from sim.scheduling.batch import Limits
from sim.scheduling.schedulers import SCHEDULERS
from tests.strategies import Server, clocks, machines, traces
from workloads.trace import Trace

CLOCK = uniform_clock(1000, 1, 9000)
POOL = Limits(blocks=10, block_tokens=16, tokens=256, context=1000)  # 160 tokens
WHOLE = tuple(name for name, scheduler in SCHEDULERS.items() if not scheduler.cuts_prompts)
CUT = tuple(name for name, scheduler in SCHEDULERS.items() if scheduler.cuts_prompts)


def requests(*shapes: tuple[int, int], apart: float = 0.0) -> Trace:
    """Return requests of (prompt, output) tokens, in order."""
    prompt, output = np.array(shapes).T
    return Trace(apart * np.arange(len(shapes)), prompt, output, output)


def endings(name: str, trace: Trace, limits: Limits = POOL, *, checks: bool | None = None) -> list[str]:
    outcome = replay(trace, limits, SCHEDULERS[name], CLOCK, checks_memory=checks)
    stepped = replay(trace, limits, SCHEDULERS[name], CLOCK, checks_memory=checks, coast=False)
    assert outcome.outcome.tolist() == stepped.outcome.tolist()
    assert outcome.remarks == stepped.remarks
    return [OUTCOMES[index] for index in outcome.outcome]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_longer_than_the_context_is_refused_by_every_server(name: str) -> None:
    roomy = replace(POOL, blocks=200, tokens=2000)
    assert endings(name, requests((990, 20), (20, 4)), roomy) == ["rejected", "finished"]


@pytest.mark.parametrize("name", WHOLE)
def test_a_prompt_over_the_tokens_of_an_iteration_is_dropped_where_prompts_are_whole(name: str) -> None:
    ends = endings(name, requests((300, 1), (20, 4)), replace(POOL, blocks=200))
    assert ends == ["ignored" if name.startswith("prefill_first") else "rejected", "finished"]


@pytest.mark.parametrize("name", CUT)
def test_a_prompt_over_the_tokens_of_an_iteration_is_cut_where_prompts_can_be(name: str) -> None:
    assert endings(name, requests((300, 1), (20, 4)), replace(POOL, blocks=200)) == ["finished"] * 2


@pytest.mark.parametrize(
    ("name", "ending", "behind"),
    [
        ("prefill_first", "ignored", "finished"),
        ("chunked_prefill", "stalled", "stalled"),
        ("dynamic_splitfuse", "stalled", "stalled"),
        ("chunked_prefill_0.11", "stalled", "stalled"),
        ("max_utilization", "ignored", "finished"),
    ],
)
def test_a_prompt_over_the_pool_ends_as_under_the_bare_scheduler(name: str, ending: str, behind: str) -> None:
    assert endings(name, requests((200, 4), (20, 4)), checks=False) == [ending, behind]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_prompt_over_the_pool_is_refused_by_servers_that_check(name: str) -> None:
    ends = endings(name, requests((200, 4), (20, 4)), replace(POOL, context=400), checks=True)
    assert ends[0] == "rejected"


def test_new_vllm_keeps_a_prompt_over_the_pool_at_the_head_of_its_queue_and_says_so() -> None:
    outcome = replay(requests((200, 4), (20, 4)), POOL, SCHEDULERS["chunked_prefill"], CLOCK, checks_memory=False)
    assert outcome.remarks == (
        "2 requests stalled, the first of them is request 0, never admitted: it needs 13 of 10 KV blocks",
    )


@pytest.mark.parametrize("coast", [True, False])
def test_vllm_0_11_computes_a_prompt_over_the_pool_for_ever_which_is_noticed(coast: bool) -> None:
    trace = requests((20, 40), (200, 4), (20, 4), (20, 4), apart=1e-7)
    cut = replace(POOL, tokens=64)
    outcome = replay(trace, cut, SCHEDULERS["chunked_prefill_0.11"], CLOCK, checks_memory=False, coast=coast)
    assert OUTCOMES[outcome.outcome[0]] == "finished", "those before it are served"
    assert OUTCOMES[outcome.outcome[1]] == "stalled"
    (remark,) = outcome.remarks
    assert "request 1, computed and preempted for ever (a livelock of vLLM V1 (0.11)): it needs 13 of 10" in remark
    assert len(outcome.iterations.start) < 200


def test_old_vllm_plays_ping_pong_with_a_reply_that_outgrows_the_pool_and_then_gives_it_up() -> None:
    outcome = replay(requests((150, 40), (20, 4)), POOL, SCHEDULERS["prefill_first"], CLOCK)
    assert outcome.outcome.tolist() == [IGNORED, FINISHED]
    # Once its blocks are all in use each token costs a computation of everything before it.
    assert outcome.preemptions[0] > 5
    assert outcome.iterations.new_tokens.sum() > 5 * 150
    assert outcome.remarks == ("1 requests were given up by the scheduler: a machine of this size cannot go on",)


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("chunked_prefill", "stalled"),
        ("chunked_prefill_0.11", "stalled"),
        ("decode_first", "ignored"),
        ("dynamic_splitfuse", "stalled"),
        ("max_utilization", "ignored"),
    ],
)
def test_a_reply_that_outgrows_the_pool_alone(name: str, ending: str) -> None:
    assert endings(name, requests((100, 90)), checks=False) == [ending]


def test_in_flight_batching_never_begins_what_it_cannot_end() -> None:
    outcome = replay(requests((100, 90), (20, 4)), POOL, SCHEDULERS["inflight_batching"], CLOCK)
    assert outcome.outcome.tolist() == [REJECTED, FINISHED]
    assert outcome.iterations.new_tokens.sum() == 20


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_reply_of_one_token_takes_one_iteration(name: str) -> None:
    outcome = replay(requests((20, 1)), replace(POOL, context=100), SCHEDULERS[name], CLOCK)
    assert outcome.finish.tolist() == outcome.first_token.tolist() == [1020]


def test_replies_swapped_out_for_good_stall_everybody_and_say_so() -> None:
    trace = replace(requests((60, 80), (20, 4), apart=1e-6), best_of=np.array([2, 1]))
    outcome = replay(trace, POOL, SCHEDULERS["prefill_first"], CLOCK)
    assert outcome.outcome.tolist() == [STALLED, STALLED]
    assert "swapped out and finds no room to come back" in outcome.remarks[0]


def test_more_replies_than_seats_stall_everybody_and_say_so() -> None:
    trace = replace(requests((20, 4), (20, 4)), best_of=np.array([4, 1]))
    outcome = replay(trace, replace(POOL, sequences=3), SCHEDULERS["prefill_first"], CLOCK)
    assert outcome.outcome.tolist() == [STALLED, STALLED]
    assert "it needs 4 seats of 3" in outcome.remarks[0]


@given(trace=traces(), machine=machines(), clock=clocks(), coast=st.booleans())
def test_no_run_goes_on_for_ever_even_where_nothing_is_checked(trace, machine, clock, coast) -> None:
    scheduler, bounds = machine
    server = Server(scheduler, bounds, "none", False)
    found: list[Replay] = [server.serve(trace, clock, checks_memory=False, coast=how) for how in (coast, not coast)]
    assert found[0].outcome.tolist() == found[1].outcome.tolist()
    assert found[0].remarks == found[1].remarks
    assert bool(found[0].remarks) == bool(np.isin(found[0].outcome, (IGNORED, STALLED)).any())


def test_a_request_that_outgrows_the_pool_while_swapped_holds_up_those_behind_it() -> None:
    tight = Limits(blocks=12, block_tokens=1, sequences=1, context=96)
    outcome = replay(requests((4, 31), (3, 17)), tight, SCHEDULERS["prefill_first_swap"], CLOCK)
    assert outcome.outcome.tolist() == [STALLED] * 2
    assert "swapped out" in outcome.remarks[0]
