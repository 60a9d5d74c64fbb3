"""What tables of kernels timed beside them: the host that called them, weights that stayed in a cache."""

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


def from_cache(
    kept_bytes: Floats, read_bytes: Floats, flops: Floats, seconds: Floats, chip: HardwareProfile, peak: float
) -> Mask:
    """Return which products read weights from the chip's cache, as no model of many layers does, shape (rows,).

    Those whose benchmark keeps no more than fits into the cache and whose reading takes longer than their arithmetic,
    on chips where such products are seen to be faster than the memory. On others the cache is no faster.

    Parameters
    ----------
    kept_bytes, read_bytes : weights of all copies, and those that one product reads [bytes].
    peak : of the unit that computes [flop/s].
    """
    reading = read_bytes / chip.memory.bandwidth_bytes_per_second
    small = (kept_bytes <= (chip.memory.cache_bytes or 0.0)) & (reading > flops / peak)
    if not small.any() or np.mean(reading[small] > seconds[small]) < EVIDENCE:
        return np.zeros_like(small)
    return small
