"""The whole question and the whole answer: a scenario goes in, a result comes out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import hardware_profiles
from hardware_profiles.profile import HardwareProfile
from sim.engine.clock import IterationClock, roofline_clock
from sim.engine.replay import replay
from sim.physics import efficiency, precision
from sim.physics.efficiency import Efficiency
from sim.physics.iteration import IterationModel
from sim.physics.memory import kv_blocks
from sim.physics.parallelism import Parallelism
from sim.results.result import Result
from sim.scheduling.batch import Limits
from sim.scheduling.schedulers import SCHEDULERS
from workloads import models
from workloads.models.transformer import Transformer
from workloads.trace import Trace

COMPARED = ("prefill_first", "inflight_batching")
"""The two schedulers that the article compares."""

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
    clock: IterationClock

    @property
    def flags(self) -> tuple[str, ...]:
        """Sentences that must stand beside every time measured on this machine."""
        return self.model.flags


@dataclass(frozen=True)
class Scenario:
    """Everything that a simulation depends on; a what-if is `dataclasses.replace(scenario, ...)`.

    The default is the article's own example, Llama-2-13B in FP16 on two L20 cards.

    Attributes
    ----------
    trace : what is asked.
    hardware, model : shipped names, paths of files, or the objects themselves.
    precision, tensor : number formats, and devices that share the model (TP).
    policy : how it is scheduled; see `sim.scheduling.schedulers.SCHEDULERS`.
    prefix_cache : whether there is one (that of vLLM V1), or which of `sim.scheduling.caches.CACHES`.
    asynchronous : whether an iteration is planned while the one before runs, as vLLM V1 does by default; see `Engine`.
    utilisation : share of the visible memory that the server may use.
    block_tokens, sequences, tokens, context : see `Limits`; None is chosen from the model (`context`: the model's own,
        `tokens`: 8192 or the context, if that is longer, since whole prompts must fit one iteration).
    efficiency : constants of the cost model: generic unless said otherwise.
    """

    trace: Trace
    hardware: str | HardwareProfile = "l20"
    model: str | Transformer = "llama-2-13b"
    precision: str = "w16a16"
    tensor: int = 2
    policy: str = "prefill_first"
    prefix_cache: bool | str = False
    asynchronous: bool = False
    utilisation: float = 0.9
    block_tokens: int = 16
    sequences: int = 256
    tokens: int | None = None
    context: int | None = None
    efficiency: Efficiency | None = None

    @cached_property
    def machine(self) -> Machine:
        """The replica that this scenario describes.

        Raises
        ------
        ValueError
            If a name is unknown, the chip cannot compute in this precision, or the model does not fit.
        """
        hardware = hardware_profiles.load(self.hardware) if isinstance(self.hardware, str) else self.hardware
        model = models.load(self.model) if isinstance(self.model, str) else self.model
        context = self.context or model.context
        tokens = self.tokens or max(DEFAULT_TOKENS, context)
        formats, parallelism = precision.load(self.precision), Parallelism(self.tensor)
        iteration = IterationModel(model, hardware, formats, parallelism, self.efficiency or efficiency.generic())
        blocks = kv_blocks(
            model,
            hardware,
            formats,
            parallelism,
            utilisation=self.utilisation,
            block_size=self.block_tokens,
            max_tokens=tokens,
            max_samples=self.sequences,
        )
        limits = Limits(blocks, self.block_tokens, self.sequences, tokens, context)
        # Decodes of an iteration without prompts are not held to the token budget; there is a seat for each.
        return Machine(iteration, limits, roofline_clock(iteration, tokens + self.sequences, 2 * self.sequences))


def simulate(scenario: Scenario, machine: Machine | None = None) -> Result:
    """Serve the trace of a scenario and return what happened.

    Parameters
    ----------
    machine : `scenario.machine` of an equal scenario (policy, cache and trace aside), to save making it again.

    Raises
    ------
    ValueError
        If the scenario asks for something that does not exist or does not fit.
    """
    scheduler = SCHEDULERS.get(scenario.policy)
    if scheduler is None:
        raise ValueError(f"policy is {scenario.policy!r}; allowed: {', '.join(SCHEDULERS)}")
    if scenario.prefix_cache == "vllm-0.4" and scenario.policy != "prefill_first":
        raise ValueError(f"policy is {scenario.policy!r}; allowed with prefix_cache 'vllm-0.4': prefill_first")
    built = machine or scenario.machine
    outcome = replay(
        scenario.trace,
        built.limits,
        scheduler,
        built.clock,
        prefix_cache=scenario.prefix_cache,
        asynchronous=scenario.asynchronous,
    )
    return Result(scenario.trace, built.limits, outcome)


def arms(scenario: Scenario) -> dict[str, Scenario]:
    """Return the four combinations of policy and prefix cache, by name.

    >>> list(arms(Scenario(trace=None)))
    ['prefill_first', 'prefill_first + prefix cache', 'inflight_batching', 'inflight_batching + prefix cache']
    """
    return {
        policy + (" + prefix cache" if cache else ""): replace(scenario, policy=policy, prefix_cache=cache)
        for policy in COMPARED
        for cache in (False, True)
    }
