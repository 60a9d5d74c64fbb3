"""Laws of the percentile and of the rule that refuses it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.results.percentiles import enough, percentile, percentiles

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40)
LEVEL = st.floats(0, 1)


@given(VALUES, LEVEL, st.data())
def test_a_weight_means_that_many_equal_samples(values: list[float], level: float, data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.integers(0, 5), min_size=len(values), max_size=len(values)))
    repeated = percentile(np.repeat(values, weights), level)
    weighted = percentile(np.array(values), level, np.array(weights))
    assert repeated == weighted or (np.isnan(repeated) and np.isnan(weighted))


@given(VALUES, LEVEL)
def test_it_is_the_least_sample_that_enough_samples_do_not_exceed(values: list[float], level: float) -> None:
    sample = np.array(values)
    found = percentile(sample, level)
    assert found in values
    assert np.sum(sample <= found) >= level * len(sample) * (1 - 1e-12)
    assert np.sum(sample < found) <= level * len(sample)


@pytest.mark.parametrize("level", [0.07, 0.14, 0.28, 0.29, 0.55, 0.56, 0.57, 0.58])
def test_whole_percents_of_a_hundred_samples_do_not_suffer_from_rounding(level: float) -> None:
    assert percentile(np.arange(1.0, 101.0), level) == round(100 * level)


@given(VALUES)
def test_percentiles_rise_with_the_level(values: list[float]) -> None:
    assert (np.diff(percentiles(np.array(values), np.linspace(0, 1, 11).tolist())) >= 0).all()


def test_requests_without_the_value_are_left_out() -> None:
    assert percentile(np.array([np.nan, 1.0, 2.0, np.nan]), 0.5) == 1.0
    assert percentile(np.array([np.nan, 1.0]), 1.0, np.array([7, 1])) == 1.0
    assert np.isnan(percentile(np.array([np.nan]), 0.5))
    assert np.isnan(percentile(np.empty(0), 0.5))


def test_a_level_in_percent_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"99.*between 0 and 1"):
        percentile(np.array([1.0]), 99)


@pytest.mark.parametrize(("level", "samples"), [(0.5, 20), (0.9, 100), (0.99, 1_000), (0.999, 10_000), (0.01, 1_000)])
def test_ten_samples_must_lie_beyond(level: float, samples: int) -> None:
    assert enough(samples, level)
    assert not enough(samples - 1, level)
