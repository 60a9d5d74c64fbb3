"""The table of attention kernels as benchmarks run them: equal prompts or contexts, over and over again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from experiments.scoreboard.beside import CACHED_RATE, stays
from experiments.scoreboard.groups import Floats, Found, Goals, Group, Skipped, by, floats, folds, stack_of
from hardware_profiles.profile import HardwareProfile
from sim.physics.efficiency import Efficiency
from sim.physics.operators import STREAM_BYTES
from sim.physics.precision import sixteen_bit_unit
from sim.physics.roofline import DecodeRate, overlapped_seconds, tail_keys

if TYPE_CHECKING:
    import pandas as pd

GOALS: Goals = (35, 10)

PART_TOKENS = 128
"""Keys that one thread block reads at least: shorter contexts are not split, and need no second kernel that combines
parts. A tile of FlashAttention for heads of 128; in TensorRT-LLM's tables the step is at the same length."""


def attention_grid(frame: pd.DataFrame) -> Found:
    """Attention of equal prompts, or of equal contexts decoding."""
    return by("attention_grid", frame, ("backend", "phase", "kv_dtype", "attn_dtype"), _attention)


TOO_FAST = "faster than memory can bring what does not fit in L2: these keys were not all read"


class Contexts(NamedTuple):
    """Equal contexts to decode: how many and how long, query and KV heads, the width of a head, bytes per number.

    `repeated` : whether the same call came just before, so that keys and values may still be in the chip's cache.
    """

    batch: Floats
    length: Floats
    heads: Floats
    kv_heads: Floats
    width: Floats
    number_bytes: float
    repeated: bool = False

    @property
    def moved_bytes(self) -> Floats:
        """Keys and values, once each [bytes]."""
        return 2.0 * self.batch * self.length * self.kv_heads * self.width * self.number_bytes


def decode_seconds(constants: Efficiency, chip: HardwareProfile, of: Contexts) -> Floats:
    """Return the time of decoding attention in one layer [s], shape of the contexts.

    The same as `sim.physics.attention.Attention.decode_seconds` but for what is peculiar to benchmarks: contexts too
    short to be split, and keys and values that stay in the chip's cache.
    """
    flops, moved_bytes = 4.0 * of.batch * of.length * of.heads * of.width, of.moved_bytes
    peak, bandwidth = chip.peak(sixteen_bit_unit(chip)), chip.memory.bandwidth_bytes_per_second
    reached = bandwidth * np.where(of.repeated & stays(moved_bytes, chip), CACHED_RATE, 1.0)

    def seconds(rate: DecodeRate) -> Floats:
        launch = rate.launch_seconds + np.where(of.length > PART_TOKENS, rate.combine_seconds, 0.0)
        working = overlapped_seconds(
            flops / (peak * rate.compute), moved_bytes / (reached * rate.memory), rate.sharpness
        )
        return np.asarray(launch + np.maximum(working, of.batch * of.kv_heads * rate.block_seconds))

    narrow = of.number_bytes < STREAM_BYTES
    alone, shared = (seconds(constants.decoding(grouped=grouped, narrow=narrow)) for grouped in (False, True))
    return np.where(of.heads > of.kv_heads, shared, alone)


def impossible(chip: HardwareProfile, of: Contexts, measured_seconds: Floats) -> npt.NDArray[np.bool_]:
    """Return which calls were faster than memory brings what does not fit in L2; none where that is not known."""
    if chip.memory.cache_bytes is None:
        return np.zeros(len(measured_seconds), dtype=bool)
    beyond = of.moved_bytes - chip.memory.cache_bytes
    return np.asarray(measured_seconds < beyond / chip.memory.bandwidth_bytes_per_second)


def _attention(chip: HardwareProfile, rows: pd.DataFrame) -> Found:
    first = rows.iloc[0]
    kv_bytes = {"bfloat16": 2.0, "float16": 2.0, "fp8": 1.0, "int8": 1.0}.get(str(first.kv_dtype))
    if kv_bytes is None:
        raise ValueError(f"KV format {first.kv_dtype!r} is unknown; known are bfloat16, float16, fp8, int8")
    if first.phase not in ("prefill", "decode"):
        raise ValueError(f"phase {first.phase!r} is unknown; known are prefill, decode")
    constant = f"{first.phase}_attention" + ("_8bit" if kv_bytes < STREAM_BYTES else "")
    label = f"{first.backend} {first.phase} {first.kv_dtype} KV, {first.attn_dtype}"
    found: Found = []
    seconds: Callable[[Efficiency], Floats]
    if first.phase == "decode":
        too_fast = impossible(chip, _contexts(rows, kv_bytes), floats(rows, "us")[0] / 1e6)
        if too_fast.any():
            found.append(Skipped("attention_grid", str(first.hw), label, int(too_fast.sum()), TOO_FAST))
            rows = rows[~too_fast]
        if rows.empty:
            return found
        seconds = partial(decode_seconds, chip=chip, of=_contexts(rows, kv_bytes))
    else:
        seconds = partial(
            _prefill_seconds, chip=chip, shapes=floats(rows, *_SHAPE), constant=constant, kv_bytes=kv_bytes
        )
    stack, shape = stack_of(str(first.backend)), folds(rows, _SHAPE)
    measured = floats(rows, "us")[0] / 1e6
    group = Group("attention_grid", str(first.hw), label, chip, stack, constant, GOALS, seconds, measured, shape)
    return [*found, group]


_SHAPE = ("batch", "q_len", "kv_len", "n_heads", "n_kv", "head_dim")


def _contexts(rows: pd.DataFrame, number_bytes: float) -> Contexts:
    batch, length, heads, kv_heads, width = floats(rows, "batch", "kv_len", "n_heads", "n_kv", "head_dim")
    return Contexts(batch, length, heads, kv_heads, width, number_bytes, repeated=True)


def _prefill_seconds(
    constants: Efficiency, chip: HardwareProfile, shapes: tuple[Floats, ...], constant: str, kv_bytes: float
) -> Floats:
    batch, new, length, heads, kv_heads, width = shapes
    cached = np.maximum(length - new, 0.0)
    pairs = batch * (new * cached + new * (new + 1) / 2)
    flops = 4.0 * pairs * heads * width
    own_bytes = batch * new * width * (2 * heads * STREAM_BYTES + 2 * kv_heads * kv_bytes)
    rate, decode = getattr(constants, constant), getattr(constants, constant.replace("prefill", "decode"))
    peak, bandwidth = chip.peak(sixteen_bit_unit(chip)), chip.memory.bandwidth_bytes_per_second
    waited = 4.0 * rate.tail_rows * tail_keys(pairs) * width
    memory = own_bytes / rate.own_rate(bandwidth)
    memory = memory + batch * cached * 2 * kv_heads * width * kv_bytes / (bandwidth * decode.memory)
    working = overlapped_seconds((flops + waited) / (peak * rate.compute), memory, rate.sharpness)
    return np.asarray(rate.launch_seconds + working)
