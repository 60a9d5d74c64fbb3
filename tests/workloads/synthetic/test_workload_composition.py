"""Laws of every synthetic workload: what belongs to a seed, and what a parameter may change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.synthetic.arrivals import gamma, ramp
from workloads.synthetic.chat import chat
from workloads.synthetic.lengths import Fixed, Lognormal
from workloads.synthetic.prefixes import PrefixTree
from workloads.synthetic.sessions import closed_loop, geometric_turns, multi_turn
from workloads.synthetic.single_turn import single_turn
from workloads.trace import Trace

SEEDS = st.integers(0, 2**32 - 1)
LENGTHS = Lognormal(300, 80)
TREE = PrefixTree((64, 32), branching=5, popularity=1.0)


def sessions_at(rng: np.random.Generator, sessions: int, rate_per_second: float) -> Trace:
    """Return conversations with everything switched on."""
    turns = geometric_turns(3.0)
    return multi_turn(
        rng, sessions, rate_per_second, LENGTHS, turns=turns, think_seconds=5.0, prefix=TREE, context_tokens=4096
    )


OPEN: dict[str, Callable[[np.random.Generator, int, float], Trace]] = {
    "single turn": partial(single_turn, lengths=LENGTHS, prefix=TREE),
    "ramp": partial(single_turn, lengths=LENGTHS, arrivals=partial(ramp, initial_relative_rate=0.5)),
    "chat": partial(chat, context_tokens=4096),
    "sessions": sessions_at,
}


def stored(trace: Trace) -> dict[str, bytes | object]:
    """Return every column of a trace as bytes, by name."""
    table = {column.name: getattr(trace, column.name) for column in fields(trace)}
    segments = table.pop("segments")
    table |= {f"segments.{column.name}": getattr(segments, column.name) for column in fields(segments)}
    return {name: value.tobytes() if isinstance(value, np.ndarray) else value for name, value in table.items()}


def differing(one: Trace, other: Trace) -> set[str]:
    """Return the names of the columns in which two traces differ."""
    left, right = stored(one), stored(other)
    return {name for name in left if left[name] != right[name]}


@pytest.mark.parametrize("name", OPEN)
@given(seed=SEEDS, n=st.integers(1, 40), rate=st.floats(0.1, 100))
def test_the_same_seed_is_the_same_trace_byte_for_byte(name: str, seed: int, n: int, rate: float) -> None:
    workload = OPEN[name]
    assert not differing(workload(np.random.default_rng(seed), n, rate), workload(np.random.default_rng(seed), n, rate))


@pytest.mark.parametrize("name", OPEN)
def test_another_seed_is_another_trace(name: str) -> None:
    workload = OPEN[name]
    changed = differing(workload(np.random.default_rng(1), 40, 2.0), workload(np.random.default_rng(2), 40, 2.0))
    assert {"arrival_seconds", "prompt_tokens", "output_tokens"} <= changed


@pytest.mark.parametrize("name", OPEN)
@given(seed=SEEDS, rate=st.floats(0.1, 100), faster=st.floats(1.5, 20))
def test_another_load_scales_arrivals_and_nothing_else(name: str, seed: int, rate: float, faster: float) -> None:
    slow = OPEN[name](np.random.default_rng(seed), 30, rate)
    fast = OPEN[name](np.random.default_rng(seed), 30, rate * faster)
    assert differing(slow, fast) == {"arrival_seconds"}
    np.testing.assert_allclose(fast.arrival_seconds * faster, slow.arrival_seconds, rtol=1e-12)


@given(seed=SEEDS)
def test_each_part_draws_from_its_own_stream(seed: int) -> None:
    def made(**changes: object) -> Trace:
        return single_turn(np.random.default_rng(seed), 30, 2.0, **{"lengths": LENGTHS, "prefix": TREE} | changes)

    other_tree = PrefixTree((64, 32), branching=2)
    assert differing(made(), made(arrivals=partial(gamma, burstiness=0.2))) == {"arrival_seconds"}
    assert differing(made(), made(prefix=other_tree)) == {"segments.key"}
    assert differing(made(), made(lengths=Fixed(7, 3))) == {"prompt_tokens", "output_tokens", "max_tokens"}


@given(seed=SEEDS, think=st.floats(0.1, 60))
def test_closed_loop_think_times_leave_lengths_alone(seed: int, think: float) -> None:
    traces = [
        closed_loop(np.random.default_rng(seed), 4, 5, LENGTHS, think_seconds=seconds) for seconds in (think, 2 * think)
    ]
    assert differing(*traces) == {"arrival_seconds", "think_seconds"}


@given(seed=SEEDS)
def test_prompts_are_the_shared_text_and_their_own(seed: int) -> None:
    bare = single_turn(np.random.default_rng(seed), 20, 1.0, LENGTHS)
    shared = single_turn(np.random.default_rng(seed), 20, 1.0, LENGTHS, prefix=TREE)
    assert np.array_equal(shared.prompt_tokens, bare.prompt_tokens + 96)
    assert bare.segments is not None
    assert not bare.segments.offsets.any()


def test_a_workload_without_requests_is_refused() -> None:
    with pytest.raises(ValueError, match="requests is 0; allowed: "):
        chat(np.random.default_rng(0), 0, 1.0)


def test_declared_lengths_are_constant() -> None:
    assert set(chat(np.random.default_rng(0), 200, 1.0, max_tokens=2000).max_tokens) == {2000}
