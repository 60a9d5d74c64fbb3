"""Attention of prompts and of decoding sequences in one kernel, as FlashAttention-2 does it on some chips."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim.physics.roofline import Floats, Rate, overlapped_seconds, together

QUERY_TILE = 64
"""Query rows that a thread block works on together. A decoding sequence has one row a head, and pays for all."""

ONE_KERNEL_CHIPS = frozenset({"l4", "l20", "l40s", "rtx-4090", "rtx-5090", "rtx-pro-6000-bw", "rtx-pro-6000-server"})
"""Chips of compute capability 8.9 and 12.0, where vLLM runs mixed batches through one FlashAttention-2 kernel.
FlashAttention-3, FlashInfer and TensorRT-LLM have separate kernels, everywhere."""

PROCESSORS = {
    "l4": 58,
    "l20": 92,
    "l40s": 142,
    "rtx-4090": 128,
    "rtx-5090": 170,
    "rtx-pro-6000-bw": 188,
    "rtx-pro-6000-server": 188,
}
"""Streaming multiprocessors of those chips (NVIDIA's Ada and RTX Blackwell architecture documents; L20: product brief).
A thread block runs on one of them, so that the longest sequence bounds the whole kernel from below."""


class MixedSlopes(NamedTuple):
    """One kernel in all layers: a launch [s], seconds per key of a query tile, per key read and per new token.

    ``launch + (a^p + b^p)^(1/p)``: a of the tiles' keys, `tile_tokens` more for each tile, b of the bytes.
    """

    launch: float
    per_tile_key: float
    per_kv_token: float
    per_new_token: float
    tile_tokens: int
    sharpness: float

    def seconds(self, pairs: float, cached: float, new_tokens: float, decodes: float, kv_tokens: float) -> float:
        """Return the time of one iteration [s], 0 if it is not mixed; scalars, as in `Totals`.

        A tile of a prompt sees half a tile more keys than its mean row, since its last row sees most.
        """
        if not pairs or not kv_tokens or not self.per_kv_token:
            return 0.0  # not a mixed iteration, or no such layers
        tiles = new_tokens / QUERY_TILE
        tile_keys = pairs / QUERY_TILE + tiles * (QUERY_TILE / 2 + self.tile_tokens)
        tile_keys += kv_tokens + decodes * self.tile_tokens
        compute = self.per_tile_key * tile_keys
        memory = self.per_kv_token * (cached + new_tokens + kv_tokens) + self.per_new_token * new_tokens
        larger, smaller = max(compute, memory), min(compute, memory)
        return self.launch + float(together(larger, smaller / larger, self.sharpness))


def kernel_seconds(
    tile_keys: Floats,
    longest_keys: Floats,
    moved_bytes: Floats,
    heads: Floats,
    head: Floats,
    rate: Rate,
    flops_per_second: float,
    bytes_per_second: float,
    processors: int,
) -> Floats:
    """Return the time of such a kernel [s], shape of the arguments.

    Parameters
    ----------
    tile_keys : keys that every query tile of one head works through, summed over the tiles, with what each tile costs
        beyond its keys.
    longest_keys : the same of the tile that has most.
    moved_bytes : keys, values, queries and results [bytes].
    heads, head : query heads on the device, and the width of one.
    processors : thread blocks that run at a time; see `PROCESSORS`.
    """
    flops_per_key = 4.0 * QUERY_TILE * head
    shared = heads * tile_keys * flops_per_key / (flops_per_second * rate.compute)
    alone = longest_keys * flops_per_key * processors / (flops_per_second * rate.compute)
    memory_seconds = moved_bytes / (bytes_per_second * rate.memory)
    return rate.launch_seconds + overlapped_seconds(np.maximum(shared, alone), memory_seconds, rate.sharpness)
