"""What planning one iteration ahead changes, on runs small enough to check by hand: 100 ticks a batch, one a token."""

from __future__ import annotations

import numpy as np

from sim.engine.clock import TICKS_PER_SECOND, uniform_clock
from sim.engine.replay import Replay, replay
from sim.scenario import Scenario, simulate
from sim.scheduling.batch import Limits
from sim.scheduling.schedulers import SCHEDULERS
from workloads.trace import Trace


def serve(
    arrival: list[int], prompt: list[int], output: list[int], *, longest: list[int] | None = None, **limits: int
) -> Replay:
    trace = Trace(np.array(arrival) / TICKS_PER_SECOND, np.array(prompt), np.array(output), np.array(longest or output))
    bounds = Limits(**({"blocks": 100} | limits))
    return replay(trace, bounds, SCHEDULERS["chunked_prefill"], uniform_clock(100, 1, 9000), asynchronous=True)


def test_an_arrival_waits_for_the_batch_that_is_already_planned():
    # The second request arrives in the first batch (0 to 110); the second batch (to 211) is planned by then.
    outcome = serve([0, 50], [10, 20], [5, 1])
    assert outcome.iterations.start.tolist()[:3] == [0, 110, 211]
    assert outcome.first_token.tolist() == [110, 211 + 100 + 1 + 20]


def test_an_arrival_cuts_a_stretch_one_iteration_later():
    # It arrives in the third of 50 batches (211 to 312) and enters the fifth (413 to 534).
    outcome = serve([0, 250], [10, 20], [50, 1])
    assert outcome.first_token.tolist() == [110, 413 + 100 + 1 + 20]


def test_a_seat_is_handed_over_one_batch_late():
    # While one of two decodes on, the third finds the seat taken in the batch planned at 0, though it is free from 120.
    outcome = serve([0, 0, 0], [10, 10, 10], [1, 4, 1], sequences=2)
    assert outcome.finish.tolist() == [120, 120 + 101 + 111 + 101, 120 + 101 + 111]


def test_nothing_is_lost_where_nothing_could_be_planned():
    outcome = serve([0, 0, 0], [10, 10, 10], [1, 1, 1], sequences=1)
    assert outcome.finish.tolist() == [110, 220, 330]


def test_only_a_reply_that_ends_by_itself_decodes_once_for_nothing():
    as_long_as_it_may_be = serve([0], [10], [3])
    assert as_long_as_it_may_be.iterations.end.tolist()[-1] == as_long_as_it_may_be.finish[0] == 312
    shorter = serve([0], [10], [3], longest=[9])
    assert shorter.finish[0] == 312
    assert shorter.iterations.end.tolist()[-1] == 413
    assert shorter.iterations.wasted.tolist()[-1] == 1
    cut_by_the_context = serve([0], [10], [3], longest=[9], context=13)
    assert cut_by_the_context.iterations.end.tolist()[-1] == 312


def test_a_scenario_can_ask_for_it():
    trace = Trace(np.array([0.0, 0.001]), np.array([100, 100]), np.array([20, 20]), np.array([20, 20]))
    together = Scenario(trace, policy="chunked_prefill")
    ahead = simulate(Scenario(trace, policy="chunked_prefill", asynchronous=True), together.machine)
    assert ahead.ttft_seconds[1] > simulate(together).ttft_seconds[1]


def test_nobody_overtakes_a_prompt_that_is_called_back_from_a_batch_in_flight():
    # The second is preempted while its first chunk runs, so that it is not in the queue when the third could be let in.
    arrival, prompt, output = np.array([2707, 3369, 3984]), np.array([72, 82, 48]), np.array([3, 3, 2])
    trace = Trace(arrival / TICKS_PER_SECOND, prompt, output, output)
    tight = Limits(blocks=40, block_tokens=4, sequences=2, tokens=64, context=96)
    outcome = replay(trace, tight, SCHEDULERS["decode_first"], uniform_clock(1000, 1, 9000), asynchronous=True)
    assert outcome.preemptions.any()
    assert (np.diff(outcome.first_token) >= 0).all()
