"""Requests that wait for each other: users who think, ask and wait, and conversations that carry their history along.

One user or one conversation is a run of consecutive requests, each released some think time after the end of the one
before. The arrival time of a follower, a lower bound, is that of its run: the order of requests then depends neither
on the load nor on the think times.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from workloads.synthetic.arrivals import Arrivals, poisson
from workloads.synthetic.checks import require, require_count, require_not_negative
from workloads.synthetic.lengths import Lengths, declared_tokens, draw_fitting
from workloads.synthetic.prefixes import UNSHARED, PrefixTree
from workloads.trace import Integers, Segments, Trace

Turns = Callable[[np.random.Generator, int], Integers]


def fixed_turns(turns: int) -> Turns:
    """Return a rule by which every conversation has `turns` turns.

    Raises
    ------
    ValueError
        If `turns` is below 1.
    """
    require_count("turns", turns)
    return lambda rng, n: np.full(n, turns, dtype=np.int64)


def geometric_turns(mean_turns: float) -> Turns:
    """Return a rule by which each turn is the last with probability ``1 / mean_turns``.

    Raises
    ------
    ValueError
        If `mean_turns` is below 1.
    """
    require(1 <= mean_turns < np.inf, "mean_turns", mean_turns, "a number, at least 1")
    return lambda rng, n: rng.geometric(1 / mean_turns, n)


def closed_loop(
    rng: np.random.Generator,
    users: int,
    requests_per_user: int,
    lengths: Lengths,
    *,
    think_seconds: float,
    prefix: PrefixTree = UNSHARED,
    context_tokens: int | None = None,
    max_tokens: int | None = None,
    name: str = "closed-loop",
) -> Trace:
    """Let each user think, ask, wait for the end of the reply, think again: never more than `users` requests at once.

    Users begin by thinking, so the first requests are spread over the first think time. Every user asks equally often;
    when the quickest are through, the load falls, which belongs outside of what is measured.

    Parameters
    ----------
    lengths : the request's own prompt tokens (without the shared ones) and its output tokens.
    think_seconds : mean of the exponential think times [s]; 0 asks again at once and begins with everybody at 0.
    prefix, context_tokens, max_tokens : as in `workloads.synthetic.single_turn`.

    Raises
    ------
    ValueError
        If a parameter is not allowed, or nothing fits the context.
    """
    require_count("users", users)
    require_count("requests_per_user", requests_per_user)
    require_not_negative("think_seconds", think_seconds)
    length_rng, think_rng, prefix_rng = rng.spawn(3)
    requests = users * requests_per_user
    prompt, output, notes = draw_fitting(length_rng, requests, lengths, context_tokens, prefix.tokens)
    think = think_rng.standard_exponential((users, requests_per_user)) * think_seconds
    arrival = np.repeat(np.sort(think[:, 0]), requests_per_user)
    think[:, 0] = 0.0
    return Trace(
        arrival_seconds=arrival,
        prompt_tokens=prefix.tokens + prompt,
        output_tokens=output,
        max_tokens=declared_tokens(output, max_tokens),
        segments=prefix(prefix_rng, requests),
        previous=np.where(np.arange(requests) % requests_per_user == 0, -1, np.arange(requests) - 1),
        think_seconds=think.ravel(),
        name=name,
        notes=notes,
    )


def multi_turn(
    rng: np.random.Generator,
    sessions: int,
    rate_per_second: float,
    lengths: Lengths,
    *,
    turns: Turns,
    think_seconds: float,
    arrivals: Arrivals = poisson,
    prefix: PrefixTree = UNSHARED,
    context_tokens: int | None = None,
    max_tokens: int | None = None,
    name: str = "multi-turn",
) -> Trace:
    """Let conversations begin at a rate; each turn's prompt is the last prompt, its reply and what the user adds.

    Arrivals, turns, lengths, think times and shared text come from five children of `rng`, so changing one leaves the
    others alone.

    Parameters
    ----------
    sessions : conversations begun.
    rate_per_second : conversations begun per second [1/s], not requests.
    lengths : what the user adds in a turn (its prompt tokens) and what is replied (its output tokens).
    turns : turns of each conversation, for instance ``geometric_turns(5)``.
    think_seconds : mean of the exponential time from a reply's end to the next turn [s].
    prefix : text in front of each conversation.
    context_tokens : each turn's own lengths are drawn on condition that they fit alone, and a conversation ends before
        the first turn that does not fit with its history. The notes of the trace say what both left out.
    arrivals, max_tokens : as in `workloads.synthetic.single_turn`.

    Raises
    ------
    ValueError
        If a parameter is not allowed, or nothing fits the context.
    """
    require_count("sessions", sessions)
    require_not_negative("think_seconds", think_seconds)
    arrival_rng, turn_rng, length_rng, think_rng, prefix_rng = rng.spawn(5)
    counts = turns(turn_rng, sessions)
    require(bool(counts.min() >= 1), "turns", f"{counts.min()} in a session", "at least 1")
    added, reply, notes = draw_fitting(length_rng, int(counts.sum()), lengths, context_tokens, prefix.tokens)
    session = np.repeat(np.arange(sessions), counts)
    prompt = prefix.tokens + _since_session_began(added + reply, session) - reply
    think = think_rng.standard_exponential(len(session)) * think_seconds
    if context_tokens is not None:
        kept = prompt + reply <= context_tokens
        session, added, reply, prompt = session[kept], added[kept], reply[kept], prompt[kept]
        think = think[kept]
        notes += (f"conversations end where the context does: {int((~kept).sum())} of {len(kept)} turns left out",)
    first = np.diff(session, prepend=-1) > 0
    return Trace(
        arrival_seconds=arrivals(arrival_rng, sessions, rate_per_second)[session],
        prompt_tokens=prompt,
        output_tokens=reply,
        max_tokens=declared_tokens(reply, max_tokens),
        segments=_histories(prefix(prefix_rng, sessions), session, prompt - added, added + reply),
        previous=np.where(first, -1, np.arange(len(session)) - 1),
        think_seconds=np.where(first, 0.0, think),
        session=session,
        name=name,
        notes=notes,
    )


def _since_session_began(values: Integers, session: Integers) -> Integers:
    """Return running sums, (requests,), that start anew with every session and include the request itself."""
    reached = np.cumsum(values)
    first = np.searchsorted(session, session)
    return np.asarray(reached - (reached - values)[first], dtype=np.int64)


def _histories(prefix: Segments, session: Integers, start: Integers, length: Integers) -> Segments:
    """Give each request the shared text of its session, then the own text and reply of every earlier turn.

    Parameters
    ----------
    prefix : one row a session, equally many segments in each.
    session : (requests,) row of `prefix`; sessions are consecutive.
    start, length : (requests,) position of a turn's own text in its prompt, and the tokens of that text and its reply.
    """
    requests = len(session)
    shared = len(prefix.key) // (len(prefix.offsets) - 1)
    first = np.searchsorted(session, session)
    sizes = shared + np.arange(requests) - first
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    request = np.repeat(np.arange(requests), sizes)
    place = np.arange(offsets[-1]) - offsets[request]
    earlier = np.maximum(first[request] + place - shared, 0)
    key, begin, tokens = -1 - earlier, start[earlier], length[earlier]
    common = place < shared
    row = prefix.offsets[session[request[common]]] + place[common]
    key[common], begin[common], tokens[common] = prefix.key[row], prefix.start[row], prefix.length[row]
    return Segments(offsets, key, begin, tokens)
