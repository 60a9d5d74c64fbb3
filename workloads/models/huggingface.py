"""How to read a Hugging Face ``config.json``: its many field names in, one Transformer out; refuses what it cannot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shorten
from typing import Any

from workloads.models.families import FAMILIES, FOREIGN_FIELDS, NOT_MODELLED, Family
from workloads.models.transformer import LatentAttention, Mixture, Transformer

_NESTED = ("text_config", "llm_config", "language_config")
_ATTENTION_TYPES = {"full_attention", "sliding_attention", "chunked_attention"}
_REMEDY = "an architecture can be described in a .toml as in workloads/models/architectures"


@dataclass(frozen=True)
class _Config:
    """The fields of one file, and the file's name for messages."""

    path: Path
    values: Mapping[str, Any]

    def error(self, name: str, allowed: str) -> ValueError:
        return ValueError(f"{self.path}: {name} = {self.values.get(name)!r}: allowed is {allowed}")

    def optional(self, *names: str, least: int = 0) -> int | None:
        """Return the first integer among several names of one quantity; None where all are absent or null."""
        for name in names:
            value = self.values.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise self.error(name, f"an integer of at least {least}")
            return value
        return None

    def integer(self, *names: str) -> int:
        """Return the first integer of at least 1 among several names; ValueError if there is none."""
        value = self.optional(*names, least=1)
        if value is None:
            others = f" (or {', '.join(names[1:])})" if len(names) > 1 else ""
            raise ValueError(f"{self.path}: missing {names[0]}{others}: allowed is an integer of at least 1")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(name, "true or false")
        return value

    def sequence(self, name: str) -> list[Any]:
        value = self.values.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.error(name, "a list")
        return value

    def bias(self, rule: bool | str) -> bool:
        """Evaluate a bias of a family: fixed, or the name of the field that says so."""
        return rule if isinstance(rule, bool) else self.flag(rule, False)


def from_config(path: Path) -> Transformer:
    """Read the architecture of a decoder-only transformer from its ``config.json``.

    Raises
    ------
    ValueError
        naming file, field, value and what is allowed; and for models that are not modelled: encoders, linear or sparse
        attention, state-space and recurrent layers, and any ``model_type`` whose traits are not known.

    Notes
    -----
    Multi-token prediction modules and vision towers are left out: they are no part of plain text decoding.
    """
    config, family = _recognise(_read(path))
    layers, hidden = config.integer("num_hidden_layers", "num_layers", "n_layer"), _hidden(config)
    heads = config.integer("num_attention_heads", "n_head", "num_heads")
    latent = _latent(config)
    context = _context(config)
    window, window_layers = _window(config, family, layers, context)
    title = str(
        config.values.get("_name_or_path") or (path.resolve().parent.name if path.name == "config.json" else path.stem)
    )
    norms_per_layer, parallel = _block(config, family)
    try:
        return Transformer(
            name=title.rstrip("/").rpartition("/")[2].lower(),
            title=title,
            layers=layers,
            hidden=hidden,
            query_heads=heads,
            kv_heads=_kv_heads(config, heads),
            head=latent.nope_head + latent.rope_head if latent else _head(config, hidden, heads),
            intermediate=_intermediate(config, family, hidden),
            vocabulary=config.integer("padded_vocab_size", "vocab_size"),
            gated=family.gated,
            tied_embeddings=config.flag("tie_word_embeddings", family.tied),
            context=context,
            checkpoint_dtype=_checkpoint_dtype(config),
            mixture=_mixture(config, family, layers),
            latent=latent,
            window=window,
            window_layers=window_layers,
            norm=family.norm,
            norms_per_layer=norms_per_layer,
            embedding_norm=family.embedding_norm,
            query_key_norm=family.query_key_norm if config.flag("use_qk_norm", True) else None,
            attention_bias=config.bias(family.attention_bias),
            output_bias=config.bias(family.output_bias),
            mlp_bias=config.bias(family.mlp_bias),
            attention_sinks=family.attention_sinks,
            learned_positions=0 if family.position_offset is None else context + family.position_offset,
            parallel_block=parallel,
            source=str(path),
        )
    except ValueError as error:
        raise error if str(error).startswith(f"{path}:") else ValueError(f"{path}: {error}") from error


def _read(path: Path) -> _Config:
    """Return the fields of the text stack: of the file itself, or of the part a multimodal config nests."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: a {type(values).__name__} at the top: allowed is a JSON object")
    outer = _Config(path, values)
    for name in _NESTED:
        if isinstance(values.get(name), dict):
            _refuse(outer)
            shared = ("tie_word_embeddings", "torch_dtype", "dtype", "quantization_config")
            return _Config(path, {key: values[key] for key in shared if key in values} | values[name])
    return outer


def _refuse(config: _Config) -> None:
    """Refuse what would be priced wrongly, by model type and by the fields that betray such layers (ValueError)."""
    model_type = str(config.values.get("model_type", "")).lower().replace("-", "_")
    if model_type not in FAMILIES:
        for beginning, reason in NOT_MODELLED.items():
            if model_type.startswith(beginning):
                raise ValueError(f"{config.path}: model_type = {model_type!r} has {reason}, which is not modelled")
    for name, reason in FOREIGN_FIELDS.items():
        if config.values.get(name):
            raise ValueError(
                f"{config.path}: {name} = {shorten(config.values[name])} means {reason}, which is not modelled"
            )
    if foreign := sorted({str(kind) for kind in config.sequence("layer_types")} - _ATTENTION_TYPES):
        raise ValueError(
            f"{config.path}: layer_types has {', '.join(foreign)}, which is not modelled; "
            f"allowed: {', '.join(sorted(_ATTENTION_TYPES))}"
        )
    if any(kind != 1 for kind in config.sequence("attn_type_list")):
        raise ValueError(f"{config.path}: attn_type_list has linear attention (0), which is not modelled")


def _recognise(config: _Config) -> tuple[_Config, Family]:
    """Return the family of a config, and the config with what its family leaves unsaid."""
    _refuse(config)
    model_type = str(config.values.get("model_type", "")).lower()
    if model_type == "chatglm" and "multi_query_group_num" not in config.values:
        model_type = "chatglm-1"
    if model_type not in FAMILIES:
        raise ValueError(
            f"{config.path}: model_type = {config.values.get('model_type')!r} is not known; "
            f"known: {', '.join(FAMILIES)}; {_REMEDY}"
        )
    family = FAMILIES[model_type]
    return _Config(config.path, {**family.defaults, **config.values}), family


def _hidden(config: _Config) -> int:
    hidden = config.integer("hidden_size", "n_embd", "n_embed", "d_model")
    if config.values.get("word_embed_proj_dim", hidden) != hidden:
        raise config.error("word_embed_proj_dim", f"the hidden size, {hidden}: narrower embeddings are not modelled")
    return hidden


def _context(config: _Config) -> int:
    names = ("max_position_embeddings", "seq_length", "n_positions", "max_sequence_length", "model_max_length")
    return config.integer(*names)


def _kv_heads(config: _Config, heads: int) -> int:
    if config.flag("multi_query", False) and not config.flag("new_decoder_architecture", False):
        return 1
    names = ["num_key_value_heads", "multi_query_group_num", "n_head_kv"]
    # Falcon's older code writes num_kv_heads and ignores it.
    names += ["num_kv_heads"] if config.flag("new_decoder_architecture", True) else []
    return config.optional(*names, least=1) or heads


def _head(config: _Config, hidden: int, heads: int) -> int:
    explicit = config.optional("head_dim", "kv_channels", least=1)
    if explicit is None and hidden % heads:
        raise ValueError(f"{config.path}: missing head_dim: {heads} heads do not divide a hidden size of {hidden}")
    return explicit or hidden // heads


def _intermediate(config: _Config, family: Family, hidden: int) -> int:
    """Width of the MLP of dense layers, of one gate branch; Llama-4 names it apart from that of its experts."""
    names = ("intermediate_size_mlp", "intermediate_size", "ffn_hidden_size", "inner_hidden_size", "n_inner", "ffn_dim")
    width = config.optional(*names, least=1)
    if width is None and family.gated:
        return config.integer(*names, "moe_intermediate_size")
    width = width or 4 * hidden
    return width // 2 if family.halve_intermediate else width


def _block(config: _Config, family: Family) -> tuple[int, bool]:
    """Norms per layer, and whether attention and MLP run side by side; Falcon and GPT-NeoX choose by fields."""
    parallel = config.flag("parallel_attn", config.flag("use_parallel_residual", family.parallel_block))
    shares_norm = "parallel_attn" in config.values and parallel and not config.flag("new_decoder_architecture", False)
    return 1 if shares_norm else family.norms_per_layer, parallel


def _mixture(config: _Config, family: Family, layers: int) -> Mixture | None:
    experts = config.optional("num_local_experts", "num_experts", "n_routed_experts")
    if not experts:
        return None
    width = config.integer("moe_intermediate_size", "intermediate_size")
    shared = config.optional("n_shared_experts", "num_shared_experts") or 0
    if config.values.get("model_type") == "llama4_text":
        shared = 1
    total = config.optional("shared_expert_intermediate_size") or shared * width
    return Mixture(
        experts=experts,
        experts_per_token=config.integer("num_experts_per_tok", "experts_per_token"),
        intermediate=width,
        shared_experts=shared or (1 if total else 0),
        shared_intermediate=total,
        dense_layers=layers - _count_mixture_layers(config, layers),
        router_bias=family.router_bias,
        expert_bias=family.expert_bias,
    )


def _count_mixture_layers(config: _Config, layers: int) -> int:
    """Count the layers with experts, by the rule of whichever fields the config has."""
    if explicit := config.sequence("moe_layers"):
        return len(explicit)
    if kinds := config.sequence("mlp_layer_types"):
        return kinds.count("sparse")
    first = config.optional("first_k_dense_replace") or 0
    step = config.optional("decoder_sparse_step", "interleave_moe_layer_step", least=1) or 1
    frequency = config.optional("moe_layer_freq", least=1) or 1
    dense = set(config.sequence("mlp_only_layers"))
    return sum(
        layer >= first and (layer + 1) % step == 0 and layer % frequency == 0 and layer not in dense
        for layer in range(layers)
    )


def _latent(config: _Config) -> LatentAttention | None:
    if config.optional("kv_lora_rank") is None:
        return None
    return LatentAttention(
        query_rank=config.optional("q_lora_rank") or None,
        kv_rank=config.integer("kv_lora_rank"),
        nope_head=config.integer("qk_nope_head_dim"),
        rope_head=config.integer("qk_rope_head_dim"),
        value_head=config.integer("v_head_dim"),
    )


def _window(config: _Config, family: Family, layers: int, context: int) -> tuple[int | None, int]:
    """Return the window, and how many layers have it; (None, 0) where it is off, or no smaller than the context."""
    window = config.optional("sliding_window", "attention_chunk_size", least=1)
    if window is None or window >= context or not config.flag("use_sliding_window", not family.window_opt_in):
        return None, 0
    if kinds := config.sequence("layer_types"):
        if len(kinds) != layers:
            raise ValueError(f"{config.path}: layer_types has {len(kinds)} entries: allowed are {layers}, one a layer")
        with_window = layers - kinds.count("full_attention")
    elif family.window_opt_in:
        with_window = max(layers - (config.optional("max_window_layers") or 0), 0)
    else:
        every = config.optional("sliding_window_pattern", least=1) or family.full_attention_every
        with_window = layers if every == 1 else layers - layers // every
    return (window, with_window) if with_window else (None, 0)


def _checkpoint_dtype(config: _Config) -> str:
    """Name how the weights are stored: the method of a quantised checkpoint, else its dtype."""
    quantisation = config.values.get("quantization_config")
    if isinstance(quantisation, dict) and "quant_method" in quantisation:
        method = str(quantisation["quant_method"])
        return {"fp8": "float8_e4m3fn"}.get(method, method)
    return str(config.values.get("torch_dtype") or config.values.get("dtype") or "unknown").removeprefix("torch.")
