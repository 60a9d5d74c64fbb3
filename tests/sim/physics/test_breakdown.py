"""The parts of an iteration."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from physics_strategies import CHIP, DENSE, iteration_models, iterations

from sim.physics.breakdown import breakdown
from sim.physics.efficiency import datasheet, generic
from sim.physics.iteration import IterationModel
from sim.physics.parallelism import Parallelism
from sim.physics.precision import PRECISIONS
from sim.physics.totals import Totals


@given(iteration_models(), iterations())
def test_parts_add_up_to_the_iteration(model: IterationModel, totals: Totals) -> None:
    for one, flash in ((False, True), (True, True), (False, False)):
        whole = replace(model, one_attention_kernel=one, flash_attention=flash)
        total = math.fsum(part.seconds for part in breakdown(whole, totals))
        assert total == pytest.approx(float(whole.seconds(totals)), rel=1e-9)


@given(iteration_models(), iterations())
def test_no_part_beats_its_own_bounds(model: IterationModel, totals: Totals) -> None:
    for part in breakdown(model, totals) + breakdown(replace(model, flash_attention=False), totals):
        slowest = max(part.launch_seconds, part.compute_seconds, part.memory_seconds)
        assert part.seconds >= slowest * (1 - 1e-9)
        assert part.seconds <= (part.launch_seconds + part.compute_seconds + part.memory_seconds) * (1 + 1e-9) or (
            part.other
        )


def test_decoding_reads_and_long_prompts_compute() -> None:
    model = IterationModel(DENSE, CHIP, efficiency=datasheet())
    decode = {part.name: part for part in breakdown(model, Totals(1, 1, decode_sequences=1, decode_kv_tokens=1000))}
    prompt = {part.name: part for part in breakdown(model, Totals(8192, 1, 8192, 8192 * 8193 / 2))}
    assert decode["gate and up"].bound_by == decode["decode attention"].bound_by == "memory"
    assert prompt["gate and up"].bound_by == prompt["prefill attention"].bound_by == "compute"
    assert decode["gate and up"].intensity == pytest.approx(1.0, rel=0.01)  # 2 flops a weight of 2 bytes
    assert decode["host"].bound_by == "host"


def test_several_devices_show_what_the_links_cost() -> None:
    parts = breakdown(IterationModel(DENSE, CHIP, parallelism=Parallelism(2)), Totals(10, 1, 10, 55))
    assert {part.name for part in parts if part.bound_by == "link"} == {"all-reduce", "gather logits"}


def test_every_narrow_product_waits_for_a_kernel_that_quantises_its_input() -> None:
    totals = Totals(512, 1, 512, 512 * 513 / 2)
    wide, narrow = (
        {part.name: part for part in breakdown(IterationModel(DENSE, CHIP, PRECISIONS[name]), totals)}
        for name in ("w16a16", "fp8")
    )
    added = {name: part for name, part in narrow.items() if name not in wide}
    assert set(added) == {f"quantise for {name}" for name in ("QKV", "attention output", "gate and up", "down")}
    part, constants = added["quantise for down"], generic().quantise_8bit
    each_bytes = 512 * DENSE.intermediate * (2 + 1)  # reads 16 bits, writes 8
    assert (part.count, part.flops, part.moved_bytes) == (DENSE.layers, 0, DENSE.layers * each_bytes)
    seconds = constants.launch_seconds + 512 * constants.step_seconds
    seconds += each_bytes / (CHIP.memory.bandwidth_bytes_per_second * constants.memory)
    assert part.seconds == pytest.approx(DENSE.layers * seconds)


@pytest.mark.parametrize("name", ["w8a16", "w4a16"])
def test_narrow_weights_alone_have_no_such_kernel(name: str) -> None:
    parts = breakdown(IterationModel(DENSE, CHIP, PRECISIONS[name]), Totals(512, 1, 512, 512 * 513 / 2))
    assert not [part.name for part in parts if "quantise" in part.name]
