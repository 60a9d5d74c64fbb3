"""The caches that no server can have, against a search of all evictions and against each other."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.engine.clock import uniform_clock
from sim.engine.replay import Replay, replay
from sim.scheduling.batch import Limits
from sim.scheduling.caches import BOUNDS, CACHES, ledger_for
from sim.scheduling.schedulers import SCHEDULERS
from tests.strategies import symbols, traces
from workloads.trace import Segments, Trace

BLOCK = 4


def one_at_a_time(texts: list[int], blocks: int, cache: str) -> Replay:
    """Serve prompts of a shared block and a token, far apart, with a reply of a token: each takes two blocks."""
    n = len(texts)
    trace = Trace(
        np.arange(n) * 1e-6,
        np.full(n, BLOCK + 1),
        np.ones(n, dtype=np.int64),
        np.ones(n, dtype=np.int64),
        segments=Segments.from_lists([[(text, 0, BLOCK)] for text in texts]),
    )
    return replay(
        trace, Limits(blocks, BLOCK), SCHEDULERS["prefill_first"], uniform_clock(10, 1, 9000), prefix_cache=cache
    )


def most_hits(texts: tuple[int, ...], room: int) -> int:
    """Return how often a text is found if, whenever there is no room, the best one is given up (all are tried)."""

    @cache
    def best(at: int, kept: frozenset[int]) -> int:
        if at == len(texts):
            return 0
        text = texts[at]
        if text in kept:
            return 1 + best(at + 1, kept)
        if len(kept) < room:
            return best(at + 1, kept | {text})
        return max(best(at + 1, kept - {other} | {text}) for other in kept)

    return best(0, frozenset())


@given(texts=st.lists(st.integers(0, 4), min_size=1, max_size=14), blocks=st.integers(2, 5))
def test_no_choice_of_evictions_finds_more_than_the_oracle(texts, blocks):
    # One block holds the last token of the prompt, the others what is kept.
    found = int(one_at_a_time(texts, blocks, "belady").cached_tokens.sum()) // BLOCK
    assert found == most_hits(tuple(texts), blocks - 1)
    for name in CACHES:
        assert int(one_at_a_time(texts, blocks, name).cached_tokens.sum()) // BLOCK <= found


def test_least_recently_used_finds_nothing_where_the_oracle_finds_half() -> None:
    texts = [0, 1, 2] * 6
    assert not one_at_a_time(texts, 3, "vllm-1").cached_tokens.any()
    # Of two blocks for three texts in turn, one hit in every two of the sixteen requests that are not new.
    assert one_at_a_time(texts, 3, "belady").cached_tokens.sum() == 8 * BLOCK


@given(trace=traces(), blocks=st.sampled_from([12, 40, 400]), block_tokens=st.sampled_from([1, 4, 16]))
def test_with_everything_kept_a_request_finds_all_that_was_written_before_it(trace, blocks, block_tokens):
    limits = Limits(blocks, block_tokens, sequences=1, context=512, tokens=1024)
    outcome = replay(trace, limits, SCHEDULERS["prefill_first"], uniform_clock(10, 1, 4096), prefix_cache="infinite")
    assert outcome.evicted_blocks == 0
    written: list[list[object]] = []
    text = symbols(trace)
    # One at a time; who is given up in the middle of a reply has written, too.
    for request in np.argsort(outcome.first_token, kind="stable"):
        if outcome.first_token[request] < 0:
            continue
        prompt = text[request][: trace.prompt_tokens[request]]
        equal = max((_common(prompt[:-1], other) for other in written), default=0)
        assert outcome.cached_tokens[request] == equal // block_tokens * block_tokens
        written.append(text[request][:-1])


def _common(a: list[object], b: list[object]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def test_an_unknown_cache_is_refused_with_all_names() -> None:
    with pytest.raises(ValueError, match="prefix_cache is 'lru'; allowed: True, False, none, vllm-1") as refused:
        ledger_for(Limits(10), "lru")
    assert all(name in str(refused.value) for name in (*CACHES, *BOUNDS))
