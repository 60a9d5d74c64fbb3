"""What fits into a device's memory: weights, what the runtime keeps for itself, and blocks of KV cache in the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

from hardware_profiles.profile import HardwareProfile
from sim.physics.matrices import expert_bank_parameters, kv_elements_per_layer, matrices, vocabulary_per_device
from sim.physics.operators import STREAM_BYTES
from sim.physics.parallelism import Parallelism, allowed_tensor_sizes, experts_per_device
from sim.physics.placement import BUFFERED_LAYERS, ON_DEVICE, Placement
from sim.physics.precision import Precision
from sim.physics.stages import Stage, stages_of
from workloads.models.transformer import Transformer

MEBIBYTE = 2**20
CONTEXT_BYTES = 256 * MEBIBYTE
COMMUNICATION_BYTES = 32 * 6.5 * MEBIBYTE
SAMPLING_BYTES_PER_LOGIT = 30.0


@dataclass(frozen=True)
class Reserve:
    """Memory of one device that is neither weights nor KV cache, term by term [bytes].

    Attributes
    ----------
    context_bytes : kernels, library workspaces and handles outside the tensor allocator. 256 MiB is the median of the
        ``non_torch_memory`` in logs of vLLM: 0.16, 0.20, 0.25, 0.33 and 0.39 GiB
        (github.com/vllm-project/vllm: pull requests 12126, 14447; issues 13061, 14452, 11251).
    communication_bytes : buffers of the collectives, only with several devices: 32 channels of NCCL, each 4 MiB for
        the simple protocol (its documented default) and about 2.5 MiB for the low-latency ones. An estimate.
    activation_bytes : the layer with the widest intermediate results at the largest batch; freed before the sampling.
    sampling_bytes : the same for sampling. Engines profile a batch that samples with top-p, which sorts the logits. Per
        logit: the 16-bit result, its 32-bit copy, sorted keys (4) and indices (8), and 12 again while the sort runs:
        30 bytes. A benchmark of that sampler alone shows 1.25 GB for 256 x 131,072 logits, 40 bytes with the copies
        of the benchmark, and 12 for a sampler that does not sort (github.com/vllm-project/vllm/pull/32558).
    graph_bytes : recorded CUDA graphs. 0 unless said otherwise, since engines took them from the part of the memory
        outside their utilisation until vLLM 0.21 (github.com/vllm-project/vllm/pull/30515).
    """

    context_bytes: float
    communication_bytes: float
    activation_bytes: float
    sampling_bytes: float
    graph_bytes: float = 0.0

    @property
    def total_bytes(self) -> float:
        """All terms [bytes]; activations and sampling never live at the same time, so that the larger counts."""
        lasting = self.context_bytes + self.communication_bytes + self.graph_bytes
        return lasting + max(self.activation_bytes, self.sampling_bytes)

    def terms(self) -> dict[str, float]:
        """Return the terms by name, for tables [bytes]."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def runtime_reserve(model: Transformer, parallelism: Parallelism, max_tokens: int, max_samples: int) -> Reserve:
    """Return what an engine keeps for itself on each device; with stages on those of the last, which samples.

    Parameters
    ----------
    max_tokens, max_samples : largest batch it prepares for: new tokens, and sequences that sample.
    """
    return Reserve(
        context_bytes=CONTEXT_BYTES,
        communication_bytes=COMMUNICATION_BYTES if parallelism.devices > 1 else 0.0,
        activation_bytes=max_tokens * _activation_elements(model, parallelism) * STREAM_BYTES,
        sampling_bytes=max_samples * model.vocabulary * SAMPLING_BYTES_PER_LOGIT,
    )


def weight_bytes_per_device(
    model: Transformer, precision: Precision, parallelism: Parallelism, stage: int | None = None
) -> float:
    """Return the weights that one device holds [bytes], of a stage, or of the stage that has most.

    Matrices are cut; routers, norms, biases and positions are on every device. Vocabulary tables, norms and biases
    stay 16-bit in every precision. A table that is tied is on the first stage and on the last.
    """
    stages = stages_of(model, parallelism.pipeline)
    chosen = stages if stage is None else stages[stage : stage + 1]
    return max(_stage_weight_bytes(part, precision, parallelism) for part in chosen)


def kv_bytes_per_token_per_device(
    model: Transformer, precision: Precision, parallelism: Parallelism, stage: int | None = None
) -> float:
    """Return what one device caches for one token [bytes], of a stage, or of the stage that has most layers.

    Layers with a sliding window count in full.
    """
    stages = stages_of(model, parallelism.pipeline)
    layers = max(part.layers.layers for part in stages) if stage is None else stages[stage].layers.layers
    return layers * kv_elements_per_layer(model, parallelism) * precision.kv_bytes


def _stage_weight_bytes(stage: Stage, precision: Precision, parallelism: Parallelism) -> float:
    model = stage.layers
    has_head = stage.is_last and not (model.tied_embeddings and stage.is_first)
    tables = (stage.is_first + has_head) * vocabulary_per_device(model, parallelism) * model.hidden
    ends = model.learned_positions * model.hidden + (model.norm_parameters if model.embedding_norm else 0)
    vectors = model.parameters - _matrix_parameters(model, Parallelism())
    vectors -= model.embedding_parameters + model.head_parameters + ends + model.norm_parameters
    vectors += stage.is_first * ends + stage.is_last * model.norm_parameters
    sixteen_bit = (tables + vectors) * STREAM_BYTES
    experts = model.mixture_layers * expert_bank_parameters(model, parallelism)
    dense = _matrix_parameters(model, parallelism) - experts
    return experts * precision.weight_bytes + dense * precision.dense.weight_bytes + sixteen_bit


def layer_weight_bytes_per_device(model: Transformer, precision: Precision, parallelism: Parallelism) -> float:
    """Return the weights of all layers on one device [bytes], without vocabulary tables, positions and last norms."""
    outside = (1 if model.tied_embeddings else 2) * vocabulary_per_device(model, parallelism) * model.hidden
    outside += model.learned_positions * model.hidden + (2 if model.embedding_norm else 1) * model.norm_parameters
    return weight_bytes_per_device(model, precision, parallelism) - outside * STREAM_BYTES


def resident_weight_bytes_per_device(
    model: Transformer, precision: Precision, parallelism: Parallelism, placement: Placement
) -> float:
    """Return the weights that lie on one device at a time [bytes]: all, or a few layers and the tables."""
    whole = weight_bytes_per_device(model, precision, parallelism)
    if placement.weights_from == "device":
        return whole
    layers = layer_weight_bytes_per_device(model, precision, parallelism)
    widest = _widest_layer(model)
    buffers = BUFFERED_LAYERS * layer_weight_bytes_per_device(widest, precision, parallelism)
    return whole - layers + min(layers, buffers)


def _widest_layer(model: Transformer) -> Transformer:
    """Return the layer with most weights as a model of its own."""
    dense = [replace(model, layers=1, mixture=None, window=None, window_layers=0)] if model.dense_layers else []
    if model.mixture:
        mixture = replace(model.mixture, dense_layers=0)
        dense.append(replace(model, layers=1, mixture=mixture, window=None, window_layers=0))
    return max(dense, key=lambda one: one.parameters)


def least_kv_bytes_per_device(model: Transformer, precision: Precision, parallelism: Parallelism, tokens: int) -> float:
    """Return what one device must cache for a sequence of so many tokens [bytes].

    Layers with a window need no more than what is in sight. Engines that keep blocks for such layers apart come close
    to this, by at most a chunk of the prompt (docs.vllm.ai, "Hybrid KV Cache Manager"); the others keep the whole.
    """
    parts = [stage.layers for stage in stages_of(model, parallelism.pipeline)]
    windowed = [part.window_layers * min(tokens, part.window or tokens) for part in parts]
    whole = [(part.layers - part.window_layers) * tokens for part in parts]
    kept = max(map(sum, zip(windowed, whole, strict=True)))
    return kept * kv_elements_per_layer(model, parallelism) * precision.kv_bytes


def kv_blocks(
    model: Transformer,
    hardware: HardwareProfile,
    precision: Precision,
    parallelism: Parallelism,
    *,
    utilisation: float = 0.9,
    block_size: int = 16,
    max_tokens: int = 2048,
    max_samples: int = 256,
    reserve: Reserve | None = None,
    placement: Placement = ON_DEVICE,
) -> int:
    """Return how many blocks of KV cache fit beside weights and runtime, with stages on the fullest one.

    Every data rank has as many.

    Parameters
    ----------
    utilisation : part of the usable memory that the engine may take, 0 to 1.
    block_size : tokens of a block.
    max_tokens, max_samples : see `runtime_reserve`.
    reserve : what is known better than `runtime_reserve` estimates it.
    placement : where weights are kept that do not stay on the device.

    Raises
    ------
    ValueError
        Not one block fits; the message says what is missing and which number of devices would do.
    """
    if not 0 < utilisation <= 1:
        raise ValueError(f"utilisation={utilisation}; allowed are fractions above 0, at most 1")
    if block_size < 1:
        raise ValueError(f"block_size={block_size} tokens; allowed are 1 and more")
    budget_bytes = hardware.memory.usable_bytes * utilisation

    def room(split: Parallelism) -> tuple[float, float]:
        """Return free bytes and bytes of a block on the stage where the fewest blocks fit."""
        last = reserve or runtime_reserve(model, split, max_tokens, max_samples)
        rooms = []
        for stage in range(split.pipeline):
            is_last = reserve is not None or stage == split.pipeline - 1
            kept = last if is_last else replace(last, sampling_bytes=0.0)
            held = (
                weight_bytes_per_device(model, precision, split, stage)
                if placement.weights_from == "device"
                else resident_weight_bytes_per_device(model, precision, split, placement)
            )
            free = budget_bytes - held - kept.total_bytes
            rooms.append((free, block_size * kv_bytes_per_token_per_device(model, precision, split, stage)))
        return min(rooms, key=lambda one: one[0] / one[1])

    free_bytes, block_bytes = room(parallelism)
    blocks = math.floor(free_bytes / block_bytes)
    if blocks >= 1:
        return blocks
    sizes = allowed_tensor_sizes(model, parallelism.expert, parallelism.data)
    larger = (replace(parallelism, tensor=size) for size in sizes if size > parallelism.tensor)
    enough = next((split.tensor for split in larger if room(split)[0] >= room(split)[1]), None)
    advice = f"tensor={enough} devices would do" if enough else "no tensor-parallel split is small enough"
    at = f"tensor={parallelism.tensor}" + (f" of {parallelism.words}" if parallelism.words.count(" x ") else "")
    raise ValueError(
        f"{model.title} in {precision.name} does not fit: weights of "
        f"{resident_weight_bytes_per_device(model, precision, parallelism, placement) / 1e9:.2f} GB per device, the "
        "runtime and one block "
        f"of KV cache exceed {utilisation:g} of the memory of {hardware.title} "
        f"({budget_bytes / 1e9:.2f} GB) by {(block_bytes - free_bytes) / 1e9:.2f} GB at {at}; {advice}"
    )


def _matrix_parameters(model: Transformer, parallelism: Parallelism) -> int:
    layers = sum(matrix.parameters for matrix in matrices(model, parallelism))
    return layers + model.mixture_layers * expert_bank_parameters(model, parallelism)


def _activation_elements(model: Transformer, parallelism: Parallelism) -> int:
    """Return the numbers per token that live while the widest layer runs: stream, input, product and its activation."""
    branches = 2 if model.gated else 1
    widths = [(branches + 1) * model.intermediate // parallelism.tensor] if model.dense_layers else []
    if model.mixture:
        # Tokens of all data ranks visit, as far as their experts are on this device.
        there = experts_per_device(model.mixture.experts, parallelism) / model.mixture.experts
        visits = math.ceil(parallelism.data * model.mixture.experts_per_token * there)
        width = model.mixture.intermediate // parallelism.expert_tensor
        gathered = parallelism.data * model.hidden if parallelism.data > 1 else 0
        widths.append(visits * ((branches + 1) * width + model.hidden) + gathered)
    queries = model.query_heads // parallelism.tensor * model.head
    widths.append(2 * queries + kv_elements_per_layer(model, parallelism))
    return 2 * model.hidden + max(widths)
