"""The shipped systems: their defaults are those of the real ones, as literals, each with where it was read."""

from __future__ import annotations

import numpy as np
import pytest

import hardware_profiles
from sim import simulate, systems
from sim.scheduling.caches import EVIDENCE_OF_CACHES
from sim.scheduling.schedulers import SCHEDULERS
from sim.systems import CAPABILITIES, EVIDENCE
from workloads.synthetic.chat import chat
from workloads.trace import Trace

# seats, tokens of an iteration, tokens cover the context, block, watermark, paddings, memory, of free, cache on
DEFAULTS = {
    # vllm 0.2.7, engine/arg_utils.py and config.py
    "vllm-0.2.7": (256, 2048, True, 16, 0.01, 256, 0.90, False, None),
    # vllm 0.33.0, config/cache.py and EngineArgs.get_batch_defaults, server on a GPU below 70 GiB
    "vllm-0.33": (256, 2048, False, 16, 0.0, None, 0.92, False, True),
    # TensorRT-LLM docs/source/batch_manager.md (0.8): fraction 0.9, reuse off; kv_cache_reuse.md: 128 tokens a block
    "tensorrt-llm-2024-01": (256, 8192, True, 128, 0.0, None, 0.90, True, False),
    # perf-best-practices.md: 8192 tokens; llm_args.py: 32 tokens a block, fraction 0.9, reuse on
    "tensorrt-llm": (2048, 8192, False, 32, 0.0, None, 0.90, True, True),
    # deepspeed 0.14.0, DSStateManagerConfig and KVCacheConfig
    "deepspeed-fastgen": (2048, 768, False, 128, 0.0, None, 1.0, True, None),
    # sarathi/config/config.py: 128 sequences, chunk 512, block 16, memory 0.8; block_space_manager: watermark 0.01
    "sarathi": (128, 512, False, 16, 0.01, None, 0.80, False, None),
    # the same configuration; orca_block_space_manager.py: watermark 0
    "orca": (128, 32768, True, 16, 0.0, None, 0.80, False, None),
    "fastertransformer": (128, 32768, True, 16, 0.0, None, 0.80, False, None),
    # sglang docs/advanced_features/server_arguments.md: 16384 prefill tokens, page size 1
    "sglang": (2048, 16384, True, 1, 0.0, None, 0.90, False, True),
}
POLICIES = {
    "vllm-0.2.7": "prefill_first",
    "vllm-0.33": "chunked_prefill",
    "tensorrt-llm-2024-01": "inflight_batching",
    "tensorrt-llm": "inflight_batching",
    "deepspeed-fastgen": "dynamic_splitfuse",
    "sarathi": "decode_first",
    "orca": "orca",
    "fastertransformer": "static_padded_to_end",
    "sglang": "prefill_first",
}


@pytest.fixture(scope="module")
def trace() -> Trace:
    return chat(np.random.default_rng(3), 60, 0.5, system_prompt_tokens=64, context_tokens=4096)


def test_all_systems_of_the_table_are_shipped() -> None:
    assert set(systems.available()) == set(DEFAULTS) == set(POLICIES)


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_those_of_the_real_system(name: str) -> None:
    system = systems.load(name)
    limits, cache = system.limits, system.prefix_cache
    smallest = limits.budgets[-1]
    assert (
        smallest.sequences,
        smallest.tokens,
        limits.tokens_cover_context,
        limits.block_tokens,
        limits.watermark,
        limits.paddings,
        limits.utilisation,
        limits.of_free,
        cache and cache.default,
    ) == DEFAULTS[name]
    assert system.rules.policy == POLICIES[name]
    assert system.name == name
    assert set(system.capabilities) == set(CAPABILITIES)
    assert system.evidence in EVIDENCE


def test_vllm_chooses_seats_and_tokens_by_the_size_of_the_device_and_spares_the_a100() -> None:
    # EngineArgs.get_batch_defaults of vllm 0.33.0, API server
    limits = systems.load("vllm-0.33").limits
    found = {
        chip: (limits.budget(profile).sequences, limits.budget(profile).tokens)
        for chip in ("l20", "a100-sxm-80", "h100-sxm", "h200-sxm", "b200")
        for profile in [hardware_profiles.load(chip)]
    }
    assert found == {
        "l20": (256, 2048),
        "a100-sxm-80": (256, 2048),
        "h100-sxm": (1024, 8192),
        "h200-sxm": (1024, 8192),
        "b200": (1024, 16384),
    }


def test_what_is_guessed_says_so() -> None:
    assert systems.load("tensorrt-llm-2024-01").evidence == "reconstructed"
    assert any("Reconstructed" in remark for remark in systems.load("tensorrt-llm-2024-01").remarks)
    for name in systems.available():
        system = systems.load(name)
        if system.prefix_cache and EVIDENCE_OF_CACHES[system.prefix_cache.cache] == "described":
            assert any("published code" in remark or "code published" in remark for remark in system.remarks), name


def test_systems_have_the_cache_of_their_name(trace: Trace) -> None:
    for name, cache in (("vllm-0.33", "vllm-1"), ("tensorrt-llm", "tensorrt-llm"), ("sglang", "sglang")):
        assert systems.scenario(name, trace).prefix_cache == cache
        assert systems.scenario(name, trace, prefix_cache=False).prefix_cache is False
    assert systems.scenario("tensorrt-llm-2024-01", trace).prefix_cache is False
    assert systems.scenario("tensorrt-llm-2024-01", trace, prefix_cache=True).prefix_cache == "tensorrt-llm-2024"


def test_the_article_errs_about_four_bit_weights_with_narrow_activations_and_nothing_else() -> None:
    wrong = {
        (name, key)
        for name in systems.available()
        for key, capability in systems.load(name).capabilities.items()
        if capability.article_errs
    }
    assert wrong == {("vllm-0.2.7", "w4a8"), ("vllm-0.2.7", "w4a4")}
    assert all(systems.load(name).capabilities[key].checked for name, key in wrong)


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_system_serves(name: str, trace: Trace) -> None:
    scenario = systems.scenario(name, trace)
    result = simulate(scenario)
    assert result.outcomes["finished"] == len(trace)
    assert (result.ttft_seconds >= scenario.front_end_seconds).all()
    assert (result.prefix_hit_share > 0) == bool(systems.load(name).prefix_cache and scenario.prefix_cache)


def test_the_parameters_of_a_preset_reach_its_policy(trace: Trace) -> None:
    whole = systems.scenario("vllm-0.33", trace, chunked=False)
    assert not isinstance(whole.policy, str)
    assert not whole.policy.cuts_prompts
    assert systems.scenario("tensorrt-llm", trace, chunked=True).policy == SCHEDULERS["inflight_chunked"]


@pytest.mark.parametrize(
    ("name", "asked", "words"),
    [
        ("vllm-0.2.7", {"precision": "fp8"}, ["no FP8", "tensorrt-llm-2024-01", "vllm-0.33"]),
        ("vllm-0.2.7", {"prefix_cache": True}, ["no prefix sharing", "tensorrt-llm"]),
        ("vllm-0.2.7", {"chunked": True}, ["no chunked prefill", "first in 0.4", "sarathi"]),
        ("vllm-0.2.7", {"precision": "w4a4"}, ["no W4A4", "no such kernel"]),
        ("vllm-0.2.7", {"precision": "w16a16-kv8"}, ["no 8-bit KV cache", "vllm-0.33"]),
        ("tensorrt-llm-2024-01", {"chunked": True}, ["no chunked prefill", "enableChunkedContext"]),
        ("deepspeed-fastgen", {"chunked": False}, ["always cuts prompts", "vllm-0.2.7"]),
        ("deepspeed-fastgen", {"context": 16384, "model": "llama-3.1-8b"}, ["8192"]),
        ("vllm-0.33", {"precision": "w4a16-kv4"}, ["4-bit KV cache"]),
        ("vllm-0.33", {"precision": "w3a3"}, ["unknown", "fp8"]),
    ],
)
def test_what_a_system_cannot_do_is_refused_and_those_that_can_are_named(
    name: str, asked: dict, words: list[str], trace: Trace
) -> None:
    with pytest.raises(ValueError, match=words[0]) as refused:
        systems.scenario(name, trace, **asked)
    assert all(word in str(refused.value) for word in words)
