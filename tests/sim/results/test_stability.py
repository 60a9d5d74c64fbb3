"""Verdicts in cases without chance; error rates are measured in tests/theory."""

from __future__ import annotations

import numpy as np
import pytest

from sim.results.percentiles import Floats
from sim.results.stability import verdict


def deterministic(load: float, requests: int = 2_000) -> tuple[list[Floats], list[Floats]]:
    """A D/D/1 queue with unit service: the k-th request leaves at k + 1, or at once if the server idles."""
    arrival = np.arange(requests) / load
    return [arrival], [np.arange(1.0, requests + 1) if load > 1 else arrival + 1]


@pytest.mark.parametrize("load", [0.5, 0.95, 1.0])
def test_a_deterministic_server_that_keeps_up_is_stable(load: float) -> None:
    assert verdict(*deterministic(load)).stable


@pytest.mark.parametrize("load", [1.05, 1.5, 30.0])
def test_a_deterministic_server_that_does_not_keep_up_is_overloaded(load: float) -> None:
    result = verdict(*deterministic(load))
    assert not result.stable
    assert result.growth_per_second == pytest.approx(load - 1, rel=0.05)
    assert result.horizon_seconds == pytest.approx(0.85 * 2_000 / load, rel=0.01)


@pytest.mark.parametrize("jump_seconds", range(100, 960, 10))
def test_a_single_jump_of_the_delay_is_not_growth(jump_seconds: int) -> None:
    arrival = np.arange(1_000.0)
    assert verdict([arrival], [arrival + np.where(arrival < jump_seconds, 5.0, 200.0)]).stable


def test_a_peak_that_is_worked_off_is_not_growth() -> None:
    arrival = np.arange(1_000.0)
    assert verdict([arrival], [arrival + 100 * np.exp(-(((arrival - 500) / 100) ** 2))]).stable


def test_requests_that_never_finish_are_overload() -> None:
    arrival = np.arange(100.0)
    result = verdict([arrival], [np.where(arrival == 50, np.nan, arrival + 1)])
    assert (result.stable, result.reason) == (False, "1 requests never finished")


def test_an_offline_batch_is_no_queue_that_grows() -> None:
    result = verdict([np.zeros(100)], [np.arange(100.0)])
    assert (result.stable, result.growth_per_second, result.horizon_seconds) == (True, 0.0, 0.0)
    assert verdict([], []).stable


def test_two_instants_of_arrival_do_not_divide_by_zero() -> None:
    arrival = np.concatenate([[0.0], np.full(98, 50.0), [100.0]])
    assert verdict([arrival], [arrival + 1]).stable


def test_a_handful_of_requests_is_not_judged() -> None:
    arrival = np.arange(20.0)
    assert verdict([arrival], [3 * arrival]).reason == "too few requests to tell: 17 counted in a run, 50 needed"


def test_the_order_of_the_requests_does_not_matter() -> None:
    (arrival,), (finish,) = deterministic(1.2)
    mixed = np.random.default_rng(1).permutation(len(arrival))
    assert verdict([arrival[mixed]], [finish[mixed]]) == verdict([arrival], [finish])


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        verdict([np.arange(3.0)], [np.arange(2.0)])
