"""The one formula for the time of an operator, and what it needs to know of the operator and of the hardware."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
"""A float64 array of any shape; a scalar argument gives a scalar result."""

Kind = Literal["gemm", "head", "experts", "quantise", "elementwise"]
"""Operators of one kind share a unit and an efficiency; attention is priced on its own totals."""


CACHED = 4.0
"""Most that a cache on the chip is faster than its memory: L2 of recent GPUs has 2.5 to 5 times the bandwidth."""

CACHE_SHARE = 0.5
"""Part of that cache in which a kernel finds what the one before left, beside the weights that stream through: norms,
rotations and activations of vLLM keep their speed up to about half of it (LLMServingSim's layers on RTX 4090 and RTX
PRO 6000, MIT)."""


def most_memory(constant: str) -> float:
    """Return which part of the memory's bandwidth the kernels of a constant may reach at most, by how its name begins.

    Small tensors of passes that quantise and of elementwise kernels may come from the chip's cache.
    """
    return CACHED if constant.startswith(("quantise", "elementwise")) else 1.0


@dataclass(frozen=True)
class Rate:
    """What operators of one kind reach of the datasheet.

    Attributes
    ----------
    launch_seconds : fixed time of one operator [s].
    compute, memory : reached part of the peak flop rate and of the memory bandwidth, above 0; at most 1, but up to
        `CACHED` for small tensors that one kernel leaves in the chip's cache for the next.
    source : where the numbers come from.
    sharpness : how sharply the scarcer resource decides; see `together`. At least 1.
    step_seconds : time of each of the steps that such a kernel takes one after another; see `Operator.steps` [s].
    cached : how many times faster bytes move that fit into `CACHE_SHARE` of the chip's cache, 1 to twice `CACHED`: a
        kernel between two products reads what the first left there.
    elsewhere : part of `Operator.elsewhere_bytes` that such a kernel moves all the same.
    """

    launch_seconds: float
    compute: float
    memory: float
    source: str
    sharpness: float = math.inf
    step_seconds: float = 0.0
    cached: float = 1.0
    elsewhere: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what no hardware does."""
        for name in ("launch_seconds", "step_seconds", "elsewhere"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise ValueError(f"{name}={value}; allowed are 0 and more")
        for name, fraction, most in (("compute", self.compute, 1.0), ("memory", self.memory, CACHED)):
            if not 0 < fraction <= most:
                raise ValueError(f"efficiency {name}={fraction}; allowed are fractions above 0, at most {most:g}")
        if not self.sharpness >= 1:
            raise ValueError(f"sharpness={self.sharpness}; allowed are 1 (no overlap) to infinity (full overlap)")
        if not 1 <= self.cached <= 2 * CACHED:
            raise ValueError(f"cached={self.cached}; allowed are 1 (no cache) to {2 * CACHED:g}")

    @property
    def numbers(self) -> dict[str, float]:
        """All but the source, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "source"}

    def scaled(self, launches: float, compute: float, memory: float, most_memory: float = 1.0) -> Self:
        """Return the rate with launches and reached parts multiplied, the latter up to 1 and `most_memory`."""
        return replace(
            self,
            launch_seconds=self.launch_seconds * launches,
            step_seconds=self.step_seconds / compute,
            compute=min(1.0, self.compute * compute),
            memory=min(most_memory, self.memory * memory),
        )


@dataclass(frozen=True)
class PrefillRate(Rate):
    """What the kernels of the attention of prompts reach.

    A thread block takes a tile of query rows of a head through all keys that they see, and those at the end of a
    prompt see most: when the other blocks have ended, processors wait for the last one (Graham 1969, SIAM J. Appl.
    Math. 17, 416).

    Attributes
    ----------
    tail_rows : query rows of one head that idle processors could have worked on for as long as the last block walks
        through its keys: at most half a tile on each of them, if all ends of the others are equally likely.
    own_bytes_per_second : most at which the prompts' own queries, keys, values and results move, where processors and
        not memory limit it [bytes/s].
    """

    tail_rows: float = 0.0
    own_bytes_per_second: float = math.inf

    def __post_init__(self) -> None:
        """Refuse what no hardware does."""
        super().__post_init__()
        if not 0 <= self.tail_rows < math.inf:
            raise ValueError(f"tail_rows={self.tail_rows}; allowed are 0 and more")
        if not self.own_bytes_per_second > 0:
            raise ValueError(f"own_bytes_per_second={self.own_bytes_per_second}; allowed are rates above 0")

    def own_rate(self, bytes_per_second: float) -> float:
        """Return how fast own bytes move where memory has that bandwidth [bytes/s]."""
        return min(bytes_per_second * self.memory, self.own_bytes_per_second)

    def scaled(self, launches: float, compute: float, memory: float, most_memory: float = 1.0) -> Self:
        """See `Rate.scaled`; what limits own bytes goes with the memory."""
        own = self.own_bytes_per_second * memory
        return replace(super().scaled(launches, compute, memory, most_memory), own_bytes_per_second=own)


def tail_keys(pairs: Any, most: float = math.inf) -> Any:
    """Return how many keys the last block of the attention of prompts walks through, at most `most`.

    That is the longest prompt's length, of which an iteration knows query-key pairs only. They tell it exactly for one
    whole prompt, too much for several, by the root of their number if they are alike, and too little for a chunk behind
    others. More pairs never make it less, as they would a mean length.

    >>> int(tail_keys(1000 * 1001 / 2))
    1000
    """
    return np.minimum(np.sqrt(2.0 * pairs), most)


@dataclass(frozen=True)
class DecodeRate(Rate):
    """What the kernels of decoding attention reach.

    A thread block serves a sequence and KV head, or a part of its context. It finds its keys through a block table,
    scores them, and writes a result, which takes a while however few they are; meanwhile other blocks read. So there
    is a least time per block, of which only what exceeds the reading shows.

    Attributes
    ----------
    block_seconds : that least time, divided by the blocks that run at once [s].
    combine_seconds : launch of a second kernel, which adds up the parts of contexts that several blocks share [s]
        (Flash-Decoding, crfm.stanford.edu/2023/10/12/flashdecoding.html). Contexts of one part do without,
        which the scoreboard heeds: servers rarely have only such.
    """

    block_seconds: float = 0.0
    combine_seconds: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what no hardware does."""
        super().__post_init__()
        for name, seconds in (("block", self.block_seconds), ("combine", self.combine_seconds)):
            if seconds < 0:
                raise ValueError(f"{name}_seconds={seconds}; allowed are 0 and more")

    def scaled(self, launches: float, compute: float, memory: float, most_memory: float = 1.0) -> Self:
        """See `Rate.scaled`; the least time of a block, which waits for its keys, goes with the memory."""
        block, combine = self.block_seconds / memory, self.combine_seconds * launches
        return replace(
            super().scaled(launches, compute, memory, most_memory), block_seconds=block, combine_seconds=combine
        )


@dataclass(frozen=True)
class Operator:
    """Work of one kernel on one device, and how many such kernels an iteration has.

    Attributes
    ----------
    name, kind : what it is, and whose efficiency it has.
    count : equal kernels in an iteration, usually one a layer.
    flops, moved_bytes : of one kernel, scalar or array over iterations [flop], [bytes].
    steps : what one kernel does one after another however idle the chip is: the columns of its input, along which
        every thread block of a product walks, so that few tiles, or those of a last wave, leave processors waiting;
        the rows of a pass that quantises; the weights of the experts that are met, each of which a whole tile of rows
        is multiplied with, however few an expert has.
    elsewhere_bytes : what visits to experts of other devices would move if they were here [bytes].
    """

    name: str
    kind: Kind
    count: int
    flops: Floats
    moved_bytes: Floats
    steps: Floats | float = 0.0
    elsewhere_bytes: Floats | float = 0.0

    def bytes_under(self, rate: Rate) -> Floats:
        """Return what a kernel that reaches this rate moves [bytes]."""
        return self.moved_bytes + rate.elsewhere * self.elsewhere_bytes


def together(larger: Any, ratio: Any, sharpness: float) -> Any:
    """Return how long two overlapping parts take, the longer one and the shorter as a ratio of it, scalar or array.

    ``(a^p + b^p)^(1/p)``: the longer part alone for p = infinity (the roofline), their sum for p = 1. Real kernels
    overlap imperfectly where both parts are alike; fits give p between 1.5 and 2.5.

    >>> together(3.0, 1.0, math.inf), float(together(3.0, 1.0, 1.0))
    (3.0, 6.0)
    """
    if math.isinf(sharpness):
        return larger
    # Not the operator **, which rounds NumPy's scalars differently than arrays; a clock that has plain floats is in a
    # hurry, and rounds to ticks.
    power = math.pow if type(ratio) is float else np.power
    return larger * power(1.0 + power(ratio, sharpness), 1.0 / sharpness)


def overlapped_seconds(compute_seconds: Floats | float, memory_seconds: Floats | float, sharpness: float) -> Floats:
    """Return the time of arithmetic and memory traffic that overlap [s]; see `together`."""
    larger = np.maximum(compute_seconds, memory_seconds)
    if math.isinf(sharpness):
        return np.asarray(larger)[()]
    smaller = np.minimum(compute_seconds, memory_seconds)
    ratio = np.divide(smaller, larger, out=np.zeros_like(larger), where=larger > 0)
    seconds: Floats = together(larger, ratio, sharpness)
    return seconds


def arithmetic_seconds(
    flops: Floats | float, rate: Rate, flops_per_second: float, steps: Floats | float = 0.0
) -> Floats | float:
    """Return how long a kernel would take if memory were no matter: its arithmetic and its steps [s]."""
    return flops / (flops_per_second * rate.compute) + steps * rate.step_seconds


def slow_bytes(moved_bytes: Floats | float, rate: Rate, cache_bytes: float | None) -> Floats | float:
    """Return the bytes that would take as long if all came from memory [bytes]; see `Rate.cached`.

    >>> rate = Rate(0.0, 1.0, 1.0, "example", cached=4.0)
    >>> float(slow_bytes(10e6, rate, 40e6)), float(slow_bytes(60e6, rate, 40e6)), slow_bytes(60e6, rate, None)
    (2500000.0, 45000000.0, 60000000.0)
    """
    if rate.cached == 1.0 or not cache_bytes:
        return moved_bytes
    near = np.minimum(moved_bytes, CACHE_SHARE * cache_bytes)
    slow: Floats = moved_bytes - near * (1.0 - 1.0 / rate.cached)
    return slow


def roofline_seconds(
    flops: Floats | float,
    moved_bytes: Floats | float,
    rate: Rate,
    flops_per_second: float,
    bytes_per_second: float,
    steps: Floats | float = 0.0,
) -> Floats:
    """Return the time of one kernel: a launch, then as slow as its scarcer resource (Williams et al. 2009) [s].

    The scarcer resource decides more or less sharply; see `together`. Steps that follow each other are on the side of
    the arithmetic; see `Operator.steps`.

    >>> rate = Rate(1e-6, compute=0.5, memory=1.0, source="example")
    >>> float(roofline_seconds(1e6, 3e6, rate, flops_per_second=1e12, bytes_per_second=1e12))
    4e-06
    """
    compute_seconds = arithmetic_seconds(flops, rate, flops_per_second, steps)
    memory_seconds = moved_bytes / (bytes_per_second * rate.memory)
    return rate.launch_seconds + overlapped_seconds(compute_seconds, memory_seconds, rate.sharpness)
