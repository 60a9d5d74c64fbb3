"""What a ``config.json`` leaves unsaid: the traits of each Hugging Face ``model_type``, and the types not modelled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal


@dataclass(frozen=True)
class Family:
    """The traits that the modelling code of a ``model_type`` fixes, as in transformers' configuration classes.

    Attributes
    ----------
    gated, norm, norms_per_layer, embedding_norm, query_key_norm, attention_sinks, parallel_block : as in Transformer.
    tied : whether input table and output head are one where ``tie_word_embeddings`` is absent.
    attention_bias, output_bias, mlp_bias : True, False, or the name of the field that says so (absent: False).
    expert_bias, router_bias : of a mixture.
    position_offset : rows of a learned position table beyond the context; None without such a table.
    full_attention_every : of so many layers one ignores the window; 1 if every layer has it. For configs without
        ``layer_types`` or a pattern of their own.
    window_opt_in : the window counts only with ``use_sliding_window: true``.
    halve_intermediate : ``intermediate_size`` is the sum of the two gate branches.
    defaults : fields that published configs of the family omit.
    """

    gated: bool = True
    norm: Literal["rms", "layer"] = "rms"
    norms_per_layer: int = 2
    embedding_norm: bool = False
    query_key_norm: Literal["head", "projection"] | None = None
    attention_sinks: bool = False
    parallel_block: bool = False
    tied: bool = False
    attention_bias: bool | str = False
    output_bias: bool | str = False
    mlp_bias: bool | str = False
    expert_bias: bool = False
    router_bias: bool = False
    position_offset: int | None = None
    full_attention_every: int = 1
    window_opt_in: bool = False
    halve_intermediate: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)


_FLAG = "attention_bias"
_PLAIN = Family()
_LLAMA = Family(attention_bias=_FLAG, output_bias=_FLAG, mlp_bias="mlp_bias")
_QWEN2 = Family(attention_bias=True, window_opt_in=True)
_QWEN3 = Family(attention_bias=_FLAG, output_bias=_FLAG, query_key_norm="head", window_opt_in=True)
_GPT = Family(gated=False, norm="layer", tied=True, attention_bias=True, output_bias=True, mlp_bias=True)
_GEMMA = Family(tied=True, attention_bias=_FLAG, output_bias=_FLAG, defaults={"head_dim": 256})
_COHERE = Family(norms_per_layer=1, query_key_norm="projection", parallel_block=True, tied=True, attention_bias=_FLAG)
_DEEPSEEK = Family(router_bias=True)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "baichuan": _PLAIN,
        "bloom": replace(_GPT, embedding_norm=True),
        "chatglm": Family(attention_bias="add_qkv_bias"),
        # The first ChatGLM has the same model_type as its successors, which share no code with it.
        "chatglm-1": Family(gated=False, norm="layer", tied=True, attention_bias=True, output_bias=True, mlp_bias=True),
        "cohere": _COHERE,
        "cohere2": replace(_COHERE, query_key_norm=None, full_attention_every=4),
        "deepseek": _PLAIN,
        "deepseek_v2": _PLAIN,
        "deepseek_v3": _DEEPSEEK,
        "falcon": Family(
            gated=False,
            norm="layer",
            tied=True,
            attention_bias="bias",
            output_bias="bias",
            mlp_bias="bias",
            defaults={"max_position_embeddings": 2048},
        ),
        "gemma": _GEMMA,
        "gemma2": replace(_GEMMA, norms_per_layer=4, full_attention_every=2),
        "gemma3_text": Family(
            tied=True,
            norms_per_layer=4,
            query_key_norm="head",
            full_attention_every=6,
            defaults={
                "head_dim": 256,
                "max_position_embeddings": 131072,
                "num_attention_heads": 8,
                "num_key_value_heads": 4,
                "vocab_size": 262208,
            },
        ),
        "glm": Family(attention_bias=_FLAG),
        "glm4": Family(attention_bias=_FLAG, norms_per_layer=4),
        "glm4_moe": Family(attention_bias=_FLAG, query_key_norm="head", router_bias=True),
        "gpt2": replace(_GPT, position_offset=0),
        "gpt_bigcode": replace(_GPT, position_offset=0),
        "gpt_neox": replace(_GPT, tied=False, parallel_block=True),
        "gpt_oss": Family(
            attention_bias=True,
            output_bias=True,
            attention_sinks=True,
            expert_bias=True,
            router_bias=True,
            full_attention_every=2,
        ),
        "granite": _LLAMA,
        "granitemoe": _LLAMA,
        "internlm": Family(attention_bias="bias", output_bias="bias"),
        "internlm2": Family(attention_bias="bias", output_bias="bias"),
        "kimi_k2": _DEEPSEEK,
        "llama": _LLAMA,
        "llama4_text": Family(attention_bias=_FLAG, output_bias=_FLAG, full_attention_every=4),
        "minimax_m2": Family(query_key_norm="projection", router_bias=True),
        "mistral": _PLAIN,
        "mixtral": _PLAIN,
        "nemotron": Family(gated=False, norm="layer", attention_bias=_FLAG, output_bias=_FLAG, mlp_bias="mlp_bias"),
        "olmo2": Family(attention_bias=_FLAG, output_bias=_FLAG, query_key_norm="projection"),
        "olmo3": Family(attention_bias=_FLAG, output_bias=_FLAG, query_key_norm="projection", full_attention_every=4),
        "opt": replace(_GPT, position_offset=2),
        "phi": replace(_GPT, tied=False, norms_per_layer=1, parallel_block=True),
        "phi3": _PLAIN,
        "qwen": Family(attention_bias=True, halve_intermediate=True),
        "qwen2": _QWEN2,
        "qwen2_5_vl": _QWEN2,
        "qwen2_5_vl_text": _QWEN2,
        "qwen2_moe": _QWEN2,
        "qwen2_vl": _QWEN2,
        "qwen2_vl_text": _QWEN2,
        "qwen3": _QWEN3,
        "qwen3_moe": _QWEN3,
        "qwen3_vl_moe_text": _QWEN3,
        "qwen3_vl_text": _QWEN3,
        "seed_oss": Family(attention_bias=_FLAG, output_bias="attention_out_bias", mlp_bias="mlp_bias"),
        "starcoder2": replace(_GPT, attention_bias="use_bias", output_bias="use_bias", mlp_bias="use_bias"),
        "yi": _PLAIN,
    }
)

_LINEAR = "linear attention in most layers"
_SPARSE = "sparse attention with an indexer or compressed keys"
_STATE_SPACE = "state-space layers"
_ENCODER = "an encoder, not a decoder-only model"

# Beginnings of model types; a type that FAMILIES names is modelled whatever it begins with.
NOT_MODELLED: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("qwen3_next", "qwen3_5", "kimi_linear", "kimi_k3", "minimax_text_01", "minimax_m1"), _LINEAR),
        **dict.fromkeys(("bailing_moe_linear", "bailing_moe_v2_5", "olmo_hybrid", "rwkv", "xlstm"), _LINEAR),
        **dict.fromkeys(("deepseek_v32", "deepseek_v3_2", "deepseek_v4", "minimax_m3", "glm_moe_dsa", "glm5"), _SPARSE),
        **dict.fromkeys(("nemotron_h", "nemotron_3", "jamba", "mamba", "falcon_mamba", "falcon_h1"), _STATE_SPACE),
        **dict.fromkeys(("granitemoehybrid", "granite_moe_hybrid", "bamba", "zamba", "plamo2"), _STATE_SPACE),
        "phi4flash": _STATE_SPACE,
        "lfm2": "short convolutions in most layers",
        "recurrent_gemma": "recurrent layers",
        "recurrentgemma": "recurrent layers",
        "gemma3n": "layers that share their KV cache",
        "gemma4": "layers of different head widths that share their KV cache",
        **dict.fromkeys(("t5", "mt5", "umt5", "bart", "mbart", "pegasus", "whisper", "m2m_100", "marian"), _ENCODER),
        **dict.fromkeys(
            ("bert", "roberta", "xlm", "distilbert", "deberta", "electra", "albert", "modernbert"), _ENCODER
        ),
        **dict.fromkeys(("mpnet", "nomic_bert", "clip", "siglip", "vit"), _ENCODER),
    }
)

# Fields that only a model with such layers has, whatever its model_type says.
FOREIGN_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("index_topk", "index_n_heads", "index_head_dim", "compress_ratios"), _SPARSE),
        **dict.fromkeys(("sparse_attention_config", "sparse_config"), _SPARSE),
        **dict.fromkeys(("ssm_cfg", "ssm_state_size", "state_size", "mamba_d_state", "mamba_num_heads"), _STATE_SPACE),
        **dict.fromkeys(("mamba_d_ssm", "hybrid_override_pattern", "layers_block_type"), _STATE_SPACE),
        **dict.fromkeys(("linear_attn_config", "linear_num_value_heads", "full_attention_interval"), _LINEAR),
        "attn_layer_period": _STATE_SPACE,
        "conv_L_cache": "short convolutions",
        "block_types": "recurrent layers",
        "num_kv_shared_layers": "layers that share their KV cache",
        "num_attention_heads_per_layer": "layers of different widths",
        "block_configs": "layers of different widths",
        "is_encoder_decoder": _ENCODER,
        "encoder_layers": _ENCODER,
    }
)
