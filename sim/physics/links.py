"""Which part of links' rates collectives reach, and how long they wait: for wires, peers and the start of kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from hardware_profiles.profile import HardwareProfile

TABLES = "all-reduce tables of aiconfigurator-core 0.12.0 (Apache-2.0)"

HOP_SECONDS = 0.6e-6
"""One way over a fast link where the profile says nothing [s]: what three libraries' latencies on an A100 leave for it
beside those on an H100, whose hop is known (all-reduce tables of aiconfigurator-core 0.12.0, Apache-2.0), and what NCCL
itself reckons with for NVLink (src/graph/tuning.cc, quoted in github.com/NVIDIA/nccl/issues/1334)."""

NCCL_SECONDS = 3.7e-6
"""What NCCL takes to start beside its hops [s]: joint fit to the same tables, NCCL 2.27 and 2.29."""


@dataclass(frozen=True)
class Links:
    """Constants of an all-reduce of s bytes over w devices with B bytes/s per device and direction.

    Over an NVLink-like link the best of the engine's own kernels and NCCL (see `Nccl`). In one shot everybody reads
    everything, ``latency + (w - 1) s / (one_shot B)``; in two, everybody reads a part to add it up and then all sums,
    ``two_shot latency + 2 (w - 1) / w s / (one_shot B)``. Over PCIe a ring at its own latency and rate.

    Attributes
    ----------
    one_shot_seconds, peer_seconds : latency, and what each peer adds to it, since the slowest is waited for [s]; inf in
        an engine without such kernels.
    one_shot : reached part of B.
    two_shot : latency of two shots in those of one; inf in a library that has none.
    most_devices : that either of them works on.
    pcie_seconds, pcie_step_seconds : latency over PCIe, and of each of the 2 (w - 1) steps of the ring there [s].
    pcie_bytes_per_second : rate over PCIe; None takes the host link's datasheet rate.
    pcie_measured : False where the PCIe constants are a default that nobody measured on this kind of system.
    source : where the numbers come from.
    host : part of the host link's datasheet rate that a device reaches reading the memory of its host: 25.1 of 32 GB/s
        on an A100 (github.com/NVIDIA/nvbandwidth/issues/42), 52.8 of 64 GB/s, the other way, on an H100 (.../24).
    network_seconds, network : latency of a message between servers [s], and reached part of a network adapter's rate.
        Between H100 servers a message takes 17 us and large ones move at 36 of 50 GB/s, between A100 servers it takes
        24 us (github.com/microsoft/vidur, data/profiling/network, MIT).
    """

    one_shot_seconds: float
    one_shot: float
    two_shot: float
    pcie_seconds: float
    pcie_bytes_per_second: float | None
    pcie_measured: bool
    source: str
    pcie_step_seconds: float = 0.0
    peer_seconds: float = 0.0
    most_devices: float = math.inf
    host: float = 0.8
    network_seconds: float = 20e-6
    network: float = 0.7


@dataclass(frozen=True)
class Nccl:
    """Constants of what NCCL does: gathering, exchanging, sending, and adding up where no engine's kernel is faster.

    See `sim.physics.collectives.nccl_all_reduce_seconds`.

    Attributes
    ----------
    launch_seconds, step_seconds : latency, and of each step: 2 (w - 1) of them in a ring that adds up, w - 1 in one
        that gathers [s].
    low_latency, simple : part of the link's rate that its two protocols reach.
    switched : the same where the switch adds up; see `Link.reduces`.
    source : where the numbers come from.
    """

    launch_seconds: float
    step_seconds: float
    low_latency: float
    simple: float
    switched: float
    source: str


def hop_seconds(hardware: HardwareProfile | None) -> float:
    """Return how long a signal takes over the fast link of a chip [s]; None has the usual one."""
    link = hardware.scale_up if hardware is not None else None
    return HOP_SECONDS if link is None or link.latency_seconds is None else link.latency_seconds


def generic_links(hop: float, stack: str | None) -> Links:
    """Return constants of an engine's own all-reduce, which are those of its library.

    Four hops: a flag that the input is there, reading it there and back, a flag that it was read. TensorRT-LLM's has no
    flags of their own (each datum tells that it has come), but as much of the link in its latency. Two shots are vLLM's
    (csrc/custom_all_reduce.cuh, Apache-2.0), whose kernels are for up to 8 devices; before 2024 it left all to NCCL
    (vllm-project/vllm, pull request 2192).
    """
    kernel, one_shot, two_shot, most_devices = {
        "vllm": (2.6e-6, 0.60, 1.8, 8),
        "trtllm": (1.3e-6, 0.54, math.inf, math.inf),
        "pytorch": (math.inf, 1.0, math.inf, math.inf),
        None: (2.1e-6, 0.55, 2.4, 8),
    }[stack]
    return Links(
        one_shot_seconds=kernel + 4 * hop,
        one_shot=one_shot,
        two_shot=two_shot,
        pcie_seconds=20e-6,
        pcie_bytes_per_second=16e9,
        pcie_measured=False,
        source=f"joint fit to the {TABLES} inside CUDA graphs, A100 and H100",
        peer_seconds=0.09e-6,
        most_devices=most_devices,
    )


def nccl_alone(links: Links) -> Links:
    """Return the constants of an engine without kernels of its own, which leaves adding up to NCCL."""
    return replace(links, one_shot_seconds=math.inf, two_shot=math.inf)


def generic_nccl(hop: float) -> Nccl:
    """Return constants of NCCL: four hops to begin and to end, as an engine's own kernel has, and one hop a step."""
    source = f"joint fit to the {TABLES}, NCCL 2.27 and 2.29 on A100 and H100"
    return Nccl(NCCL_SECONDS + 4 * hop, 0.38e-6 + hop, 0.325, 0.75, 0.65, source)
