"""Counts of weights and cache: the vendors' published numbers, and laws that any shape keeps."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.models import LatentAttention, Mixture, Transformer, available, load

ARTICLE_MODELS = [
    "baichuan2-13b",
    "bloom-176b",
    "chatglm-6b",
    "codellama-34b",
    "ernie3-titan-260b",
    "falcon-180b",
    "glm-130b",
    "gpt3-175b",
    "internlm-20b",
    "llama-2-13b",
    "llama-2-70b",
    "llama-2-7b",
    "llama-33b",
    "llama-65b",
    "mixtral-8x7b",
    "mt-nlg-530b",
    "palm-540b",
    "qwen-14b",
    "qwen-72b",
    "yi-34b",
    "yuan2-102b",
    "yuan2-51b",
]


def test_the_models_that_the_article_sizes_are_shipped() -> None:
    assert set(ARTICLE_MODELS) <= set(available())


@pytest.mark.parametrize("name", available())
def test_parameters_are_what_the_vendor_publishes(name: str) -> None:
    model = load(name)
    assert model.published_parameters is not None
    # GLM-130B is the only nominal count so far off: its published configuration has 128.7e9 weights.
    tolerance = 0.012 if name == "glm-130b" else 0.01
    assert model.parameters + model.other_parameters == pytest.approx(model.published_parameters, rel=tolerance)


@pytest.mark.parametrize("name", [name for name in available() if (load(name).published_parameters or 0) % 100_000])
def test_counts_published_to_the_last_digit_are_met_to_the_last_digit(name: str) -> None:
    assert load(name).parameters == load(name).published_parameters


@pytest.mark.parametrize("name", [name for name in available() if load(name).published_active])
def test_active_parameters_are_what_the_vendor_publishes(name: str) -> None:
    """Vendors count both vocabulary tables as active, or one, or none, and round to what they print."""
    model = load(name)
    assert model.published_active is not None
    digits = len(str(model.published_active)) - len(str(model.published_active).rstrip("0"))
    rounding = min(10**digits, 10**9) / 2
    with_tables = model.active_parameters
    without_tables = with_tables - model.embedding_parameters - model.head_parameters
    assert without_tables - rounding <= model.published_active <= with_tables + rounding


@pytest.mark.parametrize("name", available())
def test_every_architecture_says_where_it_was_read(name: str) -> None:
    model = load(name)
    kinds = {"hf_config", "hf_config_copy", "repo_config", "repo_script", "paper", "paper+inferred", "recalled"}
    assert model.source_kind in kinds
    assert model.source
    assert model.published_source


def read_facts(path: Path) -> list[dict[str, str]]:
    """Return the scalar fields of each entry of a YAML list of flat mappings."""
    entries = path.read_text(encoding="utf-8").split("\n- id: ")[1:]
    return [{"id": entry.split("\n")[0]} | dict(re.findall(r"^  (\w+): (\S+)$", entry, re.M)) for entry in entries]


def test_weights_and_cache_equal_an_independent_table_of_the_same_models(shared: Path) -> None:
    facts = read_facts(shared / "facts" / "models.yaml")
    assert len(facts) >= 71
    for fact in facts:
        model = load(fact["id"])
        assert model.kv_bytes_per_token(2) == int(fact["kv_bytes_per_token_fp16"]), fact["id"]
        # The table leaves out MiniMax's norms of queries and keys, 2e-6 of its weights.
        assert model.parameters == pytest.approx(int(fact["params_formula"]), rel=3e-6), fact["id"]
        assert model.active_parameters == pytest.approx(int(fact["params_active_formula"]), rel=5e-5), fact["id"]


@st.composite
def transformers(draw: st.DrawFn) -> Transformer:
    """Draw any shape that Transformer admits."""
    few, width = st.integers(1, 8), st.integers(1, 512)
    layers, kv_heads = draw(st.integers(2, 100)), draw(few)
    experts = draw(few)
    mixture = Mixture(
        experts=experts,
        experts_per_token=draw(st.integers(1, experts)),
        intermediate=draw(width),
        shared_experts=1,
        shared_intermediate=draw(st.integers(0, 512)),
        dense_layers=draw(st.integers(0, layers - 1)),
        router_bias=draw(st.booleans()),
        expert_bias=draw(st.booleans()),
    )
    latent = LatentAttention(draw(st.none() | width), draw(width), draw(few), draw(few), draw(few))
    return Transformer(
        name="drawn",
        title="Drawn",
        layers=layers,
        hidden=draw(width),
        query_heads=kv_heads * draw(few),
        kv_heads=kv_heads,
        head=draw(few),
        intermediate=draw(width),
        vocabulary=draw(width),
        gated=draw(st.booleans()),
        tied_embeddings=draw(st.booleans()),
        context=4096,
        checkpoint_dtype="bfloat16",
        mixture=draw(st.none() | st.just(mixture)),
        latent=draw(st.none() | st.just(latent)),
        norm=draw(st.sampled_from(("rms", "layer"))),
        query_key_norm=draw(st.sampled_from((None, "head", "projection"))),
        attention_bias=draw(st.booleans()),
        output_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        parallel_block=draw(st.booleans()),
    )


@given(transformers())
def test_no_more_weights_are_active_than_there_are_and_without_experts_all_are(model: Transformer) -> None:
    assert 0 < model.active_parameters <= model.parameters
    assert replace(model, mixture=None).active_parameters == replace(model, mixture=None).parameters


@given(transformers(), st.sampled_from(("layers", "hidden", "vocabulary")))
def test_a_deeper_or_wider_transformer_has_more_weights(model: Transformer, field: str) -> None:
    larger = replace(model, **{field: getattr(model, field) + 1})
    assert larger.parameters > model.parameters
    assert larger.active_parameters > model.active_parameters


@given(transformers().filter(lambda model: model.mixture is not None))
def test_an_idle_expert_adds_weights_to_hold_but_only_its_router_row_to_pass(model: Transformer) -> None:
    assert model.mixture is not None
    larger = replace(model, mixture=replace(model.mixture, experts=model.mixture.experts + 1))
    router_row = model.mixture_layers * (model.hidden + model.mixture.router_bias)
    assert larger.parameters - model.parameters == model.mixture_layers * model.expert_parameters + router_row
    assert larger.active_parameters - model.active_parameters == router_row


@given(transformers(), st.sampled_from((0.5, 1.0, 2.0)))
def test_the_cache_is_linear_in_layers_and_in_the_size_of_an_element(model: Transformer, size: float) -> None:
    assert model.kv_bytes_per_token(size) == size * model.kv_bytes_per_token(1)
    assert replace(model, layers=2 * model.layers).kv_bytes_per_token(size) == 2 * model.kv_bytes_per_token(size)


@given(transformers())
def test_a_tied_table_is_counted_once(model: Transformer) -> None:
    tied, untied = replace(model, tied_embeddings=True), replace(model, tied_embeddings=False)
    assert untied.parameters - tied.parameters == model.vocabulary * model.hidden == model.embedding_parameters


def test_grouped_queries_share_the_cache_that_multi_head_attention_multiplies() -> None:
    """Qwen-72B caches eight times what Llama-2-70B does: 64 KV heads against 8, all else being equal."""
    assert load("qwen-72b").kv_bytes_per_token() == 8 * load("llama-2-70b").kv_bytes_per_token()


def test_latent_attention_caches_one_vector_for_all_heads() -> None:
    """DeepSeek-V3 caches 70.272 kB per token (arXiv:2505.09343, table 1)."""
    assert load("deepseek-v3").kv_bytes_per_token(2) == 70_272


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 0}, "layers = 0: allowed is an integer of at least 1"),
        ({"kv_heads": 5}, "kv_heads = 5: allowed are divisors of query_heads = 32"),
        ({"window": 4096}, "window_layers = 0"),
        ({"window": 4096, "window_layers": 33}, "window_layers = 33"),
        ({"mixture": Mixture(8, 2, 64, dense_layers=32)}, "dense_layers = 32: allowed is less than layers = 32"),
    ],
)
def test_impossible_shapes_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(load("llama-2-7b"), **change)  # type: ignore[arg-type]


def test_more_experts_per_token_than_experts_are_refused() -> None:
    with pytest.raises(ValueError, match="experts_per_token = 9: allowed is at most experts = 8"):
        Mixture(experts=8, experts_per_token=9, intermediate=64)
