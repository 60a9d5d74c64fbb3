"""What a system adds to the device's time: a front end shifts, a host bound floors, a share of what is free scales."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sim import Scenario, simulate
from sim.engine.clock import TICKS_PER_SECOND
from workloads.synthetic.chat import chat
from workloads.trace import Trace

FRONT_END_SECONDS = 0.01


@pytest.fixture(scope="module")
def trace() -> Trace:
    return chat(np.random.default_rng(5), 80, 1.0, system_prompt_tokens=0, context_tokens=4096)


def test_a_front_end_adds_itself_to_first_and_last_token_and_to_nothing_else(trace: Trace) -> None:
    bare, behind = (simulate(Scenario(trace, front_end_seconds=f)) for f in (0.0, FRONT_END_SECONDS))
    tick = 2 / TICKS_PER_SECOND
    assert behind.arrival_seconds == pytest.approx(bare.arrival_seconds, abs=tick)
    for name in ("ttft_seconds", "end_to_end_seconds"):
        assert getattr(behind, name) - getattr(bare, name) == pytest.approx(FRONT_END_SECONDS, abs=1e-6)
    assert behind.tpot_seconds == pytest.approx(bare.tpot_seconds, abs=1e-6)


def test_a_front_end_counts_at_every_turn_of_a_closed_loop() -> None:
    n = 4
    ones = np.ones(n, dtype=np.int64)
    turns = Trace(np.zeros(n), 100 * ones, 5 * ones, 5 * ones, previous=np.arange(-1, n - 1), think_seconds=np.ones(n))
    bare, behind = (simulate(Scenario(turns, front_end_seconds=f)) for f in (0.0, FRONT_END_SECONDS))
    added = np.arange(1, n + 1) * FRONT_END_SECONDS
    assert behind.finish_seconds - bare.finish_seconds == pytest.approx(added, abs=1e-6)
    assert behind.ttft_seconds - bare.ttft_seconds == pytest.approx(FRONT_END_SECONDS, abs=1e-6)


def test_no_iteration_is_shorter_than_a_host_bound_engine_allows(trace: Trace) -> None:
    least = 0.1
    result = simulate(Scenario(trace, least_iteration_seconds=least))
    machine = Scenario(trace, least_iteration_seconds=least).machine
    assert machine.clock.iteration(1, 10, 55, 0, 0, 0) >= 0.99 * least * TICKS_PER_SECOND
    assert machine.clock.iteration(0, 0, 0, 0, 1, 0) >= least * TICKS_PER_SECOND
    assert np.nanmin(result.tpot_seconds) >= least


def test_a_host_bound_below_the_devices_time_changes_nothing(trace: Trace) -> None:
    free, bound = (simulate(Scenario(trace, least_iteration_seconds=least)) for least in (0.0, 1e-4))
    assert (free.replay.finish == bound.replay.finish).all()


def test_a_share_of_what_is_free_is_that_share_of_the_whole(trace: Trace) -> None:
    whole = Scenario(trace, utilisation=1.0)
    share = replace(whole, utilisation=0.9, utilisation_of_free=True)
    assert share.machine.limits.blocks == int(0.9 * whole.machine.limits.blocks)
    assert replace(whole, reserved_bytes=0.0).machine.limits.blocks > whole.machine.limits.blocks


def test_a_watermark_is_a_share_of_the_pool(trace: Trace) -> None:
    limits = Scenario(trace, watermark=0.01).machine.limits
    assert limits.watermark_blocks == limits.blocks // 100
