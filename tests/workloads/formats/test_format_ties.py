"""Coarse time stamps are recognised, and spreading them moves nobody out of their bin or place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.formats.ties import bin_seconds, spread


@st.composite
def binned(draw: st.DrawFn) -> tuple[float, list[int]]:
    return draw(st.floats(1e-3, 1e4)), sorted(draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=50)))


@given(binned(), st.integers(0, 2**32))
def test_spreading_keeps_bins_and_order(stamps: tuple[float, list[int]], seed: int) -> None:
    width, numbers = stamps
    starts = np.array(numbers) * width
    arrivals = spread(starts, width, np.random.default_rng(seed))
    assert (arrivals >= starts).all()
    assert (arrivals <= np.nextafter(starts + width, np.inf)).all()
    assert (np.diff(arrivals) >= 0).all()


@given(st.integers(2, 60), st.integers(2, 9), st.integers(0, 2**32))
def test_bins_with_jitter_are_found_and_stay_apart(bins: int, requests: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    starts = 3.0 * np.arange(bins) + random.integers(-1, 2, size=bins) / 1000 + 1
    stamps = np.repeat(starts, requests)
    width = bin_seconds(stamps)
    assert width == pytest.approx(3.0, abs=0.002)
    arrivals = spread(stamps, float(width or 0), random).reshape(bins, requests)
    assert (arrivals[:-1] <= starts[1:, None]).all()


@given(st.integers(0, 2**32))
def test_exact_stamps_are_not_taken_for_bins(seed: int) -> None:
    stamps = np.sort(np.random.default_rng(seed).uniform(0, 100, size=200))
    assert bin_seconds(stamps) is None
    assert bin_seconds(np.repeat(stamps, 3)) is None


def test_bins_without_any_request_do_not_hide_the_width() -> None:
    stamps = np.repeat([0.0, 2.0, 4.0, 10.0, 12.0, 20.0], 4)
    assert bin_seconds(stamps) == 2.0


def test_one_crowd_tells_no_width() -> None:
    assert bin_seconds(np.zeros(100)) is None


def test_the_same_seed_spreads_alike() -> None:
    stamps = np.repeat([0.0, 3.0], 50)
    first, again, other = (spread(stamps, 3.0, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert 1.0 < first[:50].mean() < 2.0
