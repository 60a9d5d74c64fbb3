"""What a transformer is: its widths, and the parameter and KV-cache counts that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Mixture:
    """A mixture of experts in place of the MLP (MoE); all but `dense_layers` layers have one.

    Attributes
    ----------
    experts, experts_per_token : routed experts of a layer, and how many of them serve one token.
    intermediate : width of one routed expert (of one gate branch).
    shared_experts, shared_intermediate : experts that serve every token, and their width *in total*; 0 if none.
    dense_layers : layers with a plain MLP of width `Transformer.intermediate` instead, wherever they are.
    router_bias : the router adds one bias per expert.
    expert_bias : every projection of a routed expert has a bias.
    """

    experts: int
    experts_per_token: int
    intermediate: int
    shared_experts: int = 0
    shared_intermediate: int = 0
    dense_layers: int = 0
    router_bias: bool = False
    expert_bias: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be (ValueError)."""
        _at_least(self, 1, "experts", "experts_per_token", "intermediate")
        _at_least(self, 0, "shared_experts", "shared_intermediate", "dense_layers")
        if self.experts_per_token > self.experts:
            raise ValueError(
                f"experts_per_token = {self.experts_per_token}: allowed is at most experts = {self.experts}"
            )


@dataclass(frozen=True)
class LatentAttention:
    """Multi-head latent attention (MLA, DeepSeek-V2, arXiv:2405.04434): one compressed KV vector serves all heads.

    Attributes
    ----------
    query_rank : width of the compressed query; None where queries are projected directly.
    kv_rank : width of the compressed key and value, which is what the cache holds, beside `rope_head`.
    nope_head, rope_head : width of a query or key head without and with rotary positions (`rope_head` is shared).
    value_head : width of a value head.
    """

    query_rank: int | None
    kv_rank: int
    nope_head: int
    rope_head: int
    value_head: int

    def __post_init__(self) -> None:
        """Refuse what cannot be (ValueError)."""
        _at_least(self, 1, "kv_rank", "nope_head", "rope_head", "value_head")
        if self.query_rank is not None:
            _at_least(self, 1, "query_rank")


@dataclass(frozen=True)
class Transformer:
    """A decoder-only transformer, as far as its weights, arithmetic and KV cache depend on it.

    Attributes
    ----------
    name, title : ``"llama-2-7b"``, ``"Llama-2-7B"``.
    layers, hidden : blocks, and width of the residual stream.
    query_heads, kv_heads, head : attention heads and the width of one; ``query_heads * head`` need not be `hidden`.
        With `latent` attention `head` is the width of a query head and `kv_heads` says nothing.
    intermediate : width of the MLP (of one gate branch) in layers without a mixture.
    vocabulary : rows of the embedding table.
    gated : the MLP has a gate branch (SwiGLU, GeGLU): three matrices, not two.
    tied_embeddings : the output head is the input table.
    mixture, latent : None for a plain MLP and for ordinary attention (MHA, GQA, MQA).
    window, window_layers : tokens that a layer with sliding-window attention sees, and how many layers do so.
    context : longest sequence [tokens].
    checkpoint_dtype : as published: ``"float16"``, ``"bfloat16"``, ``"float8_e4m3fn"``, ``"mxfp4"``.
    norm, norms_per_layer, embedding_norm : ``"rms"`` has a weight per channel, ``"layer"`` also a bias.
    query_key_norm : a norm of queries and keys: per ``"head"`` (one weight vector for all) or the whole
        ``"projection"``.
    attention_bias, output_bias, mlp_bias : biases of the Q, K, V projections, of the attention output, of the MLP.
    attention_sinks : one learned logit per query head (gpt-oss).
    learned_positions : rows of a position table.
    extra_parameters_per_layer : weights that no other field explains (see `notes`).
    parallel_block : attention and MLP read the same input, so that a layer needs one all-reduce, not two.
    source, source_kind : where the widths were read. Kinds: ``hf_config`` (a ``config.json``), ``hf_config_copy``
        (a library's maintained table of them), ``repo_config`` or ``repo_script`` (the vendor's repository),
        ``paper``, ``paper+inferred``, ``recalled`` (check before use), ``file`` (a user's own).
    published_parameters, published_active, published_source : what the vendor states, as precisely as stated. Counts
        to the last digit are the totals that Hugging Face shows for the safetensors files.
    other_parameters : published parameters outside the text stack (a vision tower), which are not modelled.
    notes : what a reader should know before trusting a number.
    """

    name: str
    title: str
    layers: int
    hidden: int
    query_heads: int
    kv_heads: int
    head: int
    intermediate: int
    vocabulary: int
    gated: bool
    tied_embeddings: bool
    context: int
    checkpoint_dtype: str
    mixture: Mixture | None = None
    latent: LatentAttention | None = None
    window: int | None = None
    window_layers: int = 0
    norm: Literal["rms", "layer"] = "rms"
    norms_per_layer: int = 2
    embedding_norm: bool = False
    query_key_norm: Literal["head", "projection"] | None = None
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    attention_sinks: bool = False
    learned_positions: int = 0
    extra_parameters_per_layer: int = 0
    parallel_block: bool = False
    source: str = ""
    source_kind: str = "file"
    published_parameters: int | None = None
    published_active: int | None = None
    published_source: str = ""
    other_parameters: int = 0
    notes: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be (ValueError)."""
        _at_least(
            self, 1, "layers", "hidden", "query_heads", "kv_heads", "head", "intermediate", "vocabulary", "context"
        )
        _at_least(self, 0, "window_layers", "norms_per_layer", "learned_positions", "extra_parameters_per_layer")
        if self.query_heads % self.kv_heads:
            raise ValueError(f"kv_heads = {self.kv_heads}: allowed are divisors of query_heads = {self.query_heads}")
        if self.window is not None:
            _at_least(self, 1, "window")
        if self.window_layers > self.layers or (self.window is None) != (self.window_layers == 0):
            raise ValueError(
                f"window_layers = {self.window_layers}: allowed is 0 without a window, else 1 to layers = {self.layers}"
            )
        if self.mixture and self.mixture.dense_layers >= self.layers:
            raise ValueError(f"dense_layers = {self.mixture.dense_layers}: allowed is less than layers = {self.layers}")

    @property
    def mixture_layers(self) -> int:
        """Layers with a mixture of experts."""
        return self.layers - self.mixture.dense_layers if self.mixture else 0

    @property
    def dense_layers(self) -> int:
        """Layers with a plain MLP."""
        return self.layers - self.mixture_layers

    @property
    def embedding_parameters(self) -> int:
        """Weights of the input table; one row is read per token."""
        return self.vocabulary * self.hidden

    @property
    def head_parameters(self) -> int:
        """Weights of the output head beyond the input table: none where the two are tied."""
        return 0 if self.tied_embeddings else self.embedding_parameters

    @property
    def norm_parameters(self) -> int:
        """Weights of one norm of the residual stream."""
        return self.hidden * (2 if self.norm == "layer" else 1)

    @property
    def attention_parameters(self) -> int:
        """Weights of the attention of one layer, without the norms of the residual stream."""
        biases = self.hidden if self.output_bias else 0
        if self.latent:
            return _latent_parameters(self.hidden, self.query_heads, self.latent) + biases
        queries, keys = self.query_heads * self.head, self.kv_heads * self.head
        biases += queries + 2 * keys if self.attention_bias else 0
        biases += self.query_heads if self.attention_sinks else 0
        norms = {None: 0, "head": 2 * self.head, "projection": queries + keys}[self.query_key_norm]
        return self.hidden * (2 * queries + 2 * keys) + biases + norms

    @property
    def dense_parameters(self) -> int:
        """Weights of the MLP of one layer without a mixture."""
        return self._mlp_parameters(self.intermediate, self.mlp_bias)

    @property
    def expert_parameters(self) -> int:
        """Weights of one routed expert; 0 without a mixture."""
        return self._mlp_parameters(self.mixture.intermediate, self.mixture.expert_bias) if self.mixture else 0

    @property
    def common_parameters(self) -> int:
        """Weights that every token of a mixture layer passes: the router and the shared experts; 0 without."""
        if self.mixture is None:
            return 0
        router = self.mixture.experts * (self.hidden + self.mixture.router_bias)
        return router + self._mlp_parameters(self.mixture.shared_intermediate, bias=False)

    @property
    def parameters(self) -> int:
        """All weights of the text stack, a tied table counted once.

        >>> from workloads.models import load
        >>> load("llama-2-7b").parameters
        6738415616
        """
        return self._parameters(self.mixture.experts if self.mixture else 0)

    @property
    def active_parameters(self) -> int:
        """Weights one token passes, both vocabulary tables included (vendors differ: some leave out one or both).

        >>> from workloads.models import load
        >>> load("mixtral-8x7b").active_parameters
        12879925248
        """
        return self._parameters(self.mixture.experts_per_token if self.mixture else 0)

    @property
    def kv_elements_per_layer(self) -> int:
        """Numbers one layer caches for one token: a key and a value per KV head, or the latent vector and its rope."""
        if self.latent:
            return self.latent.kv_rank + self.latent.rope_head
        return 2 * self.kv_heads * self.head

    def kv_bytes_per_token(self, kv_bytes_per_element: float = 2.0) -> float:
        """Return what all layers cache for one token [bytes]; layers with a window keep only the last `window` tokens.

        >>> from workloads.models import load
        >>> load("llama-2-7b").kv_bytes_per_token()
        524288.0
        """
        return self.layers * self.kv_elements_per_layer * float(kv_bytes_per_element)

    def _mlp_parameters(self, width: int, bias: bool) -> int:
        branches = 2 if self.gated else 1
        return (branches + 1) * self.hidden * width + (branches * width + self.hidden if bias else 0)

    def _parameters(self, experts: int) -> int:
        every_layer = self.attention_parameters + self.norms_per_layer * self.norm_parameters
        return (
            self.embedding_parameters
            + self.head_parameters
            + self.learned_positions * self.hidden
            + self.layers * (every_layer + self.extra_parameters_per_layer)
            + self.dense_layers * self.dense_parameters
            + self.mixture_layers * (self.common_parameters + experts * self.expert_parameters)
            + (2 if self.embedding_norm else 1) * self.norm_parameters
        )


def _at_least(shape: object, least: int, *names: str) -> None:
    for name in names:
        if getattr(shape, name) < least:
            raise ValueError(f"{name} = {getattr(shape, name)!r}: allowed is an integer of at least {least}")


def _latent_parameters(hidden: int, heads: int, latent: LatentAttention) -> int:
    """Projections down to the ranks and up to the heads, and a norm of each rank."""
    query_head = latent.nope_head + latent.rope_head
    if latent.query_rank is None:
        queries = hidden * heads * query_head
    else:
        queries = latent.query_rank * (hidden + 1 + heads * query_head)
    keys_values = hidden * (latent.kv_rank + latent.rope_head)
    keys_values += latent.kv_rank * (1 + heads * (latent.nope_head + latent.value_head))
    return queries + keys_values + heads * latent.value_head * hidden
