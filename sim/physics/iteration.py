"""How long one forward pass takes, from a few sums over its sequences."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from hardware_profiles.profile import HardwareProfile
from sim.physics import efficiency as constants
from sim.physics.attention import Attention
from sim.physics.communication import Communication, Exchange
from sim.physics.efficiency import Efficiency
from sim.physics.operators import expert_operators, head_operators, rank_operators
from sim.physics.parallelism import Parallelism
from sim.physics.placement import ON_DEVICE, Placement
from sim.physics.precision import PRECISIONS, Precision, compute_unit, sixteen_bit_unit
from sim.physics.roofline import Floats, Operator, Rate, roofline_seconds, slow_bytes
from sim.physics.stages import Stage, stages_of
from sim.physics.streaming import link_seconds
from sim.physics.totals import Totals
from workloads.models.transformer import Transformer

HOST_SECONDS = 300e-6
"""What an asynchronous engine of 2026 adds to the device's time."""

EAGER_HOST_SECONDS = 45e-3
"""Least time of an iteration of an eager Python engine of 2023, which starts every kernel by hand: a single sequence
of Llama-2-70B decodes on A100 in 57, 45 and 45 ms at TP 2, 4 and 8 (github.com/Mutinifni/splitwise-sim, MIT)."""

EAGER_SECONDS_PER_LAYER = EAGER_HOST_SECONDS / 80
"""The same for each of the 80 layers of that model: kernels are started layer by layer."""


@dataclass(frozen=True)
class IterationModel:
    """A model in some precision on some devices, as functions from the terms of `Totals` to seconds.

    An iteration reads the weights once, however prefill and decode are mixed in it. Its time is the plain sum of
    `token_seconds`, `head_seconds`, `attention_seconds` and `fixed_seconds`, unless layers wait for what is brought to
    them. With stages (PP) it is the time of one batch from the first stage to the last, none of which waits; `stages`
    has each on its own. With data ranks (DP) the totals are those of one rank, and all ranks have alike.
    All functions take scalars and arrays alike, with equal results bit for bit, and give 0 for nothing.

    Attributes
    ----------
    model, hardware, precision, parallelism : what runs on what; refused if the model cannot be cut or the chip
        lacks the unit.
    efficiency : constants, and how good they are; `sim.physics.efficiency.generic` of no chip in particular unless said
        otherwise.
    host_seconds : what the engine adds to every iteration on every stage, whose worker begins to prepare a batch when
        that of the stage before hands it over (vllm/v1/worker/gpu_worker.py) [s].
    one_attention_kernel : prompts and decoding sequences of an iteration share a kernel, as in vLLM on the chips of
        `sim.physics.mixed_attention.ONE_KERNEL_CHIPS`; the sum of the two then no longer holds.
    flash_attention : False for attention as three kernels that write and read every score, masked ones too
        (what FlashAttention avoids, Dao et al. 2022, arXiv:2205.14135).
    routing_skew : exponent of the popularity of experts by rank; 0 is uniform routing.
    placement : what is kept beside the device, and has to be brought; see `Placement`.
    exchange : how tokens of several data ranks reach their experts; see `Communication`.
    stage : the stage that is priced, from 0; None for all, one after another.
    """

    model: Transformer
    hardware: HardwareProfile
    precision: Precision = PRECISIONS["w16a16"]
    parallelism: Parallelism = field(default_factory=Parallelism)
    efficiency: Efficiency = field(default_factory=constants.generic)
    host_seconds: float = HOST_SECONDS
    one_attention_kernel: bool = False
    flash_attention: bool = True
    routing_skew: float = 0.0
    placement: Placement = ON_DEVICE
    exchange: Exchange = "all-gather"
    stage: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        self.parallelism.check(self.model)
        if not self.placement.is_off and self.parallelism.pipeline * self.parallelism.data > 1:
            raise ValueError(
                f"{self.parallelism.words} with weights or cache beside the device; allowed there: TP and EP"
            )
        if self.precision.experts_only and self.model.mixture is None:
            others = ", ".join(one.name for one in PRECISIONS.values() if not one.experts_only)
            raise ValueError(
                f"precision {self.precision.name!r} is one of routed experts, and {self.model.title} has none; "
                f"allowed are {others}"
            )
        compute_unit(self.precision, self.hardware)
        sixteen_bit_unit(self.hardware)

    @property
    def flags(self) -> tuple[str, ...]:
        """Sentences that must stand beside every time of this model."""
        return self.communication.flags

    @cached_property
    def part(self) -> Stage:
        """The layers that are priced."""
        return Stage(self.model) if self.stage is None else stages_of(self.model, self.parallelism.pipeline)[self.stage]

    @cached_property
    def stages(self) -> tuple[IterationModel, ...]:
        """The stages, each as a model of its own, the way to the next one included; they add up to the whole."""
        return tuple(replace(self, stage=stage) for stage in range(self.parallelism.pipeline))

    @cached_property
    def communication(self) -> Communication:
        """What the devices tell each other."""
        last = self.parallelism.pipeline - 1
        boundaries = range(last) if self.stage is None else range(self.stage, min(self.stage + 1, last))
        return Communication(
            self.part.layers,
            self.parallelism,
            self.hardware,
            self.efficiency,
            boundaries,
            self.exchange,
            self.routing_skew,
        )

    @property
    def fixed_seconds(self) -> float:
        """Return what does not depend on the batch [s]."""
        return self.host_seconds * (self.parallelism.pipeline if self.stage is None else 1)

    def token_seconds(self, tokens: npt.ArrayLike) -> Floats:
        """Return the time of all that depends on the number of new tokens alone [s], shape of `tokens`.

        Matrix products, experts, norms, rotary positions, activation, embedding rows, KV write and communication.
        """
        count = np.asarray(tokens, dtype=np.float64)
        return self.rank_token_seconds(count) + self.expert_seconds(self.parallelism.data * count)

    def token_operators(self, tokens: Floats) -> list[Operator]:
        """Return the kernels that `token_seconds` counts, for new tokens above 0."""
        everybody = self.parallelism.data * tokens
        return [*self._rank_operators(tokens), *self._expert_operators(everybody)]

    def rank_token_seconds(self, tokens: npt.ArrayLike) -> Floats:
        """Return the part of `token_seconds` that a data rank spends on its own tokens [s], shape of `tokens`."""
        count = np.asarray(tokens, dtype=np.float64)
        links = self.communication
        seconds = (
            self._sum(self._rank_operators(count), count) + links.all_reduce_seconds(count) + links.hop_seconds(count)
        )
        return np.where(count > 0, seconds, 0.0)

    def expert_seconds(self, all_tokens: npt.ArrayLike) -> Floats:
        """Return the part that all data ranks spend together, on their tokens together [s], shape of `all_tokens`.

        The busiest device sets the pace, and bringing tokens to experts and back is included.
        """
        count = np.asarray(all_tokens, dtype=np.float64)
        kernels = self._sum(self._expert_operators(count), count)
        return np.where(count > 0, kernels + self.communication.exchange_seconds(count), 0.0)

    def head_seconds(self, samples: npt.ArrayLike) -> Floats:
        """Return the time of the output head, of collecting its logits and of sampling [s], shape of `samples`."""
        count = np.asarray(samples, dtype=np.float64)
        if not self.part.is_last:
            return np.zeros_like(count)
        seconds = self._sum(head_operators(self.model, self.parallelism, count), count)
        return np.where(count > 0, seconds + self.communication.gather_seconds(count), 0.0)

    @cached_property
    def attention(self) -> Attention:
        """The attention of the layers that are priced."""
        return Attention(
            self.part.layers,
            self.hardware,
            self.precision,
            self.parallelism,
            self.efficiency,
            one_kernel=self.one_attention_kernel,
            flash=self.flash_attention,
        )

    @property
    def window(self) -> int | None:
        """Tokens that layers with a sliding window see; None without any."""
        return self.attention.window

    def attention_seconds(self, totals: Totals) -> Floats:
        """Return the time of all attention in all layers [s], shape of the totals."""
        return self.attention.seconds(totals)

    def seconds(self, totals: Totals) -> Floats:
        """Return the time of whole iterations [s], shape of the totals."""
        tokens, attention = self.token_seconds(totals.tokens), self.attention_seconds(totals)
        head = self.head_seconds(totals.samples)
        if self.placement.is_off:
            return tokens + head + attention + self.fixed_seconds
        return np.maximum(tokens + attention, link_seconds(self, totals)) + head + self.fixed_seconds

    def waiting_seconds(self, totals: Totals) -> Floats:
        """Return how long the layers wait for what is brought to the device [s], shape of the totals."""
        layers = self.token_seconds(totals.tokens) + self.attention_seconds(totals)
        return np.maximum(0.0, link_seconds(self, totals) - layers)

    @cached_property
    def rates(self) -> dict[str, tuple[Rate, float]]:
        """Efficiency and peak by kind of operator; see `Precision.kernels`."""
        constants, dense = self.efficiency, self.precision.dense
        experts_peak, peak = (self.hardware.peak(compute_unit(one, self.hardware)) for one in (self.precision, dense))
        found = {
            "gemm": (getattr(constants, f"gemm{dense.kernels}"), peak),
            "head": (constants.gemm, self.attention.peak),
            "experts": (getattr(constants, f"experts{self.precision.kernels}"), experts_peak),
            "elementwise": (constants.elementwise, self.attention.peak),
        }
        if dense.quantises_activations:
            found["quantise"] = (getattr(constants, f"quantise{dense.kernels}"), self.attention.peak)
        return found

    def kernel_seconds(self, operator: Operator) -> Floats:
        """Return the time of one kernel of an operator on this chip [s]; see `roofline_seconds`."""
        rate, peak = self.rates[operator.kind]
        memory = self.hardware.memory
        slow = slow_bytes(operator.bytes_under(rate), rate, memory.cache_bytes)
        return roofline_seconds(operator.flops, slow, rate, peak, memory.bandwidth_bytes_per_second, operator.steps)

    def _rank_operators(self, tokens: Floats) -> list[Operator]:
        ends = {"is_first": self.part.is_first, "is_last": self.part.is_last}
        return rank_operators(self.part.layers, self.precision, self.parallelism, tokens, **ends)

    def _expert_operators(self, all_tokens: Floats) -> list[Operator]:
        return expert_operators(self.part.layers, self.precision, self.parallelism, all_tokens, self.routing_skew)

    def _sum(self, operators: list[Operator], like: Floats) -> Floats:
        seconds = np.zeros_like(like)
        for operator in operators:
            seconds = seconds + operator.count * self.kernel_seconds(operator)
        return seconds
