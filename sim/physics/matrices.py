"""Which matrices of a transformer a device holds, and what it keeps of vocabulary, experts and cache."""

from __future__ import annotations

from dataclasses import dataclass

from sim.physics.parallelism import Parallelism, experts_per_device, kv_heads_per_device
from workloads.models.transformer import Transformer


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
            f"{prefix}gate and up" if model.gated else f"{prefix}up", layers, model.hidden, mlp_branches(model) * width
        ),
        Matrix(f"{prefix}down", layers, width, model.hidden),
    )


def _other_matrices(model: Transformer, tensor: int) -> tuple[Matrix, ...]:
    """Return weights of unknown shape as one matrix applied to the residual stream, cut like the others."""
    outputs = -(-(model.extra_parameters_per_layer // model.hidden) // tensor)
    return (Matrix("other", model.layers, model.hidden, outputs),) if outputs else ()


def mlp_branches(model: Transformer) -> int:
    """Return the matrices into an MLP: gate and up, or up alone."""
    return 2 if model.gated else 1


def _expert_parameters(model: Transformer, parallelism: Parallelism) -> int:
    assert model.mixture is not None
    return (mlp_branches(model) + 1) * model.hidden * (model.mixture.intermediate // parallelism.expert_tensor)
