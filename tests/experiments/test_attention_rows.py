"""Rows of attention kernels: what the scoreboard makes of them, and the constants that calibration finds in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.calibrate import run
from experiments.scoreboard.attention import PART_TOKENS, Contexts, attention_grid, decode_seconds
from experiments.scoreboard.groups import Group, Skipped
from hardware_profiles import load as load_hardware
from sim.physics import calibration
from sim.physics.efficiency import Efficiency, generic
from sim.physics.iteration import IterationModel
from sim.physics.precision import PRECISIONS
from sim.physics.roofline import DecodeRate, PrefillRate, roofline_seconds
from workloads.models import load as load_model

GROUPED = DecodeRate(9e-6, 0.5, 0.8, "made up", block_seconds=35e-9, combine_seconds=4e-6)
UNGROUPED = DecodeRate(14e-6, 0.5, 0.7, "made up", block_seconds=12e-9, combine_seconds=6e-6)
NARROW = replace(GROUPED, block_seconds=20e-9)
TRUE = replace(
    generic(),
    decode_attention=GROUPED,
    decode_attention_ungrouped=UNGROUPED,
    decode_attention_8bit=NARROW,
    decode_attention_ungrouped_8bit=UNGROUPED,
)
COLUMNS = ("batch", "kv_len", "n_heads", "n_kv", "head_dim")


def rows(constants: Efficiency, hw: str, kv_dtype: str = "bfloat16") -> pd.DataFrame:
    """Decoding of equal contexts with those constants."""
    chip = load_hardware(hw)
    sizes = np.meshgrid([1, 4, 32, 256, 2048], [16, 128, 512, 4096, 32_768], [32], [4, 8, 32], [128])
    columns = dict(zip(COLUMNS, (column.ravel() for column in sizes), strict=True))
    of = Contexts(*columns.values(), number_bytes=1.0 if kv_dtype == "fp8" else 2.0, repeated=True)
    labels = {"hw": hw, "backend": "vllm-1.0", "phase": "decode", "kv_dtype": kv_dtype, "attn_dtype": "bfloat16"}
    return pd.DataFrame(labels | {"q_len": 1, "us": 1e6 * decode_seconds(constants, chip, of)} | columns)


@pytest.mark.parametrize("hw", ["h100-sxm", "rtx-pro-6000-server"])
def test_launches_bandwidth_and_least_times_of_both_kernels_are_found(tmp_path: Path, hw: str) -> None:
    pd.concat([rows(TRUE, hw), rows(TRUE, hw, "fp8")]).to_parquet(tmp_path / "attention_grid.parquet")
    out = tmp_path / "found.toml"
    assert run(hw, str(tmp_path), out=out) == 0
    for constants in calibration.read(out):
        for name in ("decode_attention", "decode_attention_ungrouped", "decode_attention_8bit"):
            found, true = getattr(constants, name), getattr(TRUE, name)
            for number in ("launch_seconds", "combine_seconds", "memory", "block_seconds"):
                assert getattr(found, number) == pytest.approx(getattr(true, number), rel=0.03), (name, number)


def test_rows_without_ungrouped_heads_say_nothing_about_them(tmp_path: Path) -> None:
    table = rows(TRUE, "h100-sxm").query("n_kv < n_heads")
    table.to_parquet(tmp_path / "attention_grid.parquet")
    assert run("h100-sxm", str(tmp_path), out=tmp_path / "found.toml") == 0
    constants = calibration.read(tmp_path / "found.toml")[0]
    assert constants.decode_attention.block_seconds == pytest.approx(GROUPED.block_seconds, rel=0.03)
    assert constants.decode_attention_ungrouped == generic(stack="vllm").decode_attention_ungrouped
    assert calibration.calibrated(tmp_path / "found.toml") == ("decode_attention",)


def test_the_wait_for_the_last_block_is_found(tmp_path: Path) -> None:
    rate = PrefillRate(8e-6, 0.6, 0.3, "made up", sharpness=2.0, tail_rows=6000.0)
    length, heads = (column.ravel() for column in np.meshgrid([16, 128, 512, 2048, 8192], [1, 4, 32]))
    chip, pairs = load_hardware("h100-sxm"), length * (length + 1) / 2
    flops = 4.0 * 128 * (heads * pairs + rate.tail_rows * np.sqrt(2 * pairs))
    moved_bytes = length * 128 * 2 * (2.0 * heads + 2 * heads)
    seconds = roofline_seconds(flops, moved_bytes, rate, chip.peak("bf16"), chip.memory.bandwidth_bytes_per_second)
    labels = {"hw": "h100-sxm", "backend": "vllm-1.0", "phase": "prefill", "kv_dtype": "bfloat16"}
    shape = {"q_len": length, "kv_len": length, "n_heads": heads, "n_kv": heads, "head_dim": 128, "batch": 1}
    table = pd.DataFrame(labels | shape | {"attn_dtype": "bfloat16", "us": 1e6 * seconds})
    pd.concat([table] * 2).to_parquet(tmp_path / "attention_grid.parquet")
    assert run("h100-sxm", str(tmp_path), out=tmp_path / "found.toml") == 0
    found = calibration.read(tmp_path / "found.toml")[0].prefill_attention
    for number in ("launch_seconds", "compute", "memory", "tail_rows"):
        assert getattr(found, number) == pytest.approx(getattr(rate, number), rel=0.05), number
    assert found.own_bytes_per_second == np.inf


@given(
    st.sampled_from(["h100-sxm", "rtx-pro-6000-server"]),
    st.integers(1, 4096),
    st.integers(PART_TOKENS + 1, 100_000),
    st.sampled_from([(32, 32), (32, 8), (64, 1)]),
    st.sampled_from([1.0, 2.0]),
)
def test_a_simulation_prices_long_contexts_like_the_scoreboard(
    hw: str, batch: int, length: int, heads: tuple[int, int], number_bytes: float
) -> None:
    chip, (query, kv) = load_hardware(hw), heads
    shape = replace(load_model("llama-2-7b"), layers=1, query_heads=query, kv_heads=kv, head=128)
    precision = replace(PRECISIONS["w16a16"], kv_bytes=number_bytes)
    simulated = IterationModel(shape, chip, precision, efficiency=TRUE).attention.decode_seconds(batch * length, batch)
    numbers: list[Any] = [np.array([float(number)]) for number in (batch, length, query, kv, 128)]
    assert decode_seconds(TRUE, chip, Contexts(*numbers, number_bytes)) == pytest.approx(float(simulated))


def test_only_a_call_that_comes_again_finds_its_keys_in_the_cache() -> None:
    chip = load_hardware("rtx-pro-6000-server")
    assert chip.memory.cache_bytes is not None
    length = chip.memory.cache_bytes // (2 * 2 * 8 * 128)  # as many keys as fit
    lengths = np.array([length, length + 1.0])
    ones = [np.full(2, number) for number in (1.0, 32.0, 8.0, 128.0)]
    of = Contexts(ones[0], lengths, *ones[1:], 2.0, repeated=True)
    launch = GROUPED.launch_seconds + GROUPED.combine_seconds
    fits, does_not = decode_seconds(TRUE, chip, of) - launch
    assert does_not == pytest.approx(2 * fits, rel=1e-4)
    assert (decode_seconds(TRUE, chip, of._replace(repeated=False)) - launch)[0] == pytest.approx(does_not, rel=1e-4)


def test_rows_that_no_memory_can_serve_are_reported_and_not_scored() -> None:
    table = rows(TRUE, "A100-SXM-80G")
    table.loc[table["kv_len"] == 32_768, "us"] /= 2  # at 1.6 times the datasheet's bandwidth
    skipped, group = attention_grid(table)
    assert isinstance(skipped, Skipped)
    assert isinstance(group, Group)
    assert "faster than memory" in skipped.reason
    lost = table[(table["kv_len"] == 32_768) & (table["batch"] * table["n_kv"] > 8)]
    assert 0 < skipped.rows <= len(lost)
    assert skipped.rows + len(group.measured_seconds) == len(table)
    assert [type(each) for each in attention_grid(rows(TRUE, "A100-SXM-80G"))] == [Group]
