"""Routers in front of queues whose answers are known: independent M/G/1 queues, power of two choices, Erlang C."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sim.engine.clock import seconds
from sim.engine.replay import serve_cluster
from sim.engine.replica import Server
from sim.scheduling.schedulers import SCHEDULERS
from tests.theory.test_queues import ONE_SEAT, assert_within, microsecond_clock
from workloads.trace import Trace

SERVER = Server(ONE_SEAT, SCHEDULERS["prefill_first"], microsecond_clock(0, 1))


def sojourns(router: str, replicas: int, load: float, prompts: np.ndarray, n: int, seed: int) -> tuple:
    """Return times in the system and services of `n` one-token requests, replicas, both in order of arrival [s]."""
    rng = np.random.default_rng(seed)
    prompt = prompts[rng.integers(0, len(prompts), n)]
    service = prompt * 1e-6
    arrival = np.cumsum(rng.exponential(prompts.mean() * 1e-6 / (load * replicas), n))
    one = np.ones(n, dtype=np.int64)
    outcome = serve_cluster(Trace(arrival, prompt, one, one), [SERVER] * replicas, router, seed=seed)
    return seconds(outcome.finish - outcome.arrival), service, outcome.replica


EXPONENTIAL = np.maximum(1, np.round(-400 * np.log1p(-(np.arange(2000) + 0.5) / 2000))).astype(np.int64)
"""Prompts whose services are exponential but for rounding, 400 us on average."""


def test_a_random_split_of_poisson_arrivals_is_as_many_independent_m_g_1_queues():
    prompts, load = np.array([10, 10, 10, 3000]), 0.7
    means = []
    for seed in range(20):
        time, service, replica = sojourns("random", 3, load, prompts, 6000, seed)
        assert np.bincount(replica, minlength=3).min() > 1800
        means.append((time - service)[600:].mean())
    service = prompts * 1e-6
    assert_within(np.array(means), load / service.mean() * (service**2).mean() / (2 * (1 - load)))


def test_the_better_a_router_knows_the_queues_the_shorter_they_are():
    load, replicas, runs = 0.8, 6, 4
    waits = {
        router: np.array(
            [
                np.subtract(*sojourns(router, replicas, load, EXPONENTIAL, 5000, seed)[:2])[500:].mean()
                for seed in range(runs)
            ]
        )
        for router in ("random", "round_robin", "power_of_two", "least_requests", "least_tokens")
    }
    for worse, better in (
        ("random", "round_robin"),
        ("round_robin", "power_of_two"),
        ("power_of_two", "least_requests"),
        ("least_requests", "least_tokens"),
    ):
        assert (waits[better] < waits[worse]).all(), f"{better} against {worse}, run by run on the same requests"
    # No router beats one queue for all servers (Erlang C), which needs none.
    service, offered = EXPONENTIAL.mean() * 1e-6, load * replicas
    terms = [offered**k / math.factorial(k) for k in range(replicas)]
    last = offered**replicas / math.factorial(replicas) / (1 - load)
    one_queue = last / (sum(terms) + last) * service / (replicas * (1 - load))
    assert waits["least_requests"].mean() > one_queue


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_power_of_two_choices_among_many_replicas(load):
    # In the limit of many replicas, exponential services: sum of load ** (2 ** i - 2), in services
    # (Mitzenmacher 2001, doi:10.1109/71.963420, theorem 1 with d = 2).
    limit = sum(load ** (2**i - 2) for i in range(1, 12))
    means = [sojourns("power_of_two", 60, load, EXPONENTIAL, 12_000, seed)[0][3000:].mean() for seed in range(4)]
    assert np.mean(means) / (EXPONENTIAL.mean() * 1e-6) == pytest.approx(limit, rel=0.04)
    assert limit < 0.7 / (1 - load)
