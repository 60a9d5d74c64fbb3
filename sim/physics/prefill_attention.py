"""Attention of prompts on its own: the coefficients of its time, and what it costs without FlashAttention."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sim.physics.roofline import Floats, overlapped_seconds, tail_keys

MASKED = 2
"""Pairs that attention without FlashAttention computes for each causal one: it fills the square and masks half."""

UNFUSED_KERNELS = 3
"""Kernels of attention without FlashAttention: scores, softmax, values."""


class PrefillSlopes(NamedTuple):
    """Attention of prefill chunks in all layers: a launch [s], and seconds per pair, cached token and new token.

    ``launch + (a^p + b^p)^(1/p)`` with a of the pairs, b of the tokens, and p the sharpness. Pairs move bytes
    (`per_pair_moved`) only without FlashAttention. Seconds `per_tail_key`, for at most `most_keys`, are what the last
    block keeps processors waiting; see `PrefillRate`.
    """

    launch: float
    per_pair: float
    per_kv_token: float
    per_new_token: float
    per_pair_moved: float
    sharpness: float
    per_tail_key: float = 0.0
    most_keys: float = math.inf

    def compute_seconds(self, pairs: npt.ArrayLike) -> Floats:
        """Return what arithmetic takes alone [s], shape of the argument."""
        count = np.asarray(pairs, dtype=np.float64)
        seconds: Floats = self.per_pair * count + self.per_tail_key * tail_keys(count, self.most_keys)
        return seconds

    def seconds(self, pairs: npt.ArrayLike, kv_tokens: npt.ArrayLike, new_tokens: npt.ArrayLike) -> Floats:
        """Return the time of these layers [s], shape of the arguments; no pairs take no time."""
        count = np.asarray(pairs, dtype=np.float64)
        memory_seconds = self.per_kv_token * np.asarray(kv_tokens, dtype=np.float64)
        memory_seconds = memory_seconds + self.per_new_token * np.asarray(new_tokens, dtype=np.float64)
        memory_seconds = memory_seconds + self.per_pair_moved * count
        kernels = overlapped_seconds(self.compute_seconds(count), memory_seconds, self.sharpness)
        return np.where(count > 0, self.launch + kernels, 0.0)
