"""How long one forward pass takes, from a few sums over its sequences."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

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
)
from sim.physics.parallelism import Parallelism
from sim.physics.precision import PRECISIONS, Precision, compute_unit, sixteen_bit_unit
from sim.physics.roofline import Floats, Operator, Rate, roofline_seconds
from workloads.models.transformer import Transformer

HOST_SECONDS = 300e-6
"""What an asynchronous engine of 2026 adds to the device's time; eager Python engines of 2023 took 20 to 45 ms."""


@dataclass(frozen=True)
class Totals:
    """An iteration as the hardware sees it: scalars, or arrays of one shape with an element per iteration.

    Attributes
    ----------
    tokens : new tokens, of prefill chunks and one for each decoding sequence.
    samples : sequences that sample a token.
    prefill_pairs : causal query-key pairs of the chunks: a chunk of c tokens behind k has ``c k + c (c + 1) / 2``.
    prefill_kv_tokens : cached tokens in front of the chunks.
    decode_sequences, decode_kv_tokens : decoding sequences, and the sum of their contexts with the new token.
    """

    tokens: npt.ArrayLike
    samples: npt.ArrayLike
    prefill_pairs: npt.ArrayLike = 0.0
    prefill_kv_tokens: npt.ArrayLike = 0.0
    decode_sequences: npt.ArrayLike = 0.0
    decode_kv_tokens: npt.ArrayLike = 0.0


@dataclass(frozen=True)
class IterationModel:
    """A model in some precision on some devices, as functions from the terms of `Totals` to seconds.

    An iteration reads the weights once, however prefill and decode are mixed in it. Its time is the plain sum of
    `token_seconds`, `head_seconds`, `decode_attention_seconds`, `prefill_attention_seconds` and `host_seconds`.
    All functions take scalars and arrays alike, with equal results bit for bit, and give 0 for nothing.

    Sliding windows are not modelled yet: such layers attend to, and cache, the whole context, which is too slow.
    A chunk's own queries, keys and values are taken to be in cache: below about 1,500 tokens the attention of a
    prompt, then a few percent of its iteration, is too fast.

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

    def decode_attention_seconds(self, kv_tokens: npt.ArrayLike) -> Floats:
        """Return the time of decoding attention in all layers [s], shape of `kv_tokens`: affine above 0.

        Parameters
        ----------
        kv_tokens : contexts of all decoding sequences together, each with its new token.
        """
        count = np.asarray(kv_tokens, dtype=np.float64)
        seconds = self.decode_attention_launch_seconds + self.decode_attention_seconds_per_kv_token * count
        return np.where(count > 0, seconds, 0.0)

    @cached_property
    def decode_attention_launch_seconds(self) -> float:
        """Time of decoding attention however short the contexts [s]."""
        return self.model.layers * self.efficiency.decode_attention.launch_seconds

    @cached_property
    def decode_attention_seconds_per_kv_token(self) -> float:
        """Time that each token of context adds to decoding attention [s]."""
        rate = self.efficiency.decode_attention
        flops = decode_flops_per_kv_token(self.model, self.parallelism)
        compute_seconds = flops / (self._sixteen_bit_peak * rate.compute)
        memory_seconds = self._kv_bytes_per_layer / (self.hardware.memory.bandwidth_bytes_per_second * rate.memory)
        return self.model.layers * max(compute_seconds, memory_seconds)

    def prefill_attention_seconds(self, pairs: npt.ArrayLike, kv_tokens: npt.ArrayLike) -> Floats:
        """Return the time of the attention of prefill chunks in all layers [s], shape of the arguments.

        Parameters
        ----------
        pairs, kv_tokens : `prefill_pairs` and `prefill_kv_tokens` of `Totals`; no pairs take no time.
        """
        count = np.asarray(pairs, dtype=np.float64)
        kv_bytes = np.asarray(kv_tokens, dtype=np.float64) * self._kv_bytes_per_layer
        flops = count * attention_flops_per_pair(self.model, self.parallelism)
        kernel = self._roofline(flops, kv_bytes, self.efficiency.prefill_attention, self._sixteen_bit_peak)
        return np.where(count > 0, self.model.layers * kernel, 0.0)

    def seconds(self, totals: Totals) -> Floats:
        """Return the time of whole iterations [s], shape of the totals."""
        return (
            self.token_seconds(totals.tokens)
            + self.head_seconds(totals.samples)
            + self.decode_attention_seconds(totals.decode_kv_tokens)
            + self.prefill_attention_seconds(totals.prefill_pairs, totals.prefill_kv_tokens)
            + self.host_seconds
        )

    @cached_property
    def _kv_bytes_per_layer(self) -> float:
        return kv_elements_per_layer(self.model, self.parallelism) * self.precision.kv_bytes

    @cached_property
    def _sixteen_bit_peak(self) -> float:
        return self.hardware.peak(sixteen_bit_unit(self.hardware))

    @cached_property
    def _rates(self) -> dict[str, tuple[Rate, float]]:
        """Efficiency and peak by kind of operator; 8-bit activations have constants of their own."""
        constants, peak = self.efficiency, self.hardware.peak(compute_unit(self.precision, self.hardware))
        gemm = constants.gemm_8bit if self.precision.quantises_activations else constants.gemm
        return {
            "gemm": (gemm, peak),
            "head": (constants.gemm, self._sixteen_bit_peak),
            "experts": (constants.experts, peak),
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
