"""What fits into the memory of a device."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from physics_strategies import CHIP, DENSE, MODELS

from hardware_profiles.profile import Memory
from sim.physics.memory import Reserve, kv_blocks, runtime_reserve, weight_bytes_per_device
from sim.physics.parallelism import Parallelism
from sim.physics.precision import PRECISIONS
from workloads.models import load
from workloads.models.transformer import Transformer

W16A16 = PRECISIONS["w16a16"]


@given(st.sampled_from(MODELS))
def test_one_device_holds_every_parameter(model: Transformer) -> None:
    assert weight_bytes_per_device(model, W16A16, Parallelism()) == 2 * model.parameters


@given(st.sampled_from(MODELS), st.sampled_from([1, 8, 16, 64]), st.floats(0.1, 1.0))
def test_blocks_fill_the_budget_and_no_more(model: Transformer, block_size: int, utilisation: float) -> None:
    blocks = kv_blocks(model, CHIP, W16A16, Parallelism(), utilisation=utilisation, block_size=block_size)
    kept = 2 * model.parameters + runtime_reserve(model, Parallelism(), 2048, 256).total_bytes
    block_bytes = block_size * model.kv_bytes_per_token()
    budget = CHIP.memory.usable_bytes * utilisation - kept
    assert blocks * block_bytes <= budget < (blocks + 1) * block_bytes


@pytest.mark.parametrize(("name", "gib"), [("gpt-oss-120b", 60.8), ("gpt-oss-20b", 12.8)])
def test_experts_alone_in_four_bits_weigh_what_the_published_checkpoints_do(name: str, gib: float) -> None:
    # Table 1 of the model card (arXiv:2508.10925).
    assert weight_bytes_per_device(load(name), PRECISIONS["mxfp4"], Parallelism()) / 2**30 == pytest.approx(
        gib, abs=0.1
    )


def test_activations_and_sampling_share_their_memory() -> None:
    assert Reserve(1.0, 2.0, activation_bytes=30.0, sampling_bytes=40.0).total_bytes == 43.0
    assert Reserve(1.0, 2.0, 50.0, 40.0, graph_bytes=4.0).total_bytes == 57.0


@given(st.integers(1, 65536), st.integers(1, 2048))
def test_a_larger_batch_never_leaves_more_blocks(tokens: int, samples: int) -> None:
    def blocks(max_tokens: int, max_samples: int) -> int:
        return kv_blocks(DENSE, CHIP, W16A16, Parallelism(), max_tokens=max_tokens, max_samples=max_samples)

    assert blocks(2 * tokens, samples) <= blocks(tokens, samples)
    assert blocks(tokens, 2 * samples) <= blocks(tokens, samples)


def test_several_devices_need_buffers_to_communicate() -> None:
    alone, pair = (runtime_reserve(DENSE, Parallelism(size), 2048, 256) for size in (1, 2))
    assert alone.communication_bytes == 0 < pair.communication_bytes


def test_weights_that_do_not_fit_say_what_would() -> None:
    wide = replace(DENSE, intermediate=2**19)  # 9.8 GB of weights
    small = replace(CHIP, memory=Memory(8e9, 1e12))
    with pytest.raises(ValueError, match=r"by 3\.\d+ GB at tensor=1; tensor=2 devices would do"):
        kv_blocks(wide, small, W16A16, Parallelism(), max_tokens=16)
    assert kv_blocks(wide, small, W16A16, Parallelism(2), max_tokens=16) > 0
    tiny = replace(CHIP, memory=Memory(1e9, 1e12))
    with pytest.raises(ValueError, match="no tensor-parallel split is small enough"):
        kv_blocks(wide, tiny, W16A16, Parallelism())


@pytest.mark.parametrize(("name", "value"), [("utilisation", 0.0), ("utilisation", 1.1), ("block_size", 0)])
def test_impossible_settings_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}="):
        kv_blocks(DENSE, CHIP, W16A16, Parallelism(), **{name: value})  # type: ignore[arg-type]
