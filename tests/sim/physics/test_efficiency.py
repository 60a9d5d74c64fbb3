"""Generic constants: what of a chip moves them, and public rates of large products, of which none was fitted."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware_profiles import available, load
from sim.physics.band import band
from sim.physics.efficiency import DECODE_RATES, HELD_BACK, RATES, REACH, SLOW_START, STACKS, generic
from sim.physics.iteration import IterationModel
from sim.physics.operators import gemm_work
from sim.physics.precision import PRECISIONS, sixteen_bit_unit
from sim.physics.roofline import roofline_seconds
from sim.physics.totals import prompt
from workloads.models import load as load_model

CHIP = load("a10")
"""A chip whose reach nobody measured."""

SQUARE_TFLOPS = {
    "a100-pcie-40": 215.26,
    "a40": 110.64,
    "ascend-910b2": 301.23,
    "h100-pcie": 492.84,
    "h100-sxm": 797.51,
    "h20-96": 138.60,
    "l20": 114.14,
    "l4": 59.40,
    "v100-sxm2-32": 97.36,
}
"""16-bit products of 8,192 x 8,192 under PyTorch (github.com/zzc0721/torch-performance-test-data, issues 108, 185, 109,
95, 79, 77, 107, 120, 140)."""


@pytest.mark.parametrize("stack", [None, *STACKS])
def test_a_measured_reach_moves_the_arithmetic_of_large_products_and_nothing_else(stack):
    unknown, usual, less = (generic(replace(CHIP, matrix_reach=reach), stack) for reach in (None, REACH, REACH / 2))
    assert usual == unknown
    for field in fields(less):
        before, after = getattr(usual, field.name), getattr(less, field.name)
        assert after == (replace(before, compute=before.compute / 2) if field.name in HELD_BACK else before)


@given(reaches=st.tuples(st.floats(0.1, 1.0), st.floats(0.1, 1.0)), tokens=st.integers(1, 20_000))
def test_who_reaches_more_is_never_slower(reaches, tokens):
    totals = prompt(tokens)
    low, high = (
        float(IterationModel(load_model("llama-3.1-8b"), CHIP, efficiency=generic(chip)).seconds(totals))
        for chip in (replace(CHIP, matrix_reach=reach) for reach in sorted(reaches))
    )
    assert high <= low


@pytest.mark.parametrize(("name", "tflops"), SQUARE_TFLOPS.items())
def test_large_products_take_as_long_as_somebody_measured(name, tflops):
    chip, side = load(name), 8192.0
    flops, moved_bytes = gemm_work(np.array(side), side, side, PRECISIONS["w16a16"])
    peak = chip.peak(sixteen_bit_unit(chip))
    seconds = roofline_seconds(flops, moved_bytes, generic(chip).gemm, peak, chip.memory.bandwidth_bytes_per_second)
    assert flops / float(seconds) / 1e12 == pytest.approx(tflops, rel=0.16)


@pytest.mark.parametrize("name", [name for name in available() if load(name).matrix_reach is not None])
def test_the_band_of_a_chip_holds_its_own_point(name):
    chip = load(name)
    model = IterationModel(load_model("llama-3.1-8b"), chip, efficiency=generic(chip))
    totals = prompt(8000)
    found = band(model, totals, 100, np.random.default_rng(1))
    assert found.low < model.seconds(totals) < found.high


@pytest.mark.parametrize("stack", [None, *STACKS])
def test_kernels_start_more_slowly_on_old_architectures_and_do_all_else_alike(stack):
    old, new = (generic(replace(CHIP, architecture=name), stack) for name in ("Ampere", "Hopper"))
    slow = {name for name in RATES if getattr(old, name).launch_seconds > getattr(new, name).launch_seconds}
    assert slow == {*DECODE_RATES, "experts", *(("gemm",) if stack != "pytorch" else ())}
    assert old.nccl.launch_seconds > new.nccl.launch_seconds
    for name in slow:
        before, after = getattr(new, name), getattr(old, name)
        assert after.launch_seconds == pytest.approx(SLOW_START * before.launch_seconds)
        assert (after.compute, after.memory, after.sharpness) == (before.compute, before.memory, before.sharpness)
