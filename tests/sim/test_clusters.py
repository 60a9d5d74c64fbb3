"""Scenarios of several replicas: equal ones, different ones, and what results say of them."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import grid
from sim import Result, Scenario, simulate, simulate_cluster
from sim.engine.replay import FINISHED
from sim.results.goodput import Objectives
from sim.results.runs import Runs
from tests.strategies import symbols, traces
from workloads.synthetic.chat import chat
from workloads.trace import Trace

TRACE = chat(np.random.default_rng(4), 300, 6.0, context_tokens=4096)
ONE = Scenario(TRACE, hardware="a800-sxm", policy="inflight_batching")
THREE = replace(ONE, replicas=3, router="least_requests")


@pytest.fixture(scope="module")
def result() -> Result:
    return simulate(THREE)


def test_a_scenario_of_one_replica_is_what_it_was(result: Result) -> None:
    alone = simulate(ONE)
    assert (alone.replicas, alone.parts) == (1, (alone,))
    assert "replica" not in alone.requests
    assert result.replicas == 3
    assert set(result.requests["replica"]) == {0, 1, 2}
    assert result.name == "inflight_batching, least_requests"
    assert result.title.startswith("3 replicas, each ")


def test_numbers_of_a_cluster_are_those_of_its_parts(result: Result) -> None:
    parts = result.parts
    assert sum(len(part.trace) for part in parts) == len(TRACE)
    assert sum(part.outcomes["finished"] for part in parts) == result.outcomes["finished"] == 300
    served = pd.concat([part.requests for part in parts])
    pd.testing.assert_series_equal(
        served["end_to_end_seconds"].sort_values(ignore_index=True),
        result.requests["end_to_end_seconds"].sort_values(ignore_index=True),
    )
    end = max(part.iterations.end[-1] for part in parts) / 2**40
    assert result.makespan_seconds == pytest.approx(end - result.arrival_seconds.min())
    busy = sum(part.iterations.duration.sum() for part in parts) / 2**40
    assert result.busy_share == pytest.approx(busy / 3 / result.makespan_seconds)
    assert len(result.iterations_table()) == sum(len(part.iterations.start) for part in parts)
    assert result.inter_token_seconds()[1].sum() == (TRACE.output_tokens - 1).sum()
    with pytest.raises(ValueError, match="this is about 3 replicas; allowed: one"):
        _ = result.iterations


def test_runs_of_clusters_have_statistics(result: Result) -> None:
    runs = Runs((result,), True, Objectives(2.0, 0.2), 2)
    assert runs.verdict.stable
    assert 0 < runs.quantity("busy_share").estimate <= 1
    assert 0 < runs.quantity("kv_occupancy").estimate < 1
    # Three replicas have three times the time of one, and a request takes its part of it.
    section = runs.sections[0]
    seconds = section.busy_share * 3 * section.span
    assert section.busy_seconds_per_request * len(section._finished) == pytest.approx(seconds)


def test_different_replicas_share_one_trace() -> None:
    fast = replace(ONE, hardware="h800-sxm", utilisation=0.8, prefix_cache=True)
    both = simulate_cluster([ONE, fast], TRACE, "least_requests")
    assert both.replay.clocks[0] is not both.replay.clocks[1]
    assert both.logs[0][1].blocks != both.logs[1][1].blocks
    cached = both.replay.cached_tokens > 0
    assert cached.any()
    assert (both.replay.replica[cached] == 1).all()
    assert "2 replicas, least_requests: " in both.title
    equal = simulate_cluster([ONE] * 3, TRACE, "least_requests")
    np.testing.assert_array_equal(equal.replay.finish, simulate(THREE).replay.finish)


def test_the_front_end_is_passed_before_the_router() -> None:
    slow = simulate(replace(THREE, router="round_robin", front_end_seconds=0.125))
    fast = simulate(replace(THREE, router="round_robin"))
    np.testing.assert_allclose(slow.ttft_seconds, fast.ttft_seconds + 0.125, atol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: simulate(replace(ONE, replicas=0)), "replicas is 0; allowed: at least 1"),
        (lambda: simulate(replace(ONE, replicas=2, router="nearest")), "router is 'nearest'; allowed: round_robin"),
        (lambda: simulate_cluster([], TRACE), "there are 0 scenarios"),
        (lambda: simulate_cluster([ONE, replace(ONE, front_end_seconds=1.0)], TRACE), "front_end_seconds is"),
        (lambda: simulate_cluster([ONE, replace(ONE, policy="static_to_end")], TRACE), "some replicas stream"),
    ],
)
def test_bad_clusters_are_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_run_survives_a_sweep(result: Result) -> None:
    from experiments.grid import stored

    (row,), _ = stored.decode(stored.encode([grid.row_of(result)]))
    back = grid.replay_of(row, result.replay.clocks)
    assert back.remarks == result.replay.remarks
    again = replace(result, replay=back)
    for log, same in zip(back.logs, result.replay.logs, strict=True):
        for each in fields(log):
            np.testing.assert_array_equal(getattr(log, each.name), getattr(same, each.name), err_msg=each.name)
            assert getattr(log, each.name).shape == getattr(same, each.name).shape
    pd.testing.assert_frame_equal(again.requests, result.requests, check_exact=True)
    pd.testing.assert_frame_equal(again.iterations_table(), result.iterations_table(), check_exact=True)
    np.testing.assert_array_equal(again.attribution().end_to_end, result.attribution().end_to_end)


@given(trace=traces(), data=st.data())
def test_a_subset_keeps_what_is_equal_in_its_prompts(trace: Trace, data: st.DataObject) -> None:
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, len(trace) - 1), min_size=1))))
    part = trace.subset(rows)
    assert part.previous is None
    np.testing.assert_array_equal(part.prompt_tokens, trace.prompt_tokens[rows])
    spelled, whole = symbols(part), [symbols(trace)[row] for row in rows]
    for one in range(len(rows)):
        for other in range(one):
            length = min(len(spelled[one]), len(spelled[other]))
            ours = [a == b for a, b in zip(spelled[one][:length], spelled[other][:length], strict=True)]
            theirs = [a == b for a, b in zip(whole[one][:length], whole[other][:length], strict=True)]
            assert ours == theirs


def test_finished_requests_know_their_replica(result: Result) -> None:
    served = result.replay.outcome == FINISHED
    assert (result.replay.replica[served] >= 0).all()
