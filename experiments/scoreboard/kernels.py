"""Tables of single kernels on one device: matrix products, mixtures of experts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from experiments.scoreboard.beside import COPIES, cached_rate, waits_for_host
from experiments.scoreboard.groups import Floats, Found, Goals, Group, Skipped, by, floats, folds, stack_of
from experiments.scoreboard.workloads import busiest_device
from hardware_profiles.profile import HardwareProfile
from sim.physics.efficiency import Efficiency
from sim.physics.operators import expert_weights, expert_work, gemm_work, quantising_bytes, visit_bytes
from sim.physics.precision import PRECISIONS, Precision, compute_unit
from sim.physics.roofline import Operator, roofline_seconds, slow_bytes

if TYPE_CHECKING:
    import pandas as pd

FORMATS = {
    "bfloat16": "w16a16",
    "float16": "w16a16",
    "bf16": "w16a16",
    "fp16": "w16a16",
    "fp8": "fp8",
    "fp8_block": "fp8_block",
    "sq": "w8a8",
    "int8_wo": "w8a16",
    "int4_wo": "w4a16",
    "w4a16_mxfp4": "w4a16",
    "w4a8_mxfp4_mxfp8": "w4a8",
    "nvfp4": "w4a4",
}
"""Number formats of the tables, as this project names them; block scales of four-bit weights are not told apart."""

EAGER = {("vllm", "fp8_block")}
"""(stack, number format) whose products aiconfigurator-core 0.12.0 timed without CUDA graphs."""

WAITED = "called eagerly, and no longer than the host takes to call them"

GEMM_16BIT: Goals = (15, 8)
GEMM_8BIT: Goals = (20, 12)
EXPERTS: Goals = (25, 20)
AS_THEY_ARE = "flashinfer|triton"
"""Names of vLLM's kernels of experts that multiply with four-bit floats; others widen them before (Marlin)."""

UNGATED = {(512, 22)}
"""(experts, experts per token) of Nemotron 3, whose experts have no gate branch; the tables do not say which have."""


def gemm_grid(frame: pd.DataFrame) -> Found:
    """Matrix products by shape, number format and kernel library."""
    return by("gemm_grid", frame, ("backend", "dtype"), _gemm)


def moe_grid(frame: pd.DataFrame) -> Found:
    """Routed experts of one layer, on the busiest device."""
    return by("moe_grid", frame, ("backend", "dtype", "dist"), _experts)


def precision_of(dtype: str) -> Precision:
    """Return the precision that a table means; ValueError for an unknown one."""
    if dtype not in FORMATS:
        raise ValueError(f"number format {dtype!r} is unknown; known are {', '.join(FORMATS)}")
    return PRECISIONS[FORMATS[dtype]]


def quantise_of(constant: str) -> str:
    """Return the constant of the pass before the products of a constant, should they have one."""
    return constant.replace("gemm", "quantise")


def operator_seconds(
    constants: Efficiency,
    constant: str,
    chip: HardwareProfile,
    unit: str,
    flops: Floats | float,
    moved_bytes: Floats,
    steps: Floats | float = 0.0,
) -> Floats:
    """Return the time of kernels under the constants of that name [s]."""
    rate, memory = getattr(constants, constant), chip.memory
    slow = slow_bytes(moved_bytes, rate, memory.cache_bytes)
    return roofline_seconds(flops, slow, rate, chip.peak(unit), memory.bandwidth_bytes_per_second, steps)


def product_seconds(
    chip: HardwareProfile,
    precision: Precision,
    m: Floats,
    k: Floats,
    n: Floats,
    *,
    comes_narrow: bool = False,
    faster: Floats | float = 1.0,
) -> Callable[[Efficiency], Floats]:
    """Return matrix products under given constants, each with the pass that quantises its input.

    Parameters
    ----------
    m, k, n : rows and columns of the input, columns of the result.
    comes_narrow : the input was quantised before, and nobody measured that.
    faster : how many times faster than from memory the weights were read; see `cached_rate`.
    """
    flops, moved_bytes = gemm_work(m, k, n, precision)
    moved_bytes = moved_bytes - k * n * precision.weight_bytes * (1 - 1 / faster)
    constant, unit = f"gemm{precision.kernels}", compute_unit(precision, chip)
    alone = partial(
        operator_seconds, constant=constant, chip=chip, unit=unit, flops=flops, moved_bytes=moved_bytes, steps=k
    )
    if comes_narrow or not precision.quantises_activations:
        return alone
    passed = quantising_bytes(m, k, precision)
    before = partial(
        operator_seconds, constant=quantise_of(constant), chip=chip, unit=unit, flops=0.0, moved_bytes=passed, steps=m
    )
    return lambda constants: before(constants) + alone(constants)


def _gemm(chip: HardwareProfile, rows: pd.DataFrame) -> Found:
    """Score products, without those whose time is their host's."""
    first = rows.iloc[0]
    label = f"{first.backend} {first['dtype']}"
    if not _is_eager(first):
        return _products(chip, rows)
    waits = waits_for_host(floats(rows, "us")[0], rows["kernel"].to_numpy(dtype=object))
    found: Found = [Skipped("gemm_grid", str(first.hw), label, int(waits.sum()), WAITED)] if waits.any() else []
    return found + (_products(chip, rows[~waits]) if not waits.all() else [])


def _is_eager(row: pd.Series) -> bool:
    return (stack_of(str(row["backend"])), str(row["dtype"])) in EAGER


def _products(chip: HardwareProfile, rows: pd.DataFrame) -> Found:
    first = rows.iloc[0]
    precision = precision_of(str(first["dtype"]))
    m, n, k, us = floats(rows, "m", "n", "k", "us")
    constant, comes_narrow = f"gemm{precision.kernels}", "smooth_quant" in str(first["kernel"])
    peak, weights = chip.peak(compute_unit(precision, chip)), n * k * precision.weight_bytes
    copies = 1 if _is_eager(first) else COPIES
    faster = cached_rate(copies * weights, weights, 2 * m * n * k, us / 1e6, chip, peak)
    seconds = product_seconds(chip, precision, m, k, n, comes_narrow=comes_narrow, faster=faster)
    goals = GEMM_16BIT if constant == "gemm" else GEMM_8BIT
    label = f"{first.backend} {first['dtype']}"
    stack = stack_of(str(first.backend))
    shape = folds(rows, ("m", "n", "k"))
    fitted = "" if _is_eager(first) else constant  # short ones are missing among eager ones
    return [Group("gemm_grid", str(first.hw), label, chip, stack, fitted, goals, seconds, us / 1e6, shape)]


def _experts(chip: HardwareProfile, rows: pd.DataFrame) -> Found:
    """Score experts; of narrower weights alone those apart that a kernel takes as they are."""
    first = rows.iloc[0]
    precision, label = precision_of(str(first["dtype"])), f"{first.backend} {first['dtype']} {first.dist}"
    constant = f"experts{precision.kernels}"
    as_they_are = rows["kernel"].astype(str).str.contains(AS_THEY_ARE).to_numpy()
    if constant != "experts_narrow_weights" or stack_of(str(first.backend)) != "vllm" or not as_they_are.any():
        return [_expert_group(chip, rows, precision, constant, label)]
    own, name = PRECISIONS["mxfp4"], "experts_mxfp4"
    found: Found = [_expert_group(chip, rows[as_they_are], own, name, f"{label}, not widened")]
    if not as_they_are.all():
        found.append(_expert_group(chip, rows[~as_they_are], precision, constant, label))
    return found


def _expert_group(chip: HardwareProfile, rows: pd.DataFrame, precision: Precision, constant: str, label: str) -> Group:
    first, operator = rows.iloc[0], _expert_operator(chip, rows, precision)
    peak, bandwidth = chip.peak(compute_unit(precision, chip)), chip.memory.bandwidth_bytes_per_second

    def seconds(constants: Efficiency) -> Floats:
        rate = getattr(constants, constant)
        return roofline_seconds(operator.flops, operator.bytes_under(rate), rate, peak, bandwidth, operator.steps)

    columns = ("tokens", "hidden", "inter", "topk", "n_experts", "moe_tp", "moe_ep")
    stack, parts, measured = stack_of(str(first.backend)), folds(rows, columns), floats(rows, "us")[0] / 1e6
    return Group("moe_grid", str(first.hw), label, chip, stack, constant, EXPERTS, seconds, measured, parts)


def _expert_operator(chip: HardwareProfile, rows: pd.DataFrame, precision: Precision) -> Operator:
    """Return the experts of every row on the busiest device, all of which may stay in the cache, shape (rows,)."""
    first = rows.iloc[0]
    tokens, hidden, width, split = floats(rows, "tokens", "hidden", "inter", "moe_tp")
    experts, per_token, devices = (rows[name].to_numpy(dtype=np.int64) for name in ("n_experts", "topk", "moe_ep"))
    ungated = rows["kernel"].astype(str).str.contains("nongated").to_numpy()
    ungated = ungated | np.array([pair in UNGATED for pair in zip(experts.tolist(), per_token.tolist(), strict=True)])
    visits, read = busiest_device(tokens, experts, per_token, devices, str(first.dist))
    shape = hidden, np.where(ungated, 1.0, 2.0), width / split
    flops, moved_bytes = expert_work(visits, read, *shape, precision)
    weights, elsewhere = read * expert_weights(*shape), (tokens * per_token - visits) * visit_bytes(*shape)
    bank, peak = experts / devices * expert_weights(*shape), chip.peak(compute_unit(precision, chip))
    read_bytes, seconds = weights * precision.weight_bytes, floats(rows, "us")[0] / 1e6
    faster = cached_rate(bank * precision.weight_bytes, read_bytes, flops, seconds, chip, peak)
    moved_bytes = moved_bytes - read_bytes * (1 - 1 / faster)
    return Operator("experts", "experts", 1, flops, moved_bytes, weights, elsewhere)
