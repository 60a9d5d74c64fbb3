"""One replica ready to serve: the devices that a scenario names, what fits them, and how long they take."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import hardware_profiles
from hardware_profiles.profile import HardwareProfile
from sim.engine.clock import AnyClock, IterationClock, LockstepClock, PipelineClock, clock_for, ticks
from sim.physics import efficiency, precision
from sim.physics.iteration import EAGER_SECONDS_PER_LAYER, IterationModel
from sim.physics.memory import Reserve, kv_blocks, kv_bytes_per_token_per_device
from sim.physics.precision import Precision
from sim.scheduling.batch import Limits
from workloads import models
from workloads.models.transformer import Transformer

if TYPE_CHECKING:
    from sim.scenario import Scenario

DEFAULT_TOKENS = 8192
"""New tokens in an iteration unless the context is longer (the TensorRT-LLM default since 0.11)."""


@dataclass(frozen=True)
class Machine:
    """One replica ready to serve: a model on some devices, its limits, and its clock.

    Making one takes longer than simulating a small trace, and experiments that differ only in policy, cache or
    workload share it, which also guarantees that nothing else differs between them.
    """

    model: IterationModel
    limits: Limits
    clock: AnyClock

    @property
    def flags(self) -> tuple[str, ...]:
        """Sentences that must stand beside every time measured on this machine."""
        shape, found = self.model.model, self.model.flags
        if not self.model.window:
            return found
        kept = f"KV blocks hold whole contexts in all {shape.layers} layers, {shape.window_layers} of which see only "
        whole = f"{self.model.window:,} tokens; an engine with blocks of their own for those holds more requests"
        return (*found, kept + whole)

    @property
    def devices(self) -> int:
        """Devices of the replica."""
        return self.model.parallelism.devices

    @property
    def title(self) -> str:
        """Model, precision, chips and the link between them."""
        hardware, devices = self.model.hardware, self.devices
        link = hardware.scale_up
        kind = link.kind if link and devices <= hardware.devices_per_domain else hardware.host_link.kind
        parallel = f" ({self.model.parallelism.words}, {kind})" if devices > 1 else ""
        return f"{self.model.model.title} {self.model.precision.name.upper()} · {devices} x {hardware.title}{parallel}"


def machine_of(scenario: Scenario) -> Machine:
    """Return the replica that a scenario describes.

    Raises
    ------
    ValueError
        If a name is unknown, the chip cannot compute in this precision, or the model does not fit.
    """
    hardware = hardware_profiles.load(scenario.hardware) if isinstance(scenario.hardware, str) else scenario.hardware
    model = models.load(scenario.model) if isinstance(scenario.model, str) else scenario.model
    context = scenario.context or model.context
    tokens = scenario.tokens or max(DEFAULT_TOKENS, context)
    formats = precision.load(scenario.precision)
    constants = scenario.efficiency or efficiency.generic(hardware)
    iteration = IterationModel(
        model,
        hardware,
        formats,
        scenario.parallelism,
        constants,
        host_seconds=scenario.host_seconds if constants.host_seconds is None else constants.host_seconds,
        one_attention_kernel=scenario.one_attention_kernel,
        flash_attention=scenario.flash_attention,
        placement=scenario.placement,
    )
    blocks = _blocks(scenario, model, hardware, formats, tokens)
    block_bytes = scenario.block_tokens * kv_bytes_per_token_per_device(model, formats, scenario.parallelism)
    limits = Limits(
        blocks,
        scenario.block_tokens,
        scenario.sequences,
        tokens,
        context,
        watermark_blocks=int(scenario.watermark * blocks),
        paddings=scenario.paddings,
        window=iteration.window or 0,
        host_blocks=int(scenario.swap_bytes // block_bytes),
    )
    limits = limits if scenario.paged_attention else _in_one_piece(limits)
    # Decodes of an iteration without prompts are not held to the token budget; there is a seat for each.
    clock = clock_for(iteration, tokens + scenario.sequences, 2 * scenario.sequences)
    eager_seconds = 0.0 if scenario.cuda_graphs else model.layers * EAGER_SECONDS_PER_LAYER
    clock = _no_faster(clock, max(scenario.least_iteration_seconds, eager_seconds))
    if isinstance(clock, IterationClock):
        # Each device moves its part of a block over a link of its own; starting a copy is not charged.
        moved = int(ticks(block_bytes / hardware.host_link.bytes_per_second))
        clock = replace(clock, host_block_ticks=moved)
    return Machine(iteration, limits, clock)


def _blocks(scenario: Scenario, model: Transformer, hardware: HardwareProfile, formats: Precision, tokens: int) -> int:
    reserve = None if scenario.reserved_bytes is None else Reserve(scenario.reserved_bytes, 0.0, 0.0, 0.0)
    blocks = kv_blocks(
        model,
        hardware,
        formats,
        scenario.parallelism,
        utilisation=1.0 if scenario.utilisation_of_free else scenario.utilisation,
        block_size=scenario.block_tokens,
        max_tokens=tokens,
        max_samples=scenario.sequences,
        reserve=reserve,
        placement=scenario.placement,
    )
    return max(1, math.floor(scenario.utilisation * blocks)) if scenario.utilisation_of_free else blocks


def _in_one_piece(limits: Limits) -> Limits:
    """Return the limits where every sequence holds the blocks of the longest context from its admission on.

    A seat then stands for such a piece. Some blocks stay free, so that no scheduler has a reason to preempt.
    """
    pieces = (limits.blocks - max(1, limits.watermark_blocks)) // limits.blocks_for(limits.context)
    if not pieces:
        raise ValueError(
            f"context is {limits.context} tokens; allowed without paged attention: at most "
            f"{(limits.blocks - max(1, limits.watermark_blocks)) * limits.block_tokens}, what the KV cache holds"
        )
    return replace(limits, sequences=min(limits.sequences, pieces))


def _no_faster(clock: AnyClock, least_seconds: float) -> AnyClock:
    """Return the clock with a least time of an iteration that samples one token; stages share it equally."""
    if not least_seconds:
        return clock
    if isinstance(clock, PipelineClock):
        each = least_seconds / len(clock.stages)
        return PipelineClock(tuple(_host_bound(stage, each) for stage in clock.stages))
    if isinstance(clock, LockstepClock):
        return replace(clock, rank=_host_bound(clock.rank, least_seconds))
    return _host_bound(clock, least_seconds)


def _host_bound(clock: IterationClock, least_seconds: float) -> IterationClock:
    least = int(ticks(least_seconds)) - clock.base - clock.samples_ticks[1]
    return replace(clock, least_ticks=max(clock.least_ticks, least))
