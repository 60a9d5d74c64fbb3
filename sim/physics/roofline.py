"""The one formula for the time of an operator, and what it needs to know of the operator and of the hardware."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
"""A float64 array of any shape; a scalar argument gives a scalar result."""

Kind = Literal["gemm", "head", "experts", "elementwise"]
"""Operators of one kind share a unit and an efficiency; attention is priced on its own totals."""


@dataclass(frozen=True)
class Rate:
    """What operators of one kind reach of the datasheet.

    Attributes
    ----------
    launch_seconds : fixed time of one operator [s].
    compute, memory : reached part of the peak flop rate and of the memory bandwidth, above 0, at most 1.
    source : where the three numbers come from.
    """

    launch_seconds: float
    compute: float
    memory: float
    source: str

    def __post_init__(self) -> None:
        """Refuse what no hardware does."""
        if self.launch_seconds < 0:
            raise ValueError(f"launch_seconds={self.launch_seconds}; allowed are 0 and more")
        for name, fraction in (("compute", self.compute), ("memory", self.memory)):
            if not 0 < fraction <= 1:
                raise ValueError(f"efficiency {name}={fraction}; allowed are fractions above 0, at most 1")


@dataclass(frozen=True)
class Operator:
    """Work of one kernel on one device, and how many such kernels an iteration has.

    Attributes
    ----------
    name, kind : what it is, and whose efficiency it has.
    count : equal kernels in an iteration, usually one a layer.
    flops, moved_bytes : of one kernel, scalar or array over iterations [flop], [bytes].
    """

    name: str
    kind: Kind
    count: int
    flops: Floats
    moved_bytes: Floats


def roofline_seconds(
    flops: Floats | float,
    moved_bytes: Floats | float,
    rate: Rate,
    flops_per_second: float,
    bytes_per_second: float,
) -> Floats:
    """Return the time of one kernel: a launch, then as slow as its scarcer resource (Williams et al. 2009) [s].

    >>> rate = Rate(1e-6, compute=0.5, memory=1.0, source="example")
    >>> float(roofline_seconds(1e6, 3e6, rate, flops_per_second=1e12, bytes_per_second=1e12))
    4e-06
    """
    compute_seconds = flops / (flops_per_second * rate.compute)
    memory_seconds = moved_bytes / (bytes_per_second * rate.memory)
    seconds: Floats = rate.launch_seconds + np.maximum(compute_seconds, memory_seconds)
    return seconds
