"""What a hardware profile is made of: memory, links, and where a number comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Topology = Literal["switch", "mesh", "torus", "ring", "bridge", "pcie", "direct"]
Grade = Literal["datasheet", "measured", "article", "third-party", "estimate", "recalled", "user"]
Confidence = Literal["high", "medium", "low"]

TOPOLOGIES: tuple[Topology, ...] = get_args(Topology)
GRADES: tuple[Grade, ...] = get_args(Grade)
CONFIDENCES: tuple[Confidence, ...] = get_args(Confidence)

DTYPES = ("fp16", "bf16", "fp8", "int8", "int4", "fp4")
"""Keys of `HardwareProfile.peak_flops_per_second`."""

USABLE_FRACTION = 0.95
"""Part of the labelled memory that software sees where nobody reported it; ECC and firmware take the rest."""


@dataclass(frozen=True)
class Evidence:
    """Where one number comes from.

    Attributes
    ----------
    source : in words.
    grade : "datasheet" the vendor's own document, "measured" read off a real device, "article" the article this
        project checks, "third-party" somebody's table, "estimate" inferred, "recalled" from memory, "user" the
        user's own file.
    """

    source: str
    grade: Grade


@dataclass(frozen=True)
class Memory:
    """Device memory of one accelerator.

    Attributes
    ----------
    capacity_bytes : what the label says [bytes]; HBM and GDDR labels are binary ("80 GB" is 80 * 2**30).
    bandwidth_bytes_per_second : datasheet rate [bytes/s].
    reported_bytes : total that the driver's tool (nvidia-smi) prints, or None [bytes].
    cuda_visible_bytes : total that a process sees (cudaMemGetInfo), smaller again, or None [bytes].
    cache_bytes : last cache on the chip in front of the memory (L2), or None where nobody looked it up [bytes].
    """

    capacity_bytes: float
    bandwidth_bytes_per_second: float
    reported_bytes: float | None = None
    cuda_visible_bytes: float | None = None
    cache_bytes: float | None = None

    @property
    def usable_bytes(self) -> float:
        """Memory that a serving process can address [bytes]: the closest known figure, else 95 % of the label.

        >>> Memory(100e9, 1e12).usable_bytes, Memory(100e9, 1e12, reported_bytes=98e9).usable_bytes
        (95000000000.0, 98000000000.0)
        """
        return self.cuda_visible_bytes or self.reported_bytes or USABLE_FRACTION * self.capacity_bytes


@dataclass(frozen=True)
class Link:
    """One device's way to others; rates count one direction (datasheets often print both ways summed).

    Attributes
    ----------
    kind : the vendor's name, e.g. "NVLink4".
    topology : "switch", "mesh", "torus", "ring", "bridge", "pcie" or "direct".
    bytes_per_second : one device, one direction, all its links together [bytes/s].
    peer_bytes_per_second : one pair of devices, one direction [bytes/s]; far less than the sum on a mesh or torus.
    latency_seconds : one hop, or None where no source gives it [s].
    reduces : True where the switch adds up what passes through it (NVLink SHARP), or None where no source says so.
    """

    kind: str
    topology: Topology
    bytes_per_second: float
    peer_bytes_per_second: float
    latency_seconds: float | None = None
    reduces: bool | None = None
