"""Laws of arrival processes."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from workloads.synthetic.arrivals import Arrivals, gamma, on_off, poisson, ramp

PROCESSES = {
    "poisson": poisson,
    "bunched": partial(gamma, burstiness=0.3),
    "even": partial(gamma, burstiness=8.0),
    "on-off": partial(on_off, on_seconds=3.0, off_seconds=7.0),
    "rising": partial(ramp, initial_relative_rate=0.0),
    "falling": partial(ramp, initial_relative_rate=2.0),
    "level": partial(ramp, initial_relative_rate=1.0),
}
SEEDS = st.integers(0, 2**32 - 1)
RATES = st.floats(0.01, 1e4)


@pytest.fixture(params=PROCESSES)
def arrivals(request: pytest.FixtureRequest) -> Arrivals:
    return PROCESSES[request.param]


@given(seed=SEEDS, n=st.integers(1, 300), rate=RATES)
@pytest.mark.parametrize("name", PROCESSES)
def test_arrivals_are_sorted_and_begin_after_zero(name: str, seed: int, n: int, rate: float) -> None:
    seconds = PROCESSES[name](np.random.default_rng(seed), n, rate)
    assert seconds.shape == (n,)
    assert seconds.dtype == np.float64
    assert seconds[0] > 0
    assert np.all(np.diff(seconds) >= 0)
    assert np.isfinite(seconds[-1])


def test_mean_rate_is_the_one_asked_for(arrivals: Arrivals) -> None:
    # 100,000 gaps of variation up to 1.8 settle the mean within 0.6 % (one standard error).
    seconds = arrivals(np.random.default_rng(1), 100_000, 4.0)
    assert 100_000 / seconds[-1] == pytest.approx(4.0, rel=0.02)


@given(seed=SEEDS, rate=RATES, faster=st.floats(0.1, 10))
@pytest.mark.parametrize("name", sorted(PROCESSES.keys() - {"on-off"}))
def test_another_rate_stretches_the_clock(name: str, seed: int, rate: float, faster: float) -> None:
    slow = PROCESSES[name](np.random.default_rng(seed), 50, rate)
    fast = PROCESSES[name](np.random.default_rng(seed), 50, rate * faster)
    np.testing.assert_allclose(fast * faster, slow, rtol=1e-12)


def test_an_infinite_rate_is_everybody_at_zero(arrivals: Arrivals) -> None:
    assert not arrivals(np.random.default_rng(0), 5, np.inf).any()


@pytest.mark.parametrize("burstiness", [0.25, 0.5, 1.0, 2.0, 10.0])
def test_gap_variation_is_one_over_root_burstiness(burstiness: float) -> None:
    gaps = np.diff(gamma(np.random.default_rng(2), 200_000, 3.0, burstiness=burstiness))
    assert gaps.std() / gaps.mean() == pytest.approx(burstiness**-0.5, rel=0.02)


def test_poisson_gaps_are_exponential_and_independent() -> None:
    gaps = np.diff(poisson(np.random.default_rng(3), 20_000, 2.0))
    assert stats.kstest(gaps, "expon", args=(0, 0.5)).pvalue > 0.001
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 0.03


@given(seed=SEEDS, on=st.floats(0.5, 100), off=st.floats(0, 100))
def test_nobody_arrives_while_off(seed: int, on: float, off: float) -> None:
    seconds = on_off(np.random.default_rng(seed), 200, 1.0, on_seconds=on, off_seconds=off)
    phase = seconds % (on + off)
    rounding = 1e-9 * seconds[-1]
    assert np.all((phase <= on + rounding) | (phase >= on + off - rounding))


def test_on_periods_are_full_from_end_to_end() -> None:
    seconds = on_off(np.random.default_rng(4), 20_000, 5.0, on_seconds=3.0, off_seconds=7.0)
    assert stats.kstest(seconds % 10.0, "uniform", args=(0, 3.0)).pvalue > 0.001


@given(seed=SEEDS, n=st.integers(1, 500), rate=RATES, initial=st.floats(0, 2))
def test_a_ramp_holds_exactly_its_requests(seed: int, n: int, rate: float, initial: float) -> None:
    seconds = ramp(np.random.default_rng(seed), n, rate, initial_relative_rate=initial)
    assert seconds[-1] <= n / rate * (1 + 1e-9)


@pytest.mark.parametrize("initial", [0.0, 0.4, 1.0, 1.7, 2.0])
def test_a_ramp_follows_the_integral_of_its_rate(initial: float) -> None:
    seconds = ramp(np.random.default_rng(5), 20_000, 8.0, initial_relative_rate=initial)
    elapsed = seconds / (20_000 / 8.0)
    assert stats.kstest(elapsed, lambda t: initial * t + (1 - initial) * t * t).pvalue > 0.001


@pytest.mark.parametrize(
    ("arrivals", "n", "rate", "parameter"),
    [
        (poisson, 0, 1.0, "n is 0"),
        (poisson, 1, 0.0, "rate_per_second is 0.0"),
        (poisson, 1, float("nan"), "rate_per_second is nan"),
        (partial(gamma, burstiness=-1.0), 1, 1.0, "burstiness is -1.0"),
        (partial(on_off, on_seconds=0.0, off_seconds=1.0), 1, 1.0, "on_seconds is 0.0"),
        (partial(on_off, on_seconds=1.0, off_seconds=-1.0), 1, 1.0, "off_seconds is -1.0"),
        (partial(ramp, initial_relative_rate=2.5), 1, 1.0, "initial_relative_rate is 2.5"),
        (partial(ramp, initial_relative_rate=1.0), 0, 1.0, "n is 0"),
    ],
)
def test_nonsense_is_refused_by_name(arrivals: Arrivals, n: int, rate: float, parameter: str) -> None:
    with pytest.raises(ValueError, match=f"{parameter}; allowed: "):
        arrivals(np.random.default_rng(0), n, rate)
