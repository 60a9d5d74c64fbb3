"""What an iteration is to the hardware: a few sums over its sequences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim.physics.roofline import Floats


@dataclass(frozen=True)
class Totals:
    """An iteration as the hardware sees it: scalars, or arrays of one shape with an element per iteration.

    Attributes
    ----------
    tokens : new tokens, of prefill chunks and one for each decoding sequence.
    samples : sequences that sample a token.
    prefill_tokens : new tokens of the prefill chunks, a part of `tokens`.
    prefill_pairs : causal query-key pairs of the chunks: a chunk of c tokens behind k has ``c k + c (c + 1) / 2``.
    prefill_kv_tokens : cached tokens in front of the chunks.
    decode_sequences, decode_kv_tokens : decoding sequences, and the sum of their contexts with the new token.
    window_pairs, window_kv_tokens, window_decode_kv_tokens : the same three sums in a layer that sees only the last
        `Transformer.window` tokens, see `seen_pairs` and `seen_tokens`; None where nothing is out of sight.
    """

    tokens: npt.ArrayLike
    samples: npt.ArrayLike
    prefill_tokens: npt.ArrayLike = 0.0
    prefill_pairs: npt.ArrayLike = 0.0
    prefill_kv_tokens: npt.ArrayLike = 0.0
    decode_sequences: npt.ArrayLike = 0.0
    decode_kv_tokens: npt.ArrayLike = 0.0
    window_pairs: npt.ArrayLike | None = None
    window_kv_tokens: npt.ArrayLike | None = None
    window_decode_kv_tokens: npt.ArrayLike | None = None

    @property
    def prompts(self) -> tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]:
        """Pairs, cached and new tokens of the chunks."""
        return self.prefill_pairs, self.prefill_kv_tokens, self.prefill_tokens

    @property
    def prompts_in_window(self) -> tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]:
        """The same in a layer with a window."""
        pairs = self.prefill_pairs if self.window_pairs is None else self.window_pairs
        cached = self.prefill_kv_tokens if self.window_kv_tokens is None else self.window_kv_tokens
        return pairs, cached, self.prefill_tokens

    @property
    def keys_in_window(self) -> npt.ArrayLike:
        """What decoding sequences read in a layer with a window."""
        return self.decode_kv_tokens if self.window_decode_kv_tokens is None else self.window_decode_kv_tokens


def decodes(sequences: npt.ArrayLike, context: npt.ArrayLike, window: int | None = None) -> Totals:
    """Return the totals of so many decoding sequences of equal context, each with its new token.

    >>> float(decodes(2, 100, window=64).window_decode_kv_tokens)
    128.0
    """
    count, keys = np.asarray(sequences), np.asarray(context)
    seen = None if window is None else count * seen_tokens(keys, window)
    return Totals(
        tokens=count,
        samples=count,
        decode_sequences=count,
        decode_kv_tokens=count * keys,
        window_decode_kv_tokens=seen,
    )


def prompt(tokens: npt.ArrayLike, cached: npt.ArrayLike = 0, window: int | None = None) -> Totals:
    """Return the totals of the last, or only, chunk of one prompt, of `tokens` tokens behind `cached` ones.

    >>> float(prompt(4).prefill_pairs), float(prompt(4, window=2).window_pairs)
    (10.0, 7.0)
    """
    new, before = np.asarray(tokens, dtype=np.float64), np.asarray(cached, dtype=np.float64)
    return Totals(
        tokens=new,
        samples=np.ones_like(new)[()],
        prefill_tokens=new,
        prefill_pairs=new * before + new * (new + 1) / 2,
        prefill_kv_tokens=before,
        window_pairs=None if window is None else seen_pairs(new, before, window),
        window_kv_tokens=None if window is None else seen_tokens(before, window - 1),
    )


def seen_tokens(context: npt.ArrayLike, window: int) -> Floats:
    """Return how many of so many tokens the last `window` are, shape of `context`."""
    seen: Floats = np.minimum(np.asarray(context, dtype=np.float64), window)
    return seen


def seen_pairs(tokens: npt.ArrayLike, cached: npt.ArrayLike, window: int) -> Floats:
    """Return the causal query-key pairs of `tokens` tokens behind `cached` ones, none further apart than a window.

    The token at place p sees the lesser of p and `window`, itself included.

    >>> float(seen_pairs(3, 2, window=4))  # places 3, 4 and 5 see 3, 4 and 4
    11.0
    """
    new, before = np.asarray(tokens, dtype=np.float64), np.asarray(cached, dtype=np.float64)
    growing = np.clip(window - before, 0.0, new)
    pairs: Floats = growing * before + growing * (growing + 1) / 2 + (new - growing) * window
    return pairs
