"""Laws of the engine, on generated traces with ties, pressure, shared prefixes, sessions and one-token replies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simpy import Environment

from sim.engine.clock import uniform_clock
from sim.engine.engine import Engine
from sim.engine.moments import ARRIVAL, Moment
from sim.engine.replay import FINISHED, IGNORED, REJECTED, STALLED, Replay, replay
from sim.scheduling.batch import Limits
from sim.scheduling.ledger import Ledger
from sim.scheduling.schedulers import SCHEDULERS
from sim.scheduling.sequence import Sequence
from tests.strategies import clocks, half_as_fast, metronome, servers, traces
from workloads.trace import Trace

COLUMNS = ("arrival", "first_token", "finish", "cached_tokens", "preemptions", "outcome")

OWN_ORDER = ("shortest_prompt_first", "priority", "longest_prefix_first", "earliest_deadline")
IN_ORDER = tuple(name for name in SCHEDULERS if name not in ("inflight_chunked", "dynamic_splitfuse", *OWN_ORDER))
runs = {"trace": traces(), "server": servers(), "clock": clocks(windows=True)}


def sorted_gaps(outcome: Replay) -> np.ndarray:
    values, counts = outcome.iterations.inter_token_gaps()
    return np.sort(np.repeat(values, counts))


@given(**runs)
def test_coasting_changes_nothing(trace, server, clock):
    coasted = server.serve(trace, clock)
    stepped = server.serve(trace, clock, coast=False)
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(coasted, column), getattr(stepped, column), err_msg=column)
    np.testing.assert_array_equal(sorted_gaps(coasted), sorted_gaps(stepped))
    assert coasted.evicted_blocks == stepped.evicted_blocks
    assert coasted.iterations.duration.sum() == stepped.iterations.duration.sum()
    assert len(coasted.iterations.start) <= len(stepped.iterations.start)


@pytest.mark.parametrize(("asynchronous", "first_token"), [(False, 40), (True, 50)])
def test_who_waited_for_a_request_that_is_given_up_is_seen_by_the_next_decision(asynchronous, first_token):
    # 1 arrives at 15 and may outgrow the pool: it is given up at 20, while 0 decodes, and 2 comes.
    longest = np.array([30, 60, 4])
    trace = Trace(
        np.array([0, 15, 15]) / 2**40,
        np.full(3, 5),
        np.array([30, 3, 4]),
        longest,
        previous=np.array([-1, -1, 1]),
        think_seconds=np.zeros(3),
    )
    for coast in (True, False):
        outcome = replay(
            trace,
            Limits(blocks=60, block_tokens=1),
            SCHEDULERS["inflight_batching"],
            metronome(10),
            asynchronous=asynchronous,
            coast=coast,
        )
        assert outcome.outcome.tolist() == [FINISHED, IGNORED, FINISHED]
        assert (outcome.arrival[2], outcome.first_token[2]) == (20, first_token)


@given(**runs)
def test_everybody_leaves_once_and_in_order(trace, server, clock):
    outcome = server.serve(trace, clock)
    # Exceptions: pinned prefixes may fill the pool, and then the head of the queue waits for ever; so does everybody
    # once a reply has been swapped out that, with the free block that it wants, fills the pool.
    stalls = server.cache == "vllm-0.3" or server.scheduler.preemption == "swap"
    assert stalls or not (outcome.outcome == STALLED).any()
    served = outcome.outcome == FINISHED
    assert (outcome.first_token[served] > outcome.arrival[served]).all()
    several = served & (trace.output_tokens > 1) & outcome.streams
    assert (outcome.finish[several] > outcome.first_token[several]).all()
    assert (
        outcome.finish[served & (trace.output_tokens == 1)] == outcome.first_token[served & (trace.output_tokens == 1)]
    ).all()
    assert (outcome.finish[~served] == -1).all()


@given(**runs)
def test_tokens_are_conserved(trace, server, clock):
    outcome = server.serve(trace, clock)
    if np.isin(outcome.outcome, (IGNORED, STALLED)).any():
        return  # a reply that was given up has emitted an unknown part of its tokens
    served = outcome.outcome == FINISHED
    log = outcome.iterations
    emitted = (log.decodes * log.iterations - log.wasted).sum() + log.samples.sum()
    assert emitted == trace.output_tokens[served].sum()
    values, counts = outcome.iterations.inter_token_gaps()
    assert counts.sum() == (trace.output_tokens[served] - 1).sum()
    if not outcome.streams:
        return  # replies come at once
    # What requests spent between their first and last tokens is what the gaps add up to, to the tick.
    assert (values * counts).sum() == (outcome.finish - outcome.first_token)[served].sum()


@given(**runs)
def test_littles_law_holds_exactly(trace, server, clock):
    outcome = server.serve(trace, clock)
    served = outcome.outcome == FINISHED
    arrival, finish = outcome.arrival[served], outcome.finish[served]
    times = np.concatenate([arrival, finish])
    steps = np.concatenate([np.ones(len(arrival), dtype=int), -np.ones(len(finish), dtype=int)])
    order = np.argsort(times, kind="stable")
    in_system = np.cumsum(steps[order])
    assert (np.diff(times[order]) * in_system[:-1]).sum() == (finish - arrival).sum()


@given(**runs)
def test_iterations_do_not_overlap_and_idle_means_nothing_waits(trace, server, clock):
    outcome = server.serve(trace, clock)
    log = outcome.iterations
    assert (log.start[1:] >= log.end[:-1]).all()
    idle = np.flatnonzero(log.start[1:] > log.end[:-1])
    inside = outcome.outcome == FINISHED
    for row in idle:
        waiting = inside & (outcome.arrival < log.start[row + 1]) & (outcome.finish > log.end[row])
        assert not waiting.any(), "the replica was idle although somebody was in the system"


@given(trace=traces(), server=servers(IN_ORDER), clock=clocks(windows=True))
def test_first_come_first_served_lets_nobody_overtake(trace, server, clock):
    if server.cache == "tensorrt-llm":
        return  # exceptions: prompts are deferred until another has computed what they share, and cut where blocks end
    outcome = server.serve(trace, clock)
    served = outcome.outcome == FINISHED
    arrival, first = outcome.arrival[served], outcome.first_token[served]
    for instant in arrival:
        assert first[arrival < instant].max(initial=0) <= first[arrival == instant].min()
    # Of one instant in order of their index; but who is released then may come behind a decision.
    free = trace.previous[served] < 0
    assert (np.diff(first[free][np.argsort(arrival[free], kind="stable")]) >= 0).all()


@given(**runs)
def test_doubling_all_ticks_doubles_all_results(trace, server, clock):
    once = server.serve(trace, clock)
    later = replace(trace, arrival_seconds=2 * trace.arrival_seconds, think_seconds=2 * trace.think_seconds)
    twice = server.serve(later, half_as_fast(clock))
    served = once.outcome == FINISHED
    np.testing.assert_array_equal(twice.outcome, once.outcome)
    np.testing.assert_array_equal(twice.finish[served], 2 * once.finish[served])
    np.testing.assert_array_equal(twice.first_token[served], 2 * once.first_token[served])


@given(trace=traces(), server=servers(caches=("vllm-1", "vllm-0.4")), clock=clocks(windows=True))
def test_caching_never_computes_more_prompt_tokens_unless_somebody_is_preempted(trace, server, clock):
    with_cache = server.serve(trace, clock)
    without = server.serve(trace, clock, prefix_cache=False)
    if with_cache.preemptions.any() or without.preemptions.any():
        return
    np.testing.assert_array_equal(with_cache.outcome, without.outcome)
    assert with_cache.iterations.new_tokens.sum() <= without.iterations.new_tokens.sum()
    hits = with_cache.cached_tokens[with_cache.outcome == FINISHED].sum()
    assert with_cache.iterations.new_tokens.sum() + hits == without.iterations.new_tokens.sum()
    assert (with_cache.cached_tokens < trace.prompt_tokens).all(), "at least one token is always computed"


@given(**runs)
def test_a_cache_without_anything_shared_changes_nothing_unless_somebody_is_preempted(trace, server, clock):
    private = replace(trace, segments=None)
    with_cache = server.serve(private, clock)
    without = server.serve(private, clock, prefix_cache=False)
    if without.preemptions.any():
        return
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(with_cache, column), getattr(without, column), err_msg=column)


@given(server=servers(), order=st.permutations(range(6)))
def test_ties_break_by_request_whatever_the_order_in_which_sources_were_created(server, order):
    def serve(indices: list[int]) -> dict[int, int]:
        env, finish = Environment(initial_time=0), {}
        engine = Engine(
            env,
            Ledger(server.bounds, late_release=server.scheduler.late_release),
            server.scheduler.policy,
            uniform_clock(100, 1, 2048),
            started=lambda sequence, now: None,
            ended=lambda sequence, now, served: finish.__setitem__(sequence.index, now),
            asynchronous=server.asynchronous,
        )
        for index in indices:
            sequence = Sequence(index, 50, 5 + 3 * index, 1 + index, 10)
            Moment(env, 50, lambda _, sequence=sequence: engine.receive(sequence), ARRIVAL)
        env.run()
        return finish

    assert serve(list(order)) == serve(list(range(6)))


def test_a_follower_without_think_time_is_seen_by_the_decision_of_the_same_instant():
    both = Trace(
        arrival_seconds=np.zeros(2),
        prompt_tokens=np.array([4, 4]),
        output_tokens=np.array([1, 1]),
        max_tokens=np.array([1, 1]),
        previous=np.array([-1, 0]),
        think_seconds=np.zeros(2),
    )
    outcome = replay(both, Limits(100), SCHEDULERS["prefill_first"], uniform_clock(1000, 1, 100))
    assert outcome.arrival.tolist() == [0, 1004]
    assert outcome.finish.tolist() == [1004, 2008]


def test_requests_that_can_never_be_served_are_rejected_and_release_their_followers():
    trace = Trace(
        arrival_seconds=np.zeros(4),
        prompt_tokens=np.array([90, 600, 10, 40]),
        output_tokens=np.array([20, 1, 300, 4]),
        max_tokens=np.array([20, 1, 300, 4]),
        previous=np.array([-1, -1, -1, 1]),
        think_seconds=np.zeros(4),
    )
    bounds = Limits(blocks=10, block_tokens=16, tokens=512, context=1000)
    for name in ("prefill_first", "inflight_batching", "max_utilization"):
        outcome = replay(trace, bounds, SCHEDULERS[name], uniform_clock(1000, 1, 2000))
        # 600 tokens exceed the iteration, 10 + 300 the pool of 160; old vLLM has no check, but its scheduler gives up.
        hopeless = IGNORED if name == "prefill_first" else REJECTED
        assert outcome.outcome.tolist() == [FINISHED, hopeless, hopeless, FINISHED]


@pytest.mark.parametrize("policy", SCHEDULERS.values())
def test_same_trace_same_columns_byte_for_byte(policy):
    rng = np.random.default_rng(5)
    n = 300
    trace = Trace(np.sort(rng.uniform(0, 1e-6, n)), rng.integers(1, 90, n), rng.integers(1, 60, n), np.full(n, 64))
    runs = [replay(trace, Limits(60), policy, uniform_clock(1000, 1, 9000)) for _ in range(2)]
    for column in COLUMNS:
        assert getattr(runs[0], column).tobytes() == getattr(runs[1], column).tobytes()
