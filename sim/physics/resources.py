"""Which resource the time of an iteration goes to: arithmetic, memory, links, or the launching of kernels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.physics.breakdown import breakdown
from sim.physics.iteration import IterationModel
from sim.physics.operators import head_operators
from sim.physics.prefill_attention import PrefillSlopes
from sim.physics.roofline import Floats, Operator, arithmetic_seconds
from sim.physics.totals import Totals

RESOURCES = ("compute", "memory", "link", "launch")
"""A launch takes what it takes; all else of an operator's time belongs to the scarcer of arithmetic and memory."""

_COMPUTE, _MEMORY, _LINK, _LAUNCH = range(len(RESOURCES))


def token_resources(model: IterationModel, tokens: npt.ArrayLike) -> Floats:
    """Split `IterationModel.token_seconds` (len(RESOURCES), ...) [s]; the first axis sums to it."""
    count = np.asarray(tokens, dtype=np.float64)
    split = _split(model, model.token_operators(count), count)
    split[_LINK] += model.communication.token_seconds(count)
    return np.where(count > 0, split, 0.0)


def head_resources(model: IterationModel, samples: npt.ArrayLike) -> Floats:
    """Split `IterationModel.head_seconds` (len(RESOURCES), ...) [s]; the first axis sums to it."""
    count = np.asarray(samples, dtype=np.float64)
    if not model.part.is_last:
        return np.zeros((len(RESOURCES), *count.shape))
    split = _split(model, head_operators(model.model, model.parallelism, count), count)
    split[_LINK] += model.communication.gather_seconds(count)
    return np.where(count > 0, split, 0.0)


def prompt_resources(
    slopes: PrefillSlopes, pairs: npt.ArrayLike, kv_tokens: npt.ArrayLike, new_tokens: npt.ArrayLike
) -> Floats:
    """Split `PrefillSlopes.seconds` (len(RESOURCES), ...) [s]; the first axis sums to it."""
    count = np.asarray(pairs, dtype=np.float64)
    memory = slopes.per_kv_token * np.asarray(kv_tokens, dtype=np.float64) + slopes.per_pair_moved * count
    memory = memory + slopes.per_new_token * np.asarray(new_tokens, dtype=np.float64)
    split = np.zeros((len(RESOURCES), *count.shape))
    split[_LAUNCH] = np.where(count > 0, slopes.launch, 0.0)
    rest = slopes.seconds(pairs, kv_tokens, new_tokens) - split[_LAUNCH]
    return _to_the_scarcer(split, rest, slopes.compute_seconds(count) > memory)


def decode_attention_resource(model: IterationModel) -> str:
    """Return what the attention of long decoding sequences waits for: ``"compute"`` or ``"memory"``."""
    parts = breakdown(model, Totals(1.0, 1.0, decode_sequences=1.0, decode_kv_tokens=1e9))
    attention = next(part for part in parts if "attention" in part.name)
    return "compute" if attention.compute_seconds > attention.memory_seconds else "memory"


def _split(model: IterationModel, operators: list[Operator], like: Floats) -> Floats:
    split = np.zeros((len(RESOURCES), *like.shape))
    bandwidth = model.hardware.memory.bandwidth_bytes_per_second
    for operator in operators:
        rate, peak = model.rates[operator.kind]
        kernel = model.kernel_seconds(operator)
        split[_LAUNCH] += operator.count * rate.launch_seconds
        rest = operator.count * (kernel - rate.launch_seconds)
        compute = arithmetic_seconds(operator.flops, rate, peak, operator.steps)
        _to_the_scarcer(split, rest, compute > operator.bytes_under(rate) / (bandwidth * rate.memory))
    return split


def _to_the_scarcer(split: Floats, seconds: Floats, computes: npt.NDArray[np.bool_]) -> Floats:
    split[_COMPUTE] += np.where(computes, seconds, 0.0)
    split[_MEMORY] += np.where(computes, 0.0, seconds)
    return split
