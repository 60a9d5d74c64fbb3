"""What the memory of one card is spent on, term by term, and what is left unexplained where somebody counted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from sim.physics.iteration import IterationModel
from sim.physics.memory import (
    kv_blocks,
    kv_bytes_per_token_per_device,
    least_kv_bytes_per_device,
    resident_weight_bytes_per_device,
    runtime_reserve,
)

if TYPE_CHECKING:
    import pandas as pd

UTILISATION = 0.9
BLOCK_TOKENS = 16
MOST_TOKENS, MOST_SAMPLES = 2048, 256
"""The largest batch that the engine prepares for: defaults of vLLM."""

COUNTED = {("rtx-4090", "llama-3.1-8b", "w16a16", 1): 2588}
"""KV blocks that a server really had, by chip, model, precision and cards: a run of vLLM 0.19 at 0.9 of the memory that
CUDA sees (casys-kaist/LLMServingSim, MIT). No term is fitted to them."""


def table(built: IterationModel, context: int) -> pd.DataFrame:
    """Return a row for each term [bytes]; blocks of KV cache fill what the others leave.

    Parameters
    ----------
    context : tokens of a sequence, for what it needs.

    Raises
    ------
    ValueError
        If the model does not fit.
    """
    import pandas as pd

    model, split, formats = built.model, built.parallelism, built.precision
    usable = built.hardware.memory.usable_bytes
    reserve = runtime_reserve(model, split, MOST_TOKENS, MOST_SAMPLES)
    token_bytes = kv_bytes_per_token_per_device(model, formats, split)
    blocks = _blocks(built, UTILISATION)
    weights = resident_weight_bytes_per_device(model, formats, split, built.placement)
    held = max(reserve.activation_bytes, reserve.sampling_bytes)
    rows = [
        ("weights", weights),
        ("kernels, handles, workspaces", reserve.context_bytes),
        ("buffers of the collectives", reserve.communication_bytes),
        (f"largest batch: the larger of activations and sampling ({_larger(built)})", held),
        (f"KV cache: {blocks:,} blocks of {BLOCK_TOKENS} tokens", blocks * BLOCK_TOKENS * token_bytes),
        (f"left alone: {100 * (1 - UTILISATION):.0f} % and less than a block", 0.0),
    ]
    rows[-1] = (rows[-1][0], usable - sum(size for _, size in rows))
    frame = pd.DataFrame(rows, columns=["term", "bytes"])
    frame["share"] = frame["bytes"] / usable
    frame.attrs |= {"notes": _notes(built, blocks, token_bytes, context), "usable": usable, "blocks": blocks}
    return frame


def _notes(built: IterationModel, blocks: int, token_bytes: float, context: int) -> list[str]:
    """Return what a token and a sequence need, the other rule, and the residual where blocks were counted."""
    model, split, formats = built.model, built.parallelism, built.precision
    notes = [
        f"a token caches {token_bytes / 1e3:,.1f} kB on a card: {blocks * BLOCK_TOKENS // context:,} sequences of "
        f"{context:,} tokens; TensorRT-LLM takes {UTILISATION:g} of what weights and runtime leave: "
        f"{math.floor(UTILISATION * _blocks(built, 1.0)):,} blocks"
    ]
    least = least_kv_bytes_per_device(model, formats, split, context)
    if least < context * token_bytes:
        part = 100 * least / (context * token_bytes)
        notes.append(
            f"an engine that keeps the blocks of layers with a window of {model.window:,} tokens apart needs "
            f"{part:.0f} % of that for {context:,} tokens"
        )
    real = COUNTED.get((built.hardware.name, model.name, formats.name, split.tensor))
    if real is not None:
        residual = (blocks - real) * BLOCK_TOKENS * token_bytes
        off = 100 * (blocks / real - 1)
        notes.append(f"a real server had {real:,}: {off:+.1f} %, {residual / 2**20:,.0f} MiB that no term explains")
    return notes


def _larger(built: IterationModel) -> str:
    reserve = runtime_reserve(built.model, built.parallelism, MOST_TOKENS, MOST_SAMPLES)
    return "sampling" if reserve.sampling_bytes > reserve.activation_bytes else "activations"


def _blocks(built: IterationModel, utilisation: float) -> int:
    return kv_blocks(
        built.model,
        built.hardware,
        built.precision,
        built.parallelism,
        utilisation=utilisation,
        block_size=BLOCK_TOKENS,
        max_tokens=MOST_TOKENS,
        max_samples=MOST_SAMPLES,
        placement=built.placement,
    )
