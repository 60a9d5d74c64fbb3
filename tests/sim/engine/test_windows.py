"""Layers with a window, against a count over all sequences one by one; and a least time, iteration by iteration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim import Scenario, simulate
from sim.engine.clock import IterationClock, seconds
from sim.engine.replay import replay
from sim.scheduling.batch import Limits
from sim.scheduling.ledger import Ledger
from sim.scheduling.schedulers import SCHEDULERS, Scheduler
from tests.strategies import clocks, servers, traces
from workloads.synthetic.chat import chat


def sights(ledger: Ledger) -> tuple[int, int, int]:
    """Count what is in sight of the iteration that is planned, sequence by sequence and token by token."""
    window, cohort = ledger.limits.window, ledger.cohort
    places = [(sequence.computed, size) for sequence, size in ledger.chunks]
    pairs = sum(min(place, window) for before, size in places for place in range(before + 1, before + size + 1))
    cached = sum(min(before, window - 1) for before, _ in places)
    decoding = [member for member in cohort.members() if member not in ledger.held] if ledger.decodes else []
    # `ahead` has been set: the tokens computed once the iteration has run are what it sees.
    return pairs, cached, sum(min(cohort.computed(member), window) for member in decoding)


@given(trace=traces(), server=servers(), clock=clocks(windows=True), window=st.integers(1, 120))
def test_what_is_in_sight_is_the_count_over_all_sequences(trace, server, clock, window):
    bounds = replace(server.bounds, window=window)

    def policy(ledger: Ledger) -> None:
        server.scheduler.policy(ledger)
        assert (ledger.window_pairs, ledger.window_cached, ledger.window_keys) == sights(ledger)

    scheduler = replace(server.scheduler, policy=policy)
    replay(trace, bounds, scheduler, clock, prefix_cache=server.cache, asynchronous=server.asynchronous)


@given(trace=traces(), server=servers(), clock=clocks(windows=True), window=st.integers(1, 120))
def test_every_iteration_costs_what_its_tokens_see_one_by_one_and_stretches_add_them_up(trace, server, clock, window):
    bounds, scheduler, costs, batch = replace(server.bounds, window=window), server.scheduler, [], []

    def policy(ledger: Ledger) -> None:
        scheduler.policy(ledger)
        if ledger.chunks:
            batch[:] = [sequence.tokens for sequence, _ in ledger.chunks]
            longest = max(size for _, size in ledger.chunks)
            rows = [(sequence.computed, longest if ledger.pads else size) for sequence, size in ledger.chunks]
            places = [place for before, size in rows for place in range(before + 1, before + size + 1)]
            sums = len(places), sum(places), ledger.cached_context, ledger.decodes, ledger.context
            _, cached, keys = sights(ledger)
            seen_pairs = sum(min(place, window) for place in places)
            costs.append(clock.iteration(ledger.samples, *sums, seen_pairs, cached, keys))
        elif ledger.decodes:
            count, context, seen = ledger.decodes, ledger.context, sights(ledger)[2]
            if scheduler.pads or scheduler.to_end:
                # Every row of the batch goes on, as it is or as the longest; each has one token more than before.
                batch[:] = [tokens + 1 for tokens in batch]
                count = len(batch) if scheduler.to_end else ledger.decodes
                rows = [max(batch)] * count if scheduler.pads else batch
                context, seen = sum(rows) - count, sum(min(tokens, window) for tokens in rows)
            moved = clock.host_block_ticks * ledger.moved_blocks
            costs.append(clock.iteration(0, 0, 0, 0, count, context, window_keys=seen) + moved)

    options = {"prefix_cache": server.cache, "asynchronous": server.asynchronous}
    stepped = replay(trace, bounds, replace(scheduler, policy=policy), clock, coast=False, **options).iterations
    # A cache that knows who is to come may have tried the trace before; the last run counts.
    assert stepped.duration.tolist() == costs[len(costs) - len(stepped.duration) :]
    coasted = replay(trace, bounds, scheduler, clock, **options).iterations
    assert coasted.duration.sum() == stepped.duration.sum()


def line(least: int = 0, window_ticks: int = 0) -> IterationClock:
    return IterationClock(10, [0] * 99, [0] * 99, 0, 1, lambda *_: 5, window_ticks=window_ticks, least_ticks=least)


def test_a_least_time_holds_until_the_context_outgrows_it():
    trace = chat(np.random.default_rng(1), 1, 1.0, system_prompt_tokens=0, context_tokens=4096)
    trace = replace(trace, prompt_tokens=np.array([20]), output_tokens=np.array([11]), max_tokens=np.array([11]))
    log = replay(trace, Limits(100), SCHEDULERS["prefill_first"], line(least=26)).iterations
    # The prompt takes 10 + 26; ten decodes read 21, 22, ... 30 keys.
    assert log.duration[0] == 36
    assert log.duration[1:].sum() == sum(10 + max(26, keys) for keys in range(21, 31))
    assert log.iterations[1:].tolist() == [6, 4]


def test_a_window_is_charged_up_to_its_size_and_ends_a_stretch_when_it_is_full():
    trace = chat(np.random.default_rng(1), 1, 1.0, system_prompt_tokens=0, context_tokens=4096)
    trace = replace(trace, prompt_tokens=np.array([20]), output_tokens=np.array([11]), max_tokens=np.array([11]))
    log = replay(trace, Limits(100, window=24), SCHEDULERS["prefill_first"], line(window_ticks=3)).iterations
    assert log.duration[1:].sum() == sum(10 + keys + 3 * min(keys, 24) for keys in range(21, 31))
    assert log.iterations[1:].tolist() == [4, 6]


def test_a_clock_with_a_window_wants_limits_that_have_it():
    trace = chat(np.random.default_rng(1), 1, 1.0, system_prompt_tokens=0, context_tokens=4096)
    scheduler: Scheduler = SCHEDULERS["prefill_first"]
    with pytest.raises(ValueError, match="limits: window is 0; allowed"):
        replay(trace, Limits(4000), scheduler, line(window_ticks=1))


def test_local_layers_make_long_contexts_cheaper_and_a_window_beyond_every_context_changes_nothing():
    trace = chat(np.random.default_rng(7), 60, 2.0, system_prompt_tokens=0, context_tokens=8192)
    local = Scenario(trace, hardware="h200-sxm", model="gemma-3-27b", tensor=1, context=8192)
    model = local.machine.model.model
    all_global = replace(local, model=replace(model, window=None, window_layers=0))
    far = replace(local, model=replace(model, window=10**6))
    near, whole, beyond = (seconds(simulate(one).iterations.duration.sum()) for one in (local, all_global, far))
    assert near < 0.999 * whole
    assert beyond == pytest.approx(whole, rel=1e-4)
