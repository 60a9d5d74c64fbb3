"""What a batch costs whose sequences are padded to the longest, as engines did before they packed them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sim.physics.iteration import Totals


class Padded(NamedTuple):
    """A padded batch: its totals, and the part of its tokens that nobody asked for."""

    totals: Totals
    waste: float


def padded_prefill(prompt_tokens: npt.ArrayLike) -> Padded:
    """Return the totals of prompts that are all padded to the longest; their attention covers the padding too.

    >>> batch = padded_prefill([100, 300])
    >>> batch.totals.tokens, round(batch.waste, 2)
    (600, 0.33)
    """
    lengths = np.asarray(prompt_tokens, dtype=np.int64)
    batch, longest = len(lengths), int(lengths.max())
    pairs = batch * longest * (longest + 1) // 2
    return Padded(Totals(batch * longest, batch, batch * longest, pairs), _waste(lengths))


def padded_decode(context_tokens: npt.ArrayLike) -> Padded:
    """Return the totals of one decoding step whose sequences all read, and hold, as much as the longest.

    >>> padded_decode([100, 300]).totals.decode_kv_tokens
    600
    """
    lengths = np.asarray(context_tokens, dtype=np.int64)
    batch, longest = len(lengths), int(lengths.max())
    return Padded(Totals(batch, batch, decode_sequences=batch, decode_kv_tokens=batch * longest), _waste(lengths))


def _waste(lengths: npt.NDArray[np.int64]) -> float:
    return 1.0 - float(lengths.sum()) / float(len(lengths) * lengths.max())
