"""What adding up over devices costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from physics_strategies import CHIP, CHIPS

from hardware_profiles import load
from hardware_profiles.profile import HardwareProfile, Link
from sim.physics import calibration
from sim.physics.collectives import (
    LAST_COPY,
    SIMPLE_PROTOCOL,
    all_gather_seconds,
    all_reduce_seconds,
    link_bytes_per_second,
    nccl_all_reduce_seconds,
)
from sim.physics.efficiency import datasheet, generic


@given(st.sampled_from(CHIPS), st.integers(2, 16), st.integers(1, 10**9))
def test_more_bytes_take_longer_and_none_take_no_time(chip: HardwareProfile, devices: int, size: int) -> None:
    sizes = np.array([0.0, size, 2.0 * size])
    for constants in (generic(), datasheet()):
        for seconds in (
            all_reduce_seconds(sizes, devices, chip, constants),
            all_gather_seconds(sizes, devices, chip, constants),
            nccl_all_reduce_seconds(sizes, devices, chip, constants),
        ):
            assert seconds[0] == 0
            assert 0 < seconds[1] < seconds[2]


@given(st.sampled_from(CHIPS), st.integers(2, 8), st.floats(1, 1e10))
def test_no_all_reduce_beats_the_wires(chip: HardwareProfile, devices: int, size: float) -> None:
    rate = chip.scale_up.bytes_per_second if chip.scale_up else chip.host_link.bytes_per_second
    least = 2 * (devices - 1) / devices * size / rate  # every byte leaves a device once and comes back summed
    for constants in (generic(), datasheet()):
        assert all_reduce_seconds(np.array(size), devices, chip, constants) >= least * (1 - 1e-12)
        assert nccl_all_reduce_seconds(np.array(size), devices, chip, constants) >= least * (1 - 1e-12)


def test_small_messages_go_in_one_shot_larger_ones_in_two_and_the_largest_around_the_ring() -> None:
    constants = generic(stack="vllm")
    links, sizes = constants.links, np.array([1024.0, 2e6, 256e6])
    small, middle, large = all_reduce_seconds(sizes, 8, CHIP, constants)
    latency, rate = links.one_shot_seconds + 7 * links.peer_seconds, links.one_shot * 300e9
    assert small == pytest.approx(latency + 7 * 1024 / rate)
    assert middle == pytest.approx(1.8 * latency + 14 / 8 * 2e6 / rate)
    assert large == nccl_all_reduce_seconds(sizes, 8, CHIP, constants)[2]


def test_a_library_without_two_shots_leaves_large_messages_to_nccl() -> None:
    constants = generic(stack="trtllm")
    sizes = np.array([1024.0, 2e6])
    small, large = all_reduce_seconds(sizes, 8, CHIP, constants)
    by_nccl = nccl_all_reduce_seconds(sizes, 8, CHIP, constants)
    assert small < by_nccl[0] / 2
    assert large == by_nccl[1]


@pytest.mark.parametrize("stack", [None, "vllm", "trtllm"])
def test_a_slower_hop_delays_one_shot_by_four_of_them(stack: str | None) -> None:
    assert CHIP.scale_up is not None
    by_hop = []
    for hop in (0.4e-6, 0.9e-6):
        chip = replace(CHIP, scale_up=replace(CHIP.scale_up, latency_seconds=hop))
        by_hop.append(all_reduce_seconds(np.array(1024.0), 8, chip, generic(chip, stack)))
    assert by_hop[1] - by_hop[0] == pytest.approx(4 * 0.5e-6)  # a flag, there and back, a flag


def test_every_step_of_a_ring_takes_a_hop() -> None:
    chips = [replace(CHIP, scale_up=replace(CHIP.scale_up, latency_seconds=hop)) for hop in (0.4e-6, 0.9e-6)]
    for devices in (2, 8):
        fast, slow = (nccl_all_reduce_seconds(np.array(512.0), devices, chip, generic(chip)) for chip in chips)
        assert slow - fast == pytest.approx((4 + 2 * (devices - 1)) * 0.5e-6)


def test_a_switch_that_adds_up_helps_large_messages_of_many_devices() -> None:
    constants, sizes = generic(), np.array([1024.0, 1e9])
    adding = replace(CHIP, scale_up=replace(CHIP.scale_up, reduces=True))
    for devices in (2, 8):
        small, large = nccl_all_reduce_seconds(sizes, devices, adding, constants)
        least = (1 + 1 / devices) * 1e9 / 300e9  # a device sends its message, and the sum of a part to all
        assert large >= least
        ring_small, ring_large = nccl_all_reduce_seconds(sizes, devices, CHIP, constants)
        assert small == ring_small
        if devices == 2:
            assert large == ring_large
        else:
            assert large == pytest.approx(least / constants.nccl.switched, rel=0.02)
            assert large < 0.8 * ring_large


def test_two_devices_lose_more_to_the_last_copy_than_eight() -> None:
    constants = generic()
    rates = {}
    for devices in (2, 8):
        ring_bytes = 2 * (devices - 1) / devices * 1e10
        rates[devices] = ring_bytes / nccl_all_reduce_seconds(np.array(1e10), devices, CHIP, constants)
    assert rates[8] == pytest.approx(constants.nccl.simple * 300e9 * 14 / 14.5, rel=0.01)
    assert rates[2] == pytest.approx(constants.nccl.simple * 300e9 * 2 / 2.5, rel=0.01)


def test_a_mesh_uses_only_the_wires_to_the_peers_of_the_group() -> None:
    mesh = replace(CHIP, scale_up=Link("mesh", "mesh", 280e9, 40e9))
    pair = replace(CHIP, scale_up=Link("pair", "direct", 40e9, 40e9))
    size, constants = np.array(1e8), generic()
    assert all_reduce_seconds(size, 2, mesh, constants) == all_reduce_seconds(size, 2, pair, constants)
    assert all_reduce_seconds(size, 8, mesh, constants) < all_reduce_seconds(size, 8, pair, constants) / 5


def test_pcie_takes_its_own_latency_and_rate() -> None:
    alone = replace(CHIP, scale_up=None)
    seconds = all_reduce_seconds(np.array(16e6), 4, alone, generic())
    assert seconds == pytest.approx(20e-6 + 1.5e-3)


@given(st.sampled_from(CHIPS), st.integers(2, 8), st.floats(1, 1e10))
def test_scattering_sums_and_collecting_them_is_a_ring_with_one_more_launch(
    chip: HardwareProfile, devices: int, size: float
) -> None:
    constants = generic(chip)
    once = nccl_all_reduce_seconds(np.array(size), devices, chip, constants)
    twice = 2 * all_gather_seconds(np.array(size), devices, chip, constants)
    launches = constants.nccl.launch_seconds + constants.links.pcie_seconds
    rate = link_bytes_per_second(chip.scale_up, devices) if chip.scale_up else np.inf
    copy = LAST_COPY * size / devices / (constants.nccl.simple * rate)
    assert once <= twice * (1 + 1e-12)
    assert twice <= once + SIMPLE_PROTOCOL * launches + copy + 1e-12


def test_pytorch_of_2023_left_all_sums_to_nccl() -> None:
    constants, sizes = generic(CHIP, "pytorch"), np.array([0.0, 1024.0, 1e6, 1e9])
    for devices in (2, 8):
        seconds = all_reduce_seconds(sizes, devices, CHIP, constants)
        assert np.array_equal(seconds, nccl_all_reduce_seconds(sizes, devices, CHIP, constants))
        assert np.isfinite(seconds).all()
    shipped = calibration.load("calibrated", "a100-sxm-80", "pytorch")
    measured = load("a100-sxm-80")
    seconds = all_reduce_seconds(sizes, 8, measured, shipped)
    assert np.array_equal(seconds, nccl_all_reduce_seconds(sizes, 8, measured, shipped))


def test_gathering_over_pcie_takes_half_the_steps_of_adding_up() -> None:
    alone, base = replace(CHIP, scale_up=None), generic()
    constants = replace(base, links=replace(base.links, pcie_step_seconds=2e-6))
    summed, gathered = (f(np.array(64.0), 8, alone, constants) for f in (all_reduce_seconds, all_gather_seconds))
    assert summed - gathered == pytest.approx(7 * 2e-6, rel=1e-3)


def test_the_kernels_of_vllm_add_up_over_eight_devices_and_no_more() -> None:
    rack, size = replace(CHIP, devices_per_domain=72), np.array(1024.0)
    for stack, most in (("vllm", 8), ("trtllm", 72)):
        constants = generic(rack, stack)
        for devices in (2, 8, 16):
            by_nccl = nccl_all_reduce_seconds(size, devices, rack, constants)
            assert (all_reduce_seconds(size, devices, rack, constants) < by_nccl) == (devices <= most)


def test_what_a_calibration_lacks_waits_for_the_link_of_its_chip(tmp_path: Path) -> None:
    fast = generic(load("h100-sxm"))
    for hardware, expected in (("h100-sxm", fast), ("somebody's", generic())):
        path = tmp_path / f"{hardware}.toml"
        path.write_text(f'hardware = "{hardware}"\n[host]\nseconds = 1e-4\nfolds = [{"{}," * 5}]\n')
        found = calibration.read(path)[0]
        assert (found.links, found.nccl) == (expected.links, expected.nccl)
    assert fast.links.one_shot_seconds < generic().links.one_shot_seconds
