"""Laws that the time of an iteration obeys on every model, chip, precision and split."""

from __future__ import annotations

import time
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from physics_strategies import CHIP, DENSE, LATENT, MIXTURE, MODELS, efficiencies, iteration_models, iterations

from hardware_profiles import load as load_hardware
from hardware_profiles.profile import HardwareProfile, Link
from sim.physics.collectives import all_reduce_seconds
from sim.physics.efficiency import DECODE_RATES, PREFILL_RATES, Efficiency, datasheet, generic
from sim.physics.iteration import IterationModel
from sim.physics.matrices import matrices
from sim.physics.memory import weight_bytes_per_device
from sim.physics.operators import STREAM_BYTES, layer_operators
from sim.physics.parallelism import Parallelism, allowed_tensor_sizes
from sim.physics.placement import ON_DEVICE
from sim.physics.precision import PRECISIONS, Precision, compute_unit, sixteen_bit_unit
from sim.physics.precision import load as load_precision
from sim.physics.roofline import DecodeRate, Operator, PrefillRate, Rate
from sim.physics.routing import experts_hit
from sim.physics.totals import Totals, seen_pairs
from workloads.models import load as load_model
from workloads.models.transformer import Transformer

NAMES = [field.name for field in fields(Totals)]


@given(iteration_models(), iterations())
def test_never_faster_than_the_flops_allow(model: IterationModel, totals: Totals) -> None:
    shape, devices = model.model, model.parallelism.tensor
    tables = shape.embedding_parameters + shape.head_parameters
    small = shape.layers * 30 * shape.hidden + 10_000  # norms and the router, which every device has
    weights = shape.active_parameters - tables - small
    pair_flops = 4.0 * shape.query_heads * (shape.latent.value_head if shape.latent else shape.head)
    flops = 2.0 * weights * totals.tokens + 2.0 * shape.embedding_parameters * totals.samples
    whole = shape.layers - shape.window_layers
    flops += whole * pair_flops * (totals.prefill_pairs + totals.decode_kv_tokens)
    flops += shape.window_layers * pair_flops * (totals.window_pairs + totals.window_decode_kv_tokens)
    units = compute_unit(model.precision, model.hardware), sixteen_bit_unit(model.hardware)
    fastest = max(model.hardware.peak(unit) for unit in units)
    assert model.seconds(totals) >= flops / devices / fastest


@given(iteration_models(), iterations().filter(lambda totals: totals.tokens > 0))
def test_never_faster_than_the_bytes_allow(model: IterationModel, totals: Totals) -> None:
    read_bytes = sum(
        matrix.parameters * model.precision.weight_bytes for matrix in matrices(model.model, model.parallelism)
    )
    read_bytes += model.model.embedding_parameters / model.parallelism.tensor * STREAM_BYTES
    if mixture := model.model.mixture:
        split = model.parallelism
        expert_bytes = model.model.expert_parameters * model.precision.weight_bytes / split.expert_devices
        everybody = split.data * totals.tokens
        hit = experts_hit(mixture.experts, mixture.experts_per_token, everybody, model.routing_skew)
        read_bytes += model.model.mixture_layers * hit * expert_bytes
    if not model.model.latent:
        shape = model.model
        keys = (shape.layers - shape.window_layers) * totals.decode_kv_tokens
        keys += shape.window_layers * totals.window_decode_kv_tokens
        read_bytes += keys * shape.kv_elements_per_layer * model.precision.kv_bytes / model.parallelism.tensor
    assert model.seconds(totals) >= read_bytes / model.hardware.memory.bandwidth_bytes_per_second


@given(iteration_models(), iterations(), st.sampled_from(NAMES), st.integers(1, 10_000))
def test_monotone_in_every_total(model: IterationModel, totals: Totals, name: str, more: int) -> None:
    larger = replace(totals, **{name: getattr(totals, name) + more})
    assert model.seconds(larger) >= model.seconds(totals)


@given(iteration_models(), iterations())
def test_a_larger_cache_never_takes_longer(model: IterationModel, totals: Totals) -> None:
    times = []
    for cache_bytes in (None, 4e6, 40e6, 400e6):
        memory = replace(model.hardware.memory, cache_bytes=cache_bytes)
        times.append(float(replace(model, hardware=replace(model.hardware, memory=memory)).seconds(totals)))
    assert times == sorted(times, reverse=True)


def twice_the_chip(chip: HardwareProfile) -> HardwareProfile:
    def twice(link: Link | None) -> Link | None:
        return link and replace(
            link, bytes_per_second=2 * link.bytes_per_second, peer_bytes_per_second=2 * link.peer_bytes_per_second
        )

    memory = replace(chip.memory, bandwidth_bytes_per_second=2 * chip.memory.bandwidth_bytes_per_second)
    peaks = {unit: 2 * peak for unit, peak in chip.peak_flops_per_second.items()}
    up, host, out = twice(chip.scale_up), twice(chip.host_link), twice(chip.scale_out)
    assert host
    return replace(chip, memory=memory, peak_flops_per_second=peaks, scale_up=up, host_link=host, scale_out=out)


def half_the_launches(constants: Efficiency) -> Efficiency:
    rates = {
        field.name: replace(rate, launch_seconds=rate.launch_seconds / 2, step_seconds=rate.step_seconds / 2)
        for field in fields(constants)
        if isinstance(rate := getattr(constants, field.name), Rate)
    }
    for name in PREFILL_RATES:
        rates[name] = replace(rates[name], own_bytes_per_second=2 * rates[name].own_bytes_per_second)
    for name in DECODE_RATES:
        block, combine = rates[name].block_seconds / 2, rates[name].combine_seconds / 2
        rates[name] = replace(rates[name], block_seconds=block, combine_seconds=combine)
    links = constants.links
    links = replace(
        links,
        one_shot_seconds=links.one_shot_seconds / 2,
        peer_seconds=links.peer_seconds / 2,
        pcie_seconds=links.pcie_seconds / 2,
        network_seconds=links.network_seconds / 2,
        pcie_bytes_per_second=links.pcie_bytes_per_second and 2 * links.pcie_bytes_per_second,
    )
    nccl = constants.nccl
    nccl = replace(nccl, launch_seconds=nccl.launch_seconds / 2, step_seconds=nccl.step_seconds / 2)
    return replace(constants, links=links, nccl=nccl, **rates)


@given(iteration_models(), iterations())
def test_twice_the_rates_and_half_the_fixed_times_is_half_the_time(model: IterationModel, totals: Totals) -> None:
    fast = replace(
        model,
        hardware=twice_the_chip(model.hardware),
        efficiency=half_the_launches(model.efficiency),
        host_seconds=model.host_seconds / 2,
        placement=replace(model.placement, nvme_bytes_per_second=2 * model.placement.nvme_bytes_per_second),
    )
    assert fast.seconds(totals) == model.seconds(totals) / 2


@given(iteration_models(), st.lists(iterations(), min_size=1, max_size=9))
def test_scalar_equals_array(model: IterationModel, rows: list[Totals]) -> None:
    columns = Totals(**{name: np.array([getattr(row, name) for row in rows]) for name in NAMES})
    assert model.seconds(columns).tolist() == [float(model.seconds(row)) for row in rows]


@given(iteration_models(), iterations())
def test_an_iteration_is_the_sum_of_its_parts(model: IterationModel, totals: Totals) -> None:
    parts = model.token_seconds(totals.tokens) + model.head_seconds(totals.samples)
    keys = totals.decode_kv_tokens, totals.decode_sequences, totals.window_decode_kv_tokens
    attention = model.attention.decode_seconds(*keys)
    in_window = totals.window_pairs, totals.window_kv_tokens
    attention = attention + model.attention.prefill_seconds(*totals.prompts, *in_window)
    whole = parts + attention + model.fixed_seconds
    if model.placement.is_off:
        assert model.seconds(totals) == whole
    assert model.seconds(totals) == pytest.approx(whole + model.waiting_seconds(totals), rel=1e-12)


def one_kernel(efficiency: Efficiency | None = None) -> IterationModel:
    return IterationModel(DENSE, CHIP, efficiency=efficiency or datasheet(), one_attention_kernel=True)


@given(efficiencies(), iterations())
def test_one_kernel_changes_only_mixed_iterations(efficiency: Efficiency, totals: Totals) -> None:
    one = one_kernel(efficiency)
    two = replace(one, one_attention_kernel=False)
    if totals.prefill_pairs and totals.decode_kv_tokens:
        assert one.attention_seconds(totals) > 0
    else:
        assert one.seconds(totals) == two.seconds(totals)


@given(efficiencies(), iterations(), st.sampled_from(NAMES[2:]), st.integers(1, 10_000))
def test_one_kernel_is_monotone_too(efficiency: Efficiency, totals: Totals, name: str, more: int) -> None:
    mixed = replace(totals, prefill_tokens=100.0, prefill_pairs=5050.0, decode_sequences=3.0, decode_kv_tokens=900.0)
    model = one_kernel(efficiency)
    larger = replace(mixed, **{name: getattr(mixed, name) + more})
    assert model.attention_seconds(larger) >= model.attention_seconds(mixed)


def test_a_decoding_row_pays_for_a_whole_query_tile_in_one_kernel() -> None:
    # 100 sequences on 10,000 keys each, beside a prompt of 64 tokens: 64 rows of arithmetic for each that is needed.
    totals = Totals(164, 101, 64, 64 * 65 / 2, 0, 100, 1e6)
    flops = DENSE.layers * 64 * 4 * DENSE.query_heads * DENSE.head * (1e6 + 64 * 65 / 2 / 64 + 32)
    assert one_kernel().attention_seconds(totals) == pytest.approx(flops / 300e12)


@given(iteration_models())
def test_nothing_to_do_takes_no_device_time(model: IterationModel) -> None:
    assert model.seconds(Totals(0, 0)) == model.host_seconds * model.parallelism.pipeline


@given(iteration_models(), st.integers(1, 10**7), st.integers(0, 2000), st.integers(0, 10**6))
def test_decode_attention_is_affine_in_the_context_but_for_its_blocks(
    model: IterationModel, kv_tokens: int, sequences: int, unseen: int
) -> None:
    attention, seen = model.attention, max(0, kv_tokens - unseen)
    slope, in_window = attention.decode_seconds_per_kv_token, attention.decode_seconds_per_window_token
    expected = attention.decode_launch_seconds + max(
        slope * kv_tokens, attention.decode_seconds_per_sequence * sequences
    )
    expected += max(in_window * seen, attention.decode_seconds_per_window_sequence * sequences)
    assert attention.decode_seconds(kv_tokens, sequences, seen) == expected
    assert slope + in_window > 0
    assert (in_window > 0) == (model.model.window is not None)


def test_the_last_block_of_a_prompt_keeps_processors_waiting_as_long_as_its_heads_are_few() -> None:
    rate = PrefillRate(1e-6, 0.5, 1.0, "made up", tail_rows=4000.0)
    constants = replace(datasheet(), prefill_attention=rate)
    shape = replace(DENSE, layers=1, query_heads=32, kv_heads=8, head=128)
    pairs, head_seconds = 2048 * 2049 / 2, 4 * 128 / (0.5 * CHIP.peak(sixteen_bit_unit(CHIP)))
    for heads, split in ((32, Parallelism()), (8, Parallelism(4))):
        attention = IterationModel(shape, CHIP, parallelism=split, efficiency=constants).attention
        expected = 1e-6 + head_seconds * (heads * pairs + 4000 * 2048)
        assert attention.prefill_seconds(pairs, 0, 2048) == pytest.approx(expected, rel=1e-3)
    windowed = replace(shape, layers=2, window=512, window_layers=1)
    attention = IterationModel(windowed, CHIP, efficiency=constants).attention
    seen = float(seen_pairs(2048, 0, 512))
    expected = 2e-6 + head_seconds * (32 * (pairs + seen) + 4000 * (2048 + 512))
    assert attention.prefill_seconds(pairs, 0, 2048, seen, 0) == pytest.approx(expected, rel=1e-3)


def test_own_bytes_of_prompts_move_no_faster_than_processors_handle_them() -> None:
    slow = PrefillRate(0.0, 1.0, 1.0, "made up", own_bytes_per_second=1e9)
    constants = replace(datasheet(), prefill_attention=slow)
    shape = replace(DENSE, layers=1, query_heads=32, kv_heads=8, head=128)
    seconds = IterationModel(shape, CHIP, efficiency=constants).attention.prefill_seconds(2048 * 2049 / 2, 0, 2048)
    assert seconds == pytest.approx(2048 * 2 * 2 * (32 + 8) * 128 / 1e9)


def test_short_contexts_take_as_long_as_their_blocks_and_long_ones_as_their_keys() -> None:
    rate = DecodeRate(1e-6, 1.0, 0.5, "made up", block_seconds=30e-9, combine_seconds=2e-6)
    other = replace(rate, block_seconds=10e-9)
    constants = replace(datasheet(), decode_attention=rate, decode_attention_ungrouped=other)
    shape = replace(DENSE, layers=1, query_heads=32, kv_heads=8, head=128)
    attention = IterationModel(shape, CHIP, efficiency=constants).attention
    key_seconds = 2 * 2 * 8 * 128 / (0.5 * CHIP.memory.bandwidth_bytes_per_second)
    assert attention.decode_seconds(64, 64) == pytest.approx(3e-6 + 64 * 8 * 30e-9)
    assert attention.decode_seconds(64_000, 64) == pytest.approx(3e-6 + 64_000 * key_seconds)
    alone = IterationModel(replace(shape, kv_heads=32), CHIP, efficiency=constants).attention
    assert alone.decode_seconds(64, 64) == pytest.approx(3e-6 + 64 * 32 * 10e-9)
    split = IterationModel(shape, CHIP, parallelism=Parallelism(4), efficiency=constants).attention
    assert split.decode_seconds(64, 64) == pytest.approx(3e-6 + 64 * 2 * 30e-9)  # a quarter of the heads


@given(iteration_models(Parallelism()), iterations())
def test_one_device_has_no_communication(model: IterationModel, totals: Totals) -> None:
    slow = Link("slow", "switch", 1.0, 1.0)
    model = replace(model, placement=ON_DEVICE)
    alone = replace(model, hardware=replace(model.hardware, scale_up=slow, host_link=slow, scale_out=slow))
    assert alone.seconds(totals) == model.seconds(totals)
    assert alone.flags == ()


@given(st.sampled_from(MODELS), efficiencies(), iterations().filter(lambda totals: totals.tokens > 0))
def test_several_devices_communicate(shape: Transformer, efficiency: Efficiency, totals: Totals) -> None:
    model = IterationModel(shape, CHIP, parallelism=Parallelism(4), efficiency=efficiency)
    slow = replace(CHIP, scale_up=Link("slow", "switch", 1e9, 1e9))
    assert replace(model, hardware=slow).seconds(totals) > model.seconds(totals)


@pytest.mark.parametrize("shape", MODELS, ids=lambda shape: shape.name)
def test_every_active_weight_costs_two_flops_a_token(shape: Transformer) -> None:
    operators = layer_operators(shape, PRECISIONS["w16a16"], Parallelism(), np.array(10.0))
    weights = shape.active_parameters - shape.embedding_parameters - shape.head_parameters
    flops = sum(float(item.count * item.flops) for item in operators)
    assert flops == pytest.approx(2.0 * 10.0 * weights, rel=1e-3)  # norms are not matrices


@pytest.mark.parametrize("shape", [DENSE, MIXTURE], ids=lambda shape: shape.name)
@pytest.mark.parametrize("tensor", [2, 4])
def test_shards_sum_to_the_whole(shape: Transformer, tensor: int) -> None:
    # The router is on every device, so that the sum has it `tensor` times.
    def work(split: Parallelism) -> tuple[float, float]:
        operators = layer_operators(shape, PRECISIONS["w16a16"], split, np.array(100.0))
        cut = [item for item in operators if item.kind in ("gemm", "experts") and item.name != "router"]
        weights = sum(item.parameters for item in matrices(shape, split) if item.name != "router")
        return sum(float(item.count * item.flops) for item in cut), weights

    whole, shard = work(Parallelism()), work(Parallelism(tensor))
    assert tuple(tensor * part for part in shard) == whole


@given(st.sampled_from(MODELS), st.sampled_from(tuple(PRECISIONS.values())))
def test_more_devices_never_read_more_weight_bytes_each(shape: Transformer, precision: Precision) -> None:
    sizes = allowed_tensor_sizes(shape)
    each = [weight_bytes_per_device(shape, precision, Parallelism(size)) for size in sizes]
    assert each == sorted(each, reverse=True)
    assert len(set(each)) > 1


def test_a_mixed_iteration_reads_the_weights_once() -> None:
    model = IterationModel(DENSE, CHIP, efficiency=datasheet(), host_seconds=0.0)
    prefill = Totals(16, 1, prefill_tokens=16, prefill_pairs=16 * 17 / 2)
    decode = Totals(8, 8, decode_sequences=8, decode_kv_tokens=8000)
    mixed = Totals(24, 9, 16, 16 * 17 / 2, 0, 8, 8000)
    weights = sum(matrix.parameters for matrix in matrices(DENSE, Parallelism())) * 2
    weights += DENSE.embedding_parameters * 2
    saved = model.seconds(prefill) + model.seconds(decode) - model.seconds(mixed)
    assert saved == pytest.approx(weights / CHIP.memory.bandwidth_bytes_per_second)


def test_the_unit_decides_what_a_narrow_product_costs() -> None:
    tokens = 8192.0
    times = {
        name: float(IterationModel(DENSE, CHIP, PRECISIONS[name], efficiency=datasheet()).token_seconds(tokens))
        for name in ("w16a16", "w8a16", "fp8")
    }
    assert times["fp8"] < 0.8 * times["w16a16"]
    assert times["w8a16"] > 0.97 * times["w16a16"]  # the same unit, and far from bound by the weights


@given(st.sampled_from((generic(), datasheet())), st.sampled_from(("fp8", "w8a8", "w4a8")), st.integers(4096, 65536))
def test_quantising_activations_pays_in_large_batches(constants: Efficiency, name: str, tokens: int) -> None:
    shape = load_model("llama-2-13b")
    wide, narrow = (
        IterationModel(shape, CHIP, PRECISIONS[each], efficiency=constants).token_seconds(tokens)
        for each in ("w16a16", name)
    )
    assert narrow < wide


def test_sixteen_bit_weights_use_whichever_unit_the_chip_has() -> None:
    volta = replace(CHIP, peak_flops_per_second={"fp16": 125e12})
    assert compute_unit(PRECISIONS["w16a16"], volta) == "fp16"
    assert compute_unit(PRECISIONS["w16a16"], CHIP) == "bf16"
    faster = replace(CHIP, peak_flops_per_second={"bf16": 100e12, "fp16": 200e12})
    assert compute_unit(PRECISIONS["w16a16"], faster) == "fp16"


def test_a_chip_without_the_unit_is_refused_with_what_it_can_do() -> None:
    ampere = replace(CHIP, peak_flops_per_second={"fp16": 312e12, "int8": 624e12})
    allowed = "w16a16, w8a8, w8a16, w4a16, w4a8; engines run such weights as w8a16 there"
    with pytest.raises(ValueError, match=rf"'fp8' computes in fp8, which Chip lacks .* {allowed}"):
        IterationModel(DENSE, ampere, PRECISIONS["fp8"])


def test_every_token_count_of_a_large_batch_is_priced_at_once() -> None:
    model = IterationModel(LATENT, CHIP, parallelism=Parallelism(4))
    elapsed = []
    for _ in range(5):
        start = time.process_time()
        seconds = model.token_seconds(np.arange(131_073))
        elapsed.append(time.process_time() - start)
    assert seconds[0] == 0
    assert np.all(np.diff(seconds) > 0)
    assert min(elapsed) < 0.2  # five times what it takes on an idle core


def test_devices_without_a_common_fast_link_are_flagged() -> None:
    model = IterationModel(DENSE, replace(CHIP, devices_per_domain=2), parallelism=Parallelism(2))
    assert model.flags == ()
    assert "unmeasured" in replace(model, parallelism=Parallelism(4)).flags[0]


@pytest.mark.parametrize(("parallel_block", "reductions"), [(False, 2), (True, 1)])
def test_a_layer_adds_up_behind_attention_and_behind_the_mlp(parallel_block: bool, reductions: int) -> None:
    shape = replace(DENSE, parallel_block=parallel_block)
    model = IterationModel(shape, CHIP, parallelism=Parallelism(2))
    message = np.array(100 * DENSE.hidden * 2.0)
    slow = replace(CHIP, scale_up=Link("slow", "switch", 1e6, 1e6))
    added = replace(model, hardware=slow).token_seconds(100) - model.token_seconds(100)
    constants = model.efficiency
    each = all_reduce_seconds(message, 2, slow, constants) - all_reduce_seconds(message, 2, CHIP, constants)
    assert added == pytest.approx(DENSE.layers * reductions * each)


def test_logits_of_all_shards_are_collected() -> None:
    model = IterationModel(DENSE, CHIP, parallelism=Parallelism(2))
    slow = replace(CHIP, scale_up=Link("slow", "switch", 1e6, 1e6))
    half_the_logits = 8 * DENSE.vocabulary / 2 * 2.0
    assert replace(model, hardware=slow).head_seconds(8) > half_the_logits / 1e6 > model.head_seconds(8)


def test_a_second_token_reads_the_experts_it_meets_first() -> None:
    model = IterationModel(MIXTURE, CHIP, efficiency=datasheet())
    one, two = model.token_seconds([1, 2])
    met = 16 * (1 - (14 / 16) ** 2) - 2  # of 16 experts, two a token
    met_bytes = MIXTURE.mixture_layers * met * MIXTURE.expert_parameters * 2.0
    assert two - one == pytest.approx(met_bytes / CHIP.memory.bandwidth_bytes_per_second, rel=0.05)


def test_a_long_prompt_is_bound_by_its_pairs() -> None:
    model = IterationModel(DENSE, CHIP, efficiency=datasheet())
    flops = DENSE.layers * 4 * DENSE.query_heads * DENSE.head * 10**9
    assert model.attention.prefill_seconds(10**9, 0, 10**5) == pytest.approx(flops / 300e12)


def test_cached_tokens_before_a_chunk_are_read() -> None:
    model = IterationModel(DENSE, CHIP, efficiency=datasheet())
    kv_seconds = 10_000 * DENSE.kv_bytes_per_token() / CHIP.memory.bandwidth_bytes_per_second
    assert model.attention.prefill_seconds(1, 10_000, 0) == pytest.approx(kv_seconds)
    assert model.attention.prefill_seconds(0, 10_000, 0) == 0


def test_latent_attention_can_be_bound_by_arithmetic() -> None:
    weak = replace(CHIP, peak_flops_per_second={"bf16": 1e12})
    strong, slow = IterationModel(LATENT, CHIP), IterationModel(LATENT, weak)
    assert slow.attention.decode_seconds_per_kv_token > strong.attention.decode_seconds_per_kv_token


@given(iteration_models(), iterations())
def test_writing_and_reading_scores_is_never_faster(model: IterationModel, totals: Totals) -> None:
    unfused = replace(model, flash_attention=False)
    assert unfused.seconds(totals) >= model.seconds(totals)


def test_scores_of_a_long_prompt_cost_more_than_its_attention() -> None:
    model = IterationModel(DENSE, CHIP, efficiency=datasheet())
    pairs = 8192 * 8193 / 2
    score_bytes = DENSE.layers * 2 * pairs * DENSE.query_heads * 8.0  # the whole square, written and read twice
    unfused = replace(model, flash_attention=False).attention.prefill_seconds(pairs, 0, 8192)
    assert unfused >= score_bytes / CHIP.memory.bandwidth_bytes_per_second
    assert unfused > 5 * model.attention.prefill_seconds(pairs, 0, 8192)


@given(st.integers(1, 64), st.floats(0, 2), st.integers(1, 500))
def test_skewed_routing_meets_fewer_experts(experts: int, skew: float, tokens: int) -> None:
    per_token = max(1, experts // 4)
    count = np.array([1.0, float(tokens)])
    uniform, skewed = (experts_hit(experts, per_token, count, each) for each in (0.0, skew))
    assert np.all(skewed <= uniform + 1e-9)
    assert skewed[0] == pytest.approx(per_token)  # one token meets as many as it is sent to
    assert np.all(skewed <= experts)


def test_narrower_formats_never_read_more() -> None:
    sizes = [PRECISIONS[name].weight_bytes for name in ("w16a16", "w8a16", "w4a4", "w4a16")]
    assert sizes == sorted(sizes, reverse=True)
    assert load_precision("w4a16").weight_bytes == pytest.approx(0.5 + 2.5 / 128)
    caches = [load_precision(f"w8a8-{name}").kv_bytes for name in ("kv16", "kv8", "kv4")]
    assert caches == [2.0, 1.0, 0.53125]
    with pytest.raises(ValueError, match=r"'fp8-kv3' is unknown; allowed are w16a16.*-kv16, -kv8, -kv4"):
        load_precision("fp8-kv3")


@given(iterations().filter(lambda totals: totals.decode_kv_tokens > 10_000))
def test_a_narrower_cache_is_read_faster(totals: Totals) -> None:
    times = [IterationModel(DENSE, CHIP, load_precision(f"w16a16{cache}")) for cache in ("", "-kv8", "-kv4")]
    sixteen, eight, four = (float(model.seconds(totals)) for model in times)
    assert sixteen > eight > four


@given(st.sampled_from(["fp8", "w8a8", "w4a16"]), st.integers(1, 8192), st.integers(1, 8))
def test_a_long_row_costs_time_that_an_idle_chip_does_not_save(name: str, tokens: int, longer: int) -> None:
    """Equally much work and traffic: the kernel that sums over more columns for fewer results is not faster."""
    model = IterationModel(DENSE, CHIP, PRECISIONS[name])
    rate = model.efficiency.gemm_narrow_weights if name == "w4a16" else model.efficiency.gemm_8bit
    step = rate.step_seconds
    assert step > 0, name
    short, long = (
        float(model.kernel_seconds(Operator("made up", "gemm", 1, 1e9 * tokens, 1e6 * tokens, steps=steps)))
        for steps in (4096.0, 4096.0 * longer)
    )
    assert short <= long <= short + 4096.0 * (longer - 1) * step * (1 + 1e-9)
    alone = Operator("made up", "gemm", 1, 0.0, 0.0, steps=4096.0)
    assert float(model.kernel_seconds(alone)) == pytest.approx(rate.launch_seconds + 4096.0 * step)


def test_kernels_of_older_instructions_gain_nothing_from_a_faster_unit() -> None:
    chips = [load_hardware(name) for name in ("h200-sxm", "b200-sxm")]
    peaks = [chip.peak("bf16") for chip in chips]
    reached = [
        peak * generic(chip, "vllm").experts_narrow_weights.compute for peak, chip in zip(peaks, chips, strict=True)
    ]
    assert peaks[1] > 2 * peaks[0]
    assert reached[1] == pytest.approx(reached[0])
