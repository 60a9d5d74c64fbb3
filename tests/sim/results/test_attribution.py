"""Attribution: the parts of a latency are disjoint, not negative, and sum to it to the tick, under every scheduler."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.engine.clock import IterationClock, seconds, uniform_clock
from sim.engine.replay import FINISHED, replay
from sim.engine.spending import SPENT_ON
from sim.physics.breakdown import breakdown
from sim.physics.iteration import EAGER_HOST_SECONDS
from sim.physics.totals import Totals
from sim.results.attribution import OWN, PARTS, Attribution, attribute
from sim.results.blame import blame
from sim.scenario import Scenario, simulate
from sim.scheduling.batch import Limits
from sim.scheduling.schedulers import SCHEDULERS
from tests.strategies import clocks, half_as_fast, servers, traces
from workloads import datasets
from workloads.trace import Trace

CLOCK = uniform_clock(1000, 1, 9000)
runs = {"trace": traces(), "server": servers(), "clock": clocks(windows=True)}


def made(*rows: tuple[int, int, int]) -> Trace:
    """Return requests of (arrival tick, prompt, output tokens)."""
    arrival, prompt, output = np.array(rows).T
    return Trace(arrival / 2**40, prompt, output, output)


def parts_of(trace: Trace, limits: Limits, name: str, clock: IterationClock = CLOCK) -> list[dict[str, int]]:
    """Return the parts of each request that are not zero."""
    found = attribute(limits, replay(trace, limits, SCHEDULERS[name], clock)).end_to_end
    return [{part: int(ticks) for part, ticks in zip(PARTS, column, strict=True) if ticks} for column in found.T]


@given(**runs)
@settings(max_examples=100)
def test_parts_sum_exactly_and_none_is_negative(trace, server, clock):
    outcome = server.serve(trace, clock)
    found = attribute(server.bounds, outcome)
    served = outcome.outcome == FINISHED
    np.testing.assert_array_equal(found.ttft.sum(axis=0)[served], (outcome.first_token - outcome.arrival)[served])
    np.testing.assert_array_equal(found.end_to_end.sum(axis=0)[served], (outcome.finish - outcome.arrival)[served])
    assert (found.ttft >= 0).all()
    assert (found.end_to_end >= found.ttft).all()
    assert not found.end_to_end[:, ~served].any()
    assert not found.part("preemption")[outcome.preemptions == 0].any()


@given(**runs)
@settings(max_examples=100)
def test_coasting_changes_no_part(trace, server, clock):
    coasted, stepped = (attribute(server.bounds, server.serve(trace, clock, coast=coast)) for coast in (True, False))
    np.testing.assert_array_equal(coasted.ttft, stepped.ttft)
    np.testing.assert_array_equal(coasted.end_to_end, stepped.end_to_end)


@cache
def rooflines() -> dict[str, IterationClock]:
    """Return clocks of real machines: two cards over PCIe, one kernel for mixed batches, and a host that is slow."""
    pair = Scenario(made((0, 1, 1))).machine.clock
    single = Scenario(
        made((0, 1, 1)), "rtx-4090", "llama-3.1-8b", tensor=1, context=4096, one_attention_kernel=True
    ).machine.clock
    slow = Scenario(made((0, 1, 1)), least_iteration_seconds=EAGER_HOST_SECONDS).machine.clock
    return {"pair": pair, "single": single, "slow": slow}


@given(**runs, kind=st.sampled_from(["pair", "single", "slow", "hand"]))
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
def test_own_work_splits_exactly_by_what_it_is_spent_on(trace, server, clock, kind):
    pace = rooflines().get(kind, clock)
    coasted, stepped = (attribute(server.bounds, server.serve(trace, pace, coast=coast)) for coast in (True, False))
    np.testing.assert_array_equal(coasted.spent, stepped.spent)
    assert (coasted.spent >= 0).all()
    own = sum(coasted.part(name) for name in OWN if name != "front_end")
    np.testing.assert_array_equal(coasted.spent.sum(axis=0), own)
    for name, part in (("link", "communication"), ("host", "host")):
        np.testing.assert_array_equal(coasted.spent[list(SPENT_ON).index(name)], coasted.part(part))
    assert (coasted.part("communication").any() and kind != "hand") == (kind in ("pair", "slow") and own.any())


def test_a_lone_request_spends_what_the_roofline_says():
    # One prompt and one decode, priced apart by the operators of an iteration.
    scenario = Scenario(made((0, 300, 2)))
    model = scenario.machine.model
    spent = dict(zip(SPENT_ON, seconds(simulate(scenario).attribution().spent[:, 0]).tolist(), strict=True))
    parts = breakdown(model, Totals(300, 1, prefill_tokens=300, prefill_pairs=45150))
    parts += breakdown(model, Totals(1, 1, decode_sequences=1, decode_kv_tokens=301))
    expected = dict.fromkeys(SPENT_ON, 0.0)
    for part in parts:
        if part.other:
            expected[part.other] += part.seconds
            continue
        expected["launch"] += part.launch_seconds
        scarcer = "compute" if part.compute_seconds > part.memory_seconds else "memory"
        expected[scarcer] += part.seconds - part.launch_seconds
    assert spent == pytest.approx(expected, rel=1e-6)


@given(trace=traces(most=1), server=servers(), clock=clocks(windows=True))
def test_alone_everything_is_own_work(trace, server, clock):
    outcome = server.serve(trace, clock)
    found = attribute(server.bounds, outcome)
    if outcome.preemptions.any():
        return  # a machine too small for one request
    own = sum(found.part(name) for name in OWN)
    np.testing.assert_array_equal(own, np.where(outcome.outcome == FINISHED, outcome.finish - outcome.arrival, 0))


@given(**runs)
def test_doubling_all_ticks_doubles_all_parts(trace, server, clock):
    later = replace(trace, arrival_seconds=2 * trace.arrival_seconds, think_seconds=2 * trace.think_seconds)
    once = attribute(server.bounds, server.serve(trace, clock))
    twice = attribute(server.bounds, server.serve(later, half_as_fast(clock)))
    np.testing.assert_array_equal(twice.ttft, 2 * once.ttft)
    np.testing.assert_array_equal(twice.end_to_end, 2 * once.end_to_end)


def test_a_prompt_stalls_decoding_under_prefill_first_for_a_whole_iteration_and_in_flight_for_its_excess():
    trace = made((0, 10, 5), (1500, 90, 1))
    # 0-1010 the first prompt, 1010-2011 a decode, then the prompt of 90 tokens, which arrived during that decode.
    assert parts_of(trace, Limits(100), "prefill_first") == [
        {"own_prefill": 10, "own_decode": 4, "prefill_stall": 1090, "host": 5000},
        {"behind_decode": 511, "own_prefill": 90, "host": 1000},
    ]
    assert parts_of(trace, Limits(100), "inflight_batching") == [
        {"own_prefill": 10, "own_decode": 4, "prefill_stall": 90, "host": 5000},
        {"behind_decode": 511, "own_prefill": 90, "shared_prefill": 1, "host": 1000},
    ]


def test_a_request_that_is_swapped_waits_for_memory_and_delays_others_by_its_blocks():
    trace = made((0, 40, 60), (0, 40, 60))
    clock = replace(CLOCK, host_block_ticks=50)
    outcome = replay(trace, Limits(blocks=11), SCHEDULERS["prefill_first_swap"], clock)
    first, second = (
        dict(zip(PARTS, part.tolist(), strict=True)) for part in attribute(Limits(11), outcome).end_to_end.T
    )
    moved = 50 * int(outcome.iterations.moves[:, 1].sum())
    assert outcome.preemptions.tolist() == [0, 1]
    assert moved > 0
    # Both decode together until one is taken out; what its blocks take on the way out, and back, delays the other if
    # it still decodes. Nobody computes anything anew.
    assert first["swap"] + second["swap"] >= moved
    assert first["preemption"] == second["preemption"] == 0
    assert 0 < first["swap"] <= moved
    found = blame(Limits(11), outcome, np.array([0])).charged.toarray()
    assert found[0, 1] == first["swap"] + first["behind_decode"] + first["prefill_stall"] + first["shared_prefill"]


def test_a_request_that_arrives_during_another_prompt_waits_behind_it():
    assert parts_of(made((0, 500, 1), (400, 20, 1)), Limits(100), "prefill_first")[1] == {
        "behind_prefill": 1100,
        "own_prefill": 20,
        "host": 1000,
    }


@pytest.mark.parametrize(
    ("limits", "part", "ticks"),
    [
        (Limits(100, sequences=1), "seats", 1020 + 3 * 1001),
        (Limits(3), "kv_blocks", 1020 + 3 * 1001),  # each takes two blocks of sixteen tokens
        (Limits(100, tokens=30, context=30), "token_budget", 1020),
    ],
)
def test_the_reason_why_the_queue_was_refused_is_what_a_request_waited_for(limits, part, ticks):
    first, second = parts_of(made((0, 20, 4), (0, 20, 4)), limits, "prefill_first")
    assert second[part] == ticks
    assert set(second) - {part, "prefill_stall"} == set(OWN) - {"front_end", "communication"}
    assert part not in first


def test_the_front_end_is_a_part_of_its_own_and_of_nothing_else():
    chat = Trace(np.array([0.0, 0.001]), np.array([100, 100]), np.array([5, 5]), np.array([5, 5]))
    result = simulate(Scenario(chat, front_end_seconds=0.01))
    found = result.attribution()
    replayed = result.replay
    np.testing.assert_array_equal(found.end_to_end.sum(axis=0), replayed.finish - replayed.arrival)
    assert found.part("front_end") == pytest.approx([0.01 * 2**40] * 2, abs=1)
    assert not found.part("policy").any()


def test_a_static_batch_lets_nobody_in_until_it_is_done():
    both = parts_of(made((0, 20, 4), (10, 20, 2)), Limits(100, context=200), "static_batching")
    assert both[1] == {"behind_prefill": 1010, "policy": 3003, "own_prefill": 20, "own_decode": 1, "host": 2000}


def test_a_chunked_prompt_is_own_prefill_in_every_iteration_that_computes_a_piece():
    (alone,) = parts_of(made((0, 100, 2)), Limits(100, tokens=32), "chunked_prefill")
    assert alone == {"own_prefill": 100, "own_decode": 1, "host": 5000}


def test_what_lies_between_preemption_and_the_next_token_is_one_part():
    trace, limits = made((0, 16, 40), (0, 16, 40)), Limits(6, block_tokens=16)
    outcome = replay(trace, limits, SCHEDULERS["prefill_first"], CLOCK)
    assert outcome.preemptions[0] == 0 < outcome.preemptions[1]
    found = attribute(limits, outcome)
    pause = outcome.iterations.gaps[:, 1].sum()
    # From the last token before it, the gap is the same: the decision falls on the end of an iteration.
    assert found.part("preemption").tolist() == [0, pause]
    assert found.ttft[list(PARTS).index("preemption")].tolist() == [0, 0]


def test_columns_of_the_table_are_seconds():
    trace = made((0, 10, 5))
    found = attribute(Limits(100), replay(trace, Limits(100), SCHEDULERS["prefill_first"], CLOCK))
    table = found.table()
    assert table.end_to_end_host_seconds[0] == 5000 / 2**40
    assert table.ttft_host_seconds[0] == 1000 / 2**40
    assert len(table.columns) == 2 * len(PARTS) + len(SPENT_ON)
    assert table.own_host_seconds[0] == table.end_to_end_host_seconds[0]


@pytest.fixture(scope="module")
def azure(shared) -> tuple[float, Attribution, int]:
    scenario = Scenario(datasets.load("azure-conv-2023"), "h800-sxm", "llama-3.1-70b", tensor=8, context=16384)
    result = simulate(scenario)
    begin = time.process_time()
    found = result.attribution()
    served = result.replay.outcome == FINISHED
    assert (found.end_to_end.sum(axis=0) == (result.replay.finish - result.replay.arrival))[served].all()
    return time.process_time() - begin, found, int(served.sum())


def test_the_azure_trace_is_explained_in_less_than_two_seconds(azure):
    seconds, found, served = azure
    assert served > 19_000
    assert seconds < 2.0
    assert found.part("prefill_stall").sum() > 0
