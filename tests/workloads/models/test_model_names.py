"""Finding an architecture: by name, by the names others use, and by file."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from workloads.models import _key, available, load
from workloads.models.architecture import SHIPPED


@pytest.mark.parametrize("name", available())
def test_every_shipped_name_and_title_loads_itself(name: str) -> None:
    model = load(name)
    assert model.name == name
    assert load(name.upper()) == model


def test_no_two_architectures_answer_to_the_same_name() -> None:
    answers: dict[str, str] = {}
    for name in available():
        for alias in (name, *tomllib.loads((SHIPPED / f"{name}.toml").read_text()).get("aliases", [])):
            assert answers.setdefault(_key(alias), name) == name


@pytest.mark.parametrize(
    ("given_name", "name"),
    [
        ("Llama-2-7b-hf", "llama-2-7b"),
        ("meta-llama/Llama-2-13b-hf", "llama-2-13b"),
        ("meta-llama/Llama-2-70b-chat-hf", "llama-2-70b"),
        ("llama2-7b", "llama-2-7b"),
        ("meta-llama/Meta-Llama-3-8B", "llama-3-8b"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama-3.1-70b"),
        ("codellama/CodeLlama-34b-Instruct-hf", "codellama-34b"),
        ("huggyllama/llama-30b", "llama-33b"),
        ("Qwen3-32B", "qwen3-32b"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b"),
        ("Qwen-72B", "qwen-72b"),
        ("Qwen/Qwen-14B-Chat", "qwen-14b"),
        ("internlm-20b", "internlm-20b"),
        ("internlm/internlm-chat-20b", "internlm-20b"),
        ("Mixtral-8x7B-v0.1", "mixtral-8x7b"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b-v0.3"),
        ("mistralai/Mistral-Nemo-Instruct-2407", "mistral-nemo-12b"),
        ("microsoft/phi-4", "phi-4-14b"),
        ("microsoft/Phi-3-mini-4k-instruct", "phi-3-mini"),
        ("google/gemma-3-27b-it", "gemma-3-27b"),
        ("deepseek-ai/DeepSeek-R1", "deepseek-v3"),
        ("deepseek-ai/DeepSeek-V2-Lite-Chat", "deepseek-v2-lite"),
        ("moonshotai/Kimi-K2-Instruct", "kimi-k2"),
        ("zai-org/GLM-4.5-Air", "glm-4.5-air"),
        ("openai/gpt-oss-120b", "gpt-oss-120b"),
        ("bigscience/bloom", "bloom-176b"),
        ("tiiuae/falcon-180B-chat", "falcon-180b"),
        ("IEITYuan/Yuan2-51B-hf", "yuan2-51b"),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "llama-4-scout"),
    ],
)
def test_names_in_use_elsewhere_are_understood(given_name: str, name: str) -> None:
    assert load(given_name).name == name


@pytest.mark.parametrize(
    "name",
    ["mistralai/Mistral-7B-Instruct-v0.2", "01-ai/Yi-34B-200K", "deepseek-ai/DeepSeek-V3.2", "Qwen3-Next-80B-A3B"],
)
def test_a_near_miss_with_another_shape_is_not_taken_for_its_neighbour(name: str) -> None:
    with pytest.raises(ValueError, match="unknown model"):
        load(name)


def test_an_unknown_name_lists_the_closest() -> None:
    with pytest.raises(ValueError, match=r"unknown model 'lama-2-7b'; closest: llama-2-7b, .*config\.json"):
        load("lama-2-7b")
    with pytest.raises(ValueError, match=r"unknown model 'xyzzy'; shipped: baichuan2-13b, "):
        load("xyzzy")


def test_a_missing_file_or_folder_is_named_rather_than_guessed(tmp_path: Path) -> None:
    for missing in (tmp_path / "llama-2-7b", tmp_path / "llama-2-7b.toml", tmp_path / "config.json"):
        for form in (missing, str(missing)):
            with pytest.raises(ValueError, match=re.escape(str(missing))):
                load(form)


def test_a_file_of_ones_own_reads_as_the_shipped_ones_do(tmp_path: Path) -> None:
    own = tmp_path / "mine.toml"
    own.write_text((SHIPPED / "qwen3-30b-a3b.toml").read_text())
    assert load(own).name == "mine"
    assert load(str(own)).parameters == load("qwen3-30b-a3b").parameters


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("layers = 32", "layers = ", "not TOML: "),
        ("layers = 32", "", "[transformer]: missing layers"),
        ("layers = 32", 'layers = "32"', "[transformer]: layers = '32': allowed is a value of type int"),
        ("layers = 32", "layers = true", "[transformer]: layers = True: allowed is a value of type int"),
        ("layers = 32", "layers = -1", "layers = -1: allowed is an integer of at least 1"),
        ("layers = 32", "layers = 32\nlayer = 1", "[transformer]: unknown key 'layer'; allowed: layers"),
        ('norm = "rms"', 'norm = "batch"', "[transformer]: norm = 'batch': allowed: rms, layer"),
        ("experts_per_token = 2", "experts_per_token = 9", "experts_per_token = 9: allowed is at most experts = 8"),
        ("experts = 8", "", "[mixture]: missing experts"),
        ("active = ", "activ = ", "[published]: unknown key 'activ'; allowed: active"),
        ("[transformer]", "[transformers]", "unknown key 'transformers'; allowed: transformer"),
    ],
)
def test_a_malformed_file_is_refused_by_file_key_and_value(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "broken.toml"
    text = (SHIPPED / "mixtral-8x7b.toml").read_text()
    assert text.count(old) >= 1
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}.*{re.escape(message)}"):
        load(path)
