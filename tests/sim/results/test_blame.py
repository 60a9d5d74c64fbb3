"""Blame: everything that a request waited is charged to somebody, once, and to those who were computed meanwhile."""

from __future__ import annotations

import numpy as np
from hypothesis import given

from sim.engine.clock import uniform_clock
from sim.engine.replay import FINISHED, IGNORED, replay
from sim.results.attribution import OWN, attribute
from sim.results.blame import blame
from sim.scheduling.batch import Limits
from sim.scheduling.schedulers import SCHEDULERS
from tests.strategies import clocks, servers, traces
from workloads.trace import Trace

CLOCK = uniform_clock(1000, 1, 9000)


def charges(rows: list[tuple[int, int, int]], limits: Limits, name: str) -> list[list[float]]:
    """Return who is charged for what by each of some requests of (arrival tick, prompt, output tokens)."""
    arrival, prompt, output = np.array(rows).T
    trace = Trace(arrival / 2**40, prompt, output, output)
    outcome = replay(trace, limits, SCHEDULERS[name], CLOCK)
    return blame(limits, outcome, np.arange(len(rows))).charged.toarray().tolist()


@given(trace=traces(), server=servers(), clock=clocks())
def test_all_that_is_not_own_work_is_charged_once(trace, server, clock):
    outcome = server.serve(trace, clock)
    victims = np.flatnonzero(outcome.outcome == FINISHED)
    if not len(victims):
        return
    found = blame(server.bounds, outcome, victims)
    parts = attribute(server.bounds, outcome)
    own = sum(parts.part(name) for name in OWN)
    waited = (outcome.finish - outcome.arrival - own)[victims]
    charged = found.charged.toarray()
    np.testing.assert_allclose(charged.sum(axis=1), waited, rtol=1e-9, atol=1e-6)
    assert (charged > -1e-6).all()
    others = charged.copy()
    others[np.arange(len(victims)), victims] = 0
    np.testing.assert_allclose(found.by_offender(), others.sum(axis=0), rtol=1e-9, atol=1e-6)
    unhurt = outcome.preemptions[victims] == 0
    assert (np.abs(charged[np.arange(len(victims)), victims])[unhurt] < 1e-6).all(), "charged itself"


def test_who_comes_back_from_the_host_is_charged_from_its_first_token_on():
    # The second decodes in a seat that the fourth wants, is swapped out, and swapped in again when it is alone.
    rows = [(0, 2, 9), (0, 3, 50), (0, 4, 57), (0, 4, 15), (0, 1, 19)]
    charged = charges(rows, Limits(20, 4, sequences=2, tokens=64, context=96), "prefill_first_swap")
    assert [row[victim] for victim, row in enumerate(charged)][3:] == [0, 0]


def test_who_waits_behind_a_request_that_is_given_up_charges_that():
    # The first two outgrow a pool of 12 tokens, one after the other; the third waits for the only seat.
    limits = Limits(12, 1, sequences=1, tokens=64, context=96)
    trace = Trace(np.zeros(3), *(np.array(column) for column in ((4, 3, 3), (17, 19, 3), (17, 19, 3))))
    outcome = replay(trace, limits, SCHEDULERS["prefill_first"], CLOCK)
    assert outcome.outcome.tolist() == [IGNORED, IGNORED, FINISHED]
    (charged,) = blame(limits, outcome, np.array([2])).charged.toarray().tolist()
    assert charged[2] == 0
    assert min(charged[:2]) > 0
    assert sum(charged[:2]) == outcome.first_token[2] - CLOCK.iteration(1, 3, 6, 0, 0, 0)


def test_a_stall_is_charged_to_the_prompt_that_caused_it():
    (none, first), (second, _) = charges([(0, 10, 5), (1500, 90, 1)], Limits(100), "prefill_first")
    assert (none, first) == (0, 1090)
    assert second == 511


def test_prompts_of_one_iteration_share_a_stall_by_what_each_would_take_alone():
    rows = [(0, 10, 5), (1500, 90, 1), (1500, 30, 1)]
    assert charges(rows, Limits(100), "prefill_first")[0] == [0, 1120 * 90 / 120, 1120 * 30 / 120]


def test_who_holds_the_only_seat_is_charged_by_those_who_wait_for_it():
    found = charges([(0, 20, 4), (0, 20, 4), (0, 20, 4)], Limits(100, sequences=1), "prefill_first")
    whole = 1020 + 3 * 1001
    assert found == [[0, 0, 0], [whole, 0, 0], [whole, whole, 0]]
