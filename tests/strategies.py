"""Hypothesis generators shared by all laws: traces with ties, pressure, shared prefixes and one-token replies."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from sim.engine.clock import TICKS_PER_SECOND, AnyClock, IterationClock, LockstepClock, PipelineClock, uniform_clock
from sim.engine.replay import Replay, replay
from sim.scheduling.batch import Limits
from sim.scheduling.caches import BOUNDS, CACHES
from sim.scheduling.schedulers import SCHEDULERS, Scheduler
from workloads.trace import Segments, Trace

WITH_CACHE = {"vllm-0.4": ("prefill_first",), "vllm-0.3": ("prefill_first", "inflight_batching")}


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    """Small machines, from roomy to under constant pressure."""
    blocks = draw(st.sampled_from([12, 20, 40, 400]))
    return Limits(
        blocks=blocks,
        block_tokens=draw(st.sampled_from([1, 4, 16])),
        sequences=draw(st.sampled_from([1, 2, 5, 64])),
        tokens=draw(st.sampled_from([64, 128, 1024])),
        context=draw(st.sampled_from([96, 512])),
        watermark_blocks=draw(st.sampled_from([0, 0, 1])),
        paddings=draw(st.sampled_from([None, None, 8, 64])),
        window=draw(st.sampled_from([0, 0, 1, 20, 90])),
    )


@st.composite
def machines(draw: st.DrawFn, names: tuple[str, ...] = tuple(SCHEDULERS)) -> tuple[Scheduler, Limits]:
    """Draw a scheduler and limits that it knows: only vLLM 0.2 pads prompts."""
    name, bounds = draw(st.sampled_from(names)), draw(limits())
    return SCHEDULERS[name], bounds if name == "prefill_first" else replace(bounds, paddings=None)


@dataclass(frozen=True)
class Server:
    """A scheduler with limits and a prefix cache that go with it, planned ahead or not."""

    scheduler: Scheduler
    bounds: Limits
    cache: str
    asynchronous: bool

    def serve(self, trace: Trace, clock: AnyClock, **changes: Any) -> Replay:
        """Serve a trace, with some options changed."""
        options = {"prefix_cache": self.cache, "asynchronous": self.asynchronous} | changes
        if not self.bounds.window:
            clock = without_windows(clock)
        return replay(trace, self.bounds, self.scheduler, clock, **options)


def without_windows(clock: AnyClock) -> AnyClock:
    """Return the clock of a model all of whose layers see the whole context."""
    if isinstance(clock, PipelineClock):
        return PipelineClock(tuple(map(without_windows, clock.stages)))
    if isinstance(clock, LockstepClock):
        return replace(clock, rank=without_windows(clock.rank))
    return replace(clock, window_ticks=0, window_prompt_ticks=None)


@st.composite
def servers(draw: st.DrawFn, names: tuple[str, ...] = tuple(SCHEDULERS), caches: tuple[str, ...] = ()) -> Server:
    """Draw a server; the old caches go with the schedulers of their time."""
    scheduler, bounds = draw(machines(names))
    if scheduler.pads or scheduler.to_end or scheduler.preemption == "swap":
        return Server(scheduler, bounds, "none", False)
    fits = [
        cache
        for cache in caches or (*CACHES, *BOUNDS)
        if scheduler in [SCHEDULERS[n] for n in WITH_CACHE.get(cache, names)]
    ]
    cache = draw(st.sampled_from(fits))
    return Server(scheduler, bounds, cache, cache not in WITH_CACHE and draw(st.booleans()))


@st.composite
def clocks(draw: st.DrawFn, *, windows: bool = False) -> IterationClock:
    """Iteration costs in whole ticks, with and without a part that grows with the context, and a least one.

    `windows` : whether layers with a window may cost something; see that the limits have one then, as `Server` does.
    """
    base = draw(st.integers(1, 2000))
    per_token = draw(st.integers(1, 3))
    per_sample = draw(st.integers(1, 2))
    per_pair = draw(st.integers(0, 2))
    most = 4096
    return IterationClock(
        base=base,
        tokens_ticks=range(0, per_token * most, per_token),
        samples_ticks=range(0, per_sample * most, per_sample),
        decode_ticks=draw(st.integers(0, 50)),
        context_ticks=draw(st.integers(0, 3)),
        prompt_ticks=lambda pairs, cached, new: per_pair * pairs + cached + new,
        sequence_ticks=draw(st.sampled_from([0, 5, 40])),
        window_ticks=draw(st.sampled_from([0, 1, 3])) if windows else 0,
        window_prompt_ticks=draw(st.sampled_from([None, lambda pairs, cached, new: per_pair * pairs + cached]))
        if windows
        else None,
        window_sequence_ticks=draw(st.sampled_from([0, 4, 30])) if windows else 0,
        least_ticks=draw(st.sampled_from([0, 0, 100, 500])),
        host_block_ticks=draw(st.sampled_from([0, 7])),
    )


def metronome(ticks: int) -> IterationClock:
    """Return a clock on which every iteration takes as long, so that engines keep step."""
    nothing = memoryview(bytes(4096))  # says little of itself
    return replace(uniform_clock(ticks, 1, 1), tokens_ticks=nothing, samples_ticks=nothing)


def in_step(trace: Trace, instants: int, ticks: int) -> Trace:
    """Return the trace with all arrivals at few instants, so many ticks apart, and followers who do not think."""
    arrival = np.sort(np.arange(len(trace)) % instants) * ticks / TICKS_PER_SECOND
    return replace(trace, arrival_seconds=arrival, think_seconds=np.zeros(len(trace)))


def half_as_fast(clock: IterationClock) -> IterationClock:
    """Return the clock with all its ticks doubled."""
    in_window = clock.window_prompt_ticks
    return replace(
        clock,
        base=2 * clock.base,
        tokens_ticks=[2 * t for t in clock.tokens_ticks],
        samples_ticks=[2 * t for t in clock.samples_ticks],
        decode_ticks=2 * clock.decode_ticks,
        context_ticks=2 * clock.context_ticks,
        sequence_ticks=2 * clock.sequence_ticks,
        prompt_ticks=lambda *chunks: 2 * clock.prompt_ticks(*chunks),
        window_ticks=2 * clock.window_ticks,
        window_sequence_ticks=2 * clock.window_sequence_ticks,
        window_prompt_ticks=in_window and (lambda *chunks: 2 * in_window(*chunks)),
        least_ticks=2 * clock.least_ticks,
        host_block_ticks=2 * clock.host_block_ticks,
    )


@st.composite
def traces(draw: st.DrawFn, *, most: int = 24) -> Trace:
    """Draw requests that arrive at whole ticks, often at the same one, some following others, some sharing prefixes."""
    n = draw(st.integers(1, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from([1, 5_000, 60_000]))
    arrival = np.sort(rng.integers(0, spread, n))
    prompt = rng.integers(1, draw(st.sampled_from([4, 40, 90])) + 1, n)
    output = rng.integers(1, draw(st.sampled_from([1, 8, 60])) + 1, n)
    # Few texts, cut at few places, so that prefixes are often shared in part.
    pieces = draw(st.sampled_from([0, 1, 3]))
    rows: list[list[tuple[int, int, int]]] = []
    previous = np.full(n, -1, dtype=np.int64)
    follows = draw(st.booleans())
    for i in range(n):
        row: list[tuple[int, int, int]] = []
        if follows and i and rng.random() < 0.4:
            # A later turn: everything said before, then something new.
            earlier = int(rng.integers(0, i))
            own = sum(length for _, _, length in rows[earlier])
            row = [*rows[earlier], (-1 - earlier, own, int(prompt[earlier] + output[earlier] - own))]
            prompt[i] += prompt[earlier] + output[earlier]
            if rng.random() < 0.8:
                previous[i] = earlier
        else:
            for depth in range(pieces):
                length = int(rng.integers(1, 5)) * 8
                row.append((int(rng.integers(0, 2)) + 10 * depth, 0, length))
                if rng.random() < 0.4:
                    break
            prompt[i] += sum(length for _, _, length in row)
            if follows and i and rng.random() < 0.2:
                previous[i] = int(rng.integers(0, i))  # it waits for an answer and says something else
        rows.append(row)
    slack = rng.integers(0, draw(st.sampled_from([0, 40])) + 1, n)
    levels = draw(st.sampled_from([0, 3]))
    return Trace(
        arrival_seconds=arrival / TICKS_PER_SECOND,
        prompt_tokens=prompt,
        output_tokens=output,
        max_tokens=output + slack,
        segments=Segments.from_lists(rows),
        previous=previous,
        think_seconds=rng.integers(0, 3, n) * 1000 / TICKS_PER_SECOND,
        priority=rng.integers(0, levels, n) if levels else None,
    )


def symbols(trace: Trace) -> list[list[Hashable]]:
    """Spell out every token that a request may write."""
    spelled: list[list[Hashable]] = []
    for request in range(len(trace)):
        row = trace.segments.row(request) if trace.segments is not None else []
        prompt = [(key, start + k) for key, start, n in row for k in range(n)]
        own = range(len(prompt), int(trace.prompt_tokens[request] + trace.output_tokens[request]))
        spelled.append([*prompt, *((-1 - request, p) for p in own)])
    return spelled
