"""Tables of the operators of real models, and of their whole iterations."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from experiments.scoreboard.groups import Floats, Found, Goals, Group, Skipped, by, floats, folds
from experiments.scoreboard.kernels import (
    GEMM_8BIT,
    GEMM_16BIT,
    operator_seconds,
    precision_of,
    product_seconds,
)
from hardware_profiles.profile import HardwareProfile
from sim.physics.efficiency import Efficiency, datasheet
from sim.physics.iteration import EAGER_HOST_SECONDS, HOST_SECONDS, IterationModel
from sim.physics.links import nccl_alone
from sim.physics.operators import SAMPLING_BYTES, SAMPLING_KERNELS, STREAM_BYTES
from sim.physics.parallelism import Parallelism
from sim.physics.precision import sixteen_bit_unit
from sim.physics.totals import Totals, decodes, prompt
from workloads.models import load as load_model
from workloads.models.transformer import Transformer

if TYPE_CHECKING:
    import pandas as pd

MODULES = "llmservingsim-v0"
"""Source that traced the modules of Hugging Face, whose norms, rotations and activations are several kernels each."""

PYTORCH = ("vidur", MODULES, "splitwise")
"""Sources measured with the kernels that PyTorch calls on NVIDIA's chips one after another: Vidur's profiles and the
first ones of LLMServingSim are traces of PyTorch's profiler, splitwise ran vLLM 0.2. All others are taken for vLLM of
today."""

DENSE: Goals = (12, 8)
MIXTURE: Goals = (25, 15)
EAGER_STACKS = ("splitwise",)
"""Sources measured on Python engines of 2023, which start every kernel by hand (github.com/Mutinifni/splitwise-sim)."""

EAGER_SERIAL_SECONDS = 14e-3
"""What such an engine does while its devices wait: preparing inputs, sampling, handing out results. A single sequence
decodes in 57 ms with Llama-2-70B at TP 2 and in 49 ms with BLOOM-176B at TP 8, where the devices need 46 and 32 (its
kernels calibrated); where they need less than the host, kernels are started while devices run those before."""

EAGER_SECONDS_PER_SEQUENCE = 0.2e-3
"""The part of it that grows with the sequences, which Python takes one by one: block tables, samplers, detokenising.
With 32 of them the same decodes take 8 ms longer than alone at TP 4 and 8, and 3.5 and 4 more than the devices at TP 2
and with BLOOM. In vLLM of 2024 the last step alone takes .2 ms for 1 and 3.4 for 32 (vllm-project/vllm, issue 6913)."""

EAGER_PROMPT_HOST_SECONDS = 65e-3
"""Least time of an iteration with prompts, of which every layer starts more kernels (keys and values widened to all
heads, xFormers): 128 tokens of Llama-2-70B take 64 and 65 ms at TP 4 and 8, where decoding takes 45."""


def layer_ops(frame: pd.DataFrame) -> Found:
    """Operators of a layer by the number of tokens; matrix products and the rest apart."""
    return by("layer_ops", frame, ("src", "model", "dtype"), _layer)


def iteration(frame: pd.DataFrame) -> Found:
    """Whole forward passes of equal prompts, or of equal contexts decoding."""
    return by("iteration", frame, ("src", "model", "tp", "phase"), _iteration)


def _layer(chip: HardwareProfile, rows: pd.DataFrame) -> Found:
    is_gemm = (rows["n"] > 0) & (rows["k"] > 0)
    found = _products(chip, rows[is_gemm]) if is_gemm.any() else []
    try:
        model = load_model(str(rows["model"].iloc[0]))
    except ValueError as error:  # matrix products need no model: their shapes are in the table
        return [*found, Skipped("layer_ops", str(rows["hw"].iloc[0]), _title(rows), int((~is_gemm).sum()), str(error))]
    moved = _elementwise_bytes(model, rows)
    known = ~is_gemm & np.isfinite(moved)
    if known.any():
        found += _elementwise(chip, rows[known], moved[known.to_numpy()])
    if unknown := int((~is_gemm & ~known).sum()):
        names = ", ".join(sorted(rows.loc[~is_gemm & ~known, "op"].astype(str).unique()))
        found.append(Skipped("layer_ops", str(rows["hw"].iloc[0]), model.name, unknown, f"not modelled: {names}"))
    return found


def _products(chip: HardwareProfile, rows: pd.DataFrame) -> Found:
    precision = precision_of(str(rows["dtype"].iloc[0]))
    m, n, k, us = floats(rows, "m", "n", "k", "us")
    constant, seconds = f"gemm{precision.kernels}", product_seconds(chip, precision, m, k, n)
    goals = GEMM_16BIT if constant == "gemm" else GEMM_8BIT
    label, hardware, shape = f"{_title(rows)} products", str(rows["hw"].iloc[0]), folds(rows, ("m", "n", "k"))
    return [Group("layer_ops", hardware, label, chip, _stack(chip, rows), constant, goals, seconds, us / 1e6, shape)]


def _elementwise(chip: HardwareProfile, rows: pd.DataFrame, moved_bytes: Floats) -> Found:
    us, unit = floats(rows, "us")[0], sixteen_bit_unit(chip)
    kernels = np.where(rows["op"].astype(str) == "sampler", SAMPLING_KERNELS, 1)

    def seconds(constants: Efficiency) -> Floats:
        return kernels * operator_seconds(constants, "elementwise", chip, unit, 0.0, moved_bytes / kernels)

    shape = folds(rows, ("tokens", "tp"))
    label, hardware, stack = f"{_title(rows)} the rest", str(rows["hw"].iloc[0]), _stack(chip, rows)
    return [Group("layer_ops", hardware, label, chip, stack, "elementwise", (None, None), seconds, us / 1e6, shape)]


def _elementwise_bytes(model: Transformer, rows: pd.DataFrame) -> Floats:
    """Return the bytes that each row moves; nan for operators that are not modelled."""
    tensor = rows["tp"].to_numpy(dtype=np.float64)
    stream = STREAM_BYTES * model.hidden
    # A plain norm reads and writes; vLLM's also adds the result of the layer to the stream: reads both, writes both.
    fused = (rows["src"].astype(str) != "vidur").to_numpy()
    norm = np.where(fused, 4 * stream, 2 * stream)
    branches = 2 if model.gated else 1
    sizes: dict[str, Floats | float] = {
        "emb": 2 * stream,
        "embedding": 2 * stream,
        "add": 3 * stream,
        "input_layernorm": norm,
        "post_attention_layernorm": norm,
        "layernorm": norm,
        "final_layernorm": norm,
        "attn_rope": 2 * STREAM_BYTES * (model.query_heads + model.kv_heads) * model.head / tensor,
        "rotary_emb": 2 * STREAM_BYTES * (model.query_heads + model.kv_heads) * model.head / tensor,
        "mlp_act": STREAM_BYTES * (branches + 1) * model.intermediate / tensor,
        "act_fn": STREAM_BYTES * (branches + 1) * model.intermediate / tensor,
        "sampler": SAMPLING_BYTES * model.vocabulary,
    }
    operators = rows["op"].astype(str).to_numpy()
    moved = np.full(len(rows), np.nan)
    for name, size in sizes.items():
        moved = np.where(operators == name, rows["m"].to_numpy(dtype=np.float64) * size, moved)
    several = (rows["src"].astype(str) == MODULES).to_numpy() & (operators != "embedding")
    return np.where(several, np.nan, moved)


def _iteration(chip: HardwareProfile, rows: pd.DataFrame) -> Found:
    first = rows.iloc[0]
    if first["phase"] not in ("prefill", "decode"):
        raise ValueError(f"phase {first['phase']!r} is unknown; known are prefill, decode")
    model, precision = load_model(str(first["model"])), precision_of(str(first["dtype"]))
    device = IterationModel(model, chip, precision, Parallelism(int(first["tp"])), host_seconds=HOST_SECONDS)
    label, hardware = f"{_title(rows)} tp{first['tp']} {first['phase']}", str(first["hw"])
    bare = replace(device, efficiency=datasheet(), host_seconds=0.0).seconds(_totals(device, rows))
    possible = rows["ms"].to_numpy(dtype=np.float64) / 1e3 >= bare
    found: Found = []
    if not possible.all():
        reason = "faster than the peaks allow: the batch was not served in one iteration"
        found.append(Skipped("iteration", hardware, label, int((~possible).sum()), reason))
    if possible.any():
        rows = rows[possible]
        price = eager_seconds if first["src"] in EAGER_STACKS else _seconds
        seconds, measured = partial(price, device, _totals(device, rows)), floats(rows, "ms")[0] / 1e3
        goals = MIXTURE if model.mixture else DENSE
        found.append(Group("iteration", hardware, label, chip, _stack(chip, rows), "", goals, seconds, measured, None))
    return found


def _totals(device: IterationModel, rows: pd.DataFrame) -> Totals:
    batch, length, context = floats(rows, "batch", "q_len", "ctx")
    context = np.maximum(context, length)
    if rows["phase"].iloc[0] == "decode":
        return decodes(batch, context, device.window)
    return _each(batch, prompt(length, context - length, device.window))


def _each(batch: Floats, one: Totals) -> Totals:
    """Return what so many prompts are together, all alike."""
    sums = {field.name: getattr(one, field.name) for field in fields(one)}
    return replace(one, **{name: batch * value for name, value in sums.items() if value is not None})


def _seconds(device: IterationModel, totals: Totals, constants: Efficiency) -> Floats:
    return replace(device, efficiency=constants).seconds(totals)


def eager_seconds(device: IterationModel, totals: Totals, constants: Efficiency) -> Floats:
    """Return the time of an engine that starts every kernel by hand, and whose collectives are NCCL's [s].

    Not modelled: above 2,048 tokens iterations take up to twice as long as their operators, 0.1 to 0.4 s longer at
    4,096 already, by amounts that neither bytes nor tokens explain. Probably PyTorch's allocator thrashes: it reuses
    what a collective touched only when the devices have passed it, however far the host is ahead
    (github.com/pytorch/pytorch, pull request 76861), and the tenth of 80 GB that vLLM leaves free holds what two
    all-reduces a layer touch for 3,300 tokens of Llama-2-70B and 2,100 of BLOOM-176B.
    """
    alone = replace(constants, links=nccl_alone(constants.links))
    devices = replace(device, efficiency=alone, host_seconds=0.0).seconds(totals)
    host = np.where(np.asarray(totals.prefill_tokens) > 0, EAGER_PROMPT_HOST_SECONDS, EAGER_HOST_SECONDS)
    others = np.maximum(np.asarray(totals.samples, dtype=np.float64) - 1, 0.0)
    serial = EAGER_SERIAL_SECONDS + EAGER_SECONDS_PER_SEQUENCE * others
    return serial + np.maximum(devices, host - EAGER_SERIAL_SECONDS)


def _stack(chip: HardwareProfile, rows: pd.DataFrame) -> str:
    return "pytorch" if str(rows["src"].iloc[0]) in PYTORCH and chip.vendor == "NVIDIA" else "vllm"


def _title(rows: pd.DataFrame) -> str:
    return f"{rows['model'].iloc[0]} ({rows['src'].iloc[0]})"
