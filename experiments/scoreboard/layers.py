"""Tables of the operators of real models, and of their whole iterations."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from experiments.scoreboard.groups import Floats, Found, Goals, Group, Skipped, by, floats, folds
from experiments.scoreboard.kernels import GEMM_8BIT, GEMM_16BIT, gemm_constant, precision_of, product_seconds
from hardware_profiles.profile import HardwareProfile
from sim.physics.collectives import nccl_all_reduce_seconds
from sim.physics.efficiency import Efficiency
from sim.physics.iteration import EAGER_HOST_SECONDS, HOST_SECONDS, IterationModel
from sim.physics.operators import SAMPLING_BYTES, SAMPLING_KERNELS, STREAM_BYTES
from sim.physics.parallelism import Parallelism
from sim.physics.totals import Totals, decodes, prompt
from workloads.models import load as load_model
from workloads.models.transformer import Transformer

if TYPE_CHECKING:
    import pandas as pd

DENSE: Goals = (12, 8)
MIXTURE: Goals = (25, 15)
EAGER_STACKS = ("splitwise",)
"""Sources measured on Python engines of 2023, which start every kernel by hand (github.com/Mutinifni/splitwise-sim)."""

EAGER_SERIAL_SECONDS = 12e-3
"""What such an engine does while its devices wait: preparing inputs, sampling, handing out results. A single sequence
of Llama-2-70B decodes at TP 2 in 57 ms, where the devices need 44 to 51 (generic and calibrated constants); in the rest
of the 45 ms that it takes at TP 4 and 8, kernels are started while devices run those before."""


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
    constant, seconds = gemm_constant(precision), product_seconds(chip, precision, m, k, n)
    goals = GEMM_16BIT if constant == "gemm" else GEMM_8BIT
    label, hardware, shape = f"{_title(rows)} products", str(rows["hw"].iloc[0]), folds(rows, ("m", "n", "k"))
    return [Group("layer_ops", hardware, label, chip, "vllm", constant, goals, seconds, us / 1e6, shape)]


def _elementwise(chip: HardwareProfile, rows: pd.DataFrame, moved_bytes: Floats) -> Found:
    us = floats(rows, "us")[0]
    bandwidth = chip.memory.bandwidth_bytes_per_second
    kernels = np.where(rows["op"].astype(str) == "sampler", SAMPLING_KERNELS, 1)

    def seconds(constants: Efficiency) -> Floats:
        rate = constants.elementwise
        return np.asarray(kernels * rate.launch_seconds + moved_bytes / (bandwidth * rate.memory))

    shape = folds(rows, ("tokens", "tp"))
    label, hardware = f"{_title(rows)} the rest", str(rows["hw"].iloc[0])
    return [Group("layer_ops", hardware, label, chip, "vllm", "elementwise", (None, None), seconds, us / 1e6, shape)]


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
    return moved


def _iteration(chip: HardwareProfile, rows: pd.DataFrame) -> Found:
    first = rows.iloc[0]
    model = load_model(str(first["model"]))
    precision = precision_of(str(first["dtype"]))
    batch, length, context, ms = floats(rows, "batch", "q_len", "ctx", "ms")
    context = np.maximum(context, length)
    if first["phase"] not in ("prefill", "decode"):
        raise ValueError(f"phase {first['phase']!r} is unknown; known are prefill, decode")
    split = Parallelism(int(first["tp"]))
    device = IterationModel(model, chip, precision, split, host_seconds=HOST_SECONDS)
    if first["phase"] == "decode":
        totals = decodes(batch, context, device.window)
    else:
        totals = _each(batch, prompt(length, context - length, device.window))
    price = eager_seconds if first["src"] in EAGER_STACKS else _seconds
    seconds = partial(price, device, totals)
    goals = MIXTURE if model.mixture else DENSE
    label, hardware = f"{_title(rows)} tp{first['tp']} {first['phase']}", str(first["hw"])
    return [Group("iteration", hardware, label, chip, "vllm", "", goals, seconds, ms / 1e3, None)]


def _each(batch: Floats, one: Totals) -> Totals:
    """Return what so many prompts are together, all alike."""
    sums = {field.name: getattr(one, field.name) for field in fields(one)}
    return replace(one, **{name: batch * value for name, value in sums.items() if value is not None})


def _seconds(device: IterationModel, totals: Totals, constants: Efficiency) -> Floats:
    return replace(device, efficiency=constants).seconds(totals)


def eager_seconds(device: IterationModel, totals: Totals, constants: Efficiency) -> Floats:
    """Return the time of an engine that starts every kernel by hand, and whose collectives are NCCL's [s]."""
    bare = replace(device, efficiency=constants, host_seconds=0.0)
    tokens, shape = np.asarray(totals.tokens, dtype=np.float64), device.model
    message_bytes = tokens * shape.hidden * STREAM_BYTES
    each = nccl_all_reduce_seconds(message_bytes, device.parallelism.tensor, device.hardware, constants)
    summed = shape.layers * (1 if shape.parallel_block else 2) * each
    devices = bare.seconds(totals) - bare.communication.all_reduce_seconds(tokens) + summed
    return EAGER_SERIAL_SECONDS + np.maximum(devices, EAGER_HOST_SECONDS - EAGER_SERIAL_SECONDS)


def _title(rows: pd.DataFrame) -> str:
    return f"{rows['model'].iloc[0]} ({rows['src'].iloc[0]})"
