"""Laws of splitting a replica over stages, data ranks and homes of experts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from physics_strategies import CHIP, DENSE, MIXTURE, MODELS, iteration_models, iterations

from sim.physics.breakdown import breakdown
from sim.physics.collectives import (
    all_gather_seconds,
    all_reduce_seconds,
    all_to_all_seconds,
    send_seconds,
    servers_of,
)
from sim.physics.efficiency import generic
from sim.physics.iteration import IterationModel
from sim.physics.matrices import expert_bank_parameters
from sim.physics.memory import kv_blocks, kv_bytes_per_token_per_device, runtime_reserve, weight_bytes_per_device
from sim.physics.operators import expert_operators
from sim.physics.parallelism import Parallelism, allowed_tensor_sizes
from sim.physics.precision import PRECISIONS, Precision
from sim.physics.routing import hottest_device, reach_of_hottest
from sim.physics.stages import layers_per_stage, stages_of
from sim.physics.totals import Totals
from workloads.models import load
from workloads.models.transformer import Transformer

BF16 = PRECISIONS["w16a16"]
CONSTANTS = generic()


@given(iteration_models(), iterations())
def test_stages_add_up_to_the_whole(model: IterationModel, totals: Totals) -> None:
    assert sum(float(stage.seconds(totals)) for stage in model.stages) == pytest.approx(float(model.seconds(totals)))


@given(iteration_models(), iterations())
def test_parts_add_up_on_every_split(model: IterationModel, totals: Totals) -> None:
    for priced in (model, *model.stages):
        assert sum(part.seconds for part in breakdown(priced, totals)) == pytest.approx(float(priced.seconds(totals)))


@given(st.sampled_from(MODELS), st.integers(1, 3), st.sampled_from(tuple(PRECISIONS.values())))
def test_stages_hold_the_whole_model_and_a_tied_table_twice(
    model: Transformer, stages: int, precision: Precision
) -> None:
    split = Parallelism(pipeline=stages)
    whole = weight_bytes_per_device(model, precision, Parallelism())
    held = sum(weight_bytes_per_device(model, precision, split, stage) for stage in range(stages))
    again = model.embedding_parameters * 2.0 if model.tied_embeddings and stages > 1 else 0.0
    assert held == pytest.approx(whole + again)
    cached = sum(kv_bytes_per_token_per_device(model, precision, split, stage) for stage in range(stages))
    assert cached == kv_bytes_per_token_per_device(model, precision, Parallelism())


@given(st.integers(1, 200), st.integers(1, 32))
def test_every_layer_is_on_one_stage_and_the_last_is_never_fuller(layers: int, stages: int) -> None:
    if stages <= layers:
        each = layers_per_stage(layers, stages)
        assert sum(each) == layers
        assert max(each) - min(each) <= 1
        assert each[-1] == min(each)


@pytest.mark.parametrize("split", [Parallelism(4, expert=1), Parallelism(4, expert=4), Parallelism(2, 1, 2, 4)])
def test_homes_of_experts_hold_every_expert_once(split: Parallelism) -> None:
    whole = expert_bank_parameters(MIXTURE, Parallelism())
    assert expert_bank_parameters(MIXTURE, split) * split.expert_devices == whole


def test_the_fullest_device_counts_where_experts_do_not_divide() -> None:
    # 16 experts on 3 devices: 6, 5 and 5.
    one = expert_bank_parameters(MIXTURE, Parallelism()) / 16
    assert expert_bank_parameters(MIXTURE, Parallelism(data=3, expert=3)) == 6 * one


@given(st.integers(2, 64), st.integers(1, 8), st.integers(1, 8), st.floats(0, 2), st.integers(1, 3000))
def test_the_hottest_device_has_no_less_than_its_share(
    experts: int, each: int, devices: int, skew: float, tokens: int
) -> None:
    each, devices = min(each, experts), min(devices, experts)
    count = np.array([float(tokens)])
    all_visits, all_met = hottest_device(experts, each, 1, count, skew)
    visits, met = hottest_device(experts, each, devices, count, skew)
    assert all_visits[0] * (1 + 1e-9) >= visits[0] >= all_visits[0] / devices * (1 - 1e-9)
    assert all_met[0] + 1e-9 >= met[0] >= all_met[0] / devices * (1 - 1e-9)
    assert each / experts * (1 - 1e-9) <= reach_of_hottest(experts, each, devices, skew) <= 1


def test_tokens_of_all_data_ranks_meet_in_the_experts() -> None:
    # Two ranks of 50 tokens with half of 16 experts each do what one device does with 50: 100 tokens x 2 / 2 visits.
    alone = expert_operators(MIXTURE, BF16, Parallelism(), np.array(50.0))[0]
    shared = expert_operators(MIXTURE, BF16, Parallelism(data=2, expert=2), np.array(100.0))[0]
    assert shared.flops == alone.flops
    met = 8 * (1 - (1 - 2 / 16) ** 100)
    weights = 3 * MIXTURE.hidden * 512 * 2.0
    streams = alone.moved_bytes - 16 * (1 - (1 - 2 / 16) ** 50) * weights
    assert shared.moved_bytes == pytest.approx(met * weights + streams)


def test_data_ranks_keep_attention_and_cache_whole() -> None:
    one, two = Parallelism(), Parallelism(data=2, expert=2)
    assert kv_bytes_per_token_per_device(MIXTURE, BF16, two) == kv_bytes_per_token_per_device(MIXTURE, BF16, one)
    saved = weight_bytes_per_device(MIXTURE, BF16, one) - weight_bytes_per_device(MIXTURE, BF16, two)
    assert saved == MIXTURE.mixture_layers * expert_bank_parameters(MIXTURE, one) / 2 * 2.0


def test_experts_are_reached_by_gathering_or_by_sending() -> None:
    gathers = IterationModel(MIXTURE, CHIP, parallelism=Parallelism(data=4, expert=4))
    sends = replace(gathers, exchange="all-to-all")
    stream = np.array(400 * MIXTURE.hidden * 2.0)
    twice = 2 * MIXTURE.mixture_layers
    assert gathers.communication.exchange_seconds(np.array(400.0)) == pytest.approx(
        twice * all_gather_seconds(stream, 4, CHIP, CONSTANTS)
    )
    # A token has 2 of 16 experts; a device has 4 of them, and 3 in 4 tokens come from elsewhere.
    received = stream * (1 - (14 / 16) ** 4) * 3 / 4
    assert sends.communication.exchange_seconds(np.array(400.0)) == pytest.approx(
        twice * all_to_all_seconds(received, 4, CHIP, CONSTANTS)
    )
    assert sends.token_seconds(100) < gathers.token_seconds(100)


def test_tensor_parallel_experts_on_several_devices_need_no_exchange() -> None:
    model = IterationModel(MIXTURE, CHIP, parallelism=Parallelism(4, expert=4))
    assert model.communication.exchange_seconds(np.array(400.0)) == 0


@given(st.integers(2, 64), st.floats(1, 1e10))
def test_between_servers_is_never_faster_than_inside_one(devices: int, size: float) -> None:
    inside = replace(CHIP, devices_per_domain=64)
    message = np.array(size)
    for collective in (all_reduce_seconds, all_gather_seconds, all_to_all_seconds):
        assert collective(message, devices, CHIP, CONSTANTS) >= collective(message, devices, inside, CONSTANTS) * (
            1 - 1e-12
        )


def test_an_all_reduce_over_two_servers_by_hand() -> None:
    assert servers_of(CHIP, 16) == (8, 2)
    assert servers_of(CHIP, 8, stride=2) == (4, 2)  # every second device of two servers
    size = 256e6
    # NCCL scatters and collects in 7 steps after its launch: 12.96 us, 2.5 times that for large ones, and 7.5 parts.
    inside = 2 * (2.5 * 12.96e-6 + 7.5 / 8 * size / (0.75 * 300e9))
    across = 2 * 20e-6 + size / 8 / (0.7 * 50e9)  # of two, a ring sends each half there and back
    assert all_reduce_seconds(np.array(size), 16, CHIP, CONSTANTS) == pytest.approx(inside + across)


def test_many_servers_add_small_messages_up_a_tree() -> None:
    small = all_reduce_seconds(np.array(1024.0), 8 * 32, CHIP, CONSTANTS)
    assert small == pytest.approx(2 * 12.96e-6 + 2 * 5 * 20e-6, rel=0.01)  # 5 levels up and down, not 62 steps round


def test_a_hop_takes_the_link_between_its_devices() -> None:
    size = np.array(1e6)
    fast, network = (float(send_seconds(size, 0, receiver, CHIP, CONSTANTS)) for receiver in (7, 8))
    assert fast == pytest.approx(7.08e-6 + 1e6 / (0.75 * 300e9))
    assert network == pytest.approx(20e-6 + 1e6 / (0.7 * 50e9))
    assert send_seconds(size, 8, 9, CHIP, CONSTANTS) == fast
    cards = replace(CHIP, scale_up=None, devices_per_domain=1)
    assert send_seconds(size, 0, 1, cards, CONSTANTS) == pytest.approx(20e-6 + 1e6 / 16e9)


def test_stages_in_another_server_cost_more_to_reach() -> None:
    near = IterationModel(DENSE, CHIP, parallelism=Parallelism(4, pipeline=2)).communication
    far = IterationModel(DENSE, CHIP, parallelism=Parallelism(8, pipeline=2)).communication
    assert 0 < near.hop_seconds(np.array(100.0)) < far.hop_seconds(np.array(100.0))
    assert near.flags == ()
    assert far.flags == ("unmeasured: the network between servers of Chip",)


def test_the_fullest_stage_bounds_the_cache() -> None:
    # 80 layers on 3 stages are 27, 27 and 26; the first has the embedding, the last the head and the sampling.
    model, chip = load("llama-2-70b"), CHIP
    split = Parallelism(2, pipeline=3)
    reserve = runtime_reserve(model, split, 2048, 256)
    budget = chip.memory.usable_bytes * 0.9
    token_bytes = 27 * 2 * 4 * 128 * 2.0
    first = budget - weight_bytes_per_device(model, BF16, split, 0) - replace(reserve, sampling_bytes=0).total_bytes
    last = budget - weight_bytes_per_device(model, BF16, split, 2) - reserve.total_bytes
    fit = min(first / (16 * token_bytes), last / (16 * token_bytes * 26 / 27))
    assert [stage.layers.layers for stage in stages_of(model, 3)] == [27, 27, 26]
    assert kv_blocks(model, chip, BF16, split) == int(fit)


@given(st.sampled_from(MODELS), st.sampled_from(tuple(PRECISIONS.values())), st.integers(1, 3))
def test_more_tensor_parallelism_never_holds_more_on_any_stage(
    model: Transformer, precision: Precision, stages: int
) -> None:
    each = [weight_bytes_per_device(model, precision, Parallelism(n, stages)) for n in allowed_tensor_sizes(model)]
    assert each == sorted(each, reverse=True)


@pytest.mark.parametrize(
    ("model", "split", "message"),
    [
        (DENSE, Parallelism(pipeline=4), r"pipeline=4 stages for 3 layers of Dense; allowed are 1 to 3"),
        (DENSE, Parallelism(2, expert=2), r"expert=2 groups of devices for Dense, which has none; allowed are 1 to 1"),
        (MIXTURE, Parallelism(expert=17, data=17), r"expert=17 .* 16 experts of .*; allowed are 1 to 16"),
        (DENSE, Parallelism(data=2), r"data=2 ranks of Dense share no experts; allowed is 1"),
        (
            MIXTURE,
            Parallelism(data=3),
            r"tensor=1 beside expert=1, data=3 cuts 512 expert width of .* unevenly; allowed are none",
        ),
    ],
)
def test_what_cannot_be_split_is_refused_with_what_can(model: Transformer, split: Parallelism, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IterationModel(model, CHIP, parallelism=split)


def test_experts_must_divide_the_devices_that_hold_them() -> None:
    with pytest.raises(ValueError, match=r"expert=3 does not divide tensor \* data = 4 devices; allowed are 1, 2, 4"):
        Parallelism(2, expert=3, data=2)
