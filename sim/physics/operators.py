"""What a transformer asks of one device: its matrices, and the flops and bytes of every operator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.physics.parallelism import Parallelism, experts_per_device, kv_heads_per_device
from sim.physics.precision import Precision
from sim.physics.roofline import Floats, Operator
from sim.physics.routing import hottest_device
from workloads.models.transformer import Transformer

STREAM_BYTES = 2.0
"""Bytes per element of the residual stream, of operator results and of the vocabulary tables."""

SAMPLING_KERNELS = 12
SAMPLING_BYTES = 10.0
"""Sampling: cast logits to 32 bits, scale, find the winner. Kernels, and bytes moved per logit.

One sample takes 25 us on an RTX 4090, a kernel about 2 us; the bytes are a 16-bit read, a 32-bit write, a 32-bit read
(LLMServingSim layer table for Llama-3.1-8B, MIT; 256 samples 311 us, here 432).
"""


@dataclass(frozen=True)
class Matrix:
    """A weight matrix as one device holds it, in `layers` of the layers, applied to `inputs` numbers per token."""

    name: str
    layers: int
    inputs: int
    outputs: int

    @property
    def parameters(self) -> int:
        """Weights of all layers on this device."""
        return self.layers * self.inputs * self.outputs


def matrices(model: Transformer, parallelism: Parallelism) -> tuple[Matrix, ...]:
    """Return the matrices of the layers on one device; without routed experts and vocabulary tables.

    Projections that engines fuse are one matrix: Q, K and V; gate and up; the two compressions of latent attention.
    """
    tensor = parallelism.tensor
    attention = _latent_matrices(model, tensor) if model.latent else _attention_matrices(model, parallelism)
    attention += _other_matrices(model, tensor)
    dense = _mlp_matrices(model, "", model.dense_layers, model.intermediate // tensor)
    if model.mixture is None:
        return attention + dense
    router = Matrix("router", model.mixture_layers, model.hidden, model.mixture.experts)
    shared = _mlp_matrices(model, "shared ", model.mixture_layers, model.mixture.shared_intermediate // tensor)
    return (*attention, *dense, router, *shared)


def expert_bank_parameters(model: Transformer, parallelism: Parallelism) -> int:
    """Return the weights of the routed experts of one layer on the fullest device; 0 without a mixture."""
    if model.mixture is None:
        return 0
    return experts_per_device(model.mixture.experts, parallelism) * _expert_parameters(model, parallelism)


def vocabulary_per_device(model: Transformer, parallelism: Parallelism) -> int:
    """Return the rows of a vocabulary table that one device holds; engines pad the last shard."""
    return -(-model.vocabulary // parallelism.tensor)


def kv_elements_per_layer(model: Transformer, parallelism: Parallelism) -> int:
    """Return the numbers that one device caches for one token in one layer; a latent vector is kept by every device."""
    return model.kv_elements_per_layer if model.latent else 2 * kv_heads_per_device(model, parallelism) * model.head


def layer_operators(
    model: Transformer, precision: Precision, parallelism: Parallelism, tokens: Floats, skew: float = 0.0
) -> list[Operator]:
    """Return what all layers do with each new token, whatever its context: everything but attention and communication.

    Parameters
    ----------
    tokens : new tokens of the iteration, prefilling and decoding alike, above 0; any shape. Every data rank has as
        many.
    skew : of the routing to experts; see `sim.physics.routing.experts_hit`.
    """
    own = rank_operators(model, precision, parallelism, tokens)
    return own + expert_operators(model, precision, parallelism, parallelism.data * tokens, skew)


def rank_operators(
    model: Transformer,
    precision: Precision,
    parallelism: Parallelism,
    tokens: Floats,
    *,
    is_first: bool = True,
    is_last: bool = True,
) -> list[Operator]:
    """Return what a data rank does with its own tokens, routed experts aside; see `layer_operators`.

    `is_first`, `is_last`: whether the layers begin with the embedding and end with the last norm; see `Stage`.
    """
    products = [each for matrix in matrices(model, parallelism) for each in product(matrix, precision, tokens)]
    return products + _elementwise(model, precision, parallelism, tokens, is_first=is_first, is_last=is_last)


def expert_operators(
    model: Transformer, precision: Precision, parallelism: Parallelism, all_tokens: Floats, skew: float = 0.0
) -> list[Operator]:
    """Return what the busiest device does as home of experts with the tokens of all data ranks."""
    mixture = model.mixture
    if mixture is None:
        return []
    visits, read = hottest_device(mixture.experts, mixture.experts_per_token, parallelism.expert, all_tokens, skew)
    width = mixture.intermediate // parallelism.expert_tensor
    branches = _branches(model)
    flops, moved_bytes = expert_work(visits, read, model.hidden, branches, width, precision)
    elsewhere = all_tokens * mixture.experts_per_token - visits
    elsewhere_bytes = elsewhere * visit_bytes(model.hidden, branches, width)
    weights = read * expert_weights(model.hidden, branches, width)
    return [Operator("experts", "experts", model.mixture_layers, flops, moved_bytes, weights, elsewhere_bytes)]


def head_operators(model: Transformer, parallelism: Parallelism, samples: Floats) -> list[Operator]:
    """Return the output head and the sampling of that many tokens (above 0; any shape)."""
    rows = vocabulary_per_device(model, parallelism)
    moved_bytes = STREAM_BYTES * (rows * model.hidden + samples * (model.hidden + rows))
    logits = samples * model.vocabulary
    sampling_bytes = logits * SAMPLING_BYTES / SAMPLING_KERNELS
    return [
        Operator("output head", "head", 1, 2.0 * samples * rows * model.hidden, moved_bytes),
        Operator("sampling", "elementwise", SAMPLING_KERNELS, np.zeros_like(samples), sampling_bytes),
    ]


def product(matrix: Matrix, precision: Precision, tokens: Floats) -> list[Operator]:
    """Return one matrix applied to that many tokens, behind the pass that quantises them if the precision has one."""
    alone = gemm(matrix, precision, tokens)
    if not precision.quantises_activations:
        return [alone]
    passed = quantising_bytes(tokens, matrix.inputs, precision)
    nothing, name = np.zeros_like(tokens), f"quantise for {matrix.name}"
    return [Operator(name, "quantise", matrix.layers, nothing, passed, steps=tokens), alone]


def gemm(matrix: Matrix, precision: Precision, tokens: Floats) -> Operator:
    """Return the product itself; see `gemm_work`."""
    flops, moved_bytes = gemm_work(tokens, matrix.inputs, matrix.outputs, precision)
    return Operator(matrix.name, "gemm", matrix.layers, flops, moved_bytes, steps=float(matrix.inputs))


def gemm_work(
    tokens: Floats, inputs: Floats | float, outputs: Floats | float, precision: Precision
) -> tuple[Floats, Floats]:
    """Return flops and bytes of a matrix product: ``2 m n k``; weights, input and result each move once."""
    weights = inputs * outputs
    moved_bytes = weights * precision.weight_bytes + tokens * (
        inputs * precision.activation_bytes + outputs * STREAM_BYTES
    )
    return 2.0 * tokens * weights, moved_bytes


def quantising_bytes(tokens: Floats, inputs: Floats | float, precision: Precision) -> Floats:
    """Return what a kernel moves that makes narrow activations of 16-bit ones [bytes]: it reads those, writes these."""
    return tokens * inputs * (STREAM_BYTES + precision.activation_bytes)


def expert_work(
    visits: Floats,
    experts_read: Floats,
    hidden: Floats | float,
    branches: Floats | float,
    width: Floats | float,
    precision: Precision,
) -> tuple[Floats, Floats]:
    """Return flops and bytes of both grouped products of a mixture layer on one device.

    Weights of an expert move once, visits as `visit_bytes` says.

    Parameters
    ----------
    visits : tokens times experts that each is sent to, as far as those are on this device.
    experts_read : different experts among them, whose weights are read.
    branches, width : matrices into the expert (2 with a gate), and its width on this device.
    """
    expert = expert_weights(hidden, branches, width)
    moved_bytes = experts_read * expert * precision.weight_bytes + visits * visit_bytes(hidden, branches, width)
    return 2.0 * visits * expert, moved_bytes


def expert_weights(hidden: Floats | float, branches: Floats | float, width: Floats | float) -> Floats | float:
    """Return the weights of an expert on one device; see `expert_work`."""
    return (branches + 1) * hidden * width


def visit_bytes(hidden: Floats | float, branches: Floats | float, width: Floats | float) -> Floats | float:
    """Return what a visit to an expert moves beside weights [bytes]; see `expert_work`.

    Its input twice on being sorted by expert and once into the product, its result once out and once back in place,
    and the numbers inside the expert out of the first product, through the activation, and into the second.
    """
    return (5 * hidden + (2 * branches + 2) * width) * STREAM_BYTES


def attention_flops_per_pair(model: Transformer, parallelism: Parallelism) -> float:
    """Return the flops of one query-key pair in one layer when a prompt is processed: its score and its value."""
    heads = model.query_heads // parallelism.tensor
    if model.latent:
        widths = model.latent.nope_head + model.latent.rope_head + model.latent.value_head
        return 2.0 * heads * widths
    return 4.0 * heads * model.head


def prefill_bytes_per_token(model: Transformer, precision: Precision, parallelism: Parallelism) -> float:
    """Return what the attention of one layer moves for a token of a prompt: query, key and value in, the result out."""
    heads = model.query_heads // parallelism.tensor
    if latent := model.latent:  # a prompt attends with keys and values expanded for every head
        return STREAM_BYTES * heads * 2 * (latent.nope_head + latent.rope_head + latent.value_head)
    kv_elements = kv_elements_per_layer(model, parallelism)
    return STREAM_BYTES * 2 * heads * model.head + precision.kv_bytes * kv_elements


def score_bytes_per_pair(model: Transformer, parallelism: Parallelism) -> float:
    """Return what attention without FlashAttention moves for a query-key pair in one layer.

    Every head writes the score, reads it for the softmax, writes the probability and reads it again.
    """
    return 4 * STREAM_BYTES * (model.query_heads // parallelism.tensor)


def decode_flops_per_kv_token(model: Transformer, parallelism: Parallelism) -> float:
    """Return the flops of one cached token in one layer when a sequence decodes.

    Latent attention then scores and sums the compressed vectors themselves (the up-projections are moved to the
    query and the output, DeepSeek-V2, arXiv:2405.04434, section 2.1), which is why it can be bound by arithmetic.
    """
    if model.latent:
        heads = model.query_heads // parallelism.tensor
        return 2.0 * heads * (2 * model.latent.kv_rank + model.latent.rope_head)
    return attention_flops_per_pair(model, parallelism)


def _attention_matrices(model: Transformer, parallelism: Parallelism) -> tuple[Matrix, ...]:
    queries = model.query_heads // parallelism.tensor * model.head
    keys_values = kv_elements_per_layer(model, parallelism)
    return (
        Matrix("QKV", model.layers, model.hidden, queries + keys_values),
        Matrix("attention output", model.layers, queries, model.hidden),
    )


def _latent_matrices(model: Transformer, tensor: int) -> tuple[Matrix, ...]:
    """Return compressions (on every device) and expansions (cut by heads) of multi-head latent attention."""
    latent, heads = model.latent, model.query_heads // tensor
    assert latent is not None
    queries = heads * (latent.nope_head + latent.rope_head)
    compressed = latent.kv_rank + latent.rope_head + (latent.query_rank or 0)
    return (
        Matrix("compression", model.layers, model.hidden, compressed),
        Matrix("query", model.layers, latent.query_rank or model.hidden, queries),
        Matrix("key and value", model.layers, latent.kv_rank, heads * (latent.nope_head + latent.value_head)),
        Matrix("attention output", model.layers, heads * latent.value_head, model.hidden),
    )


def _mlp_matrices(model: Transformer, prefix: str, layers: int, width: int) -> tuple[Matrix, ...]:
    if not layers or not width:
        return ()
    return (
        Matrix(
            f"{prefix}gate and up" if model.gated else f"{prefix}up", layers, model.hidden, _branches(model) * width
        ),
        Matrix(f"{prefix}down", layers, width, model.hidden),
    )


def _other_matrices(model: Transformer, tensor: int) -> tuple[Matrix, ...]:
    """Return weights of unknown shape as one matrix applied to the residual stream, cut like the others."""
    outputs = -(-(model.extra_parameters_per_layer // model.hidden) // tensor)
    return (Matrix("other", model.layers, model.hidden, outputs),) if outputs else ()


def _branches(model: Transformer) -> int:
    return 2 if model.gated else 1


def _expert_parameters(model: Transformer, parallelism: Parallelism) -> int:
    assert model.mixture is not None
    return (_branches(model) + 1) * model.hidden * (model.mixture.intermediate // parallelism.expert_tensor)


def _elementwise(
    model: Transformer, precision: Precision, parallelism: Parallelism, tokens: Floats, *, is_first: bool, is_last: bool
) -> list[Operator]:
    """Return what only moves bytes; the activation inside the experts is counted there."""
    tensor = parallelism.tensor
    kv_elements = kv_elements_per_layer(model, parallelism)
    activation = _branches(model) + 1
    shared = model.mixture.shared_intermediate // tensor if model.mixture else 0
    sizes = [
        ("embedding", int(is_first), 2 * STREAM_BYTES * model.hidden),
        # A norm adds the operator's result to the residual stream: reads both, writes both.
        ("norm", model.layers * model.norms_per_layer + is_last, 4 * STREAM_BYTES * model.hidden),
        ("rotary positions", model.layers, 2 * STREAM_BYTES * _rotated_elements(model, parallelism)),
        ("KV write", model.layers, (STREAM_BYTES + precision.kv_bytes) * kv_elements),
        ("activation", model.dense_layers, STREAM_BYTES * activation * (model.intermediate // tensor)),
        ("shared activation", model.mixture_layers, STREAM_BYTES * activation * shared),
    ]
    none = np.zeros_like(tokens)
    return [
        Operator(name, "elementwise", count, none, tokens * moved_bytes)
        for name, count, moved_bytes in sizes
        if count and moved_bytes
    ]


def _rotated_elements(model: Transformer, parallelism: Parallelism) -> int:
    heads = model.query_heads // parallelism.tensor
    if model.latent:
        return (heads + 1) * model.latent.rope_head
    return (heads + kv_heads_per_device(model, parallelism)) * model.head
