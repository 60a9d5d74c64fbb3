"""Chrome traces: valid by the format, and what they show is what the run did."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.engine.clock import TICKS_PER_SECOND, uniform_clock
from sim.engine.replay import FINISHED, replay
from sim.engine.spending import Spending
from sim.results import timeline
from sim.results.result import Result
from sim.results.timeline import chrome_events
from sim.scenario import Scenario, simulate
from sim.scheduling.batch import Limits
from sim.scheduling.schedulers import SCHEDULERS
from tests.chrome_format import check_format
from tests.strategies import clocks, servers, traces
from workloads.trace import Trace

MILLISECOND = TICKS_PER_SECOND // 1000


def run(rows: Iterable[tuple[int, int, int]], limits: Limits, name: str = "prefill_first") -> Result:
    """Serve requests of (arrival [ms], prompt, output tokens), a millisecond an iteration."""
    arrival, prompt, output = np.array(list(rows)).T
    trace = Trace(arrival / 1000, prompt, output, output)
    clock = uniform_clock(MILLISECOND, 1, 2000)  # a tick is lost in the rounding to nanoseconds
    return Result(trace, limits, replay(trace, limits, SCHEDULERS[name], clock))


def test_the_made_sample_of_the_format_passes_the_same_check(shared):
    sample = json.loads((shared / "formats" / "made_timeline.chrome.json").read_text())
    check_format(sample)


SHARES = st.tuples(st.floats(0, 1), st.floats(0, 1))


@given(trace=traces(), server=servers(), clock=clocks(), window=SHARES)
def test_every_run_and_window_gives_a_valid_trace(trace, server, clock, window):
    result = Result(trace, server.bounds, server.serve(trace, clock))
    last = int(result.iterations.end.max(initial=1))
    begin, end = (int(edge * last) for edge in sorted(window))
    events = chrome_events(result, "replica", 0, begin, max(end, begin + 1))
    check_format(json.loads(json.dumps({"displayTimeUnit": "ms", "traceEvents": events})))


@given(trace=traces(), server=servers(), clock=clocks())
def test_a_whole_run_shows_every_iteration_request_and_preemption(trace, server, clock):
    result = Result(trace, server.bounds, server.serve(trace, clock))
    log, served = result.iterations, result.replay.outcome == FINISHED
    kinds = Counter(e["ph"] for e in chrome_events(result, "replica", 0, 0, int(log.end.max(initial=0)) + 1))
    assert kinds["X"] == log.iterations.sum()
    assert kinds["b"] == kinds["e"] >= 2 * served.sum()
    assert kinds["i"] >= result.replay.preemptions[served].sum()


def test_iterations_say_what_bounds_them():
    many = Trace(np.zeros(64), np.full(64, 2000), np.full(64, 20), np.full(64, 20))
    result = simulate(Scenario(many, policy="inflight_batching"))
    events = chrome_events(result, "replica", 0, 0, int(result.iterations.end[-1]))
    bars = [event for event in events if event["ph"] == "X"]
    bounds = {kind: {bar["args"]["bound_by"] for bar in bars if bar["name"] == kind} for kind in ("prefill", "decode")}
    # Four prompts of 2,000 tokens at once are enough work for every weight that is read; 64 decodes are not.
    assert bounds == {"prefill": {"compute"}, "decode": {"memory"}}


@given(trace=traces(), server=servers(), clock=clocks())
def test_every_stretch_is_spent_to_the_tick(trace, server, clock):
    log = server.serve(trace, clock).iterations
    split = Spending(clock).rows(log)
    np.testing.assert_array_equal(split.sum(axis=0), log.duration)
    assert (split >= 0).all()


def test_states_of_a_request_stand_in_its_order_in_microseconds():
    result = run([(0, 10, 3), (1, 10, 1)], Limits(100, sequences=1))
    events = [e for e in chrome_events(result, "replica", 3, 0, 10 * MILLISECOND) if e.get("id") == "3.1"]
    assert [(e["ph"], e["name"], e["ts"]) for e in events] == [
        ("b", "request 1", 1000.0),
        ("b", "queue", 1000.0),
        ("e", "queue", 3000.0),
        ("b", "prefill", 3000.0),
        ("e", "prefill", 4000.0),
        ("e", "request 1", 4000.0),
    ]
    assert events[0]["args"] == {"prompt_tokens": 10, "output_tokens": 1, "cached_tokens": 0, "preemptions": 0}


def test_bars_say_what_was_in_the_batch_and_why_the_queue_was_refused():
    result = run([(0, 10, 3), (1, 10, 1)], Limits(100, sequences=1))
    bars = [e for e in chrome_events(result, "replica", 0, 0, 10 * MILLISECOND) if e["ph"] == "X"]
    assert [(e["name"], e["ts"], e["dur"]) for e in bars] == [
        ("prefill", 0.0, 1000.0),
        ("decode", 1000.0, 1000.0),
        ("decode", 2000.0, 1000.0),
        ("prefill", 3000.0, 1000.0),
    ]
    assert [e["args"]["refused_for"] for e in bars] == ["none", "seats", "seats", "none"]
    assert [e["args"]["decode_context_tokens"] for e in bars] == [0, 10, 11, 0]
    assert bars[0]["args"]["prompt_tokens"] == 10


def test_preemptions_are_instants_that_name_the_request():
    result = run([(0, 16, 40), (0, 16, 40)], Limits(6, block_tokens=16))
    instants = [e for e in chrome_events(result, "replica", 0, 0, 1000 * MILLISECOND) if e["ph"] == "i"]
    assert len(instants) == result.replay.preemptions.sum() > 0
    assert {e["args"]["request"] for e in instants} == {1}


def test_long_windows_are_sampled_without_losing_time(monkeypatch: pytest.MonkeyPatch):
    result = run([(3 * i, 10, 30) for i in range(40)], Limits(400))
    end = int(result.iterations.end[-1])
    whole = [e for e in chrome_events(result, "replica", 0, 0, end) if e["ph"] == "X"]
    monkeypatch.setattr(timeline, "MOST_ITERATIONS", 20)
    monkeypatch.setattr(timeline, "MOST_REQUESTS", 7)
    sampled = chrome_events(result, "replica", 0, 0, end)
    bars = [e for e in sampled if e["ph"] == "X"]
    assert len(bars) < len(whole)
    assert sum(e["args"]["iterations"] for e in bars) == len(whole)
    assert sum(e["dur"] for e in bars) == pytest.approx(sum(e["dur"] for e in whole))
    assert sum(e["ph"] == "b" and e["name"].startswith("request") for e in sampled) == 7
    check_format({"displayTimeUnit": "ms", "traceEvents": sampled})


def test_an_empty_window_is_refused():
    with pytest.raises(ValueError, match="an end after a start"):
        chrome_events(run([(0, 10, 3)], Limits(100)), "replica", 0, 5, 5)
