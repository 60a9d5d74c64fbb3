"""How long attention takes in all layers of a stage: of prompts, of decoding sequences, and of both in one kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from hardware_profiles.profile import HardwareProfile
from sim.physics.efficiency import Efficiency
from sim.physics.matrices import kv_elements_per_layer
from sim.physics.mixed_attention import QUERY_TILE, MixedSlopes
from sim.physics.operators import (
    STREAM_BYTES,
    attention_flops_per_pair,
    decode_flops_per_kv_token,
    prefill_bytes_per_token,
    score_bytes_per_pair,
)
from sim.physics.parallelism import Parallelism, kv_heads_per_device
from sim.physics.precision import Precision, sixteen_bit_unit
from sim.physics.prefill_attention import MASKED, UNFUSED_KERNELS, PrefillSlopes
from sim.physics.roofline import DecodeRate, Floats, PrefillRate, overlapped_seconds
from sim.physics.totals import Totals
from workloads.models.transformer import Transformer


@dataclass(frozen=True)
class Attention:
    """The attention of some layers, as functions from the terms of `Totals` to seconds; see `IterationModel`.

    Layers with a sliding window read, and compute with, the lesser of context and window of every sequence: sums of
    their own in `Totals`. Without FlashAttention a window only masks.

    Attributes
    ----------
    model : the layers, as a model of their own.
    one_kernel : whether prompts and decoding sequences of an iteration share a kernel.
    flash : False for three kernels that write and read every score.
    """

    model: Transformer
    hardware: HardwareProfile
    precision: Precision
    parallelism: Parallelism
    efficiency: Efficiency
    one_kernel: bool = False
    flash: bool = True

    def seconds(self, totals: Totals) -> Floats:
        """Return the time of all attention in all layers [s], shape of the totals."""
        decodes, keys, seen = totals.decode_sequences, totals.decode_kv_tokens, totals.keys_in_window
        window_pairs, window_cached, _ = totals.prompts_in_window
        apart = self.decode_seconds(keys, decodes, seen)
        apart = apart + self.prefill_seconds(*totals.prompts, window_pairs, window_cached)
        if self.mixed_slopes is None:
            return apart
        in_one = np.vectorize(self.mixed_slopes.seconds, otypes=[np.float64])
        together = in_one(*totals.prompts, decodes, keys)
        if self.window_mixed_slopes is not None:
            in_one = np.vectorize(self.window_mixed_slopes.seconds, otypes=[np.float64])
            together = together + in_one(*totals.prompts_in_window, decodes, seen)
        return np.where(together > 0, together, apart)

    @property
    def window_layers(self) -> int:
        """Layers that see no more than a window."""
        return self.model.window_layers if self.flash else 0

    @property
    def window(self) -> int | None:
        """Tokens that those layers see; None without any."""
        return self.model.window if self.window_layers else None

    @property
    def whole_layers(self) -> int:
        """Layers that see the whole context."""
        return self.model.layers - self.window_layers

    def decode_seconds(
        self, kv_tokens: npt.ArrayLike, sequences: npt.ArrayLike, window_kv_tokens: npt.ArrayLike | None = None
    ) -> Floats:
        """Return the time of decoding attention in all layers [s], shape of the arguments.

        Layers of a kind take as long as the keys need that they read, but no less than their blocks (see
        `DecodeRate`): piecewise affine in both numbers.

        Parameters
        ----------
        kv_tokens : contexts of all decoding sequences together, each with its new token.
        sequences : how many they are.
        window_kv_tokens : what they read in a layer with a window, if that is less.
        """
        count, decodes = np.asarray(kv_tokens, dtype=np.float64), np.asarray(sequences, dtype=np.float64)
        read = self.decode_seconds_per_kv_token * count
        seconds = self.decode_launch_seconds + np.maximum(read, self.decode_seconds_per_sequence * decodes)
        if self.window_layers:
            seen = count if window_kv_tokens is None else np.asarray(window_kv_tokens, dtype=np.float64)
            read = self.decode_seconds_per_window_token * seen
            seconds = seconds + np.maximum(read, self.decode_seconds_per_window_sequence * decodes)
        return np.where(count > 0, seconds, 0.0)

    @cached_property
    def decode_launch_seconds(self) -> float:
        """Time of decoding attention however short the contexts [s]."""
        return self.model.layers * self.decode_layer_launch_seconds

    @property
    def decode_layer_launch_seconds(self) -> float:
        """The same of one layer [s]."""
        rate = self.decode_rate
        return rate.launch_seconds + rate.combine_seconds if self.flash else UNFUSED_KERNELS * rate.launch_seconds

    @cached_property
    def decode_seconds_per_kv_token(self) -> float:
        """Time that each token of context adds to decoding attention in the layers that see it all [s]."""
        return self.whole_layers * self._decode_seconds_per_key

    @cached_property
    def decode_seconds_per_window_token(self) -> float:
        """Time that each token in sight adds to decoding attention in the layers with a window [s]."""
        return self.window_layers * self._decode_seconds_per_key

    @cached_property
    def decode_seconds_per_sequence(self) -> float:
        """Least time of each decoding sequence in the layers that see all of its context [s]."""
        return self.whole_layers * self._decode_blocks * self.decode_rate.block_seconds

    @cached_property
    def decode_seconds_per_window_sequence(self) -> float:
        """Least time of each decoding sequence in the layers with a window [s]."""
        return self.window_layers * self._decode_blocks * self.decode_rate.block_seconds

    @property
    def _decode_blocks(self) -> int:
        """Thread blocks of a sequence in a layer: one for each KV head on the device; a latent vector has one."""
        return 1 if self.model.latent else kv_heads_per_device(self.model, self.parallelism)

    @cached_property
    def _decode_seconds_per_key(self) -> float:
        rate = self.decode_rate
        flops = decode_flops_per_kv_token(self.model, self.parallelism)
        compute_seconds = flops / (self.peak * rate.compute)
        return float(overlapped_seconds(compute_seconds, self._kv_token_seconds + self._score_seconds, rate.sharpness))

    def prefill_seconds(
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
        seconds = self.prefill_slopes.seconds(pairs, kv_tokens, new_tokens)
        if not self.window_layers:
            return seconds
        seen = pairs if window_pairs is None else window_pairs
        cached = kv_tokens if window_kv_tokens is None else window_kv_tokens
        in_window = self.window_prefill_slopes.seconds(seen, cached, new_tokens)
        return in_window + seconds if self.whole_layers else in_window

    @cached_property
    def prefill_slopes(self) -> PrefillSlopes:
        """The coefficients of `prefill_seconds`, for a clock that evaluates it without arrays."""
        return self._prefill_slopes(self.whole_layers)

    @cached_property
    def window_prefill_slopes(self) -> PrefillSlopes:
        """The same for the layers with a window."""
        return self._prefill_slopes(self.window_layers, in_window=True)

    def _prefill_slopes(self, layers: int, *, in_window: bool = False) -> PrefillSlopes:
        rate, window = self.prefill_rate, self.model.window
        flops = attention_flops_per_pair(self.model, self.parallelism)
        pair_seconds = flops / (self.peak * rate.compute)
        heads = self.model.query_heads // self.parallelism.tensor
        own_bytes = prefill_bytes_per_token(self.model, self.precision, self.parallelism)
        whole, kernels = (1, 1) if self.flash else (MASKED, UNFUSED_KERNELS)
        return PrefillSlopes(
            launch=layers * kernels * rate.launch_seconds,
            per_pair=whole * layers * pair_seconds,
            per_pair_moved=whole * layers * self._score_seconds,
            per_kv_token=layers * self._kv_token_seconds,
            per_new_token=layers * own_bytes / rate.own_rate(self.hardware.memory.bandwidth_bytes_per_second),
            sharpness=rate.sharpness,
            per_tail_key=layers * rate.tail_rows * pair_seconds / heads if self.flash else 0.0,
            most_keys=window if in_window and window else math.inf,
        )

    @cached_property
    def mixed_slopes(self) -> MixedSlopes | None:
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
        return self.one_kernel and self.flash and not self.model.latent

    def _mixed_slopes(self, layers: int) -> MixedSlopes:
        constants = self.efficiency
        rate, heads = constants.mixed_attention, self.model.query_heads // self.parallelism.tensor
        bytes_per_second = self.hardware.memory.bandwidth_bytes_per_second * rate.memory
        tile_flops = QUERY_TILE * attention_flops_per_pair(self.model, self.parallelism)
        return MixedSlopes(
            launch=layers * rate.launch_seconds,
            per_tile_key=layers * tile_flops / (self.peak * rate.compute),
            per_kv_token=layers * self.kv_bytes_per_layer / bytes_per_second,
            per_new_token=layers * 2 * heads * self.model.head * STREAM_BYTES / bytes_per_second,
            tile_tokens=constants.mixed_tile_tokens,
            sharpness=rate.sharpness,
        )

    @cached_property
    def kv_bytes_per_layer(self) -> float:
        """Cache of one token in one layer on one device [bytes]."""
        return kv_elements_per_layer(self.model, self.parallelism) * self.precision.kv_bytes

    @cached_property
    def _score_seconds(self) -> float:
        """Time to write and read the scores of one query-key pair in one layer [s]; 0 with FlashAttention."""
        if self.flash:
            return 0.0
        bandwidth = self.hardware.memory.bandwidth_bytes_per_second * self.efficiency.elementwise.memory
        return score_bytes_per_pair(self.model, self.parallelism) / bandwidth

    @property
    def _has_narrow_cache(self) -> bool:
        return self.precision.kv_bytes < STREAM_BYTES

    @property
    def prefill_rate(self) -> PrefillRate:
        """Constants of the attention of prompts."""
        constants = self.efficiency
        return constants.prefill_attention_8bit if self._has_narrow_cache else constants.prefill_attention

    @cached_property
    def decode_rate(self) -> DecodeRate:
        """Constants of decoding attention."""
        heads = self.model.query_heads // self.parallelism.tensor
        grouped = heads > self._decode_blocks
        return self.efficiency.decoding(grouped=grouped, narrow=self._has_narrow_cache)

    @cached_property
    def _kv_token_seconds(self) -> float:
        """Time to read one cached token in one layer, by prefill chunks as by decoding sequences [s]."""
        bandwidth = self.hardware.memory.bandwidth_bytes_per_second * self.decode_rate.memory
        return self.kv_bytes_per_layer / bandwidth

    @cached_property
    def peak(self) -> float:
        """Peak of the 16-bit unit, which attention and the output head use [flop/s]."""
        return self.hardware.peak(sixteen_bit_unit(self.hardware))
