"""What one iteration consists of: every operator with its work, its time, and what bounds it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sim.physics.iteration import IterationModel
from sim.physics.mixed_attention import QUERY_TILE, MixedSlopes
from sim.physics.operators import (
    attention_flops_per_pair,
    decode_flops_per_kv_token,
    head_operators,
    prefill_bytes_per_token,
    score_bytes_per_pair,
)
from sim.physics.prefill_attention import MASKED, UNFUSED_KERNELS, PrefillSlopes
from sim.physics.roofline import Operator, Rate, arithmetic_seconds, overlapped_seconds, slow_bytes
from sim.physics.totals import Totals


@dataclass(frozen=True)
class Part:
    """All kernels of one operator in an iteration, on one device.

    Attributes
    ----------
    name : what it is.
    count : kernels.
    flops, moved_bytes : of all of them [flop], [bytes]; 0 for what neither computes nor reads device memory.
    launch_seconds, compute_seconds, memory_seconds : fixed time, and what arithmetic (with the steps that nothing
        hides) and memory would take alone [s].
    seconds : what they take together [s].
    peak_flops_per_second : of the unit that computes.
    other : what bounds a part without flops and bytes: ``"link"`` or ``"host"``.
    """

    name: str
    count: int
    flops: float
    moved_bytes: float
    launch_seconds: float
    compute_seconds: float
    memory_seconds: float
    seconds: float
    peak_flops_per_second: float = 0.0
    other: str = ""

    @property
    def bound_by(self) -> str:
        """The largest of its times: ``"launch"``, ``"compute"``, ``"memory"``, ``"link"`` or ``"host"``."""
        if self.other:
            return self.other
        times = {"memory": self.memory_seconds, "compute": self.compute_seconds, "launch": self.launch_seconds}
        return max(times, key=lambda name: times[name])

    @property
    def intensity(self) -> float:
        """Flops per byte; nan for what moves nothing."""
        return self.flops / self.moved_bytes if self.moved_bytes else float("nan")


def breakdown(model: IterationModel, totals: Totals) -> list[Part]:
    """Return the parts of one iteration in the order of a layer; their times add up to ``model.seconds(totals)``.

    Parameters
    ----------
    totals : of scalars.
    """
    tokens, samples = (np.array(float(np.asarray(value))) for value in (totals.tokens, totals.samples))
    part, split, links = model.part, model.parallelism, model.communication
    operators = model.token_operators(tokens) if tokens > 0 else []
    parts = [_kernels(model, operator) for operator in operators] + _attention(model, totals)
    if tokens > 0:
        messages = {
            "all-reduce": links.all_reduce_seconds(tokens),
            "tokens to experts and back": links.exchange_seconds(split.data * tokens),
            "to the next stage": links.hop_seconds(tokens),
        }
        parts += [_other(name, "link", float(seconds)) for name, seconds in messages.items() if seconds > 0]
    if samples > 0 and part.is_last:
        parts += [_kernels(model, operator) for operator in head_operators(model.model, split, samples)]
        if split.tensor > 1:
            parts.append(_other("gather logits", "link", float(links.gather_seconds(samples))))
    if (waited := float(model.waiting_seconds(totals))) > 0:
        parts.append(_other("waiting for what is brought", "link", waited))
    return [*parts, _other("host", "host", model.fixed_seconds)]


def _other(name: str, bound: str, seconds: float) -> Part:
    return Part(name, 1, 0.0, 0.0, 0.0, 0.0, 0.0, seconds, other=bound)


def _kernels(model: IterationModel, operator: Operator) -> Part:
    rate, peak = model.rates[operator.kind]
    count, flops, moved_bytes = operator.count, float(operator.flops), float(operator.bytes_under(rate))
    seconds, steps = count * float(model.kernel_seconds(operator)), count * float(operator.steps)
    part = _part(model, operator.name, count, count * flops, count * moved_bytes, rate, peak, seconds, steps)
    near = float(slow_bytes(moved_bytes, rate, model.hardware.memory.cache_bytes)) / moved_bytes
    return replace(part, memory_seconds=part.memory_seconds * near)


def _part(
    model: IterationModel,
    name: str,
    count: int,
    flops: float,
    moved_bytes: float,
    rate: Rate,
    peak: float,
    seconds: float,
    steps: float = 0.0,
) -> Part:
    bandwidth = model.hardware.memory.bandwidth_bytes_per_second
    compute, memory = float(arithmetic_seconds(flops, rate, peak, steps)), moved_bytes / (bandwidth * rate.memory)
    return Part(name, count, flops, moved_bytes, count * rate.launch_seconds, compute, memory, seconds, peak)


@dataclass(frozen=True)
class _Layers:
    """Attention in layers that see equally much: the sums that it depends on, and the coefficients of its time.

    `least_seconds` is what blocks of decoding sequences take at least.
    """

    suffix: str
    layers: int
    pairs: float
    cached: float
    new: float
    decodes: float
    keys: float
    least_seconds: float
    prefill: PrefillSlopes
    mixed: MixedSlopes | None


def _attention(model: IterationModel, totals: Totals) -> list[Part]:
    """Return attention of prompts and of decoding, or their one kernel, in layers of both kinds."""

    def number(value: npt.ArrayLike) -> float:
        return float(np.asarray(value))

    decodes = number(totals.decode_sequences)
    pairs, cached, new = map(number, totals.prompts)
    attention, keys = model.attention, number(totals.decode_kv_tokens)
    slopes = attention.prefill_slopes, attention.mixed_slopes
    least = decodes * attention.decode_seconds_per_sequence
    whole = _Layers("", attention.whole_layers, pairs, cached, new, decodes, keys, least, *slopes)
    pairs, cached, _ = map(number, totals.prompts_in_window)
    slopes, keys = (attention.window_prefill_slopes, attention.window_mixed_slopes), number(totals.keys_in_window)
    least = decodes * attention.decode_seconds_per_window_sequence
    windowed = _Layers(" in a window", attention.window_layers, pairs, cached, new, decodes, keys, least, *slopes)
    return [part for one in (whole, windowed) if one.layers for part in _attention_in(model, one)]


def _attention_in(model: IterationModel, of: _Layers) -> list[Part]:
    layers, slopes = of.layers, of.mixed
    own = layers * of.new * prefill_bytes_per_token(model.model, model.precision, model.parallelism)
    pair_flops = attention_flops_per_pair(model.model, model.parallelism)
    kv_bytes = layers * model.attention.kv_bytes_per_layer
    seconds = slopes.seconds(of.pairs, of.cached, of.new, of.decodes, of.keys) if slopes else 0.0
    if slopes and seconds:
        tiles = of.new / QUERY_TILE
        tile_keys = of.pairs / QUERY_TILE + tiles * (QUERY_TILE / 2 + slopes.tile_tokens) + of.keys
        flops = layers * pair_flops * QUERY_TILE * (tile_keys + of.decodes * slopes.tile_tokens)
        moved_bytes = own + kv_bytes * (of.cached + of.keys)
        rate, peak = model.efficiency.mixed_attention, model.attention.peak
        name = "attention in one kernel" + of.suffix
        return [_part(model, name, layers, flops, moved_bytes, rate, peak, seconds)]
    parts = []
    if of.pairs:
        parts.append(_prefill(model, of))
    if of.keys:
        parts.append(_decode(model, of))
    return parts


def _prefill(model: IterationModel, of: _Layers) -> Part:
    """Return attention of prompts; cached keys, own tokens and scores move at rates of their own."""
    shape, split, layers, pairs = model.model, model.parallelism, of.layers, of.pairs
    computed, scored = (pairs, 0.0) if model.flash_attention else (MASKED * pairs, MASKED * pairs)
    kernels = layers if model.flash_attention else layers * UNFUSED_KERNELS
    slopes = of.prefill
    moved_bytes = (
        of.new * prefill_bytes_per_token(shape, model.precision, split) + of.cached * model.attention.kv_bytes_per_layer
    )
    moved_bytes += scored * score_bytes_per_pair(shape, split)
    return Part(
        "prefill attention" + of.suffix,
        kernels,
        layers * attention_flops_per_pair(shape, split) * computed,
        layers * moved_bytes,
        slopes.launch,
        float(slopes.compute_seconds(pairs)),
        slopes.per_kv_token * of.cached + slopes.per_new_token * of.new + slopes.per_pair_moved * pairs,
        float(slopes.seconds(pairs, of.cached, of.new)),
        model.attention.peak,
    )


def _decode(model: IterationModel, of: _Layers) -> Part:
    """Return attention of decoding sequences."""
    shape, split, layers = model.model, model.parallelism, of.layers
    read = layers * of.keys
    flops, moved_bytes = read * decode_flops_per_kv_token(shape, split), read * model.attention.kv_bytes_per_layer
    rate, bandwidth = model.attention.decode_rate, model.hardware.memory.bandwidth_bytes_per_second
    memory = moved_bytes / (bandwidth * rate.memory)
    if not model.flash_attention:
        score_bytes = read * score_bytes_per_pair(shape, split)
        moved_bytes += score_bytes
        memory += score_bytes / (bandwidth * model.efficiency.elementwise.memory)
    kernels = layers if model.flash_attention else layers * UNFUSED_KERNELS
    launch = layers * model.attention.decode_layer_launch_seconds
    compute = flops / (model.attention.peak * rate.compute)
    seconds = launch + max(float(overlapped_seconds(compute, memory, rate.sharpness)), of.least_seconds)
    memory = max(memory, of.least_seconds)
    name = "decode attention" + of.suffix
    return Part(name, kernels, flops, moved_bytes, launch, compute, memory, seconds, model.attention.peak)
