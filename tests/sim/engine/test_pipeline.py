"""Laws of a pipeline: nothing is lost in it, no stage does two things at once, and equal stages have a known rate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hardware_profiles
from sim.engine.clock import TICKS_PER_SECOND, IterationClock, PipelineClock, pipeline_clock
from sim.engine.replay import FINISHED, IGNORED, STALLED, Replay, replay
from sim.physics.iteration import IterationModel
from sim.physics.parallelism import Parallelism
from sim.physics.totals import Totals
from sim.results.attribution import attribute
from sim.scheduling.batch import Limits
from sim.scheduling.schedulers import SCHEDULERS, Scheduler
from tests.strategies import clocks, servers, traces
from workloads import models
from workloads.trace import Trace


def is_able(scheduler: Scheduler) -> bool:
    return not (scheduler.pads or scheduler.to_end or scheduler.preemption == "swap")


NAMES = tuple(name for name, scheduler in SCHEDULERS.items() if is_able(scheduler))
COLUMNS = ("arrival", "first_token", "finish", "cached_tokens", "preemptions", "outcome")
STAGE = 1000
pipelines = st.lists(clocks(), min_size=1, max_size=4).map(lambda stages: PipelineClock(tuple(stages)))


def gaps(outcome: Replay) -> np.ndarray:
    values, counts = outcome.iterations.inter_token_gaps()
    return np.sort(np.repeat(values, counts))


def stage_ticks(outcome: Replay, clock: IterationClock) -> np.ndarray:
    log = outcome.iterations
    sums = (log.samples, log.new_tokens, log.pairs, log.cached_context, log.decodes, log.context)
    return np.array([clock.iteration(*row) for row in zip(*(column.tolist() for column in sums), strict=True)])


@given(trace=traces(), server=servers(NAMES), clock=clocks())
def test_one_stage_is_an_engine_that_plans_between_iterations(trace, server, clock):
    alone = server.serve(trace, clock, coast=False, asynchronous=False)
    piped = server.serve(trace, PipelineClock((clock,)))
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(piped, column), getattr(alone, column), err_msg=column)
    for column in ("start", "first", "decodes", "prompts", "new_tokens", "context", "free_blocks", "waiting"):
        np.testing.assert_array_equal(
            getattr(piped.iterations, column), getattr(alone.iterations, column), err_msg=column
        )
    np.testing.assert_array_equal(gaps(piped), gaps(alone))


@given(trace=traces(), server=servers(NAMES), clock=pipelines)
def test_nobody_and_no_token_is_lost(trace, server, clock):
    outcome = server.serve(trace, clock)
    assert server.cache == "vllm-0.3" or not (outcome.outcome == STALLED).any()
    served = outcome.outcome == FINISHED
    assert (outcome.first_token[served] > outcome.arrival[served]).all()
    assert (outcome.finish[served] >= outcome.first_token[served]).all()
    if np.isin(outcome.outcome, (IGNORED, STALLED)).any():
        return
    log = outcome.iterations
    assert log.decodes.sum() + log.samples.sum() == trace.output_tokens[served].sum()
    values, counts = log.inter_token_gaps()
    assert counts.sum() == (trace.output_tokens[served] - 1).sum()
    assert (values * counts).sum() == (outcome.finish - outcome.first_token)[served].sum()


@given(trace=traces(), server=servers(NAMES), clock=pipelines)
def test_no_stage_does_two_things_at_once(trace, server, clock):
    outcome = server.serve(trace, clock)
    log = outcome.iterations
    if not len(log.start):
        return
    assert (log.start[1:] >= log.end[:-1]).all()
    span = log.end[-1] - log.start[0]
    each = [stage_ticks(outcome, stage) for stage in clock.stages]
    assert span >= max(ticks.sum() for ticks in each)  # the slowest stage bounds the rate
    assert (log.duration >= each[-1]).all()
    if not (log.idle_tokens or server.bounds.window):  # neither padding nor windows are in these sums
        assert log.end[0] - log.start[0] == sum(ticks[0] for ticks in each)  # nobody was before the first


@given(trace=traces(), server=servers(NAMES, caches=("none", "vllm-1")), clock=pipelines)
def test_parts_of_latencies_sum_to_the_tick(trace, server, clock):
    outcome = server.serve(trace, clock)
    parts = attribute(server.bounds, outcome)
    served = outcome.outcome == FINISHED
    for split, until in ((parts.ttft, outcome.first_token), (parts.end_to_end, outcome.finish)):
        assert (split >= 0).all()
        np.testing.assert_array_equal(split.sum(axis=0)[served], (until - outcome.arrival)[served])


@given(trace=traces(), server=servers(NAMES), clock=pipelines)
def test_a_run_is_repeated_exactly(trace, server, clock):
    one, two = (server.serve(trace, clock) for _ in range(2))
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(one, column), getattr(two, column))


def clock_of(ticks: int, most: int = 4096) -> IterationClock:
    return IterationClock(ticks, [0] * most, [0] * most, 0, 0, lambda *chunks: 0)


def equal_stages(stages: int, most: int = 4096) -> PipelineClock:
    return PipelineClock((clock_of(STAGE, most),) * stages)


def at_once(requests: int, prompt: int, output: int) -> Trace:
    column = np.ones(requests, dtype=np.int64)
    return Trace(np.zeros(requests), prompt * column, output * column, output * column)


LIMITS = Limits(blocks=100_000, sequences=256, tokens=64, context=4096)


@pytest.mark.parametrize("stages", [1, 2, 4, 8])
@pytest.mark.parametrize("batches", [1, 3, 50])
def test_batches_fill_and_drain_the_stages(stages, batches):
    # Prompts of a whole batch each, with nothing after: n batches through p stages take n + p - 1 steps (Huang et al.
    # 2019, GPipe), so that the share of bubbles, (p - 1) / (n + p - 1), vanishes with many.
    outcome = replay(at_once(batches, 64, 1), LIMITS, SCHEDULERS["chunked_prefill"], equal_stages(stages))
    assert outcome.finish.max() == (batches + stages - 1) * STAGE


@pytest.mark.parametrize("stages", [2, 4])
def test_as_many_groups_as_stages_keep_every_stage_busy(stages):
    # Prompts of 16 tokens, 4 to a batch: as many groups as stages, each of which decodes once a round.
    rounds = 40
    trace = at_once(4 * stages, 16, rounds + 1)
    outcome = replay(trace, LIMITS, SCHEDULERS["chunked_prefill"], equal_stages(stages))
    assert (gaps(outcome) == stages * STAGE).all()
    rate = 4 * stages * rounds / (outcome.finish.max() - outcome.first_token.min())
    assert rate == pytest.approx(4 / STAGE, rel=0.1)  # a group of 4 in every step
    assert outcome.finish.max() == (stages * (rounds + 1) + stages - 1) * STAGE


def test_one_group_leaves_the_other_stages_idle():
    # All prompts in one batch: they decode together, and three of four stages wait (unequal groups never even out).
    outcome = replay(at_once(4, 16, 11), LIMITS, SCHEDULERS["chunked_prefill"], equal_stages(4))
    assert (gaps(outcome) == 4 * STAGE).all()
    assert outcome.finish.max() == 11 * 4 * STAGE


def test_the_slowest_stage_sets_the_pace():
    slow, fast = clock_of(3 * STAGE), clock_of(STAGE)
    outcome = replay(at_once(8, 64, 1), LIMITS, SCHEDULERS["chunked_prefill"], PipelineClock((fast, slow, fast)))
    assert np.diff(np.sort(outcome.finish)).tolist() == [3 * STAGE] * 7
    assert outcome.finish.min() == 5 * STAGE


def test_chunks_of_one_prompt_follow_each_other_without_waiting():
    outcome = replay(at_once(1, 64 * 5, 1), LIMITS, SCHEDULERS["chunked_prefill"], equal_stages(4))
    assert outcome.finish[0] == (5 + 4 - 1) * STAGE


def test_an_arrival_is_seen_when_a_batch_comes_out():
    # The second request arrives while the first is in the stages and nobody else can be planned.
    later = (4 * STAGE - 10) / TICKS_PER_SECOND
    trace = replace(at_once(2, 16, 2), arrival_seconds=np.array([0.0, later]))
    outcome = replay(trace, LIMITS, SCHEDULERS["chunked_prefill"], equal_stages(4))
    assert outcome.first_token.tolist() == [4 * STAGE, 8 * STAGE]
    assert outcome.finish.tolist() == [8 * STAGE, 12 * STAGE]


def test_stages_of_a_model_are_timed_like_the_model():
    model = IterationModel(
        models.load("llama-2-7b"), hardware_profiles.load("l20"), parallelism=Parallelism(2, pipeline=3)
    )
    clock = pipeline_clock(model, 256, 64)
    outcome = replay(at_once(1, 50, 1), LIMITS, SCHEDULERS["chunked_prefill"], clock)
    whole = model.seconds(Totals(50, 1, prefill_tokens=50, prefill_pairs=50 * 51 / 2))
    assert outcome.finish[0] / TICKS_PER_SECOND == pytest.approx(float(whole))
