"""Which requests count, and which of them were answered in time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.results.goodput import Objectives, goodput, met
from sim.results.warmup import steady, window

TIMES = st.lists(st.floats(0, 1e5), min_size=1, max_size=50).map(np.array)


@given(TIMES, st.sampled_from([0.25, 2.0, 1024.0]))
def test_what_counts_does_not_depend_on_the_unit_of_time(arrival: np.ndarray, scale: float) -> None:
    assert np.array_equal(steady(arrival), steady(scale * arrival))


@given(TIMES)
def test_what_counts_is_what_arrives_within_the_window(arrival: np.ndarray) -> None:
    begin, end = window(arrival)
    assert np.array_equal(steady(arrival), [begin <= time <= end for time in arrival])


def test_a_tenth_is_left_out_at_the_start_and_a_twentieth_at_the_end() -> None:
    counted = np.flatnonzero(steady(np.arange(1_001.0)))
    assert (counted[0], counted[-1]) == (100, 950)


def test_an_offline_batch_counts_whole() -> None:
    assert steady(np.full(7, 3.0)).all()
    assert steady(np.empty(0)).shape == (0,)


def test_objectives_are_met_together_or_not_at_all() -> None:
    slo = Objectives(ttft_seconds=1.0, tpot_seconds=0.05, end_to_end_seconds=10.0)
    ttft = np.array([1.0, 1.1, 0.5, 0.5])
    tpot = np.array([0.05, 0.01, 0.06, 0.01])
    end_to_end = np.array([10.0, 5.0, 5.0, 11.0])
    assert met(slo, ttft, tpot, end_to_end).tolist() == [True, False, False, False]


def test_a_request_without_an_end_has_met_nothing_not_even_no_objective() -> None:
    nothing = np.array([np.nan])
    assert met(Objectives(), nothing, nothing, nothing).tolist() == [False]


def test_one_token_has_no_time_per_token_to_miss() -> None:
    assert met(Objectives(tpot_seconds=0.01), np.ones(1), np.array([np.nan]), np.ones(1)).tolist() == [True]


def test_an_objective_that_nobody_can_meet_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"tpot_seconds is 0.*positive"):
        Objectives(tpot_seconds=0)
    with pytest.raises(ValueError, match="ttft_seconds is nan"):
        Objectives(ttft_seconds=float("nan"))


def test_goodput_counts_the_refused_in_the_share_and_the_window_in_the_rate() -> None:
    arrival = np.arange(1_001.0)
    share, rate = goodput(np.arange(1_001) % 4 != 0, arrival)
    assert share == pytest.approx(0.75, abs=0.001)
    assert rate == pytest.approx(0.75, abs=0.002)


def test_goodput_of_an_offline_batch_has_a_share_but_no_rate() -> None:
    share, rate = goodput(np.array([True, False]), np.zeros(2))
    assert share == 0.5
    assert np.isnan(rate)
    assert np.isnan(goodput(np.empty(0, dtype=np.bool_), np.empty(0))).all()
