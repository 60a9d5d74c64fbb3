"""Request-level batches: what padding and waiting for the last reply cost, by hand and by the physics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim import Scenario, simulate
from sim.engine.clock import IterationClock, ticks, uniform_clock
from sim.engine.replay import FINISHED, Replay, replay
from sim.physics.totals import Totals
from sim.scheduling.batch import Limits
from sim.scheduling.schedulers import SCHEDULERS
from workloads.trace import Trace

VARIANTS = ("static_batching", "static_padded", "static_to_end", "static_padded_to_end")
ROOMY = Limits(blocks=1000, tokens=1 << 20, context=200)
PROMPTS, OUTPUTS = (10, 30, 20), (3, 1, 5)


def at_once(prompts: tuple[int, ...], outputs: tuple[int, ...]) -> Trace:
    n = len(prompts)
    return Trace(np.zeros(n), np.array(prompts), np.array(outputs), np.array(outputs))


def serve(name: str, trace: Trace, clock: IterationClock, limits: Limits = ROOMY) -> Replay:
    return replay(trace, limits, SCHEDULERS[name], clock)


def reading_clock() -> IterationClock:
    """1,000 an iteration, 1 a new token, 10 a key that decoding reads."""
    return IterationClock(1000, range(2000), [0] * 100, 0, 10, lambda pairs, cached, new: 0)


# Prompts of 10, 30 and 20 tokens are packed into 60 or padded to 90. Then the first and the third decode twice, the
# third twice more; the contexts they read are their own, with the new token, or those of the longest.
BY_HAND = {
    "static_batching": (
        [1060, 1002 + 10 * (11 + 21), 1002 + 10 * (12 + 22), 1001 + 10 * 23, 1001 + 10 * 24],
        0,
    ),
    "static_padded": (
        [1090, 1002 + 10 * 2 * 31, 1002 + 10 * 2 * 32, 1001 + 10 * 33, 1001 + 10 * 34],
        30,
    ),
    "static_to_end": (
        [1060, *(1003 + 10 * (10 + 30 + 20 + 3 * step) for step in (1, 2, 3, 4))],
        1 + 1 + 2 + 2,
    ),
    "static_padded_to_end": (
        [1090, *(1003 + 10 * 3 * (30 + step) for step in (1, 2, 3, 4))],
        30 + 1 + 1 + 2 + 2,
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_batch_costs_what_its_rows_cost(name: str) -> None:
    costs, idle = BY_HAND[name]
    outcome = serve(name, at_once(PROMPTS, OUTPUTS), reading_clock())
    ends = np.cumsum(costs)
    assert outcome.iterations.end[-1] == ends[-1]
    assert outcome.iterations.idle_tokens == idle
    assert outcome.iterations.computed_tokens == 60 + 2 + 2 + 1 + 1
    if SCHEDULERS[name].to_end:
        assert outcome.finish.tolist() == outcome.first_token.tolist() == [ends[-1]] * 3
    else:
        assert outcome.first_token.tolist() == [ends[0]] * 3
        assert outcome.finish.tolist() == [ends[2], ends[0], ends[4]]


def test_nobody_is_let_in_before_the_batch_ends_and_memory_comes_back_then() -> None:
    trace = at_once((10, 10, 10), (9, 2, 4))
    tight = replace(ROOMY, blocks=26)  # two contexts of 200 tokens
    outcome = serve("static_to_end", trace, uniform_clock(1000, 1, 2000), tight)
    first, second, third = outcome.finish.tolist()
    assert first == second == 1020 + 8 * 1002
    assert third == first + 1010 + 3 * 1001
    log = outcome.iterations
    assert log.free_blocks.min() == 24
    assert (log.waiting[log.start < first] == 1).all()


def test_a_padded_batch_ends_where_its_rectangle_exceeds_the_iteration() -> None:
    trace = at_once((10, 10, 40), (2, 2, 2))
    limits = replace(ROOMY, tokens=60)
    assert serve("static_padded", trace, reading_clock(), limits).iterations.prompts.max() == 2
    assert serve("static_batching", trace, reading_clock(), limits).iterations.prompts.max() == 3


requests = st.lists(st.tuples(st.integers(1, 90), st.integers(1, 40)), min_size=1, max_size=12)


@given(requests, st.integers(0, 3))
def test_padding_and_waiting_never_save_time_and_equal_requests_waste_nothing(shapes, slope) -> None:
    prompts, outputs = zip(*shapes, strict=True)
    clock = IterationClock(50, range(4000), [0] * 100, 5, slope, lambda pairs, cached, new: pairs)
    plain, padded, to_end, both = (serve(name, at_once(prompts, outputs), clock) for name in VARIANTS)
    assert plain.iterations.end[-1] <= min(padded.iterations.end[-1], to_end.iterations.end[-1])
    assert both.iterations.end[-1] >= max(padded.iterations.end[-1], to_end.iterations.end[-1])
    assert len({run.iterations.computed_tokens for run in (plain, padded, to_end, both)}) == 1
    assert plain.iterations.idle_tokens == 0
    if len(set(shapes)) == 1:
        assert both.iterations.idle_tokens == 0
        assert both.iterations.end[-1] == plain.iterations.end[-1]


@given(requests)
def test_idle_tokens_are_the_rectangle_less_what_was_asked(shapes) -> None:
    prompts, outputs = (np.array(column) for column in zip(*shapes, strict=True))
    outcome = serve("static_padded_to_end", at_once(tuple(prompts), tuple(outputs)), reading_clock())
    area = len(shapes) * (prompts.max() + outputs.max() - 1)
    assert outcome.iterations.idle_tokens == area - (prompts + outputs - 1).sum()
    assert (outcome.outcome == FINISHED).all()


def test_the_roofline_is_charged_for_the_rectangle() -> None:
    scenario = Scenario(at_once((100, 300), (2, 3)), policy="static_padded_to_end")
    model, log = scenario.machine.model, simulate(scenario).iterations
    prompt = model.seconds(Totals(600, 2, 600, 2 * (300 * 301 // 2)))
    steps = [model.seconds(Totals(2, 2, decode_sequences=2, decode_kv_tokens=2 * kv)) for kv in (301, 302)]
    # Every part of an iteration is rounded up to a tick, and so is each key that is read.
    assert int(log.duration.sum()) == pytest.approx(int(ticks(prompt + sum(steps))), abs=4000)


def test_the_share_of_padding_is_reported() -> None:
    result = simulate(Scenario(at_once((100, 300), (1, 1)), policy="static_padded"))
    assert result.padding_share == pytest.approx(200 / 600)


def test_old_vllm_computes_the_padding_of_its_prompts() -> None:
    padded = replace(ROOMY, paddings=256)
    outcome = serve("prefill_first", at_once((10, 30), (1, 1)), reading_clock(), padded)
    assert outcome.iterations.idle_tokens == 20
    assert outcome.finish.tolist() == [1060, 1060]


@pytest.mark.parametrize("name", VARIANTS[1:])
def test_what_does_not_go_with_rows_is_refused(name: str) -> None:
    trace, clock = at_once((1,), (1,)), reading_clock()
    with pytest.raises(ValueError, match=r"prefix_cache is True; allowed for .*: none"):
        replay(trace, ROOMY, SCHEDULERS[name], clock, prefix_cache=True)
    with pytest.raises(ValueError, match=r"asynchronous is True; allowed for .*: False"):
        replay(trace, ROOMY, SCHEDULERS[name], clock, asynchronous=True)


def test_where_replies_come_at_once_there_is_nothing_between_their_tokens() -> None:
    result = simulate(Scenario(at_once((100, 300), (2, 3)), policy="static_padded_to_end"))
    assert np.isnan(result.tpot_seconds).all()
    assert not len(result.inter_token_seconds()[0])
    np.testing.assert_array_equal(result.ttft_seconds, result.end_to_end_seconds)
