"""How long devices take to add up, to collect, or to exchange what each of them has a part of."""

from __future__ import annotations

import math

import numpy as np

from hardware_profiles.profile import HardwareProfile, Link
from sim.physics.efficiency import Efficiency
from sim.physics.links import Links, Nccl
from sim.physics.roofline import Floats

SIMPLE_PROTOCOL = 2.5
"""Latency of NCCL's simple protocol in those of its low-latency one (all-reduce tables of A100 and H100, NCCL 2.27)."""

SWITCH_PROTOCOL = 4.2
"""The same where the switch adds up (all-reduce tables of H100, NCCL 2.27)."""

LAST_COPY = 0.5
"""What copying the last part out of its buffer costs, in parts sent: a ring of w devices sends 2 (w - 1) parts of a
message and handles 2 w - 1 of them (fits to the same tables give .4 on an A100, 1 on an H100)."""

SERVER_DEVICES = 8
"""Devices of a server, which can meet over PCIe where no fast link joins them."""

NETWORK = Link("network adapter, assumed", "switch", 25e9, 25e9)
"""Between servers where a profile says nothing: 200 Gbit/s for each device, an adapter each (as in DGX A100)."""


def fast_link(hardware: HardwareProfile, devices: int) -> Link | None:
    """Return the link that joins that many devices, or None where they can only meet over PCIe or a network."""
    link = hardware.scale_up
    return link if link and link.topology != "pcie" and devices <= hardware.devices_per_domain else None


def link_bytes_per_second(link: Link, devices: int) -> float:
    """Return what one device sends to its group [bytes/s]; without a switch only the wires to these peers count."""
    return min(link.bytes_per_second, (devices - 1) * link.peer_bytes_per_second)


def servers_of(hardware: HardwareProfile, devices: int, stride: int = 1) -> tuple[int, int]:
    """Return how many devices of a group are together in a server or fast domain, and in how many of these it lies.

    Parameters
    ----------
    stride : the members of the group are so many devices apart, and others between them.
    """
    together = max(1, max(SERVER_DEVICES, hardware.devices_per_domain) // stride)
    places = math.ceil(devices / together)
    return math.ceil(devices / places), places


def all_reduce_seconds(
    message_bytes: Floats, devices: int, hardware: HardwareProfile, constants: Efficiency, stride: int = 1
) -> Floats:
    """Return the time until every device has the sum of all their messages; one device needs none [s].

    Over a fast link the best of one shot, two shots (see `Links`) and ring (Patarasuk and Yuan 2009); over PCIe the
    ring. Between servers in three steps: scattered sums inside each, sums of the parts across (see
    `_across_seconds`), and collecting inside (the hierarchy of BlueConnect, Cho et al. 2019).

    Parameters
    ----------
    message_bytes : of one device, any shape; nothing to add takes no time [bytes].
    devices, stride : taking part, and how far apart they are; see `servers_of`.
    """
    if devices == 1:
        return np.zeros_like(message_bytes)
    links = constants.links
    inside, places = servers_of(hardware, devices, stride)
    if places > 1:
        once = all_gather_seconds(message_bytes, inside, hardware, constants, stride)  # scattering is the mirror image
        seconds = 2 * once + _across_seconds(message_bytes / inside, places, hardware, links)
        return np.where(message_bytes > 0, seconds, 0.0)
    link = fast_link(hardware, devices * stride)
    if link is None:
        ring_bytes = 2 * (devices - 1) / devices * message_bytes
        seconds = _pcie_latency_seconds(links, 2 * (devices - 1)) + ring_bytes / _pcie_bytes_per_second(hardware, links)
    else:
        seconds = nccl_all_reduce_seconds(message_bytes, devices, hardware, constants, stride)
        if devices <= links.most_devices:
            seconds = np.minimum(seconds, _shots_seconds(message_bytes, devices, link, links))
    return np.where(message_bytes > 0, seconds, 0.0)


def nccl_all_reduce_seconds(
    message_bytes: Floats, devices: int, hardware: HardwareProfile, constants: Efficiency, stride: int = 1
) -> Floats:
    """Return the time of an all-reduce that NCCL does alone, without the engine's own kernels for small messages [s].

    A ring of 2 (w - 1) steps under the better of two protocols: one that sends flags with the data, with little
    latency and half the rate, and one that waits for whole buffers (docs.nvidia.com, NCCL_PROTO). Or, where the switch
    adds up, each device sends its message, receives the sum of a part and sends that to all: w + 1 parts on the wire
    after a long start (docs.nvidia.com, NCCL_ALGO: NVLS). Parameters as in `all_reduce_seconds`.
    """
    link = fast_link(hardware, devices * stride)
    if devices == 1 or link is None:
        return all_reduce_seconds(message_bytes, devices, hardware, constants, stride)
    nccl, steps = constants.nccl, 2 * (devices - 1)
    part_seconds = message_bytes / devices / link_bytes_per_second(link, devices)
    seconds = _protocol_seconds(part_seconds, steps, steps, nccl)
    if link.reduces:
        latency = SWITCH_PROTOCOL * (nccl.launch_seconds + steps * nccl.step_seconds)
        seconds = np.minimum(seconds, latency + (devices + 1) * part_seconds / nccl.switched)
    return np.where(message_bytes > 0, seconds, 0.0)


def all_gather_seconds(
    gathered_bytes: Floats, devices: int, hardware: HardwareProfile, constants: Efficiency, stride: int = 1
) -> Floats:
    """Return the time until every device has the parts of all; one device needs none [s].

    Each device receives all but its own part: half of what a ring all-reduce moves, in half its steps. Engines leave
    it to NCCL. Between servers each device first collects from its counterparts, then inside. A reduce-scatter is the
    mirror image, and takes as long.

    Parameters
    ----------
    gathered_bytes : of all parts together, any shape [bytes].
    devices, stride : taking part; see `all_reduce_seconds`.
    """
    if devices == 1:
        return np.zeros_like(gathered_bytes)
    inside, places = servers_of(hardware, devices, stride)
    if places > 1:
        latency, rate = _network(hardware, constants.links)
        part = (places - 1) / places * gathered_bytes / inside
        seconds = (places - 1) * latency + part / rate
        seconds = seconds + all_gather_seconds(gathered_bytes, inside, hardware, constants, stride)
        return np.where(gathered_bytes > 0, seconds, 0.0)
    seconds = _inside_seconds(gathered_bytes / devices, devices, devices - 1, hardware, constants, stride)
    return np.where(gathered_bytes > 0, seconds, 0.0)


def all_to_all_seconds(
    received_bytes: Floats, devices: int, hardware: HardwareProfile, constants: Efficiency, stride: int = 1
) -> Floats:
    """Return the time until every device has what the others have for it; one device needs none [s].

    What comes from the own server and what comes over the network arrive side by side.

    Parameters
    ----------
    received_bytes : from all others together, of the device that receives most; any shape [bytes].
    devices, stride : taking part; see `all_reduce_seconds`.
    """
    if devices == 1:
        return np.zeros_like(received_bytes)
    inside, places = servers_of(hardware, devices, stride)
    part, near = received_bytes / (devices - 1), received_bytes * ((inside - 1) / (devices - 1))
    seconds = np.zeros_like(received_bytes)
    if inside > 1:  # all parts at once, each over its own way
        seconds = _inside_seconds(part, inside, 1, hardware, constants, stride)
    if places > 1:
        latency, rate = _network(hardware, constants.links)
        seconds = np.maximum(seconds, latency + (received_bytes - near) / rate)
    return np.where(received_bytes > 0, seconds, 0.0)


def send_seconds(
    moved_bytes: Floats, sender: int, receiver: int, hardware: HardwareProfile, constants: Efficiency
) -> Floats:
    """Return the time to send to another device, counted from 0 in the order of servers and of fast domains [s].

    Parameters
    ----------
    moved_bytes : any shape; nothing takes no time [bytes].
    """
    domain = hardware.devices_per_domain
    link, server, links = fast_link(hardware, 2), max(SERVER_DEVICES, domain), constants.links
    if link and sender // domain == receiver // domain:
        nccl = constants.nccl  # which writes into the receiver's own memory: no buffer, no copy
        latency, rate = nccl.launch_seconds + nccl.step_seconds, nccl.simple * link.peer_bytes_per_second
    elif sender // server == receiver // server:
        latency, rate = _pcie_latency_seconds(links, 1), _pcie_bytes_per_second(hardware, links)
    else:
        latency, rate = _network(hardware, links)
    return np.where(moved_bytes > 0, latency + moved_bytes / rate, 0.0)


def _shots_seconds(message_bytes: Floats, devices: int, link: Link, links: Links) -> Floats:
    """Return the time of an engine's own kernels: the better of one shot, and two with more latency and fewer bytes."""
    rate = links.one_shot * link_bytes_per_second(link, devices)
    latency = links.one_shot_seconds + (devices - 1) * links.peer_seconds
    one = latency + (devices - 1) * message_bytes / rate
    two = links.two_shot * latency + 2 * (devices - 1) / devices * message_bytes / rate
    return np.asarray(np.minimum(one, two))


def _across_seconds(message_bytes: Floats, places: int, hardware: HardwareProfile, links: Links) -> Floats:
    """Return the time to add up between servers: the better of ring, and double binary tree with fewer steps.

    Ring: 2 (n - 1) steps, 2 (n - 1) / n of the message. Tree: up and down ceil(log2 n) levels, the whole message each
    way (Sanders et al. 2009, in NCCL since 2.4: developer.nvidia.com, "Massively Scale Your Deep Learning Training
    with NCCL 2.4").
    """
    latency, rate = _network(hardware, links)
    ring = 2 * (places - 1) * latency + 2 * (places - 1) / places * message_bytes / rate
    tree = 2 * math.ceil(math.log2(places)) * latency + 2 * message_bytes / rate
    return np.minimum(ring, tree)


def _inside_seconds(
    part_bytes: Floats, devices: int, steps: int, hardware: HardwareProfile, constants: Efficiency, stride: int
) -> Floats:
    """Return the time in which every device of a server receives a part from each other one, in so many steps."""
    link = fast_link(hardware, devices * stride)
    if link is None:
        latency = _pcie_latency_seconds(constants.links, steps)
        return latency + (devices - 1) * part_bytes / _pcie_bytes_per_second(hardware, constants.links)
    return _protocol_seconds(part_bytes / link_bytes_per_second(link, devices), devices - 1, steps, constants.nccl)


def _protocol_seconds(part_seconds: Floats, parts: int, steps: int, nccl: Nccl) -> Floats:
    """Return the time for so many parts by the better of NCCL's protocols, one of which takes the bare link so long."""
    latency = nccl.launch_seconds + steps * nccl.step_seconds
    low_latency = latency + parts * part_seconds / nccl.low_latency
    simple = SIMPLE_PROTOCOL * latency + (parts + LAST_COPY) * part_seconds / nccl.simple
    return np.asarray(np.minimum(low_latency, simple))


def _network(hardware: HardwareProfile, links: Links) -> tuple[float, float]:
    """Return latency [s] and rate [bytes/s] of a device's way to other servers."""
    link = hardware.scale_out or NETWORK
    latency = links.network_seconds if link.latency_seconds is None else link.latency_seconds
    return latency, links.network * link.bytes_per_second


def _pcie_latency_seconds(links: Links, steps: int) -> float:
    return links.pcie_seconds + steps * links.pcie_step_seconds


def _pcie_bytes_per_second(hardware: HardwareProfile, links: Links) -> float:
    """Return the rate of a ring over PCIe.

    Where devices cannot write to each other, every byte goes through the memory of the host, up and down at once: the
    rate stays, but all devices share the host's, so that a measured one counts, if there is one.
    """
    return links.pcie_bytes_per_second or hardware.host_link.bytes_per_second
