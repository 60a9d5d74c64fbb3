"""What intervals say in cases that can be worked out by hand; their coverage is measured in tests/theory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.results.intervals import batch_means, paired, percentile_intervals, replicated, time_blocks
from sim.results.percentiles import percentile

ESTIMATES = st.lists(st.floats(0.1, 100), min_size=2, max_size=12)


def test_the_interval_over_replications_is_student_t() -> None:
    values = np.array([154.0, 162.0, 158.0, 166.0, 160.0])  # mean 160, variance 20, t(4, 0.975) = 2.776445
    interval = replicated(values)
    assert interval.estimate == 160.0
    assert interval.high - interval.estimate == pytest.approx(2.776445 * np.sqrt(20 / 5), rel=1e-6)
    assert interval.samples == 5


@given(ESTIMATES, st.floats(-50, 50), st.floats(0.1, 10))
def test_shifting_and_scaling_the_estimates_shifts_and_scales_the_interval(
    values: list[float], shift: float, scale: float
) -> None:
    before, after = replicated(np.array(values)), replicated(scale * np.array(values) + shift)
    assert after.low == pytest.approx(scale * before.low + shift, abs=1e-6)
    assert after.high == pytest.approx(scale * before.high + shift, abs=1e-6)


def test_one_replication_has_no_interval() -> None:
    interval = replicated(np.array([3.0]))
    assert interval.estimate == 3.0
    assert interval.refused
    assert interval.method == "n too small: 1 of at least 2 sections"


def test_a_replication_without_a_value_refuses_the_interval_rather_than_be_left_out() -> None:
    assert replicated(np.array([3.0, np.nan, 4.0])).method == "n too small: 1 of 3 sections have no value"


def test_too_few_samples_refuse_the_percentile_itself() -> None:
    p50, p99 = percentile_intervals([np.arange(1.0, 51.0)] * 2, [0.5, 0.99])
    assert not p50.refused
    assert np.isnan(p99.estimate)
    assert p99.method == "n too small: 1 samples expected beyond p99, 10 needed"


def test_a_tail_that_is_one_burst_has_a_percentile_but_no_interval() -> None:
    random = np.random.default_rng(1)
    runs = [random.exponential(1.0, 2_000) for _ in range(5)]
    spread = percentile_intervals(runs, [0.99])[0]
    burst = percentile_intervals([np.sort(run) for run in runs], [0.99])[0]
    assert not spread.refused
    assert burst.refused
    assert burst.estimate == spread.estimate == percentile(np.concatenate(runs), 0.99)
    assert burst.method.startswith("n too small: the 100 samples beyond p99 come in bursts, worth ")


def test_an_interval_of_a_percentile_of_positive_values_is_positive() -> None:
    runs = [scale * np.random.default_rng(2).exponential(1.0, 500) for scale in (0.01, 1.0, 10.0)]
    interval = percentile_intervals(runs, [0.5])[0]
    assert 0 < interval.low < interval.estimate < interval.high


def test_weighted_runs_give_the_intervals_of_repeated_samples() -> None:
    random = np.random.default_rng(3)
    values = [random.exponential(1.0, 900) for _ in range(5)]
    twice = [np.full(900, 2) for _ in range(5)]
    for weighted, repeated in zip(
        percentile_intervals(values, [0.5, 0.9], twice),
        percentile_intervals([np.repeat(run, 2) for run in values], [0.5, 0.9]),
        strict=True,
    ):
        assert weighted == repeated


def test_constant_latencies_are_known_exactly_and_are_no_burst() -> None:
    interval = percentile_intervals([np.full(1_000, 0.25)] * 5, [0.99])[0]
    assert (interval.low, interval.estimate, interval.high) == pytest.approx((0.25, 0.25, 0.25))


def test_percentiles_that_are_zero_still_get_an_interval() -> None:
    waits = [np.where(np.random.default_rng(seed).random(1_000) < 0.7, 0.0, 1.0) for seed in range(5)]
    interval = percentile_intervals(waits, [0.5])[0]
    assert (interval.low, interval.estimate, interval.high) == (0.0, 0.0, 0.0)


def test_no_runs_at_all_are_refused_quietly() -> None:
    assert percentile_intervals([], [0.5])[0].refused
    assert replicated(np.empty(0)).refused
    assert batch_means(np.empty(0), np.mean).refused


def test_time_blocks_are_consecutive_and_complete() -> None:
    column = np.arange(23.0)
    blocks = time_blocks(column)
    assert np.array_equal(np.concatenate(blocks), column)
    assert {len(block) for block in blocks} == {4, 5}


def test_batch_means_say_that_they_speak_of_this_trace_only() -> None:
    interval = batch_means(np.random.default_rng(4).exponential(1.0, 1_000), np.mean)
    assert interval.method == "t over 5 time blocks, within this trace"
    assert interval.samples == 1_000


def test_the_statistic_of_a_trace_is_that_of_the_whole_not_of_its_blocks() -> None:
    column = np.random.default_rng(5).exponential(1.0, 1_000)
    assert batch_means(column, np.var).estimate == float(np.var(column))


@given(ESTIMATES)
def test_comparing_an_arm_with_itself_gives_exactly_nothing(values: list[float]) -> None:
    result = paired(np.array(values), np.array(values))
    assert (result.difference.low, result.difference.estimate, result.difference.high) == (0.0, 0.0, 0.0)
    assert (result.percent.low, result.percent.high) == pytest.approx((0.0, 0.0), abs=1e-9)


@given(ESTIMATES, st.floats(0.5, 2))
def test_a_constant_factor_is_a_percentage_known_exactly(values: list[float], factor: float) -> None:
    result = paired(np.array(values), factor * np.array(values))
    shown = result.percent.low, result.percent.estimate, result.percent.high
    assert shown == pytest.approx((100 * (factor - 1),) * 3, abs=1e-6)


@given(ESTIMATES)
def test_swapping_the_arms_turns_the_difference_round(values: list[float]) -> None:
    a, b = np.array(values), np.array(values[::-1])
    forward, back = paired(a, b).difference, paired(b, a).difference
    assert (back.low, back.high) == pytest.approx((-forward.high, -forward.low), abs=1e-9)


def test_the_variance_reduction_is_what_pairing_bought() -> None:
    random = np.random.default_rng(6)
    common, noise = random.normal(0, 3, 4_000), random.normal(0, 1, (2, 4_000))
    result = paired(10 + common + noise[0], 11 + common + noise[1])
    assert result.variance_reduction == pytest.approx((10 + 10) / 2, rel=0.1)
    assert paired(np.ones(5), np.ones(5)).variance_reduction == 1.0
    assert paired(np.arange(5.0), np.arange(5.0) + 2).variance_reduction == np.inf


def test_a_paired_difference_of_percentiles_agrees_with_the_two_numbers_shown() -> None:
    a, b = np.array([1.0, 2.0, 6.0]), np.array([2.0, 3.0, 8.0])
    result = paired(a, b, pooled=(5.0, 7.0))
    assert result.difference.estimate == 2.0
    assert result.percent.estimate == pytest.approx(40.0)
    assert result.difference.high - 2.0 > paired(a, b).difference.high - paired(a, b).difference.estimate


def test_a_percentage_of_nothing_is_not_a_number() -> None:
    assert np.isnan(paired(np.zeros(3), np.arange(3.0)).percent.estimate)


def test_arms_with_different_numbers_of_replications_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="3 and 2 replications"):
        paired(np.ones(3), np.ones(2))
