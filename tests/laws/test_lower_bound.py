"""No policy beats the best of all schedules, found by searching them all for a few small requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.engine.clock import TICKS_PER_SECOND, uniform_clock
from sim.engine.replay import FINISHED, replay
from sim.scheduling.batch import Limits
from sim.scheduling.schedulers import SCHEDULERS
from workloads.trace import Trace

BASE = 1000
PER_TOKEN = 10
PLENTY = 30
"""Tokens of an iteration that holds whatever six requests of three tokens, and replies of three, can lack."""

Progress = tuple[tuple[int, int], ...]
"""Of each request, tokens whose keys and values are stored, and tokens of the reply; nothing is stored at the end."""


@dataclass(frozen=True)
class Instance:
    """Requests as (arrival [ticks], prompt tokens, reply tokens), in order of arrival, and what the machine allows.

    Attributes
    ----------
    cuts : whether schedules may compute a part of a prompt.
    """

    requests: tuple[tuple[int, int, int], ...]
    limits: Limits
    cuts: bool

    @property
    def trace(self) -> Trace:
        """The same requests as a trace."""
        arrival, prompt, output = (np.array(column) for column in zip(*self.requests, strict=True))
        return Trace(arrival / TICKS_PER_SECOND, prompt, output, output)

    def lacking(self, progress: Progress) -> list[tuple[int, int]]:
        """Return (tokens of the reply, tokens to compute) that each request still needs that has not got all."""
        return [
            (output - made, prompt + output - 1 - stored)
            for (stored, made), (_, prompt, output) in zip(progress, self.requests, strict=True)
            if made < output
        ]

    def iterations(self, progress: Progress, now: int) -> Iterator[tuple[int, Progress]]:
        """Yield every iteration that may run now as (tokens computed, progress after it).

        A sequence lacks one token while it decodes and more before that, so that there is no other kind of choice.
        What a policy reserves beyond what is stored is not asked for, and a preemption costs nothing but the tokens.
        """
        choices = []
        for (stored, made), (arrival, prompt, output) in zip(progress, self.requests, strict=True):
            lacking = prompt + made - stored
            if made == output or arrival > now:
                choices.append([0])
            else:
                choices.append(list(range(lacking + 1)) if self.cuts else [0, lacking])
        for chunks in product(*choices):
            tokens = sum(chunks)
            if 0 < tokens <= self.limits.tokens and self._fits(progress, chunks):
                yield tokens, tuple(map(self._after, progress, chunks, self.requests))

    def _fits(self, progress: Progress, chunks: tuple[int, ...]) -> bool:
        held = [stored + chunk for (stored, _), chunk in zip(progress, chunks, strict=True)]
        seats = sum(tokens > 0 for tokens in held)
        return seats <= self.limits.sequences and sum(map(self.limits.blocks_for, held)) <= self.limits.blocks

    @staticmethod
    def _after(state: tuple[int, int], chunk: int, request: tuple[int, int, int]) -> tuple[int, int]:
        (stored, made), (_, prompt, output) = state, request
        stored += chunk
        if chunk and stored == prompt + made:
            made += 1
        return (0, made) if made == output else (stored, made)

    def preemptions(self, progress: Progress) -> Iterator[Progress]:
        """Yield what is left when one sequence gives up its blocks, where there is not room for everybody."""
        needed = sum(self.limits.blocks_for(prompt + output - 1) for _, prompt, output in self.requests)
        if needed <= self.limits.blocks and len(self.requests) <= self.limits.sequences:
            return
        for i, (stored, made) in enumerate(progress):
            if stored:
                yield (*progress[:i], (0, made), *progress[i + 1 :])


def least(
    instance: Instance, weigh: Callable[[Progress, int], int], rest: Callable[[list[tuple[int, int]]], int]
) -> int:
    """Return the least sum of `weigh(progress, ticks)` over all iterations and waits, by the A* algorithm.

    `rest` is what at least is to come, from (replies, tokens) that each unfinished request still has to get. Time is
    part of the state as long as somebody is yet to arrive; later it decides nothing. Requests that are equal are told
    apart by their progress alone.
    """
    last = max(arrival for arrival, _, _ in instance.requests)
    queue: list[tuple[int, int, int, Progress]] = []
    done: set[tuple[int, tuple[tuple[tuple[int, int, int], tuple[int, int]], ...]]] = set()

    def reach(cost: int, now: int, progress: Progress) -> None:
        state = (min(now, last), tuple(sorted(zip(instance.requests, progress, strict=True))))
        if state not in done:
            heappush(queue, (cost + rest(instance.lacking(progress)), cost, now, progress))

    reach(0, 0, tuple((0, 0) for _ in instance.requests))
    while True:
        _, cost, now, progress = heappop(queue)
        if not instance.lacking(progress):
            return cost
        state = (min(now, last), tuple(sorted(zip(instance.requests, progress, strict=True))))
        if state in done:
            continue
        done.add(state)
        for other in instance.preemptions(progress):
            reach(cost, now, other)
        for tokens, after in instance.iterations(progress, now):
            ticks = BASE + PER_TOKEN * tokens
            reach(cost + weigh(progress, ticks), now + ticks, after)
        later = [arrival for arrival, _, _ in instance.requests if arrival > now]
        if later:
            reach(cost + weigh(progress, min(later) - now), min(later), progress)


def least_makespan(instance: Instance) -> int:
    """Return when the last reply can be complete at the earliest [ticks]."""
    return least(
        instance,
        lambda progress, ticks: ticks,
        lambda lacking: (
            BASE * max((replies for replies, _ in lacking), default=0)
            + PER_TOKEN * sum(tokens for _, tokens in lacking)
        ),
    )


def least_completions(instance: Instance) -> int:
    """Return the least sum of the times at which replies are complete [ticks]."""
    return least(
        instance,
        lambda progress, ticks: ticks * len(instance.lacking(progress)),
        lambda lacking: sum(BASE * replies + PER_TOKEN * tokens for replies, tokens in lacking),
    )


@st.composite
def instances(draw: st.DrawFn, *, most: int, longest_prompt: int, cuts: bool, late: bool = False) -> Instance:
    """Draw few requests for a machine that they fill, and that can serve each of them."""
    n = draw(st.integers(1, most))
    arrivals = sorted(draw(st.sampled_from([0, 0, 500, 1500, 4000] if late else [0])) for _ in range(n))
    requests = tuple((at, draw(st.integers(1, longest_prompt)), draw(st.integers(1, 3))) for at in arrivals)
    block_tokens = draw(st.sampled_from([1, 2]))
    least_blocks = max(-(-(prompt + output - 1) // block_tokens) for _, prompt, output in requests)
    limits = Limits(
        blocks=least_blocks + draw(st.integers(0, 6)),
        block_tokens=block_tokens,
        sequences=draw(st.integers(1, most)),
        tokens=draw(st.sampled_from([6, 9] if cuts else [6, 9, PLENTY])),  # a seat each: decodes have no budget
        context=longest_prompt + 3,
    )
    return Instance(requests, limits, cuts)


def check(instance: Instance) -> None:
    """Compare every scheduler that keeps to the schedules searched with the best of them."""
    makespan, completions = least_makespan(instance), least_completions(instance)
    for name, scheduler in SCHEDULERS.items():
        if scheduler.preemption == "swap":
            continue  # the bound computes anew what swapping brings back
        if scheduler.cuts_prompts and not instance.cuts and instance.limits.tokens < PLENTY:
            continue
        outcome = replay(instance.trace, instance.limits, scheduler, uniform_clock(BASE, PER_TOKEN, 100))
        if (outcome.outcome == FINISHED).all():
            assert outcome.finish.max() >= makespan, name
            assert outcome.finish.sum() >= completions, name


@settings(max_examples=25)
@given(instances(most=6, longest_prompt=3, cuts=False))
def test_no_policy_beats_the_best_schedule_of_whole_prompts(instance):
    check(instance)


@settings(max_examples=25)
@given(instances(most=3, longest_prompt=6, cuts=True))
def test_no_policy_beats_the_best_schedule_that_may_cut_prompts(instance):
    check(instance)


@settings(max_examples=25)
@given(instances(most=3, longest_prompt=4, cuts=True, late=True))
def test_no_policy_beats_the_best_schedule_of_requests_that_come_one_after_the_other(instance):
    check(instance)


def test_the_search_finds_what_can_be_worked_out_by_hand():
    one_seat = Limits(blocks=10, sequences=1, tokens=6, context=20)
    one_by_one = Instance(((0, 5, 1), (0, 1, 1)), one_seat, cuts=True)
    assert least_makespan(one_by_one) == 2 * BASE + 6 * PER_TOKEN
    assert least_completions(one_by_one) == (BASE + PER_TOKEN) + (2 * BASE + 6 * PER_TOKEN)  # the short one first
    together = Instance(((0, 5, 3), (0, 1, 3)), Limits(blocks=10, tokens=6, context=20), cuts=True)
    assert least_makespan(together) == 3 * BASE + 10 * PER_TOKEN
    late = Instance(((0, 2, 2), (500, 2, 1)), Limits(blocks=10, tokens=6, context=20), cuts=True)
    # The second joins the first at its second token; waiting for it to start both together would end later.
    assert least_makespan(late) == (BASE + 2 * PER_TOKEN) + (BASE + 3 * PER_TOKEN)
    # Three blocks hold one of the two to its end, so they run one after the other.
    tight = Instance(((0, 2, 2), (0, 2, 2)), Limits(blocks=3, block_tokens=1, tokens=6, context=20), cuts=True)
    assert least_makespan(tight) == 4 * BASE + 6 * PER_TOKEN


@pytest.mark.parametrize("name", ["shortest_prompt_first", "decode_first", "chunked_prefill"])
def test_the_bound_is_reached_where_the_order_of_arrival_is_the_best(name):
    instance = Instance(((0, 1, 2), (0, 2, 2), (0, 3, 2)), Limits(blocks=20, sequences=3, tokens=6, context=20), True)
    outcome = replay(instance.trace, instance.limits, SCHEDULERS[name], uniform_clock(BASE, PER_TOKEN, 100))
    assert outcome.finish.max() == least_makespan(instance)
    assert outcome.finish.sum() == least_completions(instance)
