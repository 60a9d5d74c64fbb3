"""Token times: rebuilt from the log, equal to what every other way of counting says."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sim.engine.clock import ticks, uniform_clock
from sim.engine.log import Iterations
from sim.engine.replay import replay
from sim.results.result import Result
from sim.results.tokens import decode_ends, has_token_times, inter_token_windows, token_times
from sim.scheduling.batch import Limits
from sim.scheduling.schedulers import SCHEDULERS
from tests.strategies import clocks, limits, traces
from workloads.trace import Trace

CLOCK = uniform_clock(1000, 1, 4096)


@st.composite
def results(draw: st.DrawFn) -> Result:
    trace, machine = draw(traces()), draw(limits())
    policy = SCHEDULERS[draw(st.sampled_from(["prefill_first", "inflight_batching"]))]
    return Result(trace, machine, replay(trace, machine, policy, draw(clocks()), prefix_cache=draw(st.booleans())))


def rows_of(result: Result) -> tuple[np.ndarray, list[np.ndarray]]:
    chosen = np.flatnonzero(has_token_times(result))
    offsets, times = token_times(result, chosen)
    return chosen, np.split(ticks(times), offsets[1:-1]) if len(chosen) else []


@given(results())
def test_a_reply_has_as_many_token_times_as_tokens_from_its_first_token_to_its_finish(result: Result) -> None:
    chosen, rows = rows_of(result)
    for request, row in zip(chosen, rows, strict=True):
        assert len(row) == result.trace.output_tokens[request]
        assert row[0] == result.replay.first_token[request]
        assert row[-1] == result.replay.finish[request]
        assert np.all(np.diff(row) > 0)


@given(results())
def test_gaps_of_all_replies_are_the_inter_token_latencies_of_the_run(result: Result) -> None:
    assume(has_token_times(result).all())
    _, rows = rows_of(result)
    gaps = Counter(int(gap) for row in rows for gap in np.diff(row))
    values, counts = result.iterations.inter_token_gaps()
    weighted: Counter[int] = Counter()
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        weighted[value] += count
    assert gaps == weighted


@given(results())
def test_windows_of_time_hold_every_gap_once(result: Result) -> None:
    end = float(result.makespan_seconds + result.arrival_seconds.max()) + 1.0
    windows = inter_token_windows(result, np.linspace(0.0, end, 8))
    together = np.concatenate([np.repeat(values, counts) for values, counts in windows])
    values, counts = result.inter_token_seconds()
    assert sorted(together) == sorted(np.repeat(values, counts))


def test_ends_of_a_stretch_are_sums_of_its_growing_iterations() -> None:
    columns = {name: np.zeros(1, dtype=np.int64) for name in Iterations.__dataclass_fields__}
    stretch = {"start": 100, "first": 10, "growth": 2, "iterations": 4, "decodes": 3}
    log = Iterations(**(columns | {name: np.array([value]) for name, value in stretch.items()}))
    assert decode_ends(log).tolist() == [110, 122, 136, 152]


def test_requests_that_were_preempted_or_turned_away_are_refused_by_name() -> None:
    lengths = np.array([30, 30, 400])
    trace = Trace(np.zeros(3), lengths, lengths, lengths)
    machine = Limits(blocks=20, block_tokens=4, sequences=4, tokens=200, context=200)
    result = Result(trace, machine, replay(trace, machine, SCHEDULERS["prefill_first"], CLOCK))
    assert result.replay.preemptions.sum() > 0
    assert not has_token_times(result).all()
    with pytest.raises(ValueError, match="request 2 was preempted or not served"):
        token_times(result, np.array([2]))
    roomy = replace(machine, blocks=400)
    assert has_token_times(Result(trace, roomy, replay(trace, roomy, SCHEDULERS["prefill_first"], CLOCK)))[:2].all()
