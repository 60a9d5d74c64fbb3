"""Weights that are brought layer by layer: the pipeline, what hides it, and what stays on the device."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hardware_profiles
from sim import Scenario, simulate
from sim.physics.efficiency import datasheet
from sim.physics.iteration import IterationModel
from sim.physics.memory import (
    kv_blocks,
    layer_weight_bytes_per_device,
    resident_weight_bytes_per_device,
    weight_bytes_per_device,
)
from sim.physics.operators import layer_operators
from sim.physics.parallelism import Parallelism
from sim.physics.placement import ON_DEVICE, Placement
from sim.physics.precision import PRECISIONS
from sim.physics.streaming import hiding_tokens, weights_seconds
from sim.physics.totals import Totals, decodes
from tests.sim.physics.physics_strategies import CHIP, DENSE, MIXTURE, PLACEMENTS, iteration_models, iterations
from workloads import models
from workloads.synthetic.chat import chat

HOST = Placement("host")
W16 = PRECISIONS["w16a16"]


def pipelined(compute: float, transfer: float, layers: int, iterations: int) -> float:
    """Play layers with two buffers, and return what the last iteration takes."""
    computed, arrived, ends = [0.0, 0.0], 0.0, [0.0]
    for layer in range(layers * iterations):
        arrived = max(arrived, computed[-2]) + transfer  # its buffer is free once the layer before the last is done
        computed.append(max(arrived, computed[-1]) + compute)
        if (layer + 1) % layers == 0:
            ends.append(computed[-1])
    return ends[-1] - ends[-2]


@given(st.floats(0.01, 1.0), st.floats(0.01, 1.0), st.integers(2, 20))
def test_a_pipeline_of_two_buffers_takes_the_longer_of_computing_and_bringing(
    compute: float, transfer: float, layers: int
) -> None:
    assert pipelined(compute, transfer, layers, 4) == pytest.approx(layers * max(compute, transfer))


@given(st.floats(1e9, 1e13), st.integers(1, 4000))
def test_an_iteration_is_such_a_pipeline(rate: float, tokens: int) -> None:
    link = replace(CHIP.host_link, bytes_per_second=rate)
    chip = replace(CHIP, host_link=link)
    model = IterationModel(DENSE, chip, efficiency=datasheet(), host_seconds=0.0, placement=HOST)
    totals = decodes(tokens, 1000)
    compute = float(model.token_seconds(tokens) + model.attention_seconds(totals)) / DENSE.layers
    transfer = layer_weight_bytes_per_device(DENSE, W16, Parallelism()) / DENSE.layers / rate
    layers = float(model.seconds(totals) - model.head_seconds(tokens))
    assert layers == pytest.approx(pipelined(compute, transfer, DENSE.layers, 4))


@given(iteration_models(), iterations(), st.sampled_from(PLACEMENTS))
def test_what_is_brought_never_makes_an_iteration_faster(
    model: IterationModel, totals: Totals, placement: Placement
) -> None:
    model = replace(model, parallelism=Parallelism(model.parallelism.tensor))
    here, there = (replace(model, placement=where).seconds(totals) for where in (ON_DEVICE, placement))
    assert there >= here * (1 - 1e-15)  # the same terms, added in another order
    wide = replace(model.hardware, host_link=replace(model.hardware.host_link, bytes_per_second=1e18))
    far = replace(placement, nvme_bytes_per_second=1e18)
    fast = replace(model, hardware=wide)
    far, near = (replace(fast, placement=where).seconds(totals) for where in (far, ON_DEVICE))
    assert far == pytest.approx(near, rel=1e-12)


@given(iteration_models(), st.sampled_from(PLACEMENTS[:2]))
def test_the_batch_that_hides_the_weights_is_the_smallest(model: IterationModel, placement: Placement) -> None:
    model = replace(model, parallelism=Parallelism(model.parallelism.tensor), placement=placement)
    tokens = hiding_tokens(model)
    assert model.token_seconds(tokens) >= weights_seconds(model)
    assert tokens == 1 or model.token_seconds(tokens - 1) < weights_seconds(model)


@pytest.mark.parametrize("name", ["gpt3-175b", "llama-3.1-405b", "llama-2-70b"])
def test_the_hiding_batch_depends_on_peak_and_link_alone(name: str) -> None:
    # 2 flops a weight and token against 2 bytes a weight: 989e12 / 64e9 tokens on H800 with its PCIe Gen5; norms,
    # activations and rotary positions take some of the time, so that a little fewer will do.
    chip = hardware_profiles.load("h800-sxm")
    model = IterationModel(models.load(name), chip, efficiency=datasheet(), placement=HOST)
    expected = chip.peak("bf16") / chip.host_link.bytes_per_second
    assert hiding_tokens(model) == pytest.approx(expected, rel=0.07)
    assert hiding_tokens(model) <= expected
    weight_only = replace(model, precision=PRECISIONS["w8a16"])  # half the bytes, the same unit
    assert hiding_tokens(weight_only) == pytest.approx(hiding_tokens(model) / 2, rel=0.01)


def test_every_device_brings_its_shard_and_drives_are_shared() -> None:
    def seconds(tensor: int, placement: Placement) -> float:
        return weights_seconds(IterationModel(DENSE, CHIP, parallelism=Parallelism(tensor), placement=placement))

    matrices = layer_weight_bytes_per_device(DENSE, W16, Parallelism())
    assert seconds(1, HOST) == matrices / (32e9 * 0.8)
    assert seconds(4, HOST) == pytest.approx(seconds(1, HOST) / 4, rel=0.01)  # norms are on every device
    slow = Placement("nvme", nvme_bytes_per_second=1e9)
    assert seconds(4, slow) == pytest.approx(seconds(1, slow), rel=0.01)
    # A single drive behind four lanes is slower than the link of sixteen; many drives are not faster than it.
    assert seconds(1, Placement("nvme", nvme_bytes_per_second=1e12)) == seconds(1, HOST)


@pytest.mark.parametrize("shape", [DENSE, MIXTURE])
def test_two_layers_and_the_tables_stay_on_the_device(shape) -> None:
    tables = 2 * shape.vocabulary * shape.hidden
    layers = replace(shape, layers=20, mixture=shape.mixture and replace(shape.mixture, dense_layers=3))
    each = [replace(layers, layers=1, mixture=None)] if shape is DENSE else []
    if shape.mixture:
        each.append(replace(layers, layers=1, mixture=replace(layers.mixture, dense_layers=0)))
    widest = max(one.parameters - tables - one.norm_parameters for one in each)
    held = resident_weight_bytes_per_device(layers, W16, Parallelism(), HOST)
    assert held == 2 * (tables + shape.norm_parameters + 2 * widest)
    assert resident_weight_bytes_per_device(layers, W16, Parallelism(), ON_DEVICE) == weight_bytes_per_device(
        layers, W16, Parallelism()
    )


def test_a_model_larger_than_the_device_is_served_from_the_host() -> None:
    rng = np.random.default_rng(2)
    trace = chat(rng, 2, 0.01, system_prompt_tokens=0, context_tokens=2048)
    here = Scenario(trace, "h800-sxm", "gpt3-175b", tensor=1)
    with pytest.raises(ValueError, match="does not fit"):
        simulate(here)
    there = replace(here, weights_from="host")
    result = simulate(there)
    brought = weights_seconds(there.machine.model)
    assert brought == pytest.approx(2 * 174.0e9 / (64e9 * 0.8), rel=0.02)
    assert np.nanmin(result.tpot_seconds) >= brought
    assert np.nanmax(result.tpot_seconds) < 1.5 * brought
    # Waiting for the link is communication in the attribution.
    parts = result.attribution()
    assert parts.part("communication").sum() > 10 * parts.part("own_decode").sum()


def test_where_something_is_kept_is_checked() -> None:
    with pytest.raises(ValueError, match="weights_from is 'tape'; allowed: device, host, nvme"):
        Placement("tape")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nvme_bytes_per_second is 0; allowed: above 0"):
        Placement("nvme", nvme_bytes_per_second=0)
    with pytest.raises(ValueError, match=r"does not fit: weights of .* GB per device"):
        kv_blocks(models.load("palm-540b"), CHIP, W16, Parallelism())
    assert kv_blocks(models.load("palm-540b"), CHIP, W16, Parallelism(), placement=HOST) > 0


def test_published_sizes_of_a_layer() -> None:
    # deepspeed.ai 2022: a GPT-3 layer takes about 7 Tflop for 2,048 tokens; Megatron-Turing drops from 1 TB to 10 GB.
    shape = models.load("gpt3-175b")
    products = layer_operators(shape, W16, Parallelism(), np.array(2048.0))
    flops = sum(float(item.count * item.flops) for item in products) / shape.layers
    assert flops == pytest.approx(7e12, rel=0.1)
    large = models.load("mt-nlg-530b")
    assert weight_bytes_per_device(large, W16, Parallelism()) == pytest.approx(1e12, rel=0.1)
    layer = layer_weight_bytes_per_device(large, W16, Parallelism()) / large.layers
    assert layer == pytest.approx(10e9, rel=0.1)
