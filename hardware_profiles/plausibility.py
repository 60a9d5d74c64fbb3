"""Which peaks look like 2:4 sparsity counted as speed: datasheets print those, and dense matrices never reach them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Figures = tuple[float, float, float]
"""Highest 16-bit peak [flop/s], memory bandwidth [bytes/s], memory capacity [bytes]."""

RATIO_LIMITS = {"fp8": 3.0, "int8": 3.0, "int4": 6.0, "fp4": 7.0}
"""Dense peaks stay below this multiple of the 16-bit peak: 2 for 8 bits and 4 for 4 bits on nearly every chip, 6.2 for
the FP4 of Blackwell Ultra; a sparse figure doubles that. GeForce boards halve the 16-bit rate and must say `dense`."""

FLOPS_PER_BYTE_LIMIT = 580.0
"""16-bit flops per byte of memory bandwidth. The most of any shipped chip is 560 (TPU v6e); a sparse H100 has 591."""


def sparse_looking(peaks: Mapping[str, float], bandwidth: float) -> tuple[str, str] | None:
    """Return the first dtype whose peak looks like a sparse one and why, or None.

    Parameters
    ----------
    peaks : peak by dtype, fp16 or bf16 among them [flop/s].
    bandwidth : of the memory [bytes/s].

    >>> sparse_looking({"fp16": 362e12, "fp8": 1466e12}, 864e9)
    ('fp8', 'is 4.0 x the 16-bit peak (dense: below 3)')
    >>> sparse_looking({"fp16": 362e12, "fp8": 733e12}, 864e9)
    """
    top, half = highest_half(peaks)
    for other in {"fp16", "bf16"} & set(peaks) - {top}:
        if 1.8 < half / peaks[other] < 2.2:
            return top, f"is about twice the peak of {other}"
    for dtype, limit in RATIO_LIMITS.items():
        if peaks.get(dtype, 0.0) > limit * half:
            return dtype, f"is {peaks[dtype] / half:.1f} x the 16-bit peak (dense: below {limit:g})"
    if all(0.8 < peaks.get(dtype, 0.0) / half < 1.25 for dtype in ("fp8", "int8")):
        return top, "is as high as both 8-bit peaks"
    if half > FLOPS_PER_BYTE_LIMIT * bandwidth:
        intensity = half / bandwidth
        return top, f"is {intensity:.0f} flops per byte of memory bandwidth (dense: below {FLOPS_PER_BYTE_LIMIT:g})"
    return None


def twice_a_known_chip(figures: Figures, known: Iterable[tuple[str, Figures]]) -> str | None:
    """Return the known chip with half the 16-bit peak and the same memory, or None: its sparse peak was copied.

    >>> twice_a_known_chip((624e12, 2039e9, 80e9), [("a100", (312e12, 2039e9, 80e9))])
    'a100'
    """
    for name, (half, bandwidth, capacity) in known:
        ratios = figures[0] / (2 * half), figures[1] / bandwidth, figures[2] / capacity
        if all(abs(ratio - 1) < tolerance for ratio, tolerance in zip(ratios, (0.03, 0.1, 0.1), strict=True)):
            return name
    return None


def highest_half(peaks: Mapping[str, float]) -> tuple[str, float]:
    """Return the faster of fp16 and bf16 and its peak [flop/s]."""
    dtype = max({"fp16", "bf16"} & set(peaks), key=lambda dtype: (peaks[dtype], dtype))
    return dtype, peaks[dtype]
