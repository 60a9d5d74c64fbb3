"""Laws of data ranks that share experts: one pace, and otherwise engines of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hardware_profiles
from sim.engine.clock import TICKS_PER_SECOND, IterationClock, LockstepClock, lockstep_clock
from sim.engine.replay import FINISHED, IGNORED, STALLED, Replay, replay
from sim.physics.iteration import IterationModel
from sim.physics.parallelism import Parallelism
from sim.physics.totals import Totals
from sim.results.attribution import attribute
from sim.scheduling.batch import Limits
from sim.scheduling.caches import CACHES
from sim.scheduling.schedulers import SCHEDULERS, Scheduler
from tests.strategies import clocks, servers, traces
from workloads import models
from workloads.trace import Trace


def is_able(scheduler: Scheduler) -> bool:
    return not (scheduler.pads or scheduler.to_end or scheduler.preemption == "swap")


NAMES = tuple(name for name, scheduler in SCHEDULERS.items() if is_able(scheduler))
COLUMNS = ("arrival", "first_token", "finish", "cached_tokens", "preemptions", "outcome")
LIMITS = Limits(blocks=10_000, sequences=256, tokens=256, context=4096)


@st.composite
def lockstep_clocks(draw: st.DrawFn, ranks: int | None = None) -> LockstepClock:
    per_token = draw(st.integers(0, 3))
    most = [per_token * n for n in range(3 * 4096)]
    return LockstepClock(draw(clocks()), most, ranks or draw(st.integers(1, 3)), draw(st.sampled_from((0, 16, 512))))


def gaps(outcome: Replay) -> np.ndarray:
    values, counts = outcome.iterations.inter_token_gaps()
    return np.sort(np.repeat(values, counts))


@given(trace=traces(), server=servers(NAMES), clock=clocks())
def test_one_rank_without_experts_is_an_engine_that_steps(trace, server, clock):
    alone = server.serve(trace, clock, coast=False)
    group = server.serve(trace, LockstepClock(clock, [0] * 8192, 1))
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(group, column), getattr(alone, column), err_msg=column)
    for column in ("start", "first", "decodes", "prompts", "new_tokens", "context", "free_blocks", "waiting", "wasted"):
        np.testing.assert_array_equal(
            getattr(group.iterations, column), getattr(alone.iterations, column), err_msg=column
        )
    np.testing.assert_array_equal(gaps(group), gaps(alone))


@given(trace=traces(), server=servers(NAMES, caches=tuple(CACHES)), clock=lockstep_clocks())
def test_nobody_and_no_token_is_lost(trace, server, clock):
    outcome = server.serve(trace, clock)
    assert server.cache == "vllm-0.3" or not (outcome.outcome == STALLED).any()
    served, log = outcome.outcome == FINISHED, outcome.iterations
    assert (outcome.first_token[served] > outcome.arrival[served]).all()
    assert (log.start[1:] >= log.end[:-1]).all()
    if np.isin(outcome.outcome, (IGNORED, STALLED)).any():
        return
    assert (log.decodes - log.wasted).sum() + log.samples.sum() == trace.output_tokens[served].sum()
    values, counts = log.inter_token_gaps()
    assert counts.sum() == (trace.output_tokens[served] - 1).sum()
    assert (values * counts).sum() == (outcome.finish - outcome.first_token)[served].sum()


@given(trace=traces(), server=servers(NAMES, caches=("none", "vllm-1")), clock=lockstep_clocks())
def test_parts_of_latencies_sum_to_the_tick(trace, server, clock):
    outcome = server.serve(trace, clock)
    parts = attribute(server.bounds, outcome)
    served = outcome.outcome == FINISHED
    for split, until in ((parts.ttft, outcome.first_token), (parts.end_to_end, outcome.finish)):
        assert (split >= 0).all()
        np.testing.assert_array_equal(split.sum(axis=0)[served], (until - outcome.arrival)[served])


def clock_of(ranks: int, per_token: int = 0, together: int = 0, most_padded: int = 512) -> LockstepClock:
    rank = IterationClock(1000, [per_token * n for n in range(2048)], [0] * 2048, 0, 0, lambda *chunks: 0)
    return LockstepClock(rank, [together * n for n in range(2048 * ranks)], ranks, most_padded)


def requests(arrival_ticks: list[int], prompt: list[int], output: list[int]) -> Trace:
    columns = [np.array(column, dtype=np.int64) for column in (prompt, output, output)]
    return Trace(np.array(arrival_ticks) / TICKS_PER_SECOND, *columns)


def test_an_iteration_lasts_as_the_busiest_rank_needs():
    # 100 tokens on one rank and 10 on the other: apart that is 1000 + 100; the experts see 110, or twice 100 if padded.
    trace = requests([0, 0], [100, 10], [1, 1])
    apart = replay(trace, LIMITS, SCHEDULERS["chunked_prefill"], clock_of(2, 1, 1, most_padded=0))
    padded = replay(trace, LIMITS, SCHEDULERS["chunked_prefill"], clock_of(2, 1, 1))
    assert apart.finish.tolist() == [1000 + 100 + 110] * 2
    assert padded.finish.tolist() == [1000 + 100 + 200] * 2


def test_an_idle_rank_runs_a_dummy_token_along():
    alone = replay(requests([0], [100], [2]), LIMITS, SCHEDULERS["chunked_prefill"], clock_of(2, 0, 1, most_padded=0))
    assert alone.finish[0] == 1000 + 101 + 1000 + 2


def test_what_arrives_at_an_idle_rank_waits_for_the_others():
    outcome = replay(requests([0, 10], [8, 8], [5, 1]), LIMITS, SCHEDULERS["chunked_prefill"], clock_of(2))
    assert outcome.first_token.tolist() == [1000, 2000]


def test_requests_go_to_the_rank_with_the_least_waiting_and_running():
    # Counts are 100 ms old at most: within that time those sent count as waiting, so that ranks alternate.
    trace = requests([0] * 6, [10] * 6, [1] * 6)
    clock = clock_of(3, 1, 0, most_padded=0)
    outcome = replay(trace, LIMITS, SCHEDULERS["chunked_prefill"], clock)
    assert outcome.finish.tolist() == [1000 + 20] * 6
    # Two long prompts run on rank 0 and 1; when the counts are known again, a third goes to the idle rank 2.
    late = int(0.15 * TICKS_PER_SECOND)
    slow = replace(clock, rank=replace(clock.rank, base=TICKS_PER_SECOND // 50))
    trace = requests([0, 0, late, late], [10] * 4, [100, 100, 2, 2])
    outcome = replay(trace, LIMITS, SCHEDULERS["chunked_prefill"], slow)
    first = outcome.first_token[2:] - late
    assert (first < 2 * TICKS_PER_SECOND // 50 + 20).all()
    rows = outcome.iterations
    prompts = rows.new_tokens[rows.start >= late - TICKS_PER_SECOND // 50]
    assert prompts.max() == 20  # both in one iteration, on two ranks


def test_ranks_alike_take_what_the_model_says():
    split = Parallelism(data=2, expert=2)
    model = IterationModel(models.load("mixtral-8x7b"), hardware_profiles.load("h100-sxm"), parallelism=split)
    clock = lockstep_clock(model, 512, 64)
    outcome = replay(requests([0, 0], [100, 100], [1, 1]), LIMITS, SCHEDULERS["chunked_prefill"], clock)
    whole = model.seconds(Totals(100, 1, prefill_tokens=100, prefill_pairs=100 * 101 / 2))
    assert outcome.finish[0] / TICKS_PER_SECOND == pytest.approx(float(whole))
    assert outcome.finish[0] == outcome.finish[1]
