"""Which kernels a library runs a mixture of experts with on which chip, and what they reach."""

from __future__ import annotations

import math

from hardware_profiles.profile import HardwareProfile
from sim.physics.precision import sixteen_bit_unit
from sim.physics.roofline import Rate

GRIDS = "public tables of fused experts (aiconfigurator-core 0.12.0, Apache-2.0)"

BETWEEN = Rate(
    30e-6, 0.40, 0.80, f"{GRIDS}, six GPUs; the launch covers gating, sorting and the weighted sum", elsewhere=0.08
)
"""What lies between all of them."""

TENSORRT_LLM = Rate(
    29e-6, 0.47, 0.76, f"{GRIDS}: TensorRT-LLM on A100, H100 (16 bits, fp8)", sharpness=1.76, elsewhere=0.08
)
"""CUTLASS: sorts out what goes to other devices first."""

TRITON = Rate(37e-6, 0.37, 0.81, f"{GRIDS}: Triton under vLLM on A100, H100 (16 bits)", sharpness=1.97, elsewhere=0.88)
"""Activation and weighted sum pass over all visits, those to experts on other devices too (vLLM's `fused_experts`)."""

FLASHINFER = Rate(
    26e-6, 0.35, 0.95, f"{GRIDS}: FlashInfer under vLLM on RTX PRO 6000 (16 bits, fp8)", sharpness=2.46, elsewhere=0.05
)

FLASHINFER_FP8_ON_HOPPER = Rate(
    40e-6, 0.21, 0.41, f"{GRIDS}: FlashInfer under vLLM on H100 (fp8)", sharpness=1.04, step_seconds=1.07e-12
)
"""CUTLASS with large tiles: each expert that is met costs the arithmetic of about 230 rows, however few it has.

The tables of H100 and H200 agree on it, but do not say whether FlashInfer was tuned first, as vLLM does when it starts
(vllm/model_executor/warmup/kernel_warmup.py): a server may be up to five times faster, as `TENSORRT_LLM` is."""


MXFP4_ON_BLACKWELL = Rate(
    21e-6, 0.32, 0.51, f"{GRIDS}: FlashInfer under vLLM on B200 (mxfp4, GPT-OSS)", sharpness=1.0, elsewhere=0.22
)

MXFP4_ON_HOPPER = Rate(
    62e-6, 0.75, 0.61, f"{GRIDS}: Triton under vLLM on H200 (mxfp4, GPT-OSS)", sharpness=1.0, elsewhere=0.12
)


MARLIN_FLOPS_PER_SECOND = 280e12
"""What Marlin computes at most: it uses the matrix instructions of Ampere (mma.sync), which Hopper and Blackwell run at
a part of the rate of their own. Fit to H200; B200 reaches 286e12 of 2.3 times the peak."""


def marlin(hardware: HardwareProfile | None) -> Rate:
    """Return what Marlin reaches, which widens four-bit weights for vLLM's experts, and takes a step for each of them.

    The step shows where memory is fast: no chip reads more than 3 TB/s of such weights. None of the chips of the other
    constants has these kernels in a table: fit to int4 experts on H200, but what is step and what memory is told from
    L40S, which reads at its memory's rate.
    """
    peak = math.inf if hardware is None else hardware.peak(sixteen_bit_unit(hardware))
    compute = min(0.6, max(0.1, MARLIN_FLOPS_PER_SECOND / peak))
    source = f"{GRIDS}: Marlin under vLLM on H200 and L40S (int4)"
    return Rate(49e-6, compute, 0.85, source, sharpness=1.0, step_seconds=1.2e-13, elsewhere=0.5)


def experts_of(hardware: HardwareProfile | None, stack: str | None) -> tuple[Rate, Rate, Rate, Rate]:
    """Return the constants of 16-bit experts, narrower ones, narrower weights alone, and MXFP4, under a library.

    vLLM takes FlashInfer's kernels on Blackwell, and for fp8 on Hopper; Triton's elsewhere, and where no chip is named
    (as the tables name them, vLLM 0.24). That is fp8 with one scale for a tensor; with one for every block, as most
    checkpoints of mixtures have it (`fp8_block`), other kernels run, which are `BETWEEN`. Narrower weights alone are
    widened by `marlin`, but those of GPT-OSS on Hopper and Blackwell.

    Parameters
    ----------
    stack : one of `sim.physics.efficiency.STACKS`; None and others take `BETWEEN`.
    """
    if stack == "trtllm":
        return TENSORRT_LLM, TENSORRT_LLM, TENSORRT_LLM, TENSORRT_LLM
    if stack != "vllm":
        return BETWEEN, BETWEEN, BETWEEN, BETWEEN
    architecture = "" if hardware is None else hardware.architecture
    if architecture.startswith("Blackwell"):
        return FLASHINFER, FLASHINFER, marlin(hardware), MXFP4_ON_BLACKWELL
    if architecture == "Hopper":
        return TRITON, FLASHINFER_FP8_ON_HOPPER, marlin(hardware), MXFP4_ON_HOPPER
    return TRITON, TRITON, marlin(hardware), marlin(hardware)
