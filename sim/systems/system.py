"""What a serving system is: its scheduler, its limits, its overheads, and what it can and cannot do, at a date."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hardware_profiles.profile import HardwareProfile

CAPABILITIES = {
    "complete_service": "a complete service, HTTP included",
    "needs_compilation": "models are compiled before they run",
    "continuous_batching": "continuous batching",
    "paged_attention": "PagedAttention",
    "flash_attention": "FlashAttention",
    "needs_padding": "prompts are padded",
    "chunked_prefill": "chunked prefill (Dynamic SplitFuse)",
    "prefix_sharing": "prefix sharing",
    "fp8": "FP8",
    "fp8_block": "FP8 with a scale for every block",
    "w8a8": "W8A8 (INT8)",
    "w8a16": "W8A16",
    "w4a16": "W4A16",
    "w4a8": "W4A8",
    "w4a4": "W4A4",
    "mxfp4": "MXFP4 (experts)",
    "kv8": "8-bit KV cache",
}
"""What is known of every system, as a reader calls it; precisions have the names of `sim.physics.precision`."""

EVIDENCE = {
    "executed": "batches equal those recorded while its published code, or the named reproduction, was executed",
    "transcribed": "batches equal those of a transcription of the published scheduler",
    "reconstructed": "rules inferred from later code or papers; nothing of that date could be run",
}
"""How a preset's schedule is known."""


@dataclass(frozen=True)
class Capability:
    """Whether a system has something.

    Attributes
    ----------
    has : as simulated.
    article_says : what the article of January 2024 says, beginning with "yes" if it does; "" if it says nothing.
    checked : what was found beyond that or against it, "" if nothing was.
    """

    has: bool
    article_says: str = ""
    checked: str = ""

    @property
    def article_errs(self) -> bool:
        """Whether the article says yes where the answer is no, or the other way round."""
        return bool(self.article_says) and self.article_says.startswith("yes") != self.has


@dataclass(frozen=True)
class Rules:
    """A policy of `sim.scheduling.schedulers.SCHEDULERS`, and what it is told."""

    policy: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Budget:
    """Seats and tokens that a system chooses on devices of at least `memory_gib` [GiB], except some by name."""

    memory_gib: float
    sequences: int
    tokens: int
    but_not_on: tuple[str, ...] = ()

    def suits(self, hardware: HardwareProfile) -> bool:
        """Return whether this is what the system chooses there."""
        name = f"{hardware.name} {hardware.title}".lower()
        large = hardware.memory.usable_bytes >= self.memory_gib * 2**30
        return large and not any(word.lower() in name for word in self.but_not_on)


@dataclass(frozen=True)
class SystemLimits:
    """The limits that a system has unless told otherwise.

    Attributes
    ----------
    budgets : seats and tokens by size of the device, the first that suits counts; the last suits everywhere.
    tokens_cover_context : whether the tokens of an iteration are at least the context.
    most_context : longest prompt and reply that it accepts, None for the model's own.
    block_tokens, watermark, paddings : see `sim.scenario.Scenario`.
    utilisation, of_free : share of the memory, or of what is free beside weights and runtime.
    reserved_bytes : what it sets aside beside the weights, None for an estimate.
    """

    budgets: tuple[Budget, ...]
    tokens_cover_context: bool
    most_context: int | None
    block_tokens: int
    watermark: float
    paddings: int | None
    utilisation: float
    of_free: bool
    reserved_bytes: float | None

    def budget(self, hardware: HardwareProfile) -> Budget:
        """Return seats and tokens on a chip."""
        return next(budget for budget in self.budgets if budget.suits(hardware))


@dataclass(frozen=True)
class SystemCache:
    """A prefix cache.

    Attributes
    ----------
    kind : what the system has.
    cache : the key of `sim.scheduling.caches.CACHES` by which it is simulated.
    default : whether it is on unless told otherwise.
    """

    kind: str
    cache: str
    default: bool


@dataclass(frozen=True)
class Overheads:
    """What a system costs beside the work of the device [s].

    Attributes
    ----------
    host_seconds : added to every iteration.
    least_seconds_per_layer : an iteration takes at least this, times the layers of the model: an eager engine starts
        every kernel by hand.
    front_end_seconds : from a request's arrival to the scheduler.
    """

    host_seconds: float
    least_seconds_per_layer: float
    front_end_seconds: float


@dataclass(frozen=True)
class System:
    """A serving system at a date; see `sim.systems.scenario`.

    Attributes
    ----------
    name, title, version, date : "vllm-0.2.7", "vLLM 0.2.7", "0.2.7", "2024-01-04" (or a month, or a year).
    evidence : key of `EVIDENCE`.
    whole_prompts, chunked_prompts : rules for each way to prefill, None if the system lacks it.
    chunked : which of the two is used unless told otherwise.
    limits, prefix_cache, overheads : the defaults; `prefix_cache` is None if there is none.
    asynchronous : whether an iteration is planned while the one before runs.
    one_attention_kernel : whether mixed batches share a kernel on chips where FlashAttention-2 does that.
    kernels : whose generic constants it has, one of `sim.physics.efficiency.STACKS`; None for what lies between them.
    capabilities : by the keys of `CAPABILITIES`.
    remarks : what stands in for what, and what is left out.
    sources : where the numbers come from.
    """

    name: str
    title: str
    version: str
    date: str
    evidence: str
    whole_prompts: Rules | None
    chunked_prompts: Rules | None
    chunked: bool
    limits: SystemLimits
    prefix_cache: SystemCache | None
    overheads: Overheads
    asynchronous: bool
    one_attention_kernel: bool
    kernels: str | None
    capabilities: Mapping[str, Capability]
    remarks: tuple[str, ...]
    sources: tuple[str, ...]

    @property
    def rules(self) -> Rules:
        """The rules in force unless told otherwise."""
        rules = self.chunked_prompts if self.chunked else self.whole_prompts
        assert rules is not None  # the reader has seen to it
        return rules

    def has(self, capability: str) -> bool:
        """Return whether it can do that."""
        return self.capabilities[capability].has
