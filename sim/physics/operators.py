"""What a transformer asks of one device: its matrices, and the flops and bytes of every operator."""

from __future__ import annotations

import numpy as np

from sim.physics.matrices import Matrix, kv_elements_per_layer, matrices, mlp_branches, vocabulary_per_device
from sim.physics.parallelism import Parallelism, kv_heads_per_device
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
    dense = precision.dense
    products = [each for matrix in matrices(model, parallelism) for each in product(matrix, dense, tokens)]
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
    branches = mlp_branches(model)
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


def _elementwise(
    model: Transformer, precision: Precision, parallelism: Parallelism, tokens: Floats, *, is_first: bool, is_last: bool
) -> list[Operator]:
    """Return what only moves bytes; the activation inside the experts is counted there."""
    tensor = parallelism.tensor
    kv_elements = kv_elements_per_layer(model, parallelism)
    activation = mlp_branches(model) + 1
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
