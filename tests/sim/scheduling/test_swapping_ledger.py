"""Requests with several replies: swapped out and in, nobody lost, every block back, stepping and coasting alike."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simpy import Environment

from sim.engine.clock import IterationClock, uniform_clock
from sim.engine.engine import Engine
from sim.engine.moments import ARRIVAL, Moment
from sim.scheduling.batch import Limits
from sim.scheduling.ledger import Ledger
from sim.scheduling.policies.prefill_first import prefill_first
from sim.scheduling.sequence import Sequence
from sim.scheduling.swapping_ledger import SwappingLedger
from tests.strategies import clocks, limits

HOST_BLOCKS = 10_000


@dataclass(frozen=True)
class Request:
    arrival: int
    prompt: int
    target: int
    best_of: int


@dataclass
class Run:
    ledger: Ledger
    engine: Engine
    first: dict[int, int] = field(default_factory=dict)
    finish: dict[int, int] = field(default_factory=dict)
    given_up: set[int] = field(default_factory=set)


@st.composite
def requests(draw: st.DrawFn, best_of: tuple[int, ...] = (1, 2, 4)) -> list[Request]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from([1, 5_000, 60_000]))
    longest = draw(st.sampled_from([8, 60]))
    arrivals = np.sort(rng.integers(0, spread, draw(st.integers(1, 24)))).tolist()
    return [
        Request(at, int(rng.integers(1, 60)), int(rng.integers(1, longest)), int(rng.choice(best_of)))
        for at in arrivals
    ]


def serve(asked: list[Request], ledger: Ledger, clock: IterationClock, *, coast: bool = True) -> Run:
    env = Environment(initial_time=0)

    def ended(sequence: Sequence, now: int, served: bool) -> None:
        if served:
            assert sequence.index not in run.finish
            run.finish[sequence.index] = now
        else:
            run.given_up.add(sequence.index)

    engine = Engine(
        env,
        ledger,
        prefill_first,
        clock,
        started=lambda sequence, now: run.first.__setitem__(sequence.index, now),
        ended=ended,
        observe=check,
        coast=coast,
    )
    run = Run(ledger, engine)
    for index, r in enumerate(asked):
        sequence = Sequence(index, r.arrival, r.prompt, r.target, r.target, best_of=r.best_of)
        Moment(env, r.arrival, lambda _, sequence=sequence: engine.receive(sequence), ARRIVAL)
    env.run()
    return run


def check(ledger: Ledger, now: int) -> None:
    assert 0 <= ledger.pool.free <= ledger.pool.total
    assert ledger.running <= ledger.limits.sequences
    assert not (ledger.swapped and ledger.chunks), "a prompt is computed while somebody is swapped out"


@given(asked=requests(), bounds=limits(), clock=clocks())
def test_coasting_changes_nothing_and_everything_comes_back(asked, bounds, clock):
    runs = [serve(asked, SwappingLedger(bounds, HOST_BLOCKS), clock, coast=coast) for coast in (True, False)]
    assert runs[0].first == runs[1].first
    assert runs[0].finish == runs[1].finish
    assert runs[0].given_up == runs[1].given_up
    for run in runs:
        ledger = run.ledger
        assert isinstance(ledger, SwappingLedger)
        # Exceptions: replies that outgrow the pool stay in the memory of the host, and more replies than seats wait.
        stuck = {s.index for s in (*ledger.swapped, *ledger.waiting)}
        assert run.finish.keys() | run.given_up | stuck == set(range(len(asked)))
        assert not ledger.cohort.count
        assert ledger.pool.free == ledger.pool.total
        assert (ledger.host_free < HOST_BLOCKS) == bool(ledger.swapped)


@given(asked=requests(), bounds=limits(), clock=clocks())
def test_gaps_between_tokens_add_up_for_every_reply(asked, bounds, clock):
    clock = replace(clock, host_block_ticks=7)
    run = serve(asked, SwappingLedger(bounds, HOST_BLOCKS), clock)
    if len(run.finish) < len(asked):
        return  # a reply that was not finished has emitted an unknown part of its tokens
    values, counts = run.engine.log.columns().inter_token_gaps()
    assert counts.sum() == sum(r.best_of * (r.target - 1) for r in asked)
    assert (values * counts).sum() == sum(r.best_of * (run.finish[i] - run.first[i]) for i, r in enumerate(asked))


@given(asked=requests(best_of=(1,)), bounds=limits(), clock=clocks())
def test_without_several_replies_it_is_the_common_ledger(asked, bounds, clock):
    ours, common = serve(asked, SwappingLedger(bounds, HOST_BLOCKS), clock), serve(asked, Ledger(bounds), clock)
    assert ours.finish == common.finish
    assert ours.engine.log.short == common.engine.log.short


def test_blocks_that_move_are_logged_and_charged():
    asked = [Request(0, 30, 40, 2), Request(0, 30, 40, 2)]
    clock = uniform_clock(1000, 1, 1000)
    free, charged = (
        serve(asked, SwappingLedger(Limits(12), HOST_BLOCKS), replace(clock, host_block_ticks=ticks))
        for ticks in (0, 50)
    )
    moved = free.engine.log.moves[1::2]
    assert sum(moved) > 0
    assert max(charged.finish.values()) - max(free.finish.values()) == 50 * sum(moved)


def test_a_host_without_room_is_named():
    with pytest.raises(ValueError, match="host_blocks"):
        serve([Request(0, 30, 40, 2)] * 2, SwappingLedger(Limits(12), 1), uniform_clock(1000, 1, 1000))
