"""Do 95 % intervals hold the truth 95 % of the time, and are verdicts right, where queueing theory knows the answer?

In the M/M/1 queue with unit service rate and load r the time in system is exponential with mean 1 / (1 - r). Each test
draws many experiments at a fixed seed; the bands around the claimed coverage are 3.3 binomial standard errors wide.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from sim.results.intervals import Interval, batch_means, paired, percentile_intervals, time_blocks
from sim.results.percentiles import Floats
from sim.results.stability import verdict
from sim.results.warmup import steady
from tests.theory.known_queues import lindley

Run = tuple[Floats, Floats]  # arrival and finish times


def served(gap_seconds: Floats, service_seconds: Floats) -> Run:
    arrival, delay = lindley(gap_seconds, service_seconds)
    return arrival, arrival + delay


def mm1(random: np.random.Generator, requests: int, load: float) -> Run:
    return served(random.exponential(1 / load, requests), random.exponential(1.0, requests))


def many_servers(random: np.random.Generator, requests: int, load: float, servers: int = 64) -> Run:
    """Seats of a batch rather than one server: everybody stays long, most of it in service."""
    arrival, finish = np.cumsum(random.exponential(1 / (load * servers), requests)), np.empty(requests)
    free = [0.0] * servers
    for i, service in enumerate(random.exponential(1.0, requests)):
        finish[i] = max(arrival[i], free[0]) + service
        heapq.heapreplace(free, finish[i])
    return arrival, finish


def counted_delays(run: Run) -> Floats:
    arrival, finish = run
    return (finish - arrival)[steady(arrival)]


def experiments(seed: int, count: int, runs: int, requests: int, load: float) -> Iterator[list[Floats]]:
    random = np.random.default_rng(seed)
    for _ in range(count):
        yield [counted_delays(mm1(random, requests, load)) for _ in range(runs)]


def holds(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def assert_covers(hits: list[bool], claimed: float) -> None:
    assert np.mean(hits) == pytest.approx(claimed, abs=3.3 * np.sqrt(claimed * (1 - claimed) / len(hits)))


def test_averaging_the_p99_of_short_runs_is_biased_and_pooling_is_not() -> None:
    truth = np.log(100) / (1 - 0.8)
    runs = list(experiments(2, 150, 5, 2_000, 0.8))
    pooled = np.mean([percentile_intervals(group, [0.99])[0].estimate for group in runs])
    averaged = np.mean([np.quantile(run, 0.99) for group in runs for run in group])
    assert averaged < 0.92 * truth
    assert pooled == pytest.approx(truth, rel=0.05)


@pytest.mark.parametrize("load", [0.8, 0.9])
def test_the_p99_of_short_runs_near_saturation_gets_no_interval(load: float) -> None:
    shown = [not percentile_intervals(runs, [0.99])[0].refused for runs in experiments(3, 150, 5, 2_000, load)]
    assert np.mean(shown) <= 0.03


@pytest.mark.parametrize("load", [0.5, 0.7, 0.8])
def test_a_percentile_interval_that_misses_the_truth_is_rarely_shown(load: float) -> None:
    levels = [0.5, 0.9, 0.95, 0.99]
    truths = -np.log1p(-np.array(levels)) / (1 - load)
    intervals = [percentile_intervals(runs, levels) for runs in experiments(4, 200, 5, 2_000, load)]
    for column, truth in zip(zip(*intervals, strict=True), truths, strict=True):
        wrong = np.mean([not interval.refused and not holds(interval, truth) for interval in column])
        assert wrong <= 0.08 + 3.3 * np.sqrt(0.08 * 0.92 / len(intervals))


@pytest.mark.parametrize("samples", [200, 340])
def test_sparse_but_independent_tails_are_covered_by_sectioning(samples: int) -> None:
    """Two or three samples beyond p99 in each replication, ten and more in all."""
    random = np.random.default_rng(5)
    groups = [[random.exponential(1.0, samples) for _ in range(5)] for _ in range(400)]
    intervals = [percentile_intervals(group, [0.99])[0] for group in groups]
    shown = [interval for interval in intervals if not interval.refused]
    assert len(shown) > 0.95 * len(groups)
    assert_covers([holds(interval, np.log(100)) for interval in shown], 0.95)


@pytest.mark.parametrize(("load", "requests", "mean_coverage"), [(0.5, 2_000, 0.94), (0.8, 20_000, 0.94)])
def test_batch_means_of_one_long_run_cover_as_claimed(load: float, requests: int, mean_coverage: float) -> None:
    runs = [group[0] for group in experiments(6, 300, 1, requests, load)]
    assert_covers([holds(batch_means(run, np.mean), 1 / (1 - load)) for run in runs], mean_coverage)


def test_batch_means_of_a_short_congested_run_cover_too_little_as_the_table_admits() -> None:
    runs = [group[0] for group in experiments(7, 300, 1, 2_000, 0.9)]
    assert_covers([holds(batch_means(run, np.mean), 10.0) for run in runs], 0.78)


def test_time_block_percentiles_of_a_long_run_cover_as_claimed() -> None:
    runs = [group[0] for group in experiments(8, 200, 1, 20_000, 0.5)]
    intervals = [percentile_intervals(time_blocks(run), [0.99], within_trace=True)[0] for run in runs]
    assert_covers([holds(interval, 2 * np.log(100)) for interval in intervals], 0.94)


def test_paired_intervals_cover_and_pairing_pays() -> None:
    """A server 10 % faster at the same arrivals: mean time in system 1 / (1 / 0.9 - 0.7) instead of 1 / (1 - 0.7)."""
    random, hits, relative, reductions = np.random.default_rng(9), [], [], []
    slow, fast = 1 / (1 - 0.7), 1 / (1 / 0.9 - 0.7)
    for _ in range(300):
        means = []
        for _ in range(5):
            gap, service = random.exponential(1 / 0.7, 2_000), random.exponential(1.0, 2_000)
            means.append([counted_delays(served(gap, service * scale)).mean() for scale in (1.0, 0.9)])
        result = paired(*np.array(means).T)
        hits.append(holds(result.difference, fast - slow))
        relative.append(holds(result.percent, 100 * (fast / slow - 1)))
        reductions.append(result.variance_reduction)
    assert_covers(hits, 0.94)
    assert_covers(relative, 0.94)
    assert np.median(reductions) > 5


@pytest.mark.parametrize(("load", "bias_without", "bias_with"), [(0.8, -0.012, -0.001), (0.9, -0.048, -0.019)])
def test_the_warm_up_rule_removes_most_of_the_bias_of_starting_empty(
    load: float, bias_without: float, bias_with: float
) -> None:
    """The very same queues with and without an equilibrium workload at the start tell bias from noise."""
    random, all_of_it, trimmed = np.random.default_rng(10), [], []
    for _ in range(1_500):
        gap, service = random.exponential(1 / load, 2_000), random.exponential(1.0, 2_000)
        arrival, _ = served(gap, service)
        first = random.exponential(1 / (1 - load)) * (random.random() < load)
        work = np.concatenate([[0.0], np.cumsum(service[:-1] - gap[1:])])
        missing = np.maximum(first + np.minimum.accumulate(work), 0.0)  # what the empty start spares each request
        all_of_it.append(missing.mean())
        trimmed.append(missing[steady(arrival)].mean())
    assert -np.mean(all_of_it) * (1 - load) == pytest.approx(bias_without, abs=0.006)
    assert -np.mean(trimmed) * (1 - load) == pytest.approx(bias_with, abs=0.006)


def called_overloaded(make: Callable[[np.random.Generator], Run], seed: int, count: int, runs: int) -> float:
    random = np.random.default_rng(seed)
    groups = ([make(random) for _ in range(runs)] for _ in range(count))
    return float(np.mean([not verdict(*zip(*group, strict=True)).stable for group in groups]))


@pytest.mark.parametrize("load", [0.5, 0.8, 0.9])
def test_a_stable_queue_is_not_called_overloaded(load: float) -> None:
    assert called_overloaded(lambda random: mm1(random, 2_000, load), 11, 200, 5) == 0.0
    assert called_overloaded(lambda random: mm1(random, 2_000, load), 12, 400, 1) <= 0.02


def test_an_overloaded_queue_is_found_out() -> None:
    assert called_overloaded(lambda random: mm1(random, 2_000, 1.05), 13, 150, 5) >= 0.97
    assert (
        called_overloaded(lambda random: mm1(random, 2_000, 1.05), 14, 300, 1) >= 0.51
    )  # 0.61 less 3.3 standard errors
    assert called_overloaded(lambda random: mm1(random, 2_000, 1.2), 15, 100, 1) == 1.0


def test_a_server_of_many_seats_is_judged_as_well_as_one_of_one() -> None:
    assert called_overloaded(lambda random: many_servers(random, 2_000, 0.9), 16, 12, 5) == 0.0
    assert called_overloaded(lambda random: many_servers(random, 2_000, 1.05), 17, 12, 5) == 1.0


def test_bursty_arrivals_at_eighty_per_cent_are_stable() -> None:
    def bursty(random: np.random.Generator) -> Run:
        return served(random.gamma(1 / 9, 9 / 0.8, 2_000), random.exponential(1.0, 2_000))

    assert called_overloaded(bursty, 18, 200, 5) <= 0.03


@pytest.mark.parametrize("requests", [100, 200, 2_000])
def test_long_services_without_a_queue_are_stable_however_short_the_run(requests: int) -> None:
    """Everybody stays about 20 s, so the number in system grows through much of a short run."""

    def unlimited(random: np.random.Generator) -> Run:
        arrival = np.cumsum(random.exponential(1 / 3, requests))
        return arrival, arrival + random.lognormal(np.log(20.0) - 0.35, 0.83, requests)

    assert called_overloaded(unlimited, 19, 150, 5) <= 0.01


def test_a_trace_that_asks_ever_more_often_is_stable_while_it_is_served() -> None:
    def ramp(random: np.random.Generator) -> Run:
        arrival = np.cumsum(random.exponential(1 / 3, 2_000) / np.linspace(1, 4, 2_000))
        return arrival, arrival + random.exponential(20.0, 2_000)

    assert called_overloaded(ramp, 20, 150, 1) == 0.0


def test_the_growth_rate_is_arrivals_minus_departures() -> None:
    random = np.random.default_rng(21)
    runs = [mm1(random, 2_000, 1.5) for _ in range(5)]
    result = verdict(*zip(*runs, strict=True))
    assert not result.stable
    assert result.growth_per_second == pytest.approx(0.5, abs=0.06)  # 1.5 arrive and 1 leaves each second
    assert result.horizon_seconds == pytest.approx(0.85 * 2_000 / 1.5, rel=0.05)
