"""In how many bytes weights, activations and the KV cache are kept, and which unit of a chip computes with them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from hardware_profiles.profile import HardwareProfile

SIXTEEN_BIT = ("bf16", "fp16")
"""Units for 16-bit arithmetic; attention and the output head use them whatever the weights are kept in."""

Kernels = Literal["", "_8bit", "_block", "_4bit", "_narrow_weights", "_mxfp4"]
"""What the names of the constants end with that price products in a precision: see `Efficiency`."""


@dataclass(frozen=True)
class Precision:
    """How a model is quantised.

    The residual stream, and with it every result, all-reduce and the two vocabulary tables, stays 16-bit: common
    quantised checkpoints leave them alone. Narrower weights on 16-bit activations are widened on the way, and narrower
    activations need a pass that quantises them: both cost time, in constants of their own (see `kernels`).

    Attributes
    ----------
    name : key of `PRECISIONS`, e.g. ``"w16a16"``.
    weight_bytes, activation_bytes : bytes per element that a matrix product reads of its weights and of its input.
    kv_bytes : bytes per cached element.
    compute : units that can do the product, in order of preference among equally fast ones.
    block_scaled : every few narrow numbers have a scale of their own, so that the pass that quantises needs no look at
        a whole row, and products have kernels that scale as they sum.
    experts_only : the routed experts of a mixture are kept so, and all else in 16 bits; see `dense`.
    """

    name: str
    weight_bytes: float = 2.0
    activation_bytes: float = 2.0
    kv_bytes: float = 2.0
    compute: tuple[str, ...] = SIXTEEN_BIT
    block_scaled: bool = False
    experts_only: bool = False

    @property
    def dense(self) -> Precision:
        """How all but the routed experts of a mixture are kept."""
        return replace(PRECISIONS["w16a16"], kv_bytes=self.kv_bytes) if self.experts_only else self

    @property
    def quantises_activations(self) -> bool:
        """Whether a pass before each matrix product turns 16-bit activations into narrower ones."""
        return self.activation_bytes < 2.0

    @property
    def kernels(self) -> Kernels:
        """Which kernels multiply, and quantise activations before."""
        if self.experts_only:
            return "_mxfp4"
        if self.activation_bytes < 1.0:
            return "_4bit"
        if self.block_scaled:
            return "_block"
        if self.quantises_activations:
            return "_8bit"
        return "_narrow_weights" if self.weight_bytes < 2.0 else ""


GROUP = 128
"""Weights that share a scale and a zero point in four-bit checkpoints (GPTQ and AWQ as usually shipped)."""

FOUR_BIT = 0.5 + (2.0 + 0.5) / GROUP
"""Bytes of a four-bit weight with its part of a 16-bit scale and of a four-bit zero point."""

BLOCK = 128
"""Numbers along a side of a block that shares a scale in eight-bit checkpoints with block scales."""

MICRO_SCALED = 0.5 + 1.0 / 16
"""Bytes of a four-bit float with its part of an 8-bit scale for every 16 (NVFP4)."""

PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("w16a16"),
        # Scales per column or per tensor weigh less than a thousandth of eight-bit weights.
        Precision("fp8", weight_bytes=1.0, activation_bytes=1.0, compute=("fp8",)),
        # 32-bit scales for 128 x 128 weights and for 128 activations (DeepSeek-V3, arXiv:2412.19437, section 3.3.2).
        Precision("fp8_block", 1.0 + 4.0 / BLOCK**2, 1.0 + 4.0 / BLOCK, compute=("fp8",), block_scaled=True),
        Precision("w8a8", weight_bytes=1.0, activation_bytes=1.0, compute=("int8",)),
        Precision("w8a16", weight_bytes=1.0),
        Precision("w4a16", weight_bytes=FOUR_BIT),
        # Weights are widened to 8 bits on the way (QServe, arXiv:2405.04532).
        Precision("w4a8", weight_bytes=FOUR_BIT, activation_bytes=1.0, compute=("int8", "fp8")),
        Precision("w4a4", MICRO_SCALED, MICRO_SCALED, compute=("fp4", "int4"), block_scaled=True),
        # Four-bit floats with an 8-bit scale for every 32, of experts alone: GPT-OSS (arXiv:2508.10925, section 2.1).
        Precision("mxfp4", weight_bytes=0.5 + 1.0 / 32, experts_only=True),
    )
}
"""The precisions known by name."""

KV_BYTES = {"kv16": 2.0, "kv8": 1.0, "kv4": 0.5 + 4.0 / 128}
"""Bytes of a cached element. Four bits come with a 16-bit scale and zero point for each head of 128 (QServe)."""


def load(name: str) -> Precision:
    """Return the precision of that name, ``-kv8`` or ``-kv4`` behind it for a narrower cache.

    Raises
    ------
    ValueError
        The name is unknown; the message lists the names there are.

    >>> load("fp8").weight_bytes, load("w16a16-kv8").kv_bytes
    (1.0, 1.0)
    """
    weights, _, cache = name.lower().partition("-")
    if weights not in PRECISIONS or (cache or "kv16") not in KV_BYTES:
        raise ValueError(
            f"precision {name!r} is unknown; allowed are {', '.join(PRECISIONS)}, each alone or with "
            f"{', '.join(f'-{key}' for key in KV_BYTES)} behind it"
        )
    return replace(PRECISIONS[weights], name=name.lower(), kv_bytes=KV_BYTES[cache or "kv16"])


def compute_unit(precision: Precision, hardware: HardwareProfile) -> str:
    """Return the fastest unit of the chip that computes in this precision.

    Raises
    ------
    ValueError
        The chip has none; the message names what it can do.
    """
    peaks = hardware.peak_flops_per_second
    units = [unit for unit in precision.compute if unit in peaks]
    if not units:
        # Engines then widen the weights on the way, which is a precision of its own: say which.
        remedy = {"fp8": "w8a16", "fp8_block": "w8a16", "w8a8": "w8a16", "w4a8": "w4a16", "w4a4": "w4a16"}.get(
            precision.name.partition("-")[0]
        )
        allowed = [one.name for one in possible(hardware, has_experts=False)]
        raise ValueError(
            f"precision {precision.name!r} computes in {' or '.join(precision.compute)}, which {hardware.title} "
            f"lacks (it has {', '.join(peaks)}); allowed on this chip are {', '.join(allowed) or 'none'}"
            + (f"; engines run such weights as {remedy} there" if remedy in allowed else "")
        )
    return max(units, key=lambda unit: peaks[unit])  # the first of equals


def possible(hardware: HardwareProfile, *, has_experts: bool) -> list[Precision]:
    """Return the known precisions in which a chip computes, of a model with routed experts or without."""
    units = hardware.peak_flops_per_second.keys()
    return [
        one
        for one in PRECISIONS.values()
        if not units.isdisjoint(one.compute) and (has_experts or not one.experts_only)
    ]


def sixteen_bit_unit(hardware: HardwareProfile) -> str:
    """Return the fastest 16-bit unit of the chip, bf16 among equals; see `compute_unit`."""
    return compute_unit(PRECISIONS["w16a16"], hardware)
