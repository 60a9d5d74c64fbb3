"""Laws of the policies that serve in an order of their own: shortest prompt, priority, longest prefix, deadline."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sim.engine.clock import TICKS_PER_SECOND, uniform_clock
from sim.engine.replay import FINISHED, replay
from sim.scheduling.batch import Limits
from sim.scheduling.ledger import Ledger
from sim.scheduling.policies.earliest_deadline import earliest_deadline
from sim.scheduling.policies.longest_prefix_first import longest_prefix_first
from sim.scheduling.policies.priority import priority
from sim.scheduling.policies.shortest_prompt_first import shortest_prompt_first
from sim.scheduling.schedulers import SCHEDULERS, Scheduler
from sim.scheduling.sequence import Sequence
from tests.laws.test_engine_laws import COLUMNS, sorted_gaps
from tests.strategies import clocks, limits, traces
from workloads.trace import Segments, Trace

ORDERS = {
    "shortest_prompt_first": (shortest_prompt_first, lambda s: s.prompt),
    "priority": (priority, lambda s: s.priority),
    "deadline, 100 ticks a token": (
        partial(earliest_deadline, ticks_per_token=100),
        lambda s: s.arrival + 100 * s.prompt,
    ),
    "deadline, 2000 ticks a token": (
        partial(earliest_deadline, ticks_per_token=2000),
        lambda s: s.arrival + 2000 * s.prompt,
    ),
}


@st.composite
def schedulers(draw: st.DrawFn, names=(*ORDERS, "longest_prefix_first")) -> tuple[Scheduler, str]:
    """Draw one of the policies, with chunks or with whole prompts."""
    name, chunked = draw(st.sampled_from(names)), draw(st.booleans())
    policy = ORDERS[name][0] if name in ORDERS else partial(longest_prefix_first, longest_queue=draw(st.integers(0, 8)))
    return Scheduler(partial(policy, chunked=chunked), name, cuts_prompts=chunked), name


def roomy(bounds: Limits) -> Limits:
    return replace(bounds, paddings=None)


@st.composite
def contended(draw: st.DrawFn) -> Trace:
    """Long prompts that 100 blocks of 4 tokens hold one at a time, short ones that fit beside them, long replies."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(2, 12))
    prompt = np.where(rng.random(n) < 0.5, rng.integers(150, 200, n), rng.integers(1, 30, n))
    output = np.where(rng.random(n) < 0.5, rng.integers(60, 120, n), rng.integers(1, 10, n))
    shared = [[(7, 0, int(rng.integers(0, p)))] if rng.random() < 0.5 else [] for p in prompt]
    return Trace(
        np.sort(rng.integers(0, 100_000, n)) / TICKS_PER_SECOND,
        prompt,
        output,
        output,
        segments=Segments.from_lists(shared),
        priority=rng.integers(0, 3, n),
    )


@given(
    trace=contended(), cache=st.sampled_from([False, True, "sglang"]), chosen=schedulers(), base=st.integers(100, 2000)
)
def test_coasting_changes_nothing_though_the_head_is_refused_and_newcomers_overtake(trace, cache, chosen, base):
    runs = [
        replay(
            trace,
            Limits(blocks=100, block_tokens=4),
            chosen[0],
            uniform_clock(base, 1, 9000),
            prefix_cache=cache,
            coast=coast,
        )
        for coast in (True, False)
    ]
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(runs[0], column), getattr(runs[1], column), err_msg=column)


@given(
    trace=traces(),
    bounds=limits().map(roomy),
    clock=clocks(),
    cache=st.sampled_from([False, True, "sglang"]),
    chosen=schedulers(),
)
def test_coasting_changes_nothing_though_newcomers_may_go_first(trace, bounds, clock, cache, chosen):
    coasted = replay(trace, bounds, chosen[0], clock, prefix_cache=cache)
    stepped = replay(trace, bounds, chosen[0], clock, prefix_cache=cache, coast=False)
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(coasted, column), getattr(stepped, column), err_msg=column)
    np.testing.assert_array_equal(sorted_gaps(coasted), sorted_gaps(stepped))
    assert coasted.evicted_blocks == stepped.evicted_blocks


@given(
    trace=traces(),
    bounds=limits().map(roomy),
    clock=clocks(),
    cache=st.sampled_from([False, True, "sglang"]),
    chosen=schedulers((*ORDERS,)),
)
def test_nobody_who_is_left_waiting_comes_before_somebody_who_was_admitted(trace, bounds, clock, cache, chosen):
    scheduler, name = chosen
    key = ORDERS[name][1]

    def check(ledger: Ledger) -> None:
        waited = list(ledger.waiting)
        scheduler.policy(ledger)
        left = set(ledger.waiting)
        admitted = [s for s in waited if s not in left and s not in ledger.ignored]
        if admitted and left:
            assert max(map(key, admitted)) <= min(map(key, left))
        if ledger.preempted:
            assert not admitted
            assert min(map(key, ledger.preempted)) >= max(
                map(key, [*ledger.cohort.members(), *ledger.partial]), default=0
            )

    outcome = replay(trace, bounds, replace(scheduler, policy=check), clock, prefix_cache=cache)
    assert (outcome.finish[outcome.outcome == FINISHED] > 0).all()


@given(trace=traces(), bounds=limits().map(roomy), clock=clocks(), cache=st.sampled_from([False, True, "sglang"]))
def test_where_nothing_tells_requests_apart_all_orders_are_that_of_arrival(trace, bounds, clock, cache):
    equal = replace(trace, priority=None)
    outcomes = [
        replay(equal, bounds, Scheduler(policy, "", cuts_prompts=True), clock, prefix_cache=cache)
        for policy in (
            priority,
            partial(earliest_deadline, ticks_per_token=0),
            partial(longest_prefix_first, longest_queue=0),
        )
    ]
    for column in COLUMNS:
        for other in outcomes[1:]:
            np.testing.assert_array_equal(getattr(outcomes[0], column), getattr(other, column), err_msg=column)
    served = np.flatnonzero(outcomes[0].outcome == FINISHED)
    order = served[np.lexsort((served, outcomes[0].arrival[served]))]
    if not outcomes[0].preemptions.any():
        assert (np.diff(outcomes[0].first_token[order]) >= 0).all()


def three(arrivals: list[int], prompts: list[int], **columns) -> Trace:
    n = len(prompts)
    return Trace(np.array(arrivals) / TICKS_PER_SECOND, np.array(prompts), np.ones(n, int), np.ones(n, int), **columns)


ONE_AT_A_TIME = Limits(blocks=1000, sequences=1)
CLOCK = uniform_clock(1000, 1, 10_000)


def order_of(name: str, trace: Trace, bounds: Limits = ONE_AT_A_TIME, *, cache: bool = False) -> list[int]:
    outcome = replay(trace, bounds, SCHEDULERS[name], CLOCK, prefix_cache=cache)
    return np.argsort(outcome.first_token).tolist()


def test_the_shortest_prompt_overtakes_all_that_wait_but_not_what_has_begun():
    assert order_of("shortest_prompt_first", three([0, 1, 2, 3], [900, 500, 700, 20])) == [0, 3, 1, 2]


def test_the_most_urgent_goes_first_and_equals_keep_their_order():
    trace = three([0, 1, 2, 3], [9, 9, 9, 9], priority=np.array([5, 2, -1, 2]))
    assert order_of("priority", trace) == [0, 2, 1, 3]


def test_the_longest_cached_prefix_goes_first():
    rows = [[(7, 0, 320)], [], [(7, 0, 32)], [(7, 0, 160)]]
    trace = three([0, 1, 2, 3], [330] * 4, segments=Segments.from_lists(rows))
    assert order_of("longest_prefix_first", trace, cache=True) == [0, 3, 2, 1]
    assert order_of("longest_prefix_first", trace) == [0, 1, 2, 3]


def test_a_deadline_that_grows_with_the_prompt_lets_a_short_one_overtake_but_not_for_ever():
    millisecond = TICKS_PER_SECOND // 1000
    arrivals = [0, 1, 400 * millisecond, 600 * millisecond]
    # The long prompt is due after 0.49 s, the short ones 0.02 s after they arrive.
    trace = three(arrivals, [4000, 500, 20, 20])
    slow = uniform_clock(700 * millisecond, 1, 10_000)
    outcome = replay(trace, ONE_AT_A_TIME, SCHEDULERS["earliest_deadline"], slow)
    assert np.argsort(outcome.first_token).tolist() == [0, 2, 1, 3]


def test_a_newcomer_that_fits_is_admitted_though_the_head_was_refused_for_blocks():
    # The first holds 60 of 64 blocks for long; the second can never join it, the third can, and comes later.
    trace = Trace(
        np.array([0, 10, 20_000]) / TICKS_PER_SECOND,
        np.array([940, 200, 10]),
        np.array([60, 2, 2]),
        np.array([60, 2, 2]),
    )
    outcome = replay(trace, Limits(blocks=64), SCHEDULERS["shortest_prompt_first"], CLOCK)
    assert outcome.finish[2] < outcome.finish[0] < outcome.first_token[1]
    waiting_in_order = replay(trace, Limits(blocks=64), SCHEDULERS["decode_first"], CLOCK)
    assert waiting_in_order.finish[0] < waiting_in_order.first_token[2]


def test_keys_tell_any_two_requests_apart():
    first, second = (Sequence(index, 0, 5, 1, 1) for index in (0, 1))
    seen = []

    def policy(ledger: Ledger) -> None:
        shortest_prompt_first(ledger)
        seen.extend(s.index for s, _ in ledger.chunks)

    ledger = Ledger(Limits(blocks=10))
    ledger.waiting.extend([second, first])
    policy(ledger)
    assert seen == [0, 1]


def test_a_prefix_that_somebody_is_still_writing_changes_the_order_while_he_writes():
    # All begin with the same 32 tokens; the last one goes on with the reply that the first is giving. The second is
    # too large to run beside the first, and goes first as long as nothing more of the third is cached.
    rows = [[(7, 0, 32)], [(7, 0, 32)], [(7, 0, 32), (-1, 32, 64)]]
    trace = Trace(
        np.array([0, 2000, 2001]) / TICKS_PER_SECOND,
        np.array([32, 900, 100]),
        np.array([300, 2, 2]),
        np.array([300, 2, 2]),
        segments=Segments.from_lists(rows),
    )
    for coast in (True, False):
        outcome = replay(
            trace, Limits(blocks=57), SCHEDULERS["longest_prefix_first"], CLOCK, prefix_cache=True, coast=coast
        )
        assert outcome.first_token[2] < outcome.finish[0] < outcome.first_token[1]
        # A prompt of 32, 15 decodes up to the end of the third block, 52 tokens that lack beside one more decode.
        assert outcome.first_token[2] == 1032 + 15 * 1001 + 1053
