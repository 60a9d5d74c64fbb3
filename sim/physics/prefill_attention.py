"""Attention of prompts on its own: the coefficients of its time, and what it costs without FlashAttention."""

from __future__ import annotations

from typing import NamedTuple

MASKED = 2
"""Pairs that attention without FlashAttention computes for each causal one: it fills the square and masks half."""

UNFUSED_KERNELS = 3
"""Kernels of attention without FlashAttention: scores, softmax, values."""


class PrefillSlopes(NamedTuple):
    """Attention of prefill chunks in all layers: a launch [s], and seconds per pair, cached token and new token.

    ``launch + (a^p + b^p)^(1/p)`` with a of the pairs, b of the tokens, and p the sharpness. Pairs move bytes
    (`per_pair_moved`) only without FlashAttention.
    """

    launch: float
    per_pair: float
    per_kv_token: float
    per_new_token: float
    per_pair_moved: float
    sharpness: float
