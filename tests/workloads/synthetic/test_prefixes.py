"""Laws of shared prompt text."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.synthetic.prefixes import UNSHARED, PrefixTree, system_prompt

TREES = st.builds(
    PrefixTree,
    st.lists(st.integers(1, 500), max_size=5).map(tuple),
    branching=st.integers(1, 6),
    popularity=st.floats(0, 3),
)


@given(tree=TREES, seed=st.integers(0, 2**32 - 1))
def test_every_prompt_begins_with_a_path_from_root_to_leaf(tree: PrefixTree, seed: int) -> None:
    segments = tree(np.random.default_rng(seed), 30)
    for request in range(30):
        path = segments.row(request)
        assert [length for _, _, length in path] == list(tree.tokens_per_level)
        assert all(start == 0 for _, start, _ in path)
        assert [key for key, _, _ in path[:1]] == [0] * min(1, len(path))
        for (parent, _, _), (child, _, _) in pairwise(path):
            assert (child - 1) // tree.branching == parent
    assert sum(tree.tokens_per_level) == tree.tokens


def test_children_are_chosen_by_zipfs_law() -> None:
    key = PrefixTree((8, 8), branching=4, popularity=1.0)(np.random.default_rng(0), 100_000).key
    chosen = np.bincount(key[1::2], minlength=5)[1:] / 100_000
    # Harmonic weights 1, 1/2, 1/3, 1/4 over their sum 25/12.
    np.testing.assert_allclose(chosen, np.array([12, 6, 4, 3]) / 25, atol=0.005)


def test_no_popularity_is_no_preference() -> None:
    key = PrefixTree((8, 8, 8), branching=3)(np.random.default_rng(0), 90_000).key
    leaves = np.bincount(key[2::3], minlength=13)[4:] / 90_000
    np.testing.assert_allclose(leaves, 1 / 9, atol=0.005)


def test_a_system_prompt_is_one_text_for_everybody() -> None:
    segments = system_prompt(512)(np.random.default_rng(0), 3)
    assert [segments.row(request) for request in range(3)] == [[(0, 0, 512)]] * 3
    assert system_prompt(0) == UNSHARED


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens_per_level": (8, 0)}, "tokens_per_level is 0"),
        ({"tokens_per_level": (8,), "branching": 0}, "branching is 0"),
        ({"tokens_per_level": (8,), "popularity": -1.0}, "popularity is -1.0"),
        ({"tokens_per_level": (1,) * 70, "branching": 2}, "branching is 2"),
    ],
)
def test_nonsense_is_refused_by_name(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"{message}; allowed: "):
        PrefixTree(**arguments)


def test_a_negative_system_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="system_prompt_tokens is -1; allowed: "):
        system_prompt(-1)
