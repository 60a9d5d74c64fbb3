"""Reading a Hugging Face ``config.json``: published configs give the shipped architectures, others are refused."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from workloads.models import Transformer, load
from workloads.models.families import FAMILIES

SAMPLES = ("llama-3.1-8b", "qwen3-8b", "mixtral-8x7b", "deepseek-v3", "gpt-oss-20b")
DESCRIPTION = {"name", "title", "source", "source_kind", "notes", "other_parameters"}
DESCRIPTION |= {"published_parameters", "published_active", "published_source"}

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "vocab_size": 32000,
}
DEEPSEEK: dict[str, Any] = {
    "model_type": "deepseek_v2",
    "first_k_dense_replace": 1,
    "hidden_size": 2048,
    "intermediate_size": 10944,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "moe_intermediate_size": 1408,
    "moe_layer_freq": 1,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_attention_heads": 16,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 27,
    "num_key_value_heads": 16,
    "q_lora_rank": None,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "torch_dtype": "bfloat16",
    "v_head_dim": 128,
    "vocab_size": 102400,
}

# The fields that matter of published configs (huggingface.co/<owner>/<name>/blob/main/config.json), each of which
# spells something its own way, and the shipped architecture that it must give.
PUBLISHED: dict[str, dict[str, Any]] = {
    "llama-2-7b": LLAMA,
    "deepseek-v2-lite": DEEPSEEK,
    # One doubled width for both gate branches; biases unsaid.
    "qwen-14b": {
        **{"model_type": "qwen", "hidden_size": 5120, "intermediate_size": 27392, "kv_channels": 128, "no_bias": True},
        **{"num_attention_heads": 40, "num_hidden_layers": 40, "seq_length": 8192, "max_position_embeddings": 8192},
        **{"tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": 152064},
    },
    # A window that is switched off.
    "qwen2.5-7b": {
        **{"model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "max_position_embeddings": 131072},
        **{"max_window_layers": 28, "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4},
        **{"sliding_window": 131072, "use_sliding_window": False, "tie_word_embeddings": False},
        **{"torch_dtype": "bfloat16", "vocab_size": 152064},
    },
    "qwen3-30b-a3b": {
        **{"model_type": "qwen3_moe", "attention_bias": False, "decoder_sparse_step": 1, "head_dim": 128},
        **{"hidden_size": 2048, "intermediate_size": 6144, "max_position_embeddings": 40960, "mlp_only_layers": []},
        **{"moe_intermediate_size": 768, "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8},
        **{"num_hidden_layers": 48, "num_key_value_heads": 4, "tie_word_embeddings": False, "vocab_size": 151936},
        **{"sliding_window": None, "use_sliding_window": False, "torch_dtype": "bfloat16"},
    },
    # The FFN under a name of its own; the embedding tied by default; all biases unsaid.
    "chatglm-6b": {
        **{"model_type": "chatglm", "hidden_size": 4096, "inner_hidden_size": 16384, "max_sequence_length": 2048},
        **{"num_attention_heads": 32, "num_layers": 28, "torch_dtype": "float16", "vocab_size": 130528},
    },
    # 4 * hidden unsaid; a norm behind the embedding.
    "bloom-176b": {
        **{"model_type": "bloom", "n_embed": 14336, "n_layer": 70, "num_attention_heads": 112, "n_inner": None},
        **{"seq_length": 2048, "vocab_size": 250880, "torch_dtype": "bfloat16"},
    },
    "falcon-180b": {
        **{"model_type": "falcon", "bias": False, "hidden_size": 14848, "max_position_embeddings": 2048},
        **{"multi_query": True, "new_decoder_architecture": True, "num_attention_heads": 232, "num_kv_heads": 8},
        **{"num_hidden_layers": 80, "parallel_attn": True, "tie_word_embeddings": False, "vocab_size": 65024},
        **{"torch_dtype": "bfloat16"},
    },
    # Every layer has the window.
    "mistral-7b-v0.1": {
        **{**LLAMA, "model_type": "mistral", "intermediate_size": 14336, "max_position_embeddings": 32768},
        **{"num_key_value_heads": 8, "sliding_window": 4096, "torch_dtype": "bfloat16"},
    },
    # A window beyond the context is none.
    "phi-4-mini": {
        **{"model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192, "max_position_embeddings": 131072},
        **{"num_attention_heads": 24, "num_hidden_layers": 32, "num_key_value_heads": 8, "sliding_window": 262144},
        **{"tie_word_embeddings": True, "torch_dtype": "bfloat16", "vocab_size": 200064},
    },
    # Every second layer has the window, unsaid.
    "gemma-2-27b": {
        **{"model_type": "gemma2", "head_dim": 128, "hidden_size": 4608, "intermediate_size": 36864},
        **{"max_position_embeddings": 8192, "num_attention_heads": 32, "num_hidden_layers": 46, "vocab_size": 256000},
        **{"num_key_value_heads": 16, "sliding_window": 4096, "torch_dtype": "bfloat16"},
    },
    # Vision and text side by side; experts in every second layer; widths of dense layers and experts apart.
    "llama-4-maverick": {
        "model_type": "llama4",
        "text_config": {
            **{"model_type": "llama4_text", "attention_chunk_size": 8192, "head_dim": 128, "hidden_size": 5120},
            **{"interleave_moe_layer_step": 2, "intermediate_size": 8192, "intermediate_size_mlp": 16384},
            **{"max_position_embeddings": 1048576, "num_attention_heads": 40, "num_experts_per_tok": 1},
            **{"num_hidden_layers": 48, "num_key_value_heads": 8, "num_local_experts": 128, "vocab_size": 202048},
        },
        "torch_dtype": "bfloat16",
        "vision_config": {"hidden_size": 1408, "num_hidden_layers": 34},
    },
    "glm-4.5-air": {
        **{"model_type": "glm4_moe", "attention_bias": True, "first_k_dense_replace": 1, "head_dim": 128},
        **{"hidden_size": 4096, "intermediate_size": 10944, "max_position_embeddings": 131072, "vocab_size": 151552},
        **{"moe_intermediate_size": 1408, "n_routed_experts": 128, "n_shared_experts": 1, "num_attention_heads": 96},
        **{"num_experts_per_tok": 8, "num_hidden_layers": 46, "num_key_value_heads": 8, "use_qk_norm": False},
        **{"tie_word_embeddings": False, "torch_dtype": "bfloat16"},
    },
    # The width of an expert under the name of an MLP; a list that marks every layer as ordinary attention.
    "minimax-m2.5": {
        **{"model_type": "minimax_m2", "attn_type_list": [1] * 62, "head_dim": 128, "hidden_size": 3072},
        **{"intermediate_size": 1536, "max_position_embeddings": 196608, "num_attention_heads": 48},
        **{"num_experts_per_tok": 8, "num_hidden_layers": 62, "num_key_value_heads": 8, "num_local_experts": 256},
        **{"use_qk_norm": True, "vocab_size": 200064, "quantization_config": {"quant_method": "fp8"}},
    },
}


def write(folder: Path, values: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def shape(model: Transformer) -> dict[str, Any]:
    return {field: value for field, value in asdict(model).items() if field not in DESCRIPTION}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_vendors_own_file_gives_the_shipped_architecture_and_the_published_count(shared: Path, name: str) -> None:
    model, shipped = load(shared / "formats" / f"hf_{name}.config.json"), load(name)
    assert shape(model) == shape(shipped)
    assert model.parameters == pytest.approx(shipped.published_parameters, rel=1e-3)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_fields_give_the_shipped_architecture(tmp_path: Path, name: str) -> None:
    assert shape(load(write(tmp_path, PUBLISHED[name]))) == shape(load(name))


def test_gemma_3_nests_its_text_and_leaves_out_what_its_class_knows(tmp_path: Path) -> None:
    """gemma-3-4b-it names neither heads nor vocabulary; its table has 64 rows more than the text-only one."""
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}
    model = load(write(tmp_path, {"model_type": "gemma3", "text_config": {**text, "sliding_window": 1024}}))
    shipped = load("gemma-3-4b")
    assert model.parameters - shipped.parameters == 64 * 2560
    assert (model.window, model.window_layers) == (shipped.window, shipped.window_layers) == (1024, 29)
    assert model.kv_bytes_per_token() == shipped.kv_bytes_per_token()


def test_old_falcon_shares_one_key_value_head_and_one_norm(tmp_path: Path) -> None:
    """Falcon-7B has 6,921,720,704 weights (num_parameters() in transformers, tied)."""
    values = {"model_type": "falcon", "bias": False, "hidden_size": 4544, "multi_query": True, "parallel_attn": True}
    values |= {"num_attention_heads": 71, "num_hidden_layers": 32, "num_kv_heads": 71, "vocab_size": 65024}
    model = load(write(tmp_path, values | {"new_decoder_architecture": False}))
    assert (model.kv_heads, model.head, model.norms_per_layer) == (1, 64, 1)
    assert model.parameters == 6_921_720_704


def test_gpt_2_counts_its_position_table(tmp_path: Path) -> None:
    """GPT-2 has 124,439,808 weights (num_parameters() in transformers)."""
    values = {
        "model_type": "gpt2",
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_positions": 1024,
        "vocab_size": 50257,
    }
    assert load(write(tmp_path, values)).parameters == 124_439_808


def test_opt_has_two_positions_more_than_its_context(tmp_path: Path) -> None:
    """OPT-125M has 125,239,296 weights (num_parameters() in transformers)."""
    values = {"model_type": "opt", "hidden_size": 768, "ffn_dim": 3072, "num_attention_heads": 12, "vocab_size": 50272}
    values |= {"num_hidden_layers": 12, "max_position_embeddings": 2048, "word_embed_proj_dim": 768}
    assert load(write(tmp_path, values)).parameters == 125_239_296
    with pytest.raises(ValueError, match="word_embed_proj_dim = 512: allowed is the hidden size, 768"):
        load(write(tmp_path, values | {"word_embed_proj_dim": 512}))


def test_phi_2_has_every_bias_and_one_norm(tmp_path: Path) -> None:
    """Phi-2 has 2,779,683,840 weights, 51,200 of which are a bias of the output head, which is not counted."""
    values = LLAMA | {"model_type": "phi", "hidden_size": 2560, "intermediate_size": 10240, "vocab_size": 51200}
    assert load(write(tmp_path, values)).parameters == 2_779_683_840 - 51_200


@pytest.mark.parametrize(
    ("change", "window", "layers"),
    [
        ({"use_sliding_window": True, "max_window_layers": 20}, 1024, 12),
        ({"use_sliding_window": True, "max_window_layers": 32}, None, 0),
        ({"use_sliding_window": False, "max_window_layers": 20}, None, 0),
        ({"max_window_layers": 20}, None, 0),
        ({"use_sliding_window": True, "layer_types": ["sliding_attention"] * 5 + ["full_attention"] * 27}, 1024, 5),
    ],
)
def test_qwen_has_a_window_only_when_it_is_switched_on(
    tmp_path: Path, change: dict[str, Any], window: int | None, layers: int
) -> None:
    model = load(write(tmp_path, LLAMA | {"model_type": "qwen2", "sliding_window": 1024} | change))
    assert (model.window, model.window_layers) == (window, layers)


@pytest.mark.parametrize(
    ("change", "dense_layers"),
    [
        ({}, 1),
        ({"first_k_dense_replace": 3}, 3),
        ({"moe_layer_freq": 2}, 14),
        ({"mlp_only_layers": [0, 5]}, 2),
        ({"moe_layers": [3, 4, 5]}, 24),
        ({"mlp_layer_types": ["dense"] * 2 + ["sparse"] * 25}, 2),
    ],
)
def test_dense_layers_among_experts_are_counted_however_a_config_says_it(
    tmp_path: Path, change: dict[str, Any], dense_layers: int
) -> None:
    mixture = load(write(tmp_path, DEEPSEEK | change)).mixture
    assert mixture is not None
    assert mixture.dense_layers == dense_layers


def test_shared_experts_may_be_given_by_their_total_width(tmp_path: Path) -> None:
    values = LLAMA | {"model_type": "qwen2_moe", "num_experts": 60, "num_experts_per_tok": 4}
    values |= {"moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632}
    mixture = load(write(tmp_path, values)).mixture
    assert mixture is not None
    assert (mixture.shared_experts, mixture.shared_intermediate) == (1, 5632)


def test_biases_of_llama_follow_its_flags(tmp_path: Path) -> None:
    plain = load(write(tmp_path, LLAMA))
    biased = load(write(tmp_path, LLAMA | {"attention_bias": True, "mlp_bias": True}))
    assert biased.parameters - plain.parameters == 32 * (4 * 4096 + 2 * 11008 + 4096)


def test_a_folder_is_read_by_the_config_it_holds_and_named_after_it(tmp_path: Path) -> None:
    folder = tmp_path / "My-Llama"
    folder.mkdir()
    write(folder, LLAMA)
    assert load(folder) == load(str(folder)) == load(folder / "config.json")
    assert (load(folder).name, load(folder).title) == ("my-llama", "My-Llama")


@pytest.mark.parametrize(
    "model_type",
    [
        "qwen3_next",
        "qwen3_5",
        "qwen3_5_moe",
        "kimi_linear",
        "deepseek_v32",
        "deepseek_v4",
        "minimax_m3",
        "glm_moe_dsa",
        "nemotron_h",
        "jamba",
        "mamba",
        "mamba2",
        "falcon_mamba",
        "falcon_h1",
        "granitemoehybrid",
        "bamba",
        "lfm2",
        "lfm2_moe",
        "zamba2",
        "recurrent_gemma",
        "gemma4",
        "gemma3n",
        "t5",
        "bart",
        "bert",
        "whisper",
        "minimax_text_01",
    ],
)
def test_families_that_would_be_priced_wrongly_are_refused_by_type(tmp_path: Path, model_type: str) -> None:
    assert model_type not in FAMILIES
    for values in (LLAMA | {"model_type": model_type}, {"model_type": model_type, "text_config": LLAMA}):
        with pytest.raises(
            ValueError, match=rf"config\.json: model_type = '{model_type}' has .*, which is not modelled"
        ):
            load(write(tmp_path, values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_types": ["full_attention", "linear_attention"] * 16}, "layer_types has linear_attention"),
        ({"layer_types": ["mamba"] * 32}, "layer_types has mamba"),
        ({"layer_types": ["conv"] * 32}, "layer_types has conv"),
        ({"index_topk": 2048}, "index_topk = 2048 means sparse attention"),
        ({"ssm_cfg": {"layer": "Mamba2"}}, "ssm_cfg = {'layer': 'Mamba2'} means state-space layers"),
        ({"mamba_d_state": 128}, "mamba_d_state = 128 means state-space layers"),
        ({"full_attention_interval": 4}, "full_attention_interval = 4 means linear attention"),
        ({"attn_type_list": [0] * 28 + [1] * 4}, "attn_type_list has linear attention"),
        ({"num_kv_shared_layers": 15}, "num_kv_shared_layers = 15 means layers that share their KV cache"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder = True means an encoder"),
    ],
)
def test_layers_that_would_be_priced_wrongly_are_refused_by_field(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        load(write(tmp_path, LLAMA | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": None}, "missing num_hidden_layers (or num_layers, n_layer)"),
        ({"hidden_size": "4096"}, "hidden_size = '4096': allowed is an integer of at least 1"),
        ({"num_attention_heads": 0}, "num_attention_heads = 0: allowed is an integer of at least 1"),
        ({"num_attention_heads": 36}, "missing head_dim: 36 heads do not divide a hidden size of 4096"),
        ({"num_key_value_heads": 5}, "kv_heads = 5: allowed are divisors of query_heads = 32"),
        ({"vocab_size": True}, "vocab_size = True: allowed is an integer of at least 1"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings = 'no': allowed is true or false"),
        ({"intermediate_size": None}, "missing intermediate_size_mlp (or intermediate_size,"),
        ({"layer_types": "full_attention"}, "layer_types = 'full_attention': allowed is a list"),
        ({"layer_types": ["sliding_attention"], "sliding_window": 128}, "layer_types has 1 entries: allowed are 32"),
        ({"num_local_experts": 8}, "missing num_experts_per_tok (or experts_per_token)"),
        ({"num_local_experts": 8, "num_experts_per_tok": 9}, "experts_per_token = 9: allowed is at most experts = 8"),
        ({"model_type": "frobnicator"}, "model_type = 'frobnicator' is not known; known: baichuan, "),
        ({"model_type": None}, "model_type = None is not known"),
    ],
)
def test_missing_or_malformed_fields_are_named_with_the_file(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = write(tmp_path, LLAMA | change)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: {re.escape(message)}"):
        load(path)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not JSON"), ("[1]", "a list at the top: allowed is a JSON object")]
)
def test_a_file_that_is_no_json_object_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: {message}"):
        load(path)
