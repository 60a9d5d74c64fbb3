"""The engine as a queue whose answer is known: Pollaczek-Khinchine waits and saturation throughput."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import stdtrit

from sim.engine.clock import TICKS_PER_SECOND, IterationClock, seconds
from sim.engine.replay import replay
from sim.scheduling.batch import Limits
from sim.scheduling.schedulers import SCHEDULERS
from workloads.trace import Trace

MICROSECOND = TICKS_PER_SECOND // 1_000_000
ONE_SEAT = Limits(blocks=10_000, sequences=1, tokens=4096, context=4096)


def microsecond_clock(per_iteration: int, per_token: int) -> IterationClock:
    tokens = range(0, per_token * MICROSECOND * 5000, per_token * MICROSECOND) if per_token else [0] * 5000
    return IterationClock(per_iteration * MICROSECOND, tokens, [0] * 5000, 0, 0, lambda *chunks: 0)


def mean_waits(policy: str, load: float, prompts: np.ndarray, clock: IterationClock, service: np.ndarray) -> np.ndarray:
    """Return the mean waiting time of each of 30 runs of one-token requests served one at a time [s]."""
    rng = np.random.default_rng(20)
    means = []
    for _ in range(30):
        n = 4000
        pick = rng.integers(0, len(prompts), n)
        arrival = np.cumsum(rng.exponential(service.mean() / load, n))
        one = np.ones(n, dtype=np.int64)
        outcome = replay(Trace(arrival, prompts[pick], one, one), ONE_SEAT, SCHEDULERS[policy], clock)
        sojourn = seconds(outcome.finish - outcome.arrival)
        means.append((sojourn - service[pick])[400:].mean())
    return np.array(means)


@pytest.mark.parametrize("policy", ["prefill_first", "inflight_batching", "chunked_prefill"])
@pytest.mark.parametrize("load", [0.5, 0.8])
def test_one_seat_and_equal_prompts_is_an_m_d_1_queue(policy, load):
    prompts = np.array([100])
    service = np.array([1100e-6])
    waits = mean_waits(policy, load, prompts, microsecond_clock(1000, 1), service)
    expected = load * service[0] / (2 * (1 - load))
    assert_within(waits, expected)


@pytest.mark.parametrize("policy", ["prefill_first", "inflight_batching", "chunked_prefill"])
@pytest.mark.parametrize("load", [0.5, 0.8])
def test_one_seat_and_mixed_prompts_is_an_m_g_1_queue(policy, load):
    prompts = np.array([10, 10, 10, 3000])
    service = prompts * 1e-6 + 100e-6
    waits = mean_waits(policy, load, prompts, microsecond_clock(100, 1), service)
    rate = load / service.mean()
    expected = rate * (service**2).mean() / (2 * (1 - load))
    assert_within(waits, expected)


def assert_within(means: np.ndarray, expected: float) -> None:
    half = stdtrit(len(means) - 1, 0.9995) * means.std(ddof=1) / np.sqrt(len(means))
    assert abs(means.mean() - expected) < half, f"{means.mean():.3g} s, expected {expected:.3g} s +- {half:.2g} s"
    assert half < 0.2 * expected, "the interval is too wide to prove anything"


@pytest.mark.parametrize("policy", ["prefill_first", "inflight_batching", "chunked_prefill"])
def test_saturation_throughput_is_the_batch_by_the_iteration_time(policy):
    seats, output = 32, 400
    n = 20 * seats
    trace = Trace(np.zeros(n), np.full(n, 16), np.full(n, output, dtype=np.int64), np.full(n, output, dtype=np.int64))
    bounds = Limits(blocks=100_000, sequences=seats, tokens=4096, context=4096)
    outcome = replay(trace, bounds, SCHEDULERS[policy], microsecond_clock(1000, 0))
    tokens_per_second = n * output / seconds(outcome.finish.max())
    # Each wave of `seats` requests takes one prompt iteration and 399 decoding iterations.
    assert tokens_per_second == pytest.approx(seats / seconds(1000 * MICROSECOND), rel=1e-12)
