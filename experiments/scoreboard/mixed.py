"""The table of attention over mixed batches: one chunk of a prompt beside sequences that decode, in one kernel."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from experiments.scoreboard.attention import Contexts, decode_seconds
from experiments.scoreboard.groups import Floats, Found, Goals, Group, by, floats, folds
from hardware_profiles.profile import HardwareProfile
from sim.physics.efficiency import Efficiency
from sim.physics.iteration import IterationModel
from sim.physics.mixed_attention import ONE_KERNEL_CHIPS, PROCESSORS, QUERY_TILE, kernel_seconds
from sim.physics.operators import STREAM_BYTES
from sim.physics.precision import sixteen_bit_unit
from sim.physics.totals import Totals
from workloads.models import load as load_model

if TYPE_CHECKING:
    import pandas as pd

MIXED: Goals = (35, 15)
DECODE: Goals = (35, 10)


def attention_mixed(frame: pd.DataFrame) -> Found:
    """Mixed batches, and batches that only decode, which other kernels serve."""
    return by("attention_mixed", frame, ("model", "tp"), _mixed)


def _mixed(chip: HardwareProfile, rows: pd.DataFrame) -> Found:
    has_prompt = rows["prefill_chunk"] > 0
    kernels = _one_kernel if chip.name in ONE_KERNEL_CHIPS else _two_kernels
    mixed = kernels(chip, rows[has_prompt]) if has_prompt.any() else []
    return mixed + (_decode_only(chip, rows[~has_prompt]) if (~has_prompt).any() else [])


def _one_kernel(chip: HardwareProfile, rows: pd.DataFrame) -> Found:
    chunk, before, decodes, context, heads, kv_heads, head, us = floats(rows, *_COLUMNS, "us")
    tiles = np.ceil(chunk / QUERY_TILE)
    read = before + chunk + decodes * context
    moved_bytes = STREAM_BYTES * head * (2 * kv_heads * read + 2 * heads * (chunk + decodes))
    peak, bandwidth = chip.peak(sixteen_bit_unit(chip)), chip.memory.bandwidth_bytes_per_second

    def seconds(constants: Efficiency) -> Floats:
        extra = constants.mixed_tile_tokens
        tile_keys = tiles * (before + extra) + QUERY_TILE * tiles * (tiles + 1) / 2 + decodes * (context + extra)
        longest = np.maximum(before + chunk, np.where(decodes > 0, context, 0)) + extra
        rate = constants.mixed_attention
        return kernel_seconds(
            tile_keys, longest, moved_bytes, heads, head, rate, peak, bandwidth, PROCESSORS[chip.name]
        )

    label, hardware = f"{_title(rows)} mixed", str(rows["hw"].iloc[0])
    shape = folds(rows, (*_COLUMNS[:4], "n_heads"))
    return [Group("attention_mixed", hardware, label, chip, "vllm", "mixed_attention", MIXED, seconds, us / 1e6, shape)]


def _two_kernels(chip: HardwareProfile, rows: pd.DataFrame) -> Found:
    """Elsewhere prompts and decoding have a kernel each, and their times add up."""
    model = load_model("llama-3.1-8b")  # one layer of any heads: only the attention counts
    cases = []
    keys = ["n_heads", "n_kv", "head_dim"]
    for _, part in rows.reset_index(drop=True).groupby(keys):
        heads, kv_heads, head = (int(part[column].iloc[0]) for column in keys)
        layer = replace(model, layers=1, query_heads=heads, kv_heads=kv_heads, head=head)
        chunk, before, decodes, context = floats(part, *_COLUMNS[:4])
        pairs = chunk * before + chunk * (chunk + 1) / 2
        totals = Totals(chunk + decodes, decodes + 1, chunk, pairs, before, decodes, decodes * context)
        cases.append((part.index.to_numpy(), layer, totals))

    def seconds(constants: Efficiency) -> Floats:
        times = np.empty(len(rows))
        for places, layer, totals in cases:
            times[places] = IterationModel(layer, chip, efficiency=constants).attention_seconds(totals)
        return times

    label, hardware, us = f"{_title(rows)} mixed", str(rows["hw"].iloc[0]), floats(rows, "us")[0]
    return [Group("attention_mixed", hardware, label, chip, "vllm", "", MIXED, seconds, us / 1e6, None)]


def _decode_only(chip: HardwareProfile, rows: pd.DataFrame) -> Found:
    _, _, decodes, context, heads, kv_heads, head, us = floats(rows, *_COLUMNS, "us")
    contexts = Contexts(decodes, context, heads, kv_heads, head, STREAM_BYTES)
    seconds = partial(decode_seconds, chip=chip, of=contexts)
    label, hardware = f"{_title(rows)} decode only", str(rows["hw"].iloc[0])
    shape = folds(rows, (*_COLUMNS[:4], "n_heads"))
    return [
        Group("attention_mixed", hardware, label, chip, "vllm", "decode_attention", DECODE, seconds, us / 1e6, shape)
    ]


_COLUMNS = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "n_heads", "n_kv", "head_dim")


def _title(rows: pd.DataFrame) -> str:
    return f"{rows['model'].iloc[0]} tp{rows['tp'].iloc[0]}"
