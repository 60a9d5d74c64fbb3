"""What a window leaves in sight, against a count pair by pair."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sim.physics.memory import kv_bytes_per_token_per_device, least_kv_bytes_per_device
from sim.physics.parallelism import Parallelism
from sim.physics.precision import PRECISIONS
from sim.physics.totals import decodes, prompt, seen_pairs, seen_tokens
from workloads import models

COUNTS = st.integers(0, 60)


@given(COUNTS, COUNTS, st.integers(1, 80))
def test_pairs_in_sight_are_those_that_a_mask_leaves(tokens: int, cached: int, window: int) -> None:
    query = np.arange(cached, cached + tokens)[:, None]
    key = np.arange(cached + tokens)
    mask = (key <= query) & (key > query - window)
    assert seen_pairs(tokens, cached, window) == mask.sum()
    # Of the cached keys, those count that any query sees.
    assert tokens == 0 or seen_tokens(cached, window - 1) == mask.any(axis=0)[:cached].sum()


@given(st.lists(st.tuples(st.integers(1, 60), COUNTS), min_size=1, max_size=5), st.integers(1, 80))
def test_arrays_are_their_elements(rows: list[tuple[int, int]], window: int) -> None:
    tokens, cached = np.array(rows).T
    together = prompt(tokens, cached, window)
    alone = [prompt(new, before, window) for new, before in rows]
    assert np.asarray(together.window_pairs).tolist() == [one.window_pairs for one in alone]
    assert np.asarray(together.window_kv_tokens).tolist() == [one.window_kv_tokens for one in alone]
    assert decodes(3, tokens, window).window_decode_kv_tokens.tolist() == [3 * min(n, window) for n, _ in rows]


def test_windows_of_published_models_save_most_of_a_long_cache() -> None:
    # Gemma 3 27B: five layers with a window of 1,024 tokens to one without, 62 in all (arXiv:2503.19786, section 2).
    model = models.load("gemma-3-27b")
    tokens = 32_768
    kept = least_kv_bytes_per_device(model, PRECISIONS["w16a16"], Parallelism(), tokens)
    whole = tokens * kv_bytes_per_token_per_device(model, PRECISIONS["w16a16"], Parallelism())
    assert kept / whole == (10 * tokens + 52 * 1024) / (62 * tokens)
    assert least_kv_bytes_per_device(model, PRECISIONS["w16a16"], Parallelism(), 1000) == 1000 * whole / tokens
