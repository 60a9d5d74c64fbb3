"""Which part of a datasheet real kernels reach, as dated sets of constants that say how good their evidence is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from hardware_profiles.profile import HardwareProfile
from sim.physics.expert_kernels import BETWEEN, experts_of
from sim.physics.links import NCCL_SECONDS, Links, Nccl, generic_links, generic_nccl, hop_seconds
from sim.physics.roofline import DecodeRate, PrefillRate, Rate

GRIDS = "fit over public operator tables of six GPUs (aiconfigurator-core 0.12.0, Apache-2.0)"

FOUR_BITS = "fit to nvfp4 products on B200 (aiconfigurator-core 0.12.0, Apache-2.0)"

PROFILES = "layers of Llama-2-70B under PyTorch's profiler in 2023 (github.com/microsoft/vidur, data/profiling, MIT)"


@dataclass(frozen=True)
class Efficiency:
    """A set of constants; see `generic`, `datasheet` and `sim.physics.calibration.load`.

    Attributes
    ----------
    level : ``"datasheet"``, ``"generic"`` or ``"calibrated: <what>"``: how far a time priced with them can be trusted.
    gemm : matrix products on 16-bit weights and activations.
    gemm_8bit : on narrower activations. These kernels and those below do not split what they sum over, as those of 16
        bits do: each of its columns is a step.
    quantise_8bit : the kernel before each of those, which finds the scales of its input and makes narrow numbers of it:
        a thread block reads a row for its largest number, waits, and reads it again. Each row is a step.
    gemm_block, quantise_block : both where every block of 8-bit numbers has a scale (see `Precision.block_scaled`): the
        pass is one over the data, like any elementwise kernel.
    gemm_4bit, quantise_4bit : both where activations have 4 bits.
    gemm_narrow_weights : on 16-bit activations and narrower weights, which are widened on the way.
    experts, experts_8bit, experts_block, experts_4bit, experts_narrow_weights, experts_mxfp4 : the grouped products of
        a mixture of experts in each kind of format (see `Precision.kernels` and `sim.physics.expert_kernels`).
    elementwise : norms, rotary positions, activation functions, copies, sampling.
    prefill_attention, decode_attention : one kernel a layer for all prefilling, one for all decoding sequences. Cached
        keys and values move at the rate of decoding in both.
    prefill_attention_8bit, decode_attention_8bit : the same where the cache is kept in 8 bits or fewer.
    decode_attention_ungrouped, decode_attention_ungrouped_8bit : decoding where each KV head serves one query head,
        which other kernels do: in TensorRT-LLM masked multi-head attention instead of XQA (nvidia.github.io/
        TensorRT-LLM, "Multi-Head, Multi-Query, and Group-Query Attention"); in vLLM's FlashAttention-2 a kernel that
        does not split contexts (`mha_varlen_fwd` in its csrc/flash_attn/flash_api.cpp splits for grouped heads only).
    mixed_attention, mixed_tile_tokens : prompts and decoding sequences in one kernel, and the keys that every query
        tile costs beyond those it sees; see `sim.physics.mixed_attention`.
    links, nccl : see `Links` and `Nccl`.
    host_seconds : what the engine adds to every iteration, where that was measured with the rest [s]; None leaves it
        to the engine.
    fitted : names of the constants that were fitted to measurements of this very chip.
    """

    level: str
    gemm: Rate
    gemm_8bit: Rate
    quantise_8bit: Rate
    gemm_block: Rate
    quantise_block: Rate
    gemm_4bit: Rate
    quantise_4bit: Rate
    gemm_narrow_weights: Rate
    experts: Rate
    experts_8bit: Rate
    experts_block: Rate
    experts_4bit: Rate
    experts_narrow_weights: Rate
    experts_mxfp4: Rate
    elementwise: Rate
    prefill_attention: PrefillRate
    prefill_attention_8bit: PrefillRate
    decode_attention: DecodeRate
    decode_attention_8bit: DecodeRate
    decode_attention_ungrouped: DecodeRate
    decode_attention_ungrouped_8bit: DecodeRate
    mixed_attention: Rate
    mixed_tile_tokens: int
    links: Links
    nccl: Nccl
    host_seconds: float | None = None
    fitted: frozenset[str] = frozenset()

    def decoding(self, *, grouped: bool, narrow: bool) -> DecodeRate:
        """Return the constants of decoding attention.

        Parameters
        ----------
        grouped : each KV head serves several query heads.
        narrow : the cache is kept in 8 bits or fewer.
        """
        if grouped:
            return self.decode_attention_8bit if narrow else self.decode_attention
        return self.decode_attention_ungrouped_8bit if narrow else self.decode_attention_ungrouped


DECODE_RATES = tuple(field.name for field in fields(Efficiency) if field.type == "DecodeRate")
"""Names of the constants that are a `DecodeRate`."""

PREFILL_RATES = tuple(field.name for field in fields(Efficiency) if field.type == "PrefillRate")
"""Names of the constants that are a `PrefillRate`."""

RATES = tuple(field.name for field in fields(Efficiency) if field.type in ("Rate", "PrefillRate", "DecodeRate"))
"""Names of the constants that are a `Rate` of any kind."""


REACH = 0.85
"""`HardwareProfile.matrix_reach` where the arithmetic below was fitted: .87 on A100, .80 H100, .88 RTX PRO 6000."""

HELD_BACK = tuple(name for name in RATES if name.startswith(("gemm", "prefill", "mixed")) and name != "gemm_4bit")
"""Constants whose arithmetic goes with that reach: experts wait for other things, four bits know one kind of chip."""

SLOW_START, SLOW = 1.5, ("Volta", "Turing", "Ampere")
"""How many times longer kernels take to start on which architectures: on A100, beside H100 and RTX PRO 6000, 16-bit
products 5.3 us for 3.5, decoding attention of vLLM 16 for 11, experts 41 for 29, NCCL with its hops 10 for 5 (separate
fits to the tables of aiconfigurator-core 0.12.0). Prompts and kernels of narrow numbers do not differ."""

HALVED = 3.5
"""An int8 peak so many times the 16-bit one tells that products that accumulate in 32 bits run at half rate."""


STACKS = ("vllm", "trtllm", "pytorch")
"""Kernel libraries with constants of their own, in order of preference: those that vLLM and TensorRT-LLM of 2025 run
from CUDA graphs, and what PyTorch of 2023 called one after another (cuBLAS of that year, vLLM 0.2's own kernels)."""

KIN = {"pytorch": "vllm"}
"""Whose kernels a stack shares where nobody measured its own: FlashAttention, NCCL."""


def generic(hardware: HardwareProfile | None = None, stack: str | None = None) -> Efficiency:
    """Return constants for a GPU that nobody calibrated: about 9-12 % off per iteration on dense models.

    Parameters
    ----------
    stack : one of `STACKS`, whose kernels run; None takes what lies between them. Some kernels differ more between
        libraries than between chips: see `generic_of_stack`.
    hardware : the chip. Where its matrix units run at half rate when they accumulate in 32 bits, as on GeForce boards,
        neither power nor operands hold them back, and they reach nearly all of that half (.97 on an RTX 4090, in layer
        tables of LLMServingSim, MIT), whatever the library. Others reach as much more or less than the boards of the
        joint fits as their large matrix products do, where somebody measured these (`HardwareProfile.matrix_reach`).
        Collectives wait for as many hops over its fast link as their algorithm has. Kernels start more slowly on
        old architectures; see `SLOW_START`.
    """
    own = {} if stack is None else generic_of_stack(stack)
    hop = hop_seconds(hardware)
    experts, experts_8bit, experts_narrow_weights, experts_mxfp4 = experts_of(hardware, stack)
    prefill = PrefillRate(
        *(13e-6, 0.57, 0.90, f"{GRIDS}: joint fit to A100, H100, RTX PRO 6000"),
        sharpness=1.5,
        tail_rows=4200.0,
        own_bytes_per_second=1e12,
    )
    constants = Efficiency(
        level="generic",
        gemm=Rate(3.5e-6, 0.83, 0.86, f"{GRIDS}: joint fit to A100, H100, RTX PRO 6000", sharpness=1.75),
        gemm_8bit=Rate(
            *(6.8e-6, 0.72, 0.92, f"{GRIDS}: joint fit to fp8 on H100, RTX PRO 6000, int8 on A100"),
            sharpness=2.0,
            step_seconds=0.89e-9,
        ),
        quantise_8bit=Rate(
            *(2e-6, 1.0, 0.63, f"{GRIDS}: the same fit; tables know its launch and the product's in sum alone"),
            sharpness=1.0,
            step_seconds=2.4e-9,
        ),
        gemm_block=Rate(
            *(4.3e-6, 0.72, 0.92, "as other 8-bit products, started like 16-bit ones: nobody measured these for us"),
            sharpness=2.0,
            step_seconds=0.89e-9,
        ),
        quantise_block=Rate(2e-6, 1.0, 0.80, "as other elementwise kernels: nobody measured this one for us"),
        gemm_4bit=Rate(4.5e-6, 0.50, 0.66, f"{FOUR_BITS}, both libraries", sharpness=3.0, step_seconds=1.1e-9),
        quantise_4bit=Rate(2e-6, 1.0, 1.2, f"{FOUR_BITS}, both libraries", step_seconds=0.7e-9, sharpness=1.0),
        gemm_narrow_weights=Rate(
            *(11.7e-6, 0.80, 0.95, "A100 tables of weight-only products (TensorRT-LLM 1.0, Apache-2.0)"),
            sharpness=1.6,
            step_seconds=1.8e-9,
        ),
        experts=experts,
        experts_8bit=experts_8bit,
        experts_block=BETWEEN,
        experts_4bit=BETWEEN,
        experts_narrow_weights=experts_narrow_weights,
        experts_mxfp4=experts_mxfp4,
        elementwise=Rate(
            2e-6, 1.0, 0.85, "RTX 4090 and RTX PRO 6000 layer tables (LLMServingSim, MIT); no arithmetic", cached=3.0
        ),
        prefill_attention=prefill,
        prefill_attention_8bit=prefill,
        decode_attention=_decoding(9.5e-6, 0.83, 2.5e-6, 25e-9),
        decode_attention_8bit=_decoding(9.5e-6, 0.83, 2.5e-6, 18e-9),
        decode_attention_ungrouped=_decoding(9.5e-6, 0.83, 2.5e-6, 20e-9),
        decode_attention_ungrouped_8bit=_decoding(9.5e-6, 0.83, 2.5e-6, 15e-9),
        mixed_attention=Rate(9e-6, 0.6, 0.9, "mixed batches on RTX 4090 and RTX PRO 6000 (LLMServingSim, MIT)"),
        mixed_tile_tokens=140,
        links=generic_links(hop, stack),
        nccl=generic_nccl(hop),
    )
    constants = replace(constants, **own)
    return constants if hardware is None else _on_chip(hardware, constants, own)


def _on_chip(hardware: HardwareProfile, constants: Efficiency, own: Mapping[str, Any]) -> Efficiency:
    """Return what becomes of constants on a chip; `own` are those that the library has of its own."""
    if hardware.architecture in SLOW:
        constants = _starting_slowly(constants, own)
    if _halves(hardware):
        return replace(constants, gemm=replace(constants.gemm, compute=0.95))
    if hardware.matrix_reach is None:
        return constants
    reach = hardware.matrix_reach / REACH
    rates: dict[str, Any] = {name: getattr(constants, name) for name in HELD_BACK}
    rates = {name: replace(rate, compute=min(1.0, rate.compute * reach)) for name, rate in rates.items()}
    return replace(constants, **rates)


def generic_of_stack(stack: str) -> dict[str, Any]:
    """Return the generic constants that a kernel library has of its own, by field of `Efficiency`.

    Raises
    ------
    ValueError
        The library is unknown.
    """
    if stack not in STACKS:
        raise ValueError(f"stack {stack!r} is unknown; allowed are {', '.join(STACKS)}")
    source = f"{GRIDS}: joint fit to kernels of {stack}"
    own: dict[str, dict[str, Any]] = {
        "pytorch": {
            "gemm": Rate(6.8e-6, 0.735, 0.95, f"{PROFILES}: joint fit to A100, H100", sharpness=1.4),
            "elementwise": Rate(2.7e-6, 1.0, 0.47, f"{PROFILES}: joint fit to A100, H100; no arithmetic"),
        },
        "trtllm": {  # fp8 on H100, int8 on A100, whose input comes quantised
            "gemm_8bit": Rate(10.9e-6, 0.76, 0.90, source, sharpness=1.4, step_seconds=0.28e-9),
            "quantise_8bit": Rate(2e-6, 1.0, 0.49, source, sharpness=1.0),
            "gemm_4bit": Rate(4.3e-6, 0.50, 0.62, FOUR_BITS, sharpness=3.1, step_seconds=1.7e-9),
            "quantise_4bit": Rate(2e-6, 1.0, 1.0, FOUR_BITS, sharpness=1.0, step_seconds=0.8e-9),
        },
        "vllm": {  # fp8 on H100 and RTX PRO 6000
            "gemm_8bit": Rate(2.5e-6, 0.76, 0.91, source, sharpness=2.9, step_seconds=1.27e-9),
            "quantise_8bit": Rate(2e-6, 1.0, 0.73, source, sharpness=1.0, step_seconds=5.9e-9),
            "gemm_4bit": Rate(4.6e-6, 0.50, 0.69, FOUR_BITS, sharpness=2.8, step_seconds=0.56e-9),
            "quantise_4bit": Rate(2e-6, 1.0, 1.4, FOUR_BITS, sharpness=1.0, step_seconds=0.6e-9),
        },
    }
    common, blocks = (10e-6, 0.83, 2e-6), (25e-9, 20e-9, 25e-9, 20e-9)
    if stack == "trtllm":
        common, blocks = (9e-6, 0.82, 4.5e-6), (40e-9, 11.5e-9, 11.5e-9, 11.5e-9)
    decoding = {name: _decoding(*common, block) for name, block in zip(DECODE_RATES, blocks, strict=True)}
    return own.get(stack, {}) | decoding


def _starting_slowly(constants: Efficiency, own: Mapping[str, Any]) -> Efficiency:
    """Return constants for an old architecture; a library's own of products were fitted there."""
    names = (*DECODE_RATES, "experts", *(() if "gemm" in own else ("gemm",)))
    rates: dict[str, Any] = {name: getattr(constants, name).scaled(SLOW_START, 1.0, 1.0) for name in names}
    nccl = replace(constants.nccl, launch_seconds=constants.nccl.launch_seconds + (SLOW_START - 1) * NCCL_SECONDS)
    return replace(constants, **rates, nccl=nccl)


def _decoding(launch_seconds: float, memory: float, combine_seconds: float, block_seconds: float) -> DecodeRate:
    source = (
        "joint fits to decoding attention on A100, H100, RTX PRO 6000 (aiconfigurator-core 0.12.0, Apache-2.0), on "
        "the fast side of them, where newer kernels are; compute as in prefill, it binds with latent attention only"
    )
    return DecodeRate(
        launch_seconds, 0.50, memory, source, block_seconds=block_seconds, combine_seconds=combine_seconds
    )


def _halves(hardware: HardwareProfile) -> bool:
    peaks = hardware.peak_flops_per_second
    return peaks.get("int8", 0.0) > HALVED * max(peaks.get("bf16", 0.0), peaks.get("fp16", 0.0))


def datasheet() -> Efficiency:
    """Return the bare roofline: every peak reached, nothing costs a launch; 30-50 % too fast, never a prediction."""
    full = Rate(0.0, 1.0, 1.0, "the datasheet taken at its word")
    links = Links(*(0.0, 1.0, 1.0, 0.0, None, True, full.source), host=1.0, network_seconds=0.0, network=1.0)
    nccl = Nccl(0.0, 0.0, 1.0, 1.0, 1.0, full.source)
    rates: dict[str, Any] = dict.fromkeys(RATES, full)
    rates |= dict.fromkeys(PREFILL_RATES, PrefillRate(0, 1, 1, full.source))
    rates |= dict.fromkeys(DECODE_RATES, DecodeRate(0, 1, 1, full.source))
    return Efficiency("datasheet", **rates, mixed_tile_tokens=0, links=links, nccl=nccl)
