"""How many replications separate two arms, against simulation; and how often a repeated test errs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.results.separation import LOOKS, MOST, POWER, decided, probability_positive, separation


def samples_with(mean: float, deviation: float, count: int) -> np.ndarray:
    raw = np.random.default_rng(1).normal(size=count)
    return mean + deviation * (raw - raw.mean()) / raw.std(ddof=1)


@pytest.mark.parametrize("ratio", [2.0, 1.0, 0.5, 0.2])
def test_as_many_replications_as_are_needed_separate_nine_times_in_ten_and_fewer_do_not(ratio: float) -> None:
    needed = separation(samples_with(ratio, 1.0, 10)).needed
    assert needed is not None

    def power(count: int) -> float:
        draws = np.random.default_rng(2).normal(ratio, 1.0, (400, count))
        return float(np.mean([separation(row).separated for row in draws]))

    error = 3.3 * np.sqrt(POWER * (1 - POWER) / 400)
    assert POWER - error < power(needed) < POWER + error + 0.05  # n is whole: the last step may be a large one
    assert power(max(2, needed // 2)) < POWER - 0.1


def test_the_number_needed_is_the_textbooks() -> None:
    """At half a deviation: with 44, sqrt(44) / 2 = 3.3166 < t(43; .975) + t(43; .9) = 2.0167 + 1.3016; with 45 not."""
    assert separation(samples_with(0.5, 1.0, 10)).needed == 45


@given(st.floats(0.05, 5), st.floats(0.1, 10))
def test_the_unit_does_not_matter_and_a_larger_difference_needs_no_more(ratio: float, unit: float) -> None:
    base = separation(samples_with(ratio, 1.0, 8)).needed or MOST
    assert (separation(unit * samples_with(ratio, 1.0, 8)).needed or MOST) == pytest.approx(base, abs=1)
    assert (separation(samples_with(1.5 * ratio, 1.0, 8)).needed or MOST) <= base


def test_equal_arms_are_never_separated_and_constant_differences_at_once() -> None:
    same = separation(np.zeros(5))
    assert (same.separated, same.needed) == (False, None)
    assert f"not even {MOST:,} would" in same.sentence("A", "B", "p99 TTFT")
    assert separation(np.full(5, 0.1)).needed == 2


def test_a_test_repeated_at_every_look_still_errs_in_five_per_cent_at_most() -> None:
    rows = np.random.default_rng(3).normal(0.0, 1.0, (3_000, LOOKS[-1]))
    errors = [any(decided(row[:look]) for look in LOOKS) for row in rows]
    once_too_often = [any(separation(row[:look]).separated for look in LOOKS) for row in rows[:500]]
    assert 0.02 < np.mean(errors) < 0.05
    assert np.mean(once_too_often) > 0.08, "without spending the error in parts the test would be wrong"


def test_a_clear_difference_is_decided_at_the_first_look_and_a_small_one_later() -> None:
    clear, small = samples_with(10.0, 1.0, LOOKS[0]), samples_with(1.0, 1.0, LOOKS[-1])
    assert (decided(clear), decided(-clear)) == (1, -1)
    assert decided(samples_with(0.9, 1.0, LOOKS[0])) == 0
    assert decided(small) == 1
    assert decided(np.zeros(4)) == 0


def test_the_probability_is_students() -> None:
    values = samples_with(2.776445 / np.sqrt(5), 1.0, 5)  # t(4; 0.975) standard errors above zero
    assert probability_positive(values) == pytest.approx(0.975, abs=1e-6)
    assert probability_positive(np.array([3.0])) == 1.0


@pytest.mark.parametrize("function", [separation, decided])
def test_a_single_replication_separates_nothing(function) -> None:
    with pytest.raises(ValueError, match="1 replications; allowed: 2 and more"):
        function(np.ones(1))
