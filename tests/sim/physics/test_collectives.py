"""What adding up over devices costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from physics_strategies import CHIP, CHIPS

from hardware_profiles.profile import HardwareProfile, Link
from sim.physics.collectives import all_gather_seconds, all_reduce_seconds, nccl_all_reduce_seconds
from sim.physics.efficiency import datasheet, generic


@given(st.sampled_from(CHIPS), st.integers(2, 16), st.integers(1, 10**9))
def test_more_bytes_take_longer_and_none_take_no_time(chip: HardwareProfile, devices: int, size: int) -> None:
    sizes = np.array([0.0, size, 2.0 * size])
    for constants in (generic(), datasheet()):
        for seconds in (
            all_reduce_seconds(sizes, devices, chip, constants.links),
            all_gather_seconds(sizes, devices, chip, constants.links),
            nccl_all_reduce_seconds(sizes, devices, chip, constants),
        ):
            assert seconds[0] == 0
            assert 0 < seconds[1] < seconds[2]


@given(st.sampled_from(CHIPS), st.integers(2, 8), st.floats(1, 1e10))
def test_no_all_reduce_beats_the_wires(chip: HardwareProfile, devices: int, size: float) -> None:
    rate = chip.scale_up.bytes_per_second if chip.scale_up else chip.host_link.bytes_per_second
    least = 2 * (devices - 1) / devices * size / rate  # every byte leaves a device once and comes back summed
    for constants in (generic(), datasheet()):
        assert all_reduce_seconds(np.array(size), devices, chip, constants.links) >= least * (1 - 1e-12)
        assert nccl_all_reduce_seconds(np.array(size), devices, chip, constants) >= least * (1 - 1e-12)


def test_small_messages_go_in_one_shot_and_large_ones_around_the_ring() -> None:
    links = generic().links
    small, large = all_reduce_seconds(np.array([1024.0, 256e6]), 8, CHIP, links)
    assert small == pytest.approx(5e-6 + 7 * 1024 / (0.58 * 300e9))
    assert large == pytest.approx(11e-6 + 2 * 7 / 8 * 256e6 / (0.72 * 300e9))


def test_a_mesh_uses_only_the_wires_to_the_peers_of_the_group() -> None:
    mesh = replace(CHIP, scale_up=Link("mesh", "mesh", 280e9, 40e9))
    pair = replace(CHIP, scale_up=Link("pair", "direct", 40e9, 40e9))
    size, links = np.array(1e8), generic().links
    assert all_reduce_seconds(size, 2, mesh, links) == all_reduce_seconds(size, 2, pair, links)
    assert all_reduce_seconds(size, 8, mesh, links) < all_reduce_seconds(size, 8, pair, links) / 5


def test_pcie_takes_its_own_latency_and_rate() -> None:
    alone = replace(CHIP, scale_up=None)
    seconds = all_reduce_seconds(np.array(16e6), 4, alone, generic().links)
    assert seconds == pytest.approx(20e-6 + 1.5e-3)
