"""Files of systems: what is wrong in one is named with file, field, value and what is allowed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import hardware_profiles
from sim import systems
from sim.physics.efficiency import generic
from sim.physics.iteration import IterationModel
from sim.physics.parallelism import Parallelism
from workloads.models import load as load_model

SOURCE = (systems.SHIPPED / "vllm-0.2.7.toml").read_text(encoding="utf-8")


def changed(tmp_path: Path, old: str, new: str) -> Path:
    assert SOURCE.count(old) >= 1
    path = tmp_path / "own.toml"
    path.write_text(SOURCE.replace(old, new, 1), encoding="utf-8")
    return path


def test_a_users_own_file_is_a_system(tmp_path: Path) -> None:
    own = systems.load(changed(tmp_path, 'name = "vllm-0.2.7"', 'name = "mine"'))
    assert own.name == "mine"
    assert own.limits == systems.load("vllm-0.2.7").limits


def test_a_system_that_names_its_kernels_has_the_generic_constants_of_that_library(tmp_path: Path) -> None:
    chip = hardware_profiles.load("h200-sxm")
    own = systems.load(changed(tmp_path, 'kernels = "pytorch"', 'kernels = "trtllm"'))
    assert systems.scenario(own, hardware=chip).efficiency == generic(chip, "trtllm")
    nameless = systems.load(changed(tmp_path, 'kernels = "pytorch"\n', ""))
    assert systems.scenario(nameless, hardware=chip).efficiency == generic(chip)


@pytest.mark.parametrize("name", ["vllm-0.2.7", "sarathi"])
def test_products_of_2023_take_longer_than_those_of_today(name: str) -> None:
    chip = hardware_profiles.load("a100-sxm-80")
    prompts = np.array([256.0, 1024.0, 8192.0])
    today, then = (
        IterationModel(load_model("llama-2-70b"), chip, efficiency=efficiency, parallelism=Parallelism(4))
        for efficiency in (generic(chip), systems.scenario(name, hardware=chip).efficiency)
    )
    longer = then.token_seconds(prompts) / today.token_seconds(prompts)
    assert np.all((longer > 1.05) & (longer < 1.35))


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("sequences = 256", "seats = 256", r"limits\.seats is not a field"),
        ("sequences = 256", "sequences = 0", r"limits\.sequences must be a whole number, 1 or more, got 0"),
        ("utilisation = 0.9", "utilisation = 90", r"limits\.utilisation = 90"),
        ('"prefill_first"', '"prefil_first"', r"policy must be one of .*prefill_first.*, got 'prefil_first'"),
        ('"prefill_first"', '"prefill_first"\nparameters = { lookahead = 1 }', r"'lookahead', which prefill_first"),
        ('"executed"', '"certain"', r"evidence must be one of executed, transcribed, reconstructed"),
        ('"2024-01-04"', '"January"', r"date must be a year, a month or a day"),
        ('kernels = "pytorch"', 'kernels = "cutlass"', r"kernels must be one of vllm, trtllm, pytorch, got"),
        ("fp8 = { has = false", "fp9 = { has = false", r"capabilities\.fp9 is not a field; did you mean"),
        ("fp8 = { has = false", "fp8 = { has = 1", r"capabilities\.fp8\.has must be true or false, got 1"),
        ("chunked_prefill = { has = false", "chunked_prefill = { has = true", r"make them agree"),
        ("prefix_sharing = { has = false", "prefix_sharing = { has = true", r"\[prefix_cache\] is missing"),
        (
            "[limits]",
            '[prefix_cache]\nkind = "k"\ncache = "lru"\ndefault = true\n[limits]',
            r"cache must be one of .*vllm-1",
        ),
        ("[scheduler]\n", "[scheduler]\nchunked = true\n", r"scheduler\.chunked_prompts is missing"),
        ("562.5e-6", "562.5", r"least_seconds_per_layer = 562\.5 is out of any range|looks like"),
        ('name = "vllm-0.2.7"', 'name = "../etc"', r"name must be small letters"),
        ("sources = [", "sauces = [", r"sauces is not a field; did you mean sources"),
        ("paddings = 256", "paddings = 256\nlarger = 3", r"limits\.larger must be tables"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    path = changed(tmp_path, old, new)
    with pytest.raises(ValueError, match=complaint) as refused:
        systems.load(path)
    assert str(path) in str(refused.value)


def test_an_unknown_system_is_answered_with_the_nearest_and_all_names() -> None:
    with pytest.raises(ValueError, match=r"did you mean vllm-0\.(2\.7|33)") as refused:
        systems.load("vllm-0.2")
    assert all(name in str(refused.value) for name in systems.available())
