"""What benchmarks time beside kernels: the host that called them, a cache that kept what they read."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from experiments.scoreboard.groups import Floats
from hardware_profiles.profile import HardwareProfile

Mask = npt.NDArray[np.bool_]

WAITS = 3.0
"""Calls that wait for the host take up to so many times as long as the shortest of them: those of fp8 products with
block scales are in two heaps, up to 2.8 times 55 to 250 us whatever the shape, and above where the device takes longer
(aiconfigurator-core 0.12.0, vLLM 0.24, Apache-2.0)."""

CACHED_RATE = 2.0
"""How much faster L2 is read than graphics memory: 1.5 to 2.6 times on RTX PRO 6000, by the rows of attention on either
side of its 128 MiB (aiconfigurator-core 0.12.0). Those benchmarks repeat the same call, so that what fits is there from
one repetition to the next. In an iteration the weights of a layer come in between, so that no simulation may count on
it."""

GRAPHICS_MEMORY = frozenset({"l40s", "rtx-4090", "rtx-pro-6000-bw", "rtx-pro-6000-server"})
"""Chips where that holds. High-bandwidth memory is so fast that kernels gain next to nothing from the L2 of A100 and
H100."""

COPIES = 6
"""Sets of weights that aiconfigurator multiplies with in turn, lest the chip's cache hold them; of experts one."""


EVIDENCE = 0.01
"""Part of the products with small weights that has to be faster than the memory can be before all of them count as
having come from the cache; a few are mistakes."""


def waits_for_host(seconds: Floats, kernels: npt.NDArray[np.object_]) -> Mask:
    """Return which calls took no longer than their host did, shape (rows,).

    Parameters
    ----------
    seconds : of eager calls, one after another, each of which takes the longer of host and device [s].
    kernels : names; each has a host time of its own, which its smallest product shows.
    """
    waits = np.zeros(len(seconds), dtype=np.bool_)
    for kernel in np.unique(kernels):
        mine = kernels == kernel
        waits[mine] = seconds[mine] < WAITS * seconds[mine].min()
    return waits


def stays(kept_bytes: Floats, chip: HardwareProfile) -> Mask:
    """Return what fits into a cache that is much faster than the chip's memory, shape of the bytes."""
    cache_bytes = (chip.memory.cache_bytes or 0.0) if chip.name in GRAPHICS_MEMORY else 0.0
    return np.asarray(kept_bytes <= cache_bytes)


def cached_rate(
    kept_bytes: Floats, read_bytes: Floats, flops: Floats, seconds: Floats, chip: HardwareProfile, peak: float
) -> Floats:
    """Return how many times faster than from memory weights were read, shape (rows,).

    A cache is assumed where all that a benchmark reads in turn stays in it, if some such products were indeed faster
    than the memory can be.

    Parameters
    ----------
    kept_bytes, read_bytes : weights of all copies, and those that one product reads [bytes].
    peak : of the unit that computes [flop/s].
    """
    reading = read_bytes / chip.memory.bandwidth_bytes_per_second
    small = stays(kept_bytes, chip) & (reading > flops / peak)
    seen = small.any() and np.mean(reading[small] > seconds[small]) >= EVIDENCE
    return np.where(small, CACHED_RATE, 1.0) if seen else np.ones_like(reading)
