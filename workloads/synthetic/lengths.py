"""How long requests are: callables ``(rng, n)`` to prompt and output tokens, each ``(n,)`` and at least 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from workloads.synthetic.checks import require, require_count, require_not_negative, require_positive
from workloads.trace import Floats, Integers

Lengths = Callable[[np.random.Generator, int], tuple[Integers, Integers]]


@dataclass(frozen=True)
class Fixed:
    """Every request alike.

    Attributes
    ----------
    prompt_tokens, output_tokens : at least 1.

    Examples
    --------
    >>> Fixed(512, 128)(np.random.default_rng(0), 2)
    (array([512, 512]), array([128, 128]))
    """

    prompt_tokens: int
    output_tokens: int

    def __post_init__(self) -> None:
        """Refuse lengths below 1."""
        require_count("prompt_tokens", self.prompt_tokens)
        require_count("output_tokens", self.output_tokens)

    def __call__(self, rng: np.random.Generator, n: int) -> tuple[Integers, Integers]:
        """Return prompt and output tokens, each (n,)."""
        return np.full(n, self.prompt_tokens, dtype=np.int64), np.full(n, self.output_tokens, dtype=np.int64)


@dataclass(frozen=True)
class Lognormal:
    """Independent lognormal prompts and outputs, rounded to whole tokens and at least 1.

    Attributes
    ----------
    prompt_mean, output_mean : means before rounding [tokens].
    prompt_variation, output_variation : coefficients of variation, standard deviation over mean.
    """

    prompt_mean: float
    output_mean: float
    prompt_variation: float = 1.0
    output_variation: float = 1.0

    def __post_init__(self) -> None:
        """Refuse means that are not positive and negative variations."""
        require_positive("prompt_mean", self.prompt_mean)
        require_positive("output_mean", self.output_mean)
        require_not_negative("prompt_variation", self.prompt_variation)
        require_not_negative("output_variation", self.output_variation)

    def __call__(self, rng: np.random.Generator, n: int) -> tuple[Integers, Integers]:
        """Return prompt and output tokens, each (n,)."""
        variance = np.log1p(np.square([self.prompt_variation, self.output_variation]))
        logarithm = np.log([self.prompt_mean, self.output_mean]) - variance / 2
        tokens = np.exp(logarithm + np.sqrt(variance) * rng.standard_normal((n, 2)))
        return _whole(tokens[:, 0]), _whole(tokens[:, 1])


@dataclass(frozen=True)
class Empirical:
    """Pairs drawn with replacement from observed ones, so prompt and output stay together.

    Attributes
    ----------
    prompt_tokens, output_tokens : (observed,) for instance two columns of a `Trace`.
    """

    prompt_tokens: Integers
    output_tokens: Integers

    def __post_init__(self) -> None:
        """Refuse columns that are empty, of different lengths or hold lengths below 1."""
        _require_pairs(self.prompt_tokens, self.output_tokens)

    def __call__(self, rng: np.random.Generator, n: int) -> tuple[Integers, Integers]:
        """Return prompt and output tokens, each (n,)."""
        chosen = rng.integers(len(self.prompt_tokens), size=n)
        return self.prompt_tokens[chosen], self.output_tokens[chosen]


@dataclass(frozen=True)
class JointQuantiles:
    """A small summary of many observed pairs: two quantile functions and how the ranks go together.

    The ranks follow a checkerboard copula: all pairs are counted in a grid of prompt-rank band by output-rank band, and
    are uniform inside a cell. Bands hold equally many requests, so the marginals are those of the quantiles alone.

    Attributes
    ----------
    shares : (knots,) from 0 to 1, increasing.
    prompt_tokens, output_tokens : (knots,) quantiles at `shares`, linear in between.
    pairs : (bands, bands) observed pairs; rows are bands of prompt rank, columns of output rank.
    """

    shares: Floats
    prompt_tokens: Floats
    output_tokens: Floats
    pairs: Integers

    @classmethod
    def summarise(cls, prompt_tokens: Integers, output_tokens: Integers, shares: Floats, bands: int) -> JointQuantiles:
        """Return the summary of observed pairs, quantiles rounded to whole tokens; ties rank in order of appearance.

        Raises
        ------
        ValueError
            If the columns are empty, differ in length or hold lengths below 1, or `bands` is not in 1 to their length.
        """
        _require_pairs(prompt_tokens, output_tokens)
        n = len(prompt_tokens)
        require(1 <= bands <= n, "bands", bands, f"1 to {n}, the number of pairs")
        pairs = np.zeros((bands, bands), dtype=np.int64)
        np.add.at(pairs, (_rank(prompt_tokens) * bands // n, _rank(output_tokens) * bands // n), 1)
        prompt_quantiles, output_quantiles = (np.rint(np.quantile(x, shares)) for x in (prompt_tokens, output_tokens))
        return cls(shares, prompt_quantiles, output_quantiles, pairs)

    def __call__(self, rng: np.random.Generator, n: int) -> tuple[Integers, Integers]:
        """Return prompt and output tokens, each (n,)."""
        prompt_rank, level = rng.random((n, 2)).T
        bands = len(self.pairs)
        reached = np.cumsum(self.pairs, axis=1) / self.pairs.sum(axis=1, keepdims=True)
        reached = np.concatenate([np.zeros((bands, 1)), reached], axis=1)
        # One inverse distribution function per row of the grid, laid end to end: row r covers levels r to r + 1.
        row = np.floor(prompt_rank * bands)
        output_rank = np.interp(
            row + level, (np.arange(bands)[:, None] + reached).ravel(), np.tile(np.arange(bands + 1) / bands, bands)
        )
        prompt = np.interp(prompt_rank, self.shares, self.prompt_tokens)
        return _whole(prompt), _whole(np.interp(output_rank, self.shares, self.output_tokens))


def draw_fitting(
    rng: np.random.Generator, n: int, lengths: Lengths, context_tokens: int | None, shared_tokens: int = 0
) -> tuple[Integers, Integers, tuple[str, ...]]:
    """Draw lengths on condition that shared prompt, prompt and output fit the context; draw again what does not.

    What fits at first is kept in its place, so another context changes as few requests as possible.

    Parameters
    ----------
    context_tokens : the most that a model accepts, or None for no condition.
    shared_tokens : prompt tokens in front of the drawn ones.

    Returns
    -------
    prompt and output tokens, each (n,), and the notes of the trace: the share of draws that was left out.

    Raises
    ------
    ValueError
        If fewer than 1 % of the draws fit.
    """
    prompt, output = lengths(rng, n)
    if context_tokens is None:
        return prompt, output, ()
    prompt, output = prompt.copy(), output.copy()
    missing = np.flatnonzero(shared_tokens + prompt + output > context_tokens)
    note = (
        f"lengths are conditional on {shared_tokens} shared + prompt + output <= {context_tokens} context tokens: "
        f"{len(missing)} of {n} draws ({len(missing) / n:.1%}) did not fit and were drawn again"
    )
    while len(missing):
        more_prompt, more_output = lengths(rng, max(2 * len(missing), 1000))
        fits = shared_tokens + more_prompt + more_output <= context_tokens
        allowed = f"room for {shared_tokens} shared tokens and at least 1 % of the requests of the given lengths"
        require(bool(fits.mean() >= 0.01), "context_tokens", context_tokens, allowed)
        good = np.flatnonzero(fits)[: len(missing)]
        filled, missing = missing[: len(good)], missing[len(good) :]
        prompt[filled], output[filled] = more_prompt[good], more_output[good]
    return prompt, output, (note,)


def declared_tokens(output_tokens: Integers, max_tokens: int | None) -> Integers:
    """Return the reply length that every client declares, (n,): `max_tokens`, or the longest output's next power of 2.

    Raises
    ------
    ValueError
        If an output is longer than `max_tokens`.
    """
    longest = int(output_tokens.max())
    if max_tokens is None:
        max_tokens = 1 << (longest - 1).bit_length()
    require(max_tokens >= longest, "max_tokens", max_tokens, f"None or at least {longest}, the longest output drawn")
    return np.full(len(output_tokens), max_tokens, dtype=np.int64)


def _whole(tokens: Floats) -> Integers:
    return np.maximum(np.rint(tokens), 1).astype(np.int64)


def _rank(values: Integers) -> Integers:
    rank = np.empty(len(values), dtype=np.int64)
    rank[np.argsort(values, kind="stable")] = np.arange(len(values))
    return rank


def _require_pairs(prompt_tokens: Integers, output_tokens: Integers) -> None:
    n = len(prompt_tokens)
    require(n > 0, "prompt_tokens", "an empty column", "at least one observed request")
    require(
        len(output_tokens) == n,
        "output_tokens",
        f"a column of {len(output_tokens)}",
        f"a column of {n}, as prompt_tokens",
    )
    require(prompt_tokens.min() >= 1, "prompt_tokens", f"{prompt_tokens.min()} in a request", "1 or more")
    require(output_tokens.min() >= 1, "output_tokens", f"{output_tokens.min()} in a request", "1 or more")
