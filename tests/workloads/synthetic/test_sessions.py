"""Laws of closed loops and conversations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.synthetic.lengths import Fixed, Lognormal
from workloads.synthetic.prefixes import UNSHARED, PrefixTree
from workloads.synthetic.sessions import Turns, closed_loop, fixed_turns, geometric_turns, multi_turn
from workloads.trace import Trace

SEEDS = st.integers(0, 2**32 - 1)
PREFIXES = st.sampled_from([UNSHARED, PrefixTree((40,)), PrefixTree((40, 7, 3), branching=3)])
CONTEXTS = st.sampled_from([None, 600])


def conversations(seed: int, sessions: int, prefix: PrefixTree, context_tokens: int | None) -> Trace:
    lengths = Lognormal(50, 40)
    return multi_turn(
        np.random.default_rng(seed),
        sessions,
        0.5,
        lengths,
        turns=geometric_turns(4.0),
        think_seconds=3.0,
        prefix=prefix,
        context_tokens=context_tokens,
    )


def symbols(trace: Trace, request: int) -> list[tuple[int, int]]:
    """Return the prompt of a request, symbol by symbol, with its reply behind it."""
    assert trace.segments is not None
    named = [(key, start + i) for key, start, length in trace.segments.row(request) for i in range(length)]
    end = int(trace.prompt_tokens[request] + trace.output_tokens[request])
    return named + [(-1 - request, position) for position in range(len(named), end)]


@given(seed=SEEDS, sessions=st.integers(1, 6), prefix=PREFIXES, context=CONTEXTS)
def test_a_turn_begins_with_all_of_the_turn_before(
    seed: int, sessions: int, prefix: PrefixTree, context: int | None
) -> None:
    trace = conversations(seed, sessions, prefix, context)
    assert trace.segments is not None
    assert trace.previous is not None
    for request in np.flatnonzero(trace.previous >= 0).tolist():
        earlier = int(trace.previous[request])
        whole = symbols(trace, earlier)
        assert symbols(trace, request)[: len(whole)] == whole
        assert trace.prompt_tokens[request] > len(whole)
        assert trace.segments.row(request)[-1][0] == -1 - earlier
        # What the user adds is named by nobody before: it is the request's own.
        assert sum(length for _, _, length in trace.segments.row(request)) == len(whole)


@given(seed=SEEDS, sessions=st.integers(1, 6), prefix=PREFIXES, context=CONTEXTS)
def test_a_session_is_a_chain_that_begins_with_the_shared_text(
    seed: int, sessions: int, prefix: PrefixTree, context: int | None
) -> None:
    trace = conversations(seed, sessions, prefix, context)
    assert trace.segments is not None
    assert trace.previous is not None
    assert trace.think_seconds is not None
    assert trace.session is not None
    first = trace.previous < 0
    assert np.array_equal(trace.session[first], np.arange(sessions))
    followers = np.flatnonzero(~first)
    assert np.array_equal(trace.previous[followers], followers - 1)
    assert np.array_equal(trace.session[followers], trace.session[followers - 1])
    assert np.array_equal(trace.arrival_seconds[followers], trace.arrival_seconds[followers - 1])
    assert not trace.think_seconds[first].any()
    for request in np.flatnonzero(first).tolist():
        assert sum(length for _, _, length in trace.segments.row(request)) == prefix.tokens


@given(seed=SEEDS, prefix=PREFIXES)
def test_a_conversation_ends_where_the_context_does(seed: int, prefix: PrefixTree) -> None:
    trace = conversations(seed, 20, prefix, 600)
    assert np.all(trace.prompt_tokens + trace.output_tokens <= 600)
    assert len(trace.notes) == 2


def test_a_conversation_grows_by_reply_and_addition_until_the_context_is_full() -> None:
    trace = multi_turn(
        np.random.default_rng(0),
        2,
        1.0,
        Fixed(10, 5),
        turns=fixed_turns(4),
        think_seconds=1.0,
        prefix=PrefixTree((100,)),
        context_tokens=150,
    )
    # 145 tokens after the third turn; the fourth would end at 160.
    assert trace.prompt_tokens.tolist() == [110, 125, 140] * 2
    assert "2 of 8 turns left out" in trace.notes[1]


def test_the_history_of_a_turn_names_each_earlier_turn_once() -> None:
    trace = multi_turn(
        np.random.default_rng(0), 2, 1.0, Fixed(10, 5), turns=fixed_turns(3), think_seconds=1.0, prefix=PrefixTree((9,))
    )
    assert trace.segments is not None
    assert trace.segments.row(5) == [(0, 0, 9), (-4, 9, 15), (-5, 24, 15)]


def test_numbers_of_turns_and_think_times_have_their_means() -> None:
    counts = geometric_turns(4.0)(np.random.default_rng(0), 100_000)
    assert counts.min() == 1
    assert counts.mean() == pytest.approx(4.0, rel=0.02)
    trace = conversations(1, 20_000, UNSHARED, None)
    assert trace.previous is not None
    assert trace.think_seconds is not None
    assert trace.think_seconds[trace.previous >= 0].mean() == pytest.approx(3.0, rel=0.02)


@given(seed=SEEDS, users=st.integers(1, 8), each=st.integers(1, 8), think=st.floats(0, 100), prefix=PREFIXES)
def test_in_a_closed_loop_every_user_waits_for_the_last_reply(
    seed: int, users: int, each: int, think: float, prefix: PrefixTree
) -> None:
    trace = closed_loop(np.random.default_rng(seed), users, each, Lognormal(50, 40), think_seconds=think, prefix=prefix)
    assert trace.previous is not None
    assert trace.think_seconds is not None
    assert len(trace) == users * each
    assert np.count_nonzero(trace.previous < 0) == users
    # Nobody is waited for twice: at any time at most one request of each user is under way.
    waited_for = trace.previous[trace.previous >= 0]
    assert len(set(waited_for.tolist())) == len(waited_for)
    assert not trace.think_seconds[trace.previous < 0].any()
    assert np.all(trace.prompt_tokens > prefix.tokens)


def test_closed_loop_users_begin_by_thinking() -> None:
    trace = closed_loop(np.random.default_rng(0), 20_000, 2, Fixed(8, 8), think_seconds=6.0)
    assert trace.previous is not None
    assert trace.think_seconds is not None
    assert trace.arrival_seconds[::2].mean() == pytest.approx(6.0, rel=0.03)
    assert trace.think_seconds[1::2].mean() == pytest.approx(6.0, rel=0.03)


def test_closed_loop_users_who_do_not_think_begin_at_once() -> None:
    assert not closed_loop(np.random.default_rng(0), 5, 2, Fixed(8, 8), think_seconds=0.0).arrival_seconds.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"users": 0}, "users is 0"),
        ({"requests_per_user": 0}, "requests_per_user is 0"),
        ({"think_seconds": -1.0}, "think_seconds is -1.0"),
        ({"context_tokens": 15}, "context_tokens is 15"),
        ({"max_tokens": 7}, "max_tokens is 7"),
    ],
)
def test_nonsense_in_a_closed_loop_is_refused_by_name(changes: dict[str, float], message: str) -> None:
    arguments = {"users": 2, "requests_per_user": 2, "lengths": Fixed(8, 8), "think_seconds": 1.0} | changes
    with pytest.raises(ValueError, match=f"{message}; allowed: "):
        closed_loop(np.random.default_rng(0), **arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sessions": 0}, "sessions is 0"),
        ({"rate_per_second": -1.0}, "rate_per_second is -1.0"),
        ({"think_seconds": float("nan")}, "think_seconds is nan"),
        ({"turns": lambda rng, n: np.zeros(n, dtype=np.int64)}, "turns is 0 in a session"),
        ({"context_tokens": 15}, "context_tokens is 15"),
    ],
)
def test_nonsense_in_conversations_is_refused_by_name(changes: dict[str, object], message: str) -> None:
    arguments = {
        "sessions": 2,
        "rate_per_second": 1.0,
        "lengths": Fixed(8, 8),
        "turns": fixed_turns(2),
        "think_seconds": 1.0,
    } | changes
    with pytest.raises(ValueError, match=f"{message}; allowed: "):
        multi_turn(np.random.default_rng(0), **arguments)


@pytest.mark.parametrize(
    ("rule", "value", "message"),
    [(fixed_turns, 0, "turns is 0"), (geometric_turns, 0.5, "mean_turns is 0.5")],
)
def test_nonsense_turns_are_refused_by_name(rule: Callable[[float], Turns], value: float, message: str) -> None:
    with pytest.raises(ValueError, match=f"{message}; allowed: "):
        rule(value)
