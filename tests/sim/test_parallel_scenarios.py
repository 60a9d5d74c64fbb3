"""Scenarios whose replica is split over stages or over data ranks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sim.engine.clock import IterationClock, LockstepClock, PipelineClock
from sim.engine.replay import FINISHED
from sim.results.tokens import has_token_times
from sim.scenario import Scenario, simulate
from workloads.trace import Trace


def trace(requests: int = 60) -> Trace:
    rng = np.random.default_rng(3)
    prompt, output = rng.integers(20, 400, requests), rng.integers(2, 60, requests)
    return Trace(np.cumsum(rng.exponential(0.05, requests)), prompt, output, output)


STAGES = Scenario(trace(), policy="chunked_prefill", tensor=2, pipeline=2)
RANKS = Scenario(trace(), hardware="h100-sxm", model="mixtral-8x7b", policy="chunked_prefill", data=2, expert=4)


@pytest.mark.parametrize(("scenario", "kind"), [(STAGES, PipelineClock), (RANKS, LockstepClock)])
def test_a_split_replica_serves_everybody(scenario, kind):
    machine = scenario.machine
    assert isinstance(machine.clock, kind)
    result = simulate(scenario, machine)
    assert (result.replay.outcome == FINISHED).all()
    assert not has_token_times(result).any()
    _, counts = result.replay.iterations.inter_token_gaps()
    assert counts.sum() == (scenario.trace.output_tokens - 1).sum()
    assert isinstance(result.replay.clock, IterationClock)


def test_stages_double_the_room_and_halve_the_step():
    one = replace(STAGES, pipeline=1).machine
    assert STAGES.machine.limits.blocks > 2 * one.limits.blocks
    whole, stages = one.clock, STAGES.machine.clock
    assert isinstance(whole, IterationClock)
    assert isinstance(stages, PipelineClock)
    batch = (0, 0, 0, 0, 32, 32 * 500)
    slowest = max(stage.iteration(*batch) for stage in stages.stages)
    assert 0.45 < slowest / whole.iteration(*batch) < 0.6


def test_two_stages_read_prompts_twice_as_fast_and_decode_a_few_no_faster():
    # All at once: prompts are bound by arithmetic, of which there is twice as much; a few decodes are bound by weights,
    # which each of two groups reads anew.
    def speedup(prompt: int, output: int, requests: int) -> float:
        one = np.ones(requests, dtype=np.int64)
        crowd = Trace(np.zeros(requests), prompt * one, output * one, output * one)
        ends = [simulate(replace(STAGES, trace=crowd, pipeline=n, tokens=512)).replay.finish.max() for n in (1, 2)]
        return float(ends[0] / ends[1])

    assert 1.8 < speedup(512, 1, 100) < 2
    assert 0.8 < speedup(256, 200, 4) < 1.1


def test_a_host_bound_engine_shares_its_time_among_stages():
    bound = replace(STAGES, least_iteration_seconds=1.0).machine.clock
    assert isinstance(bound, PipelineClock)
    seconds = [stage.iteration(0, 0, 0, 0, 1, 0) / 2**40 for stage in bound.stages]
    assert seconds == pytest.approx([0.5, 0.5], rel=0.01)


@pytest.mark.parametrize(
    ("scenario", "message"),
    [
        (replace(RANKS, pipeline=2), r"TP 2 x PP 2 x EP 4 x DP 2: data ranks with stages .* allowed: DP or PP"),
        (replace(RANKS, expert=3), r"expert=3 does not divide tensor \* data = 4"),
        (replace(STAGES, data=2), r"data=2 ranks of Llama-2-13B share no experts"),
        (replace(STAGES, policy="static_padded"), r"several stages or data ranks; allowed for request-level batching"),
    ],
)
def test_what_cannot_run_is_refused(scenario, message):
    with pytest.raises(ValueError, match=message):
        simulate(scenario)
