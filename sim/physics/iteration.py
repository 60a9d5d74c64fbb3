"""How long one forward pass takes, from a few sums over its sequences."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hardware_profiles.profile import HardwareProfile
from sim.physics import efficiency as constants
from sim.physics.collectives import all_gather_seconds, all_reduce_seconds, fast_link
from sim.physics.efficiency import Efficiency
from sim.physics.operators import (
    STREAM_BYTES,
    attention_flops_per_pair,
    decode_flops_per_kv_token,
    head_operators,
    kv_elements_per_layer,
    layer_operators,
    prefill_bytes_per_token,
)
from sim.physics.parallelism import Parallelism
from sim.physics.precision import PRECISIONS, Precision, compute_unit, sixteen_bit_unit
from sim.physics.roofline import Floats, Operator, Rate, overlapped_seconds, roofline_seconds
from workloads.models.transformer import Transformer

HOST_SECONDS = 300e-6
"""What an asynchronous engine of 2026 adds to the device's time."""

EAGER_HOST_SECONDS = 45e-3
"""Least time of an iteration of an eager Python engine of 2023, which starts every kernel by hand: a single sequence
of Llama-2-70B decodes on A100 in 57, 45 and 45 ms at TP 2, 4 and 8 (github.com/Mutinifni/splitwise-sim, MIT)."""


@dataclass(frozen=True)
class Totals:
    """An iteration as the hardware sees it: scalars, or arrays of one shape with an element per iteration.

    Attributes
    ----------
    tokens : new tokens, of prefill chunks and one for each decoding sequence.
    samples : sequences that sample a token.
    prefill_tokens : new tokens of the prefill chunks, a part of `tokens`.
    prefill_pairs : causal query-key pairs of the chunks: a chunk of c tokens behind k has ``c k + c (c + 1) / 2``.
    prefill_kv_tokens : cached tokens in front of the chunks.
    decode_sequences, decode_kv_tokens : decoding sequences, and the sum of their contexts with the new token.
    """

    tokens: npt.ArrayLike
    samples: npt.ArrayLike
    prefill_tokens: npt.ArrayLike = 0.0
    prefill_pairs: npt.ArrayLike = 0.0
    prefill_kv_tokens: npt.ArrayLike = 0.0
    decode_sequences: npt.ArrayLike = 0.0
    decode_kv_tokens: npt.ArrayLike = 0.0


class PrefillSlopes(NamedTuple):
    """Attention of prefill chunks in all layers: a launch [s], and seconds per pair, cached token and new token.

    ``launch + (a^p + b^p)^(1/p)`` with a of the pairs, b of the tokens, and p the sharpness.
    """

    launch: float
    per_pair: float
    per_kv_token: float
    per_new_token: float
    sharpness: float


@dataclass(frozen=True)
class IterationModel:
    """A model in some precision on some devices, as functions from the terms of `Totals` to seconds.

    An iteration reads the weights once, however prefill and decode are mixed in it. Its time is the plain sum of
    `token_seconds`, `head_seconds`, `decode_attention_seconds`, `prefill_attention_seconds` and `host_seconds`.
    All functions take scalars and arrays alike, with equal results bit for bit, and give 0 for nothing.

    Sliding windows are not modelled yet: such layers attend to, and cache, the whole context, which is too slow.

    Attributes
    ----------
    model, hardware, precision, parallelism : what runs on what; refused if the model cannot be cut or the chip
        lacks the unit.
    efficiency : constants, and how good they are; `sim.physics.efficiency.generic` unless said otherwise.
    host_seconds : what the engine adds to every iteration [s].
    """

    model: Transformer
    hardware: HardwareProfile
    precision: Precision = PRECISIONS["w16a16"]
    parallelism: Parallelism = field(default_factory=Parallelism)
    efficiency: Efficiency = field(default_factory=constants.generic)
    host_seconds: float = HOST_SECONDS

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        self.parallelism.check(self.model)
        compute_unit(self.precision, self.hardware)
        sixteen_bit_unit(self.hardware)

    @property
    def flags(self) -> tuple[str, ...]:
        """Sentences that must stand beside every time of this model."""
        links, devices = self.efficiency.links, self.parallelism.tensor
        if devices == 1 or fast_link(self.hardware, devices) or links.pcie_measured:
            return ()
        return (f"unmeasured: all-reduce of {devices} x {self.hardware.title} without a common fast link",)

    def token_seconds(self, tokens: npt.ArrayLike) -> Floats:
        """Return the time of all that depends on the number of new tokens alone [s], shape of `tokens`.

        Matrix products, experts, norms, rotary positions, activation, embedding rows, KV write and all-reduces.
        """
        count = np.asarray(tokens, dtype=np.float64)
        operators = layer_operators(self.model, self.precision, self.parallelism, count)
        return np.where(count > 0, self._sum(operators, count) + self._all_reduce_seconds(count), 0.0)

    def head_seconds(self, samples: npt.ArrayLike) -> Floats:
        """Return the time of the output head, of collecting its logits and of sampling [s], shape of `samples`."""
        count = np.asarray(samples, dtype=np.float64)
        seconds = self._sum(head_operators(self.model, self.parallelism, count), count)
        logit_bytes = count * self.model.vocabulary * STREAM_BYTES
        devices, links = self.parallelism.tensor, self.efficiency.links
        gathered = all_gather_seconds(logit_bytes, devices, self.hardware, links)
        return np.where(count > 0, seconds + gathered, 0.0)

    def decode_attention_seconds(self, kv_tokens: npt.ArrayLike, sequences: npt.ArrayLike) -> Floats:
        """Return the time of decoding attention in all layers [s], shape of the arguments: affine above 0.

        Parameters
        ----------
        kv_tokens : contexts of all decoding sequences together, each with its new token.
        sequences : how many they are; each costs the `decode_tile_tokens` of the constants on top.
        """
        count = np.asarray(kv_tokens, dtype=np.float64)
        tiles = self.efficiency.decode_tile_tokens * np.asarray(sequences, dtype=np.float64)
        seconds = self.decode_attention_launch_seconds + self.decode_attention_seconds_per_kv_token * (count + tiles)
        return np.where(count > 0, seconds, 0.0)

    @cached_property
    def decode_attention_launch_seconds(self) -> float:
        """Time of decoding attention however short the contexts [s]."""
        return self.model.layers * self._decode_rate.launch_seconds

    @cached_property
    def decode_attention_seconds_per_kv_token(self) -> float:
        """Time that each token of context adds to decoding attention [s]."""
        rate = self._decode_rate
        flops = decode_flops_per_kv_token(self.model, self.parallelism)
        compute_seconds = flops / (self._sixteen_bit_peak * rate.compute)
        kernel = overlapped_seconds(compute_seconds, self._kv_token_seconds, rate.sharpness)
        return self.model.layers * float(kernel)

    def prefill_attention_seconds(
        self, pairs: npt.ArrayLike, kv_tokens: npt.ArrayLike, new_tokens: npt.ArrayLike
    ) -> Floats:
        """Return the time of the attention of prefill chunks in all layers [s], shape of the arguments.

        Parameters
        ----------
        pairs, kv_tokens, new_tokens : `prefill_pairs`, `prefill_kv_tokens` and `prefill_tokens` of `Totals`; no pairs
            take no time.
        """
        slopes = self.prefill_attention_slopes
        count = np.asarray(pairs, dtype=np.float64)
        memory_seconds = slopes.per_kv_token * np.asarray(kv_tokens, dtype=np.float64)
        memory_seconds = memory_seconds + slopes.per_new_token * np.asarray(new_tokens, dtype=np.float64)
        kernels = overlapped_seconds(slopes.per_pair * count, memory_seconds, slopes.sharpness)
        return np.where(count > 0, slopes.launch + kernels, 0.0)

    @cached_property
    def prefill_attention_slopes(self) -> PrefillSlopes:
        """The coefficients of `prefill_attention_seconds`, for a clock that evaluates it without arrays."""
        constants, layers = self.efficiency, self.model.layers
        rate = constants.prefill_attention_8bit if self._has_narrow_cache else constants.prefill_attention
        flops = attention_flops_per_pair(self.model, self.parallelism)
        own_bytes = prefill_bytes_per_token(self.model, self.precision, self.parallelism)
        return PrefillSlopes(
            launch=layers * rate.launch_seconds,
            per_pair=layers * flops / (self._sixteen_bit_peak * rate.compute),
            per_kv_token=layers * self._kv_token_seconds,
            per_new_token=layers * own_bytes / (self.hardware.memory.bandwidth_bytes_per_second * rate.memory),
            sharpness=rate.sharpness,
        )

    def seconds(self, totals: Totals) -> Floats:
        """Return the time of whole iterations [s], shape of the totals."""
        return (
            self.token_seconds(totals.tokens)
            + self.head_seconds(totals.samples)
            + self.decode_attention_seconds(totals.decode_kv_tokens, totals.decode_sequences)
            + self.prefill_attention_seconds(totals.prefill_pairs, totals.prefill_kv_tokens, totals.prefill_tokens)
            + self.host_seconds
        )

    @cached_property
    def _kv_bytes_per_layer(self) -> float:
        return kv_elements_per_layer(self.model, self.parallelism) * self.precision.kv_bytes

    @property
    def _has_narrow_cache(self) -> bool:
        return self.precision.kv_bytes < STREAM_BYTES

    @property
    def _decode_rate(self) -> Rate:
        constants = self.efficiency
        return constants.decode_attention_8bit if self._has_narrow_cache else constants.decode_attention

    @cached_property
    def _kv_token_seconds(self) -> float:
        """Time to read one cached token in one layer, by prefill chunks as by decoding sequences [s]."""
        bandwidth = self.hardware.memory.bandwidth_bytes_per_second * self._decode_rate.memory
        return self._kv_bytes_per_layer / bandwidth

    @cached_property
    def _sixteen_bit_peak(self) -> float:
        return self.hardware.peak(sixteen_bit_unit(self.hardware))

    @cached_property
    def _rates(self) -> dict[str, tuple[Rate, float]]:
        """Efficiency and peak by kind of operator; 8-bit activations have constants of their own."""
        constants, peak = self.efficiency, self.hardware.peak(compute_unit(self.precision, self.hardware))
        gemm, experts = constants.gemm, constants.experts
        if self.precision.quantises_activations:
            gemm, experts = constants.gemm_8bit, constants.experts_8bit
        elif self.precision.weight_bytes < STREAM_BYTES:
            gemm = constants.gemm_narrow_weights
        return {
            "gemm": (gemm, peak),
            "head": (constants.gemm, self._sixteen_bit_peak),
            "experts": (experts, peak),
            "elementwise": (constants.elementwise, self._sixteen_bit_peak),
        }

    def _roofline(self, flops: Floats, moved_bytes: Floats, rate: Rate, peak: float) -> Floats:
        return roofline_seconds(flops, moved_bytes, rate, peak, self.hardware.memory.bandwidth_bytes_per_second)

    def _sum(self, operators: list[Operator], like: Floats) -> Floats:
        seconds = np.zeros_like(like)
        for operator in operators:
            rate, peak = self._rates[operator.kind]
            seconds = seconds + operator.count * self._roofline(operator.flops, operator.moved_bytes, rate, peak)
        return seconds

    def _all_reduce_seconds(self, tokens: Floats) -> Floats:
        """Return the time to add up partial results behind attention and behind the MLP of every layer [s]."""
        per_layer = 1 if self.model.parallel_block else 2
        message_bytes = tokens * self.model.hidden * STREAM_BYTES
        devices, links = self.parallelism.tensor, self.efficiency.links
        return self.model.layers * per_layer * all_reduce_seconds(message_bytes, devices, self.hardware, links)
