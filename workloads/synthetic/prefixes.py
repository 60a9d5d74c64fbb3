"""Which text prompts begin with: nothing, one system prompt, or a path through a tree of shared texts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workloads.synthetic.checks import require, require_count, require_not_negative
from workloads.trace import Segments


@dataclass(frozen=True)
class PrefixTree:
    """Shared texts in a tree; a prompt begins with the texts on a path from the root to a leaf.

    One level is a system prompt that everybody shares. More levels are what applications do: a system prompt, one of
    some sets of tools, one of some documents each. The key of a text is its number in the tree, counted level by level.

    Attributes
    ----------
    tokens_per_level : length of the texts of each level [tokens], the root first; none means nothing is shared.
    branching : children of every text above the last level.
    popularity : exponent of Zipf's law for the choice among children: the k-th is chosen in proportion to
        ``k ** -popularity``; 0 is no preference.

    Examples
    --------
    >>> PrefixTree((100, 20), branching=2)(np.random.default_rng(0), 2).row(1)
    [(0, 0, 100), (1, 0, 20)]
    """

    tokens_per_level: tuple[int, ...] = ()
    branching: int = 1
    popularity: float = 0.0

    def __post_init__(self) -> None:
        """Refuse empty texts, no children, a rising popularity, and trees with more texts than can be numbered."""
        for tokens in self.tokens_per_level:
            require_count("tokens_per_level", tokens)
        require_count("branching", self.branching)
        require_not_negative("popularity", self.popularity)
        few = self.branching ** len(self.tokens_per_level) < 2**62
        require(few, "branching", self.branching, f"fewer than 2**62 texts on {len(self.tokens_per_level)} levels")

    @property
    def tokens(self) -> int:
        """Return the shared tokens of every prompt."""
        return sum(self.tokens_per_level)

    def __call__(self, rng: np.random.Generator, n: int) -> Segments:
        """Return the path of each request or session, one segment a level."""
        depth = len(self.tokens_per_level)
        key = np.zeros((n, depth), dtype=np.int64)
        weight = np.arange(1, self.branching + 1, dtype=np.float64) ** -self.popularity
        reached = np.cumsum(weight) / weight.sum()
        child = np.searchsorted(reached[:-1], rng.random((n, max(depth - 1, 0))), side="right")
        for level in range(1, depth):
            # The children of text k are numbers k * branching + 1 to k * branching + branching.
            key[:, level] = key[:, level - 1] * self.branching + 1 + child[:, level - 1]
        length = np.tile(np.array(self.tokens_per_level, dtype=np.int64), n)
        offsets = np.arange(n + 1, dtype=np.int64) * depth
        return Segments(offsets, key.ravel(), np.zeros(n * depth, dtype=np.int64), length)


UNSHARED = PrefixTree()


def system_prompt(system_prompt_tokens: int) -> PrefixTree:
    """Return a system prompt that every request begins with; 0 tokens is none.

    Raises
    ------
    ValueError
        If `system_prompt_tokens` is negative.
    """
    require_count("system_prompt_tokens", system_prompt_tokens, least=0)
    return PrefixTree((system_prompt_tokens,)) if system_prompt_tokens else UNSHARED
