"""How long one forward pass takes, from a few sums over its sequences."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from hardware_profiles.profile import HardwareProfile
from sim.physics import efficiency as constants
from sim.physics.communication import Communication, Exchange
from sim.physics.efficiency import Efficiency
from sim.physics.mixed_attention import QUERY_TILE, MixedSlopes
from sim.physics.operators import (
    STREAM_BYTES,
    attention_flops_per_pair,
    decode_flops_per_kv_token,
    expert_operators,
    head_operators,
    kv_elements_per_layer,
    prefill_bytes_per_token,
    rank_operators,
    score_bytes_per_pair,
)
from sim.physics.parallelism import Parallelism
from sim.physics.placement import ON_DEVICE, Placement
from sim.physics.precision import PRECISIONS, Precision, compute_unit, sixteen_bit_unit
from sim.physics.prefill_attention import MASKED, UNFUSED_KERNELS, PrefillSlopes
from sim.physics.roofline import Floats, Operator, Rate, overlapped_seconds, roofline_seconds
from sim.physics.stages import Stage, stages_of
from sim.physics.streaming import link_seconds
from sim.physics.totals import Totals as Totals
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

    Layers with a sliding window read, and compute with, the lesser of context and window of every sequence: sums of
    their own in `Totals`. Without FlashAttention a window only masks.

    Attributes
    ----------
    model, hardware, precision, parallelism : what runs on what; refused if the model cannot be cut or the chip
        lacks the unit.
    efficiency : constants, and how good they are; `sim.physics.efficiency.generic` unless said otherwise.
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
            self.efficiency.links,
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

    @property
    def window_layers(self) -> int:
        """Layers that see no more than a window."""
        return self.part.layers.window_layers if self.flash_attention else 0

    @property
    def window(self) -> int | None:
        """Tokens that those layers see; None without any."""
        return self.part.layers.window if self.window_layers else None

    @property
    def whole_layers(self) -> int:
        """Layers that see the whole context."""
        return self.part.layers.layers - self.window_layers

    def decode_attention_seconds(
        self, kv_tokens: npt.ArrayLike, sequences: npt.ArrayLike, window_kv_tokens: npt.ArrayLike | None = None
    ) -> Floats:
        """Return the time of decoding attention in all layers [s], shape of the arguments: affine above 0.

        Parameters
        ----------
        kv_tokens : contexts of all decoding sequences together, each with its new token.
        sequences : how many they are; each costs the `decode_tile_tokens` of the constants on top.
        window_kv_tokens : what they read in a layer with a window, if that is less.
        """
        count = np.asarray(kv_tokens, dtype=np.float64)
        tiles = self.efficiency.decode_tile_tokens * np.asarray(sequences, dtype=np.float64)
        seconds = self.decode_attention_launch_seconds + self.decode_attention_seconds_per_kv_token * (count + tiles)
        if self.window_layers:
            seen = count if window_kv_tokens is None else np.asarray(window_kv_tokens, dtype=np.float64)
            seconds = seconds + self.decode_attention_seconds_per_window_token * (seen + tiles)
        return np.where(count > 0, seconds, 0.0)

    @cached_property
    def decode_attention_launch_seconds(self) -> float:
        """Time of decoding attention however short the contexts [s]."""
        kernels = 1 if self.flash_attention else UNFUSED_KERNELS
        return self.part.layers.layers * kernels * self.decode_rate.launch_seconds

    @cached_property
    def decode_attention_seconds_per_kv_token(self) -> float:
        """Time that each token of context adds to decoding attention in the layers that see it all [s]."""
        return self.whole_layers * self._decode_seconds_per_key

    @cached_property
    def decode_attention_seconds_per_window_token(self) -> float:
        """Time that each token in sight adds to decoding attention in the layers with a window [s]."""
        return self.window_layers * self._decode_seconds_per_key

    @cached_property
    def _decode_seconds_per_key(self) -> float:
        rate = self.decode_rate
        flops = decode_flops_per_kv_token(self.model, self.parallelism)
        compute_seconds = flops / (self.sixteen_bit_peak * rate.compute)
        return float(overlapped_seconds(compute_seconds, self._kv_token_seconds + self._score_seconds, rate.sharpness))

    def prefill_attention_seconds(
        self,
        pairs: npt.ArrayLike,
        kv_tokens: npt.ArrayLike,
        new_tokens: npt.ArrayLike,
        window_pairs: npt.ArrayLike | None = None,
        window_kv_tokens: npt.ArrayLike | None = None,
    ) -> Floats:
        """Return the time of the attention of prefill chunks in all layers [s], shape of the arguments.

        Parameters
        ----------
        pairs, kv_tokens, new_tokens : `prefill_pairs`, `prefill_kv_tokens` and `prefill_tokens` of `Totals`; no pairs
            take no time.
        window_pairs, window_kv_tokens : those in a layer with a window, if that is less.
        """
        seconds = self.prefill_attention_slopes.seconds(pairs, kv_tokens, new_tokens)
        if not self.window_layers:
            return seconds
        seen = pairs if window_pairs is None else window_pairs
        cached = kv_tokens if window_kv_tokens is None else window_kv_tokens
        in_window = self.window_prefill_slopes.seconds(seen, cached, new_tokens)
        return in_window + seconds if self.whole_layers else in_window

    @cached_property
    def prefill_attention_slopes(self) -> PrefillSlopes:
        """The coefficients of `prefill_attention_seconds`, for a clock that evaluates it without arrays."""
        return self._prefill_slopes(self.whole_layers)

    @cached_property
    def window_prefill_slopes(self) -> PrefillSlopes:
        """The same for the layers with a window."""
        return self._prefill_slopes(self.window_layers)

    def _prefill_slopes(self, layers: int) -> PrefillSlopes:
        rate = self.prefill_rate
        flops = attention_flops_per_pair(self.model, self.parallelism)
        own_bytes = prefill_bytes_per_token(self.model, self.precision, self.parallelism)
        whole, kernels = (1, 1) if self.flash_attention else (MASKED, UNFUSED_KERNELS)
        return PrefillSlopes(
            launch=layers * kernels * rate.launch_seconds,
            per_pair=whole * layers * flops / (self.sixteen_bit_peak * rate.compute),
            per_pair_moved=whole * layers * self._score_seconds,
            per_kv_token=layers * self._kv_token_seconds,
            per_new_token=layers * own_bytes / (self.hardware.memory.bandwidth_bytes_per_second * rate.memory),
            sharpness=rate.sharpness,
        )

    @cached_property
    def mixed_attention_slopes(self) -> MixedSlopes | None:
        """The one kernel of a mixed iteration; None where prompts and decoding have a kernel each.

        Latent attention has kernels of its own.
        """
        return self._mixed_slopes(self.whole_layers) if self._shares_kernel else None

    @cached_property
    def window_mixed_slopes(self) -> MixedSlopes | None:
        """The same for the layers with a window; None if there are none."""
        return self._mixed_slopes(self.window_layers) if self._shares_kernel and self.window_layers else None

    @property
    def _shares_kernel(self) -> bool:
        return self.one_attention_kernel and self.flash_attention and not self.model.latent

    def _mixed_slopes(self, layers: int) -> MixedSlopes:
        constants = self.efficiency
        rate, heads = constants.mixed_attention, self.model.query_heads // self.parallelism.tensor
        bytes_per_second = self.hardware.memory.bandwidth_bytes_per_second * rate.memory
        tile_flops = QUERY_TILE * attention_flops_per_pair(self.model, self.parallelism)
        return MixedSlopes(
            launch=layers * rate.launch_seconds,
            per_tile_key=layers * tile_flops / (self.sixteen_bit_peak * rate.compute),
            per_kv_token=layers * self.kv_bytes_per_layer / bytes_per_second,
            per_new_token=layers * 2 * heads * self.model.head * STREAM_BYTES / bytes_per_second,
            tile_tokens=constants.mixed_tile_tokens,
            sharpness=rate.sharpness,
        )

    def attention_seconds(self, totals: Totals) -> Floats:
        """Return the time of all attention in all layers [s], shape of the totals."""
        decodes, keys, seen = totals.decode_sequences, totals.decode_kv_tokens, totals.keys_in_window
        window_pairs, window_cached, _ = totals.prompts_in_window
        apart = self.decode_attention_seconds(keys, decodes, seen)
        apart = apart + self.prefill_attention_seconds(*totals.prompts, window_pairs, window_cached)
        if self.mixed_attention_slopes is None:
            return apart
        in_one = np.vectorize(self.mixed_attention_slopes.seconds, otypes=[np.float64])
        together = in_one(*totals.prompts, decodes, keys)
        if self.window_mixed_slopes is not None:
            in_one = np.vectorize(self.window_mixed_slopes.seconds, otypes=[np.float64])
            together = together + in_one(*totals.prompts_in_window, decodes, seen)
        return np.where(together > 0, together, apart)

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
    def kv_bytes_per_layer(self) -> float:
        """Cache of one token in one layer on one device [bytes]."""
        return kv_elements_per_layer(self.model, self.parallelism) * self.precision.kv_bytes

    @cached_property
    def _score_seconds(self) -> float:
        """Time to write and read the scores of one query-key pair in one layer [s]; 0 with FlashAttention."""
        if self.flash_attention:
            return 0.0
        bandwidth = self.hardware.memory.bandwidth_bytes_per_second * self.efficiency.elementwise.memory
        return score_bytes_per_pair(self.model, self.parallelism) / bandwidth

    @property
    def _has_narrow_cache(self) -> bool:
        return self.precision.kv_bytes < STREAM_BYTES

    @property
    def prefill_rate(self) -> Rate:
        """Constants of the attention of prompts."""
        constants = self.efficiency
        return constants.prefill_attention_8bit if self._has_narrow_cache else constants.prefill_attention

    @property
    def decode_rate(self) -> Rate:
        """Constants of decoding attention."""
        constants = self.efficiency
        return constants.decode_attention_8bit if self._has_narrow_cache else constants.decode_attention

    @cached_property
    def _kv_token_seconds(self) -> float:
        """Time to read one cached token in one layer, by prefill chunks as by decoding sequences [s]."""
        bandwidth = self.hardware.memory.bandwidth_bytes_per_second * self.decode_rate.memory
        return self.kv_bytes_per_layer / bandwidth

    @cached_property
    def sixteen_bit_peak(self) -> float:
        """Peak of attention and of the output head [flop/s]."""
        return self.hardware.peak(sixteen_bit_unit(self.hardware))

    @cached_property
    def rates(self) -> dict[str, tuple[Rate, float]]:
        """Efficiency and peak by kind of operator; 8-bit activations have constants of their own."""
        constants, peak = self.efficiency, self.hardware.peak(compute_unit(self.precision, self.hardware))
        gemm, experts = constants.gemm, constants.experts
        if self.precision.quantises_activations:
            gemm, experts = constants.gemm_8bit, constants.experts_8bit
        elif self.precision.weight_bytes < STREAM_BYTES:
            gemm = constants.gemm_narrow_weights
        return {
            "gemm": (gemm, peak),
            "head": (constants.gemm, self.sixteen_bit_peak),
            "experts": (experts, peak),
            "elementwise": (constants.elementwise, self.sixteen_bit_peak),
        }

    def kernel_seconds(self, flops: Floats, moved_bytes: Floats, rate: Rate, peak: float) -> Floats:
        """Return the time of one kernel on this chip [s]; see `roofline_seconds`."""
        return roofline_seconds(flops, moved_bytes, rate, peak, self.hardware.memory.bandwidth_bytes_per_second)

    def _rank_operators(self, tokens: Floats) -> list[Operator]:
        ends = {"is_first": self.part.is_first, "is_last": self.part.is_last}
        return rank_operators(self.part.layers, self.precision, self.parallelism, tokens, **ends)

    def _expert_operators(self, all_tokens: Floats) -> list[Operator]:
        return expert_operators(self.part.layers, self.precision, self.parallelism, all_tokens, self.routing_skew)

    def _sum(self, operators: list[Operator], like: Floats) -> Floats:
        seconds = np.zeros_like(like)
        for operator in operators:
            rate, peak = self.rates[operator.kind]
            seconds = seconds + operator.count * self.kernel_seconds(operator.flops, operator.moved_bytes, rate, peak)
        return seconds
