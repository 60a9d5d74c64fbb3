"""The table of collectives: what adding up, collecting and exchanging cost between devices and between servers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.scoreboard.groups import Floats, Found, Goals, Group, Skipped, by, floats, folds, stack_of
from hardware_profiles.profile import HardwareProfile
from sim.physics.collectives import (
    SERVER_DEVICES,
    all_gather_seconds,
    all_reduce_seconds,
    all_to_all_seconds,
    fast_link,
    nccl_all_reduce_seconds,
    send_seconds,
)
from sim.physics.efficiency import Efficiency

if TYPE_CHECKING:
    import pandas as pd

NVLINK: Goals = (15, 10)
PCIE: Goals = (None, None)
HOST_SECONDS = {"vllm_eager": (44e-6, 21e-6), "nccl-vidur": (55e-6, 38e-6)}
"""Least that one call takes outside CUDA graphs, on slow hosts (see `_is_host_slow`) and on others [s].

What messages of up to 1 MiB take whatever their size and however many devices: the host needs so long for a call of
vLLM (0.14 to 0.24, A100 and H100; GB200's Grace is as slow as the host of A100). Vidur times kernels through a
profiler, and NCCL's run until the last device has launched its own, too; some of Vidur's rows happen to wait and their
neighbours do not.
"""

OLDER_HOSTS = 2021
"""Year of chips whose servers have processors of PCIe Gen4."""

MODELLED = {
    "all_reduce": all_reduce_seconds,
    "all_gather": all_gather_seconds,
    "reduce_scatter": all_gather_seconds,  # the mirror image
    "alltoall": all_to_all_seconds,
}


def comm(frame: pd.DataFrame) -> Found:
    """Collectives by message size."""
    return by("comm", frame, ("op", "backend", "world", "per_node"), _collective)


def _collective(chip: HardwareProfile, rows: pd.DataFrame) -> Found:
    first = rows.iloc[0]
    world, together, label = int(first.world), int(first.per_node), f"{first.backend} {first.op} x{first.world}"
    if first.op not in (*MODELLED, "send_recv"):
        known = ", ".join((*MODELLED, "send_recv"))
        return [Skipped("comm", str(first.hw), label, len(rows), f"{first.op} is not modelled; modelled are {known}")]
    size, us = floats(rows, "bytes", "us")
    # A domain wider than a server, as NVL72, joins devices of several.
    across = together < world and not (chip.devices_per_domain > SERVER_DEVICES and fast_link(chip, world))
    if across:
        label = f"{label}, {together} a server"
    fast = fast_link(chip, world) is not None and not across
    goals = NVLINK if fast and first.op == "all_reduce" else PCIE
    # Not fitted: eager calls, which wait for the host, and collectives timed through a profiler (Vidur).
    captured = first.op == "all_reduce" and str(first.backend).startswith(("vllm_graph", "trtllm", "nccl-2"))
    constant = ""
    if captured and not across:
        constant = "nccl" if _is_bare(first) and fast else "links"
    seconds = partial(_seconds, rows=rows, chip=chip, size=size, across=across)
    shape, stack = folds(rows, ("world", "bytes")), stack_of(str(first.backend))
    return [Group("comm", str(first.hw), label, chip, stack, constant, goals, seconds, us / 1e6, shape)]


def _is_bare(first: pd.Series[Any]) -> bool:
    """Tell whether NCCL adds up alone, without the engine's kernels for small messages."""
    return bool(first.op == "all_reduce" and str(first.backend).startswith("nccl"))


def _seconds(constants: Efficiency, rows: pd.DataFrame, chip: HardwareProfile, size: Floats, *, across: bool) -> Floats:
    first = rows.iloc[0]
    world, server = int(first.world), max(SERVER_DEVICES, chip.devices_per_domain)
    if first.op == "send_recv":
        return send_seconds(size, 0, server if across else 1, chip, constants)
    if first.op == "all_reduce" and not across:
        return _waiting(_all_reduce(constants, first, chip, size), str(first.backend), chip)
    # Fewer devices of a server than it has are as far apart as if the others stood between them.
    stride = max(1, server // int(first.per_node)) if across else 1
    moved = (world - 1) / world * size if first.op == "alltoall" else size
    return MODELLED[str(first.op)](moved, world, chip, constants, stride)


def _all_reduce(constants: Efficiency, first: pd.Series[Any], chip: HardwareProfile, size: Floats) -> Floats:
    if _is_bare(first):
        return nccl_all_reduce_seconds(size, int(first.world), chip, constants)
    seconds = all_reduce_seconds(size, int(first.world), chip, constants)
    if not str(first.backend).startswith("vllm_eager"):
        return seconds
    # The benchmark hands every eager call a fresh copy of the message, made on the device (aiconfigurator's collector).
    rate = constants.elementwise
    copied = 2 * size / (rate.memory * chip.memory.bandwidth_bytes_per_second)
    return np.asarray(seconds + rate.launch_seconds + copied)


def _waiting(seconds: Floats, backend: str, chip: HardwareProfile) -> Floats:
    """Return the time from one call to the next, which are issued one by one unless they were captured."""
    for eager, (slow, fast) in HOST_SECONDS.items():
        if backend.startswith(eager):
            return np.maximum(seconds, slow if _is_host_slow(chip) else fast)
    return seconds


def _is_host_slow(chip: HardwareProfile) -> bool:
    return chip.year <= OLDER_HOSTS or "Grace" in chip.host_link.kind
