"""Which part of a datasheet real kernels reach, as dated sets of constants that say how good their evidence is."""

from __future__ import annotations

from dataclasses import dataclass

from sim.physics.roofline import Rate

GRIDS = "fit over public operator tables of six GPUs (aiconfigurator-core 0.12.0, Apache-2.0)"


@dataclass(frozen=True)
class Links:
    """Constants of an all-reduce of s bytes over w devices with B bytes/s per device and direction.

    The better of one-shot, ``one_shot_seconds + (w - 1) s / (one_shot B)``, and ring,
    ``ring_seconds + 2 (w - 1) / w s / (ring B)``; over PCIe the ring alone, at its own latency and rate.

    Attributes
    ----------
    one_shot_seconds, one_shot, ring_seconds, ring : latency [s] and reached part of B, over an NVLink-like link.
    pcie_seconds : latency over PCIe [s].
    pcie_bytes_per_second : rate over PCIe; None takes the host link's datasheet rate.
    pcie_measured : False where the PCIe constants are a default that nobody measured on this kind of system.
    source : where the numbers come from.
    """

    one_shot_seconds: float
    one_shot: float
    ring_seconds: float
    ring: float
    pcie_seconds: float
    pcie_bytes_per_second: float | None
    pcie_measured: bool
    source: str


@dataclass(frozen=True)
class Efficiency:
    """A set of constants; see `generic` and `datasheet`.

    Attributes
    ----------
    level : ``"datasheet"``, ``"generic"`` or ``"calibrated: <what>"``: how far a time priced with them can be trusted.
    gemm, gemm_8bit : matrix products on 16-bit and on 8-bit activations.
    experts : the grouped products of a mixture of experts.
    elementwise : norms, rotary positions, activation functions, copies, sampling.
    prefill_attention, decode_attention : one kernel a layer for all prefilling, one for all decoding sequences. Cached
        keys and values move at the rate of decoding in both.
    links : see `Links`.
    """

    level: str
    gemm: Rate
    gemm_8bit: Rate
    experts: Rate
    elementwise: Rate
    prefill_attention: Rate
    decode_attention: Rate
    links: Links


def generic() -> Efficiency:
    """Return constants for a GPU that nobody calibrated: about 9-12 % off per iteration on dense models."""
    return Efficiency(
        level="generic",
        gemm=Rate(3.5e-6, 0.78, 0.82, GRIDS),
        gemm_8bit=Rate(7e-6, 0.55, 0.80, f"{GRIDS}; fp8, used for int8 too; the launch covers the quantising pass"),
        experts=Rate(30e-6, 0.40, 0.80, f"{GRIDS}; the launch covers gating, sorting and the weighted sum"),
        elementwise=Rate(2e-6, 1.0, 0.80, "RTX 4090 and A100 layer tables (LLMServingSim, Vidur; MIT); no arithmetic"),
        prefill_attention=Rate(12e-6, 0.50, 0.25, f"{GRIDS}; bytes are the chunk's own queries, keys, values, results"),
        decode_attention=Rate(
            10e-6, 0.50, 0.80, f"{GRIDS}; compute as in prefill, it binds with latent attention only"
        ),
        links=Links(5e-6, 0.58, 11e-6, 0.72, 20e-6, 16e9, False, f"{GRIDS}, all-reduce inside CUDA graphs on NVLink"),
    )


def datasheet() -> Efficiency:
    """Return the bare roofline: every peak reached, nothing costs a launch; 30-50 % too fast, never a prediction."""
    full = Rate(0.0, 1.0, 1.0, "the datasheet taken at its word")
    links = Links(0.0, 1.0, 0.0, 1.0, 0.0, None, True, full.source)
    return Efficiency("datasheet", full, full, full, full, full, full, links)
