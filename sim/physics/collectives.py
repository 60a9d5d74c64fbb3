"""How long devices take to add up, or to collect, what each of them has computed a part of."""

from __future__ import annotations

import numpy as np

from hardware_profiles.profile import HardwareProfile, Link
from sim.physics.efficiency import Links
from sim.physics.roofline import Floats

SIMPLE_PROTOCOL = 2.5
"""Latency of NCCL's simple protocol in those of its low-latency one (all-reduce tables of A100 and H100, NCCL 2.27)."""


def fast_link(hardware: HardwareProfile, devices: int) -> Link | None:
    """Return the link that joins that many devices, or None where they can only meet over PCIe."""
    link = hardware.scale_up
    return link if link and link.topology != "pcie" and devices <= hardware.devices_per_domain else None


def link_bytes_per_second(link: Link, devices: int) -> float:
    """Return what one device sends to its group [bytes/s]; without a switch only the wires to these peers count."""
    return min(link.bytes_per_second, (devices - 1) * link.peer_bytes_per_second)


def all_reduce_seconds(message_bytes: Floats, devices: int, hardware: HardwareProfile, links: Links) -> Floats:
    """Return the time until every device has the sum of all their messages; one device needs none [s].

    Parameters
    ----------
    message_bytes : of one device, any shape; nothing to add takes no time [bytes].
    devices : taking part. More than the chip's fast domain has meet at the PCIe rate, as a placeholder.
    """
    if devices == 1:
        return np.zeros_like(message_bytes)
    ring_bytes = 2 * (devices - 1) / devices * message_bytes
    link = fast_link(hardware, devices)
    if link is None:
        seconds = _pcie_latency_seconds(links, devices) + ring_bytes / _pcie_bytes_per_second(hardware, links)
    else:
        rate = link_bytes_per_second(link, devices)
        one_shot = links.one_shot_seconds + (devices - 1) * message_bytes / (links.one_shot * rate)
        seconds = np.minimum(one_shot, links.ring_seconds + ring_bytes / (links.ring * rate))
    return np.where(message_bytes > 0, seconds, 0.0)


def nccl_all_reduce_seconds(message_bytes: Floats, devices: int, hardware: HardwareProfile, links: Links) -> Floats:
    """Return the time of an all-reduce that NCCL does alone, without the engine's own kernels for small messages [s].

    A ring of 2 (w - 1) steps under the better of two protocols: one that sends flags with the data, with little
    latency and half the rate, and one that waits for whole buffers (docs.nvidia.com, NCCL_PROTO). Parameters as in
    `all_reduce_seconds`.
    """
    link = fast_link(hardware, devices)
    if devices == 1 or link is None:
        return all_reduce_seconds(message_bytes, devices, hardware, links)
    latency = links.nccl_seconds + 2 * (devices - 1) * links.nccl_step_seconds
    ring_seconds = 2 * (devices - 1) / devices * message_bytes / link_bytes_per_second(link, devices)
    low_latency = latency + ring_seconds / links.nccl_low_latency
    simple = SIMPLE_PROTOCOL * latency + ring_seconds / links.nccl
    return np.where(message_bytes > 0, np.minimum(low_latency, simple), 0.0)


def all_gather_seconds(gathered_bytes: Floats, devices: int, hardware: HardwareProfile, links: Links) -> Floats:
    """Return the time until every device has the parts of all; one device needs none [s].

    Each device receives all but its own part, half of what a ring all-reduce moves, with an all-reduce's latency.

    Parameters
    ----------
    gathered_bytes : of all parts together, any shape [bytes].
    devices : taking part; see `all_reduce_seconds`.
    """
    if devices == 1:
        return np.zeros_like(gathered_bytes)
    received_bytes = (devices - 1) / devices * gathered_bytes
    link = fast_link(hardware, devices)
    if link is None:
        seconds = _pcie_latency_seconds(links, devices) + received_bytes / _pcie_bytes_per_second(hardware, links)
    else:
        seconds = links.ring_seconds + received_bytes / (links.ring * link_bytes_per_second(link, devices))
    return np.where(gathered_bytes > 0, seconds, 0.0)


def _pcie_latency_seconds(links: Links, devices: int) -> float:
    return links.pcie_seconds + 2 * (devices - 1) * links.pcie_step_seconds


def _pcie_bytes_per_second(hardware: HardwareProfile, links: Links) -> float:
    return links.pcie_bytes_per_second or hardware.host_link.bytes_per_second
