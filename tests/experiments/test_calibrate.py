"""Calibration finds the constants that measurements were made with, and what ships is what it writes."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import hardware_profiles
from experiments.calibrate import run
from experiments.scoreboard import aiconfigurator
from experiments.scoreboard.fit import fit
from experiments.scoreboard.groups import Group, Skipped
from experiments.scoreboard.score import READERS, errors_pct, held_out_seconds
from experiments.scoreboard.tables import COLUMNS, read
from hardware_profiles import load as load_hardware
from sim.physics import calibration
from sim.physics.calibration import FOLDS
from sim.physics.efficiency import STACKS, generic
from sim.physics.roofline import Rate, roofline_seconds

TRUE = Rate(6e-6, 0.7, 0.6, "made up", sharpness=2.0)


def measured(rate: Rate, noise: float = 0.0) -> pd.DataFrame:
    """Matrix products on an L40S with those constants."""
    chip = load_hardware("l40s")
    sizes = ([1, 8, 64, 256, 1024, 8192], [512, 2048, 8192], [1024, 4096, 16384])
    m, n, k = (column.ravel().astype(float) for column in np.meshgrid(*sizes))
    flops, moved_bytes = 2 * m * n * k, 2 * (n * k + m * (n + k))
    seconds = roofline_seconds(
        flops, moved_bytes, rate, chip.peak("bf16"), chip.memory.bandwidth_bytes_per_second
    ) * np.exp(noise * np.random.default_rng(1).standard_normal(len(m)))
    labels = {"hw": "L40S", "backend": "vllm-1.0", "dtype": "bfloat16", "kernel": "made up"}
    return pd.DataFrame(labels | {"m": m.astype(int), "n": n.astype(int), "k": k.astype(int), "us": 1e6 * seconds})


def test_the_constants_that_made_the_rows_are_found(tmp_path: Path) -> None:
    measured(TRUE).to_parquet(tmp_path / "gemm_grid.parquet")
    out = tmp_path / "l40s.toml"
    assert run("l40s", str(tmp_path), out=out) == 0
    whole, *parts = calibration.read(out)
    assert len(parts) == FOLDS
    for constants in (whole, *parts):
        found = constants.gemm
        assert found.launch_seconds == pytest.approx(TRUE.launch_seconds, rel=0.02)
        assert (found.compute, found.memory) == pytest.approx((TRUE.compute, TRUE.memory), rel=0.02)
        assert found.sharpness == pytest.approx(TRUE.sharpness, rel=0.1)
    assert whole.experts == calibration.load("generic", "l40s", "vllm").experts  # what was not measured stays generic
    assert whole.level.startswith("calibrated: gemm on NVIDIA L40S")


def profiled(rate: Rate) -> pd.DataFrame:
    """The same products on an A100, as Vidur's traces of PyTorch have them."""
    table = measured(rate)
    m, n, k = (table[name].to_numpy(dtype=float) for name in ("m", "n", "k"))
    chip = load_hardware("a100-sxm-80")
    flops, moved_bytes = 2 * m * n * k, 2 * (n * k + m * (n + k))
    us = 1e6 * roofline_seconds(flops, moved_bytes, rate, chip.peak("fp16"), chip.memory.bandwidth_bytes_per_second)
    labels = {"src": "vidur", "hw": "A100-SXM-80G", "model": "nobody", "tp": 1, "dtype": "fp16", "op": "up"}
    return table[["m", "n", "k"]].assign(**labels, tokens=table["m"], us=us)


def test_a_stack_has_its_own_kernels_and_borrows_those_it_was_not_measured_for(tmp_path: Path) -> None:
    profiled(TRUE).to_parquet(tmp_path / "layer_ops.parquet")
    out = tmp_path / "mine.toml"
    assert run("a100-sxm-80", str(tmp_path), out=out) == 0  # no other stack is in these tables
    kin = calibration.read(calibration.CALIBRATED / "a100-sxm-80-vllm.toml")
    for constants, others in zip(calibration.read(out), kin, strict=True):
        assert constants.gemm.compute == pytest.approx(TRUE.compute, rel=0.02)
        assert constants.gemm != others.gemm
        assert constants.decode_attention == others.decode_attention  # fold by fold
        assert constants.nccl == others.nccl
    assert calibration.calibrated(out) == ("gemm",)
    with pytest.raises(ValueError, match=r"nothing was measured on .* with the kernels of vllm"):
        run("a100-sxm-80", str(tmp_path), stack="vllm", out=tmp_path / "x.toml")
    out.write_text(out.read_text().replace("a100-sxm-80-vllm", "nobody"))
    with pytest.raises(ValueError, match=r"mine\.toml: rest 'nobody' is no shipped calibration; allowed are a100"):
        calibration.read(out)


def test_the_cache_between_kernels_is_found(tmp_path: Path) -> None:
    chip, true = load_hardware("rtx-4090"), Rate(2e-6, 1.0, 0.9, "made up", cached=2.5)
    tokens = np.unique(np.geomspace(1, 8192, 60).astype(int))
    moved_bytes = 2.0 * 3 * 14336 * tokens
    cache = chip.memory.cache_bytes
    assert cache is not None
    from_memory = moved_bytes - 0.6 * np.minimum(moved_bytes, cache / 2)  # what fits into half of it takes 1 / 2.5
    us = 1e6 * (true.launch_seconds + from_memory / (true.memory * chip.memory.bandwidth_bytes_per_second))
    labels = {"src": "llmservingsim-v1", "hw": "RTX4090", "model": "Llama-3.1-8B", "tp": 1, "dtype": "bf16"}
    table = pd.DataFrame(labels | {"op": "act_fn", "tokens": tokens, "m": tokens, "n": 0, "k": 0, "us": us})
    table.to_csv(tmp_path / "layer_ops.csv", index=False)
    assert run("rtx-4090", str(tmp_path), out=tmp_path / "mine.toml") == 0
    found = calibration.read(tmp_path / "mine.toml")[0].elementwise
    assert (found.launch_seconds, found.memory) == pytest.approx((true.launch_seconds, true.memory), rel=0.02)
    assert found.cached == pytest.approx(true.cached, rel=0.02)


def test_boards_that_halve_their_rate_reach_it_with_every_library() -> None:
    reached = {stack: generic(load_hardware("rtx-3090"), stack).gemm.compute for stack in (None, *STACKS)}
    assert set(reached.values()) == {reached[None]}
    assert generic(load_hardware("a100-sxm-80"), "pytorch").gemm.compute < reached[None]


def eight_bit(narrow: Rate, quantise: Rate, kernel: str) -> pd.DataFrame:
    """The same products in fp8, behind a kernel that quantises their input unless it comes narrow."""
    chip, rows = load_hardware("l40s"), measured(TRUE)
    m, n, k = (rows[name].to_numpy(dtype=float) for name in ("m", "n", "k"))
    bandwidth = chip.memory.bandwidth_bytes_per_second
    seconds = roofline_seconds(2 * m * n * k, n * k + m * (k + 2 * n), narrow, chip.peak("fp8"), bandwidth, k)
    if "smooth_quant" not in kernel:
        passed = 3 * m * k / (bandwidth * quantise.memory) + m * quantise.step_seconds
        seconds = seconds + quantise.launch_seconds + passed
    return rows.assign(dtype="fp8", kernel=kernel, us=1e6 * seconds)


def test_the_pass_that_quantises_is_fitted_with_the_products_behind_it(tmp_path: Path) -> None:
    # Its launch shows in the sum with that of the product alone.
    passed = replace(generic().quantise_8bit, memory=0.2, step_seconds=4e-9)
    narrow = replace(TRUE, step_seconds=2e-9)
    eight_bit(narrow, passed, "made up").to_parquet(tmp_path / "gemm_grid.parquet")
    assert run("l40s", str(tmp_path), out=tmp_path / "l40s.toml") == 0
    for constants in calibration.read(tmp_path / "l40s.toml"):
        assert constants.quantise_8bit.memory == pytest.approx(0.2, rel=0.03)
        assert constants.quantise_8bit.launch_seconds == passed.launch_seconds
        assert constants.quantise_8bit.step_seconds == pytest.approx(4e-9, rel=0.1)
        found = constants.gemm_8bit
        assert (found.compute, found.memory) == pytest.approx((TRUE.compute, TRUE.memory), rel=0.03)
        assert found.launch_seconds == pytest.approx(TRUE.launch_seconds, rel=0.03)
        assert found.step_seconds == pytest.approx(2e-9, rel=0.1)
    assert calibration.calibrated(tmp_path / "l40s.toml") == ("gemm_8bit", "quantise_8bit")


def test_products_whose_input_comes_narrow_say_nothing_about_the_pass(tmp_path: Path) -> None:
    eight_bit(TRUE, generic().quantise_8bit, "smooth_quant").to_parquet(tmp_path / "gemm_grid.parquet")
    assert run("l40s", str(tmp_path), out=tmp_path / "l40s.toml") == 0
    constants = calibration.read(tmp_path / "l40s.toml")[0]
    assert constants.gemm_8bit.memory == pytest.approx(TRUE.memory, rel=0.03)
    assert constants.quantise_8bit == generic(stack="vllm").quantise_8bit
    assert calibration.calibrated(tmp_path / "l40s.toml") == ("gemm_8bit",)


def test_products_that_waited_for_the_host_are_not_scored_and_eager_ones_not_fitted(tmp_path: Path) -> None:
    graphs, block = (
        eight_bit(TRUE, generic().quantise_8bit, "made up").assign(dtype=name) for name in ("fp8", "fp8_block")
    )
    host = 60 * np.random.default_rng(1).uniform(1, 2.9, len(block))
    eager = block.assign(us=np.maximum(block["us"], host))
    pd.concat([graphs, eager]).to_parquet(tmp_path / "gemm_grid.parquet")
    assert run("l40s", str(tmp_path), out=tmp_path / "l40s.toml") == 0
    assert calibration.calibrated(tmp_path / "l40s.toml") == ("gemm_8bit", "quantise_8bit")
    found = READERS["gemm_grid"](read(tmp_path)["gemm_grid"])
    short = int((eager["us"] < 3 * eager["us"].min()).sum())
    assert [each.rows for each in found if isinstance(each, Skipped)] == [short]
    scored = next(each for each in found if isinstance(each, Group) and "fp8_block" in each.model)
    longer = block["us"][block["us"] >= 3 * eager["us"].min()].to_numpy()
    assert 1e6 * scored.measured_seconds == pytest.approx(longer)  # as long as the device took


def test_weights_that_a_cache_kept_do_not_pass_for_the_memory(tmp_path: Path) -> None:
    true, chip = replace(TRUE, memory=0.9), load_hardware("l40s")
    plain = measured(true)
    weights = 2.0 * plain.n * plain.k
    small = (6 * weights <= 96 * 2**20) & (weights / 864e9 > 2 * plain.m * plain.n * plain.k / chip.peak("bf16"))
    assert small.any()
    assert chip.memory.cache_bytes == 96 * 2**20
    m, n, k, bandwidth = plain.m, plain.n, plain.k, chip.memory.bandwidth_bytes_per_second
    near_bytes = 2 * (n * k + m * (n + k)) - weights / 2
    near_seconds = roofline_seconds(2.0 * m * n * k, near_bytes, true, chip.peak("bf16"), bandwidth)
    near = plain.assign(us=plain.us.where(~small, 1e6 * near_seconds))
    assert (near.us[small] < 1e6 * weights[small] / 864e9).any()
    for name, table in (("plain", plain), ("near", near)):
        (tmp_path / name).mkdir()
        table.to_parquet(tmp_path / name / "gemm_grid.parquet")
        assert run("l40s", str(tmp_path / name), out=tmp_path / f"{name}.toml") == 0
        constants = calibration.read(tmp_path / f"{name}.toml")[0].gemm
        assert (constants.compute, constants.memory) == pytest.approx((true.compute, true.memory), rel=0.02)


def test_a_chip_of_ones_own_is_calibrated_by_the_path_of_its_file(tmp_path: Path) -> None:
    chip = tmp_path / "mine.toml"
    shipped = Path(hardware_profiles.__file__).parent / "chips" / "l40s.toml"
    chip.write_text(shipped.read_text().replace("NVIDIA L40S", "Mine"))
    measured(TRUE).assign(hw="mine").to_csv(tmp_path / "gemm_grid.csv", index=False)
    assert run(str(chip), str(tmp_path / "gemm_grid.csv"), out=tmp_path / "fitted.toml") == 0
    constants = calibration.read(tmp_path / "fitted.toml")[0]
    assert constants.gemm.compute == pytest.approx(TRUE.compute, rel=0.02)


def test_benchmarks_that_disagree_weigh_alike_however_many_rows_they_have(tmp_path: Path) -> None:
    slower = replace(TRUE, memory=0.5, compute=0.5)
    grid = measured(TRUE)
    pd.concat([grid] * 5).to_parquet(tmp_path / "gemm_grid.parquet")
    m, n, k = (grid[name].to_numpy(dtype=float) for name in ("m", "n", "k"))
    chip = load_hardware("l40s")
    flops, moved_bytes = 2 * m * n * k, 2 * (n * k + m * (n + k))
    us = 1e6 * roofline_seconds(flops, moved_bytes, slower, chip.peak("bf16"), chip.memory.bandwidth_bytes_per_second)
    labels = {"src": "mine", "hw": "L40S", "model": "nobody", "tp": 1, "dtype": "bf16", "op": "up"}
    layers = grid[["m", "n", "k"]].assign(**labels, tokens=grid["m"], us=us)
    layers.to_parquet(tmp_path / "layer_ops.parquet")
    assert run("l40s", str(tmp_path), out=tmp_path / "mine.toml") == 0
    found = calibration.read(tmp_path / "mine.toml")[0].gemm
    between = (np.sqrt(true * other) for true, other in ((TRUE.compute, 0.5), (TRUE.memory, 0.5)))
    assert (found.compute, found.memory) == pytest.approx(tuple(between), rel=0.04)
    assert "270 rows of gemm_grid" in (tmp_path / "mine.toml").read_text()


def test_a_few_wild_rows_do_not_move_the_constants(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = measured(TRUE, noise=0.03)
    table.loc[::18, "us"] *= 5
    table.to_csv(tmp_path / "mine.csv", index=False)
    out = tmp_path / "l40s.toml"
    assert run("L40S", str(tmp_path / "mine.csv"), out=out, json=True) == 0
    report = json.loads(capsys.readouterr().out)["constants"][0]
    assert report["rows"] == len(table)
    assert report["held_out_median_pct"] < 5
    assert calibration.read(out)[0].gemm.compute == pytest.approx(TRUE.compute, rel=0.06)
    assert "mine.csv" in out.read_text()


def test_what_cannot_be_calibrated_is_refused(tmp_path: Path) -> None:
    measured(TRUE).to_csv(tmp_path / "gemm_grid.csv", index=False)
    with pytest.raises(ValueError, match="nothing was measured on NVIDIA H200"):
        run("h200", str(tmp_path), out=tmp_path / "x.toml")
    measured(TRUE).head(10).to_csv(tmp_path / "gemm_grid.csv", index=False)
    with pytest.raises(ValueError, match="10 measured rows; at least 20"):
        run("l40s", str(tmp_path), out=tmp_path / "x.toml")
    (tmp_path / "odd.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"odd\.csv: has the columns of none"):
        run("l40s", str(tmp_path / "odd.csv"))


# ---- What ships


@pytest.mark.parametrize("name", calibration.available())
def test_shipped_constants_say_where_they_come_from(name: str) -> None:
    path = calibration.CALIBRATED / f"{name}.toml"
    whole, *parts = calibration.read(path)
    assert whole.level.startswith("calibrated: ")
    for constant in calibration.calibrated(path):
        value = getattr(whole, constant)
        if isinstance(value, Rate):
            assert "rows of" in value.source
            folds = [getattr(part, constant) for part in parts]
            assert all(fold.compute == pytest.approx(value.compute, rel=0.25) for fold in folds)
            assert all(fold.memory == pytest.approx(value.memory, rel=0.25) for fold in folds)


def test_a_chip_without_calibration_says_which_have_one() -> None:
    with pytest.raises(
        ValueError, match=r"nobody calibrated 'l20'; calibrated are a100-sxm-80-pytorch, .*allowed: generic"
    ):
        calibration.load("calibrated", "l20")
    with pytest.raises(ValueError, match="'best' is unknown; allowed are datasheet, generic, calibrated"):
        calibration.load("best", "l20")


def test_shipped_constants_are_what_calibration_finds(shared: Path, tmp_path: Path) -> None:
    assert run("rtx-4090", str(shared / "measured"), out=tmp_path / "again.toml") == 0
    again, shipped = (calibration.read(path)[0] for path in (tmp_path / "again.toml", _shipped("rtx-4090")))
    assert again.gemm.compute == pytest.approx(shipped.gemm.compute, rel=0.01)
    assert again.mixed_attention.memory == pytest.approx(shipped.mixed_attention.memory, rel=0.01)


def test_the_stated_held_out_error_is_what_the_scoreboard_finds(shared: Path) -> None:
    import tomllib

    table = tomllib.loads(_shipped("h100-sxm").read_text())
    frame = read(shared / "measured")["gemm_grid"]
    groups = [each for each in READERS["gemm_grid"](frame[frame["hw"] == "H100-SXM"]) if isinstance(each, Group)]
    (mine,) = (each for each in groups if each.constant == "gemm" and each.stack == "vllm")
    seconds = held_out_seconds(mine)
    assert seconds is not None
    assert errors_pct(seconds, mine.measured_seconds)[0] == pytest.approx(
        table["gemm"]["held_out_median_pct"], abs=0.05
    )


def _shipped(chip: str) -> Path:
    path = calibration.find(chip, "vllm")
    assert path is not None
    return path


# ---- The package aiconfigurator-core, whose files have columns of their own


def test_tables_of_the_package_are_read_as_canonical_ones(tmp_path: Path) -> None:
    ours = measured(TRUE)
    for version, factor in (("0.9.0", 3.0), ("0.10.0rc1", 2.0), ("0.10.0", 1.0)):
        theirs = ours.rename(columns={"dtype": "gemm_dtype", "kernel": "kernel_source"})
        theirs = theirs.assign(latency=factor * ours["us"] / 1e3).drop(columns=["hw", "backend", "us"])
        folder = tmp_path / "l40s" / "gemm" / "vllm" / version
        folder.mkdir(parents=True)
        theirs.to_parquet(folder / "gemm_perf.parquet")
    attention = {"attn_dtype": "bfloat16", "kv_cache_dtype": "fp8", "batch_size": 2, "isl": 1, "num_heads": 8}
    attention |= {"num_key_value_heads": 2, "head_dim": 128, "step": 99, "latency": 0.02, "window_size": [0, 512]}
    folder = tmp_path / "l40s" / "attention" / "vllm" / "0.10.0"
    folder.mkdir(parents=True)
    pd.DataFrame(attention).to_parquet(folder / "generation_attention_perf.parquet")
    message = {"op_name": "all_reduce", "num_gpus": 4, "message_size": [128, 1024], "latency": [0.005, 0.02]}
    calls = {"backend": ["vllm_graph", "vllm_eager"], "allreduce_dtype": "bfloat16"}
    _store(tmp_path / "l40s/comm/vllm/0.10.0/custom_allreduce_perf.parquet", message | calls)
    _store(tmp_path / "l40s/comm/nccl/2.27.3/nccl_perf.parquet", message | {"nccl_dtype": ["half", "int8"]})
    tables = aiconfigurator.read(load_hardware("l40s"), tmp_path)
    assert tables["gemm_grid"]["us"].to_numpy() == pytest.approx(ours["us"].to_numpy())  # the newest version
    decode = tables["attention_grid"]
    assert decode[["phase", "batch", "q_len", "kv_len", "kv_dtype"]].to_numpy().tolist() == [
        ["decode", 2, 1, 100, "fp8"]
    ]
    collectives = tables["comm"][["backend", "op", "world", "per_node", "bytes", "us"]].to_numpy().tolist()
    assert sorted(collectives) == [
        ["nccl-2.27.3", "all_reduce", 4, 4, 256.0, 5.0],
        ["vllm_eager-0.10.0", "all_reduce", 4, 4, 2048.0, 20.0],
        ["vllm_graph-0.10.0", "all_reduce", 4, 4, 256.0, 5.0],
    ]
    for name, table in tables.items():
        assert set(COLUMNS[name]) <= {*table.columns, "kernel"}
        assert all(isinstance(each, Group) for each in READERS[name](table))
    with pytest.raises(ValueError, match=r"has no tables of NVIDIA H200.*those of l40s"):
        aiconfigurator.read(load_hardware("h200-sxm"), tmp_path)


def _store(path: Path, columns: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True)
    pd.DataFrame(columns).to_parquet(path)


def experts(dtype: str, rate: Rate) -> pd.DataFrame:
    """Balanced experts on an L40S with those constants."""
    chip = load_hardware("l40s")
    axes = ([1, 16, 256, 4096], [(8, 2), (128, 8), (256, 6)], [1, 4], [2048, 4096], [768, 2048])
    rows = [
        {"tokens": tokens, "n_experts": many, "topk": top, "moe_ep": devices, "hidden": hidden, "inter": inter}
        for tokens, (many, top), devices, hidden, inter in product(*axes)
    ]
    table = pd.DataFrame(rows).assign(hw="L40S", backend="vllm-1.0", dtype=dtype, kernel="made up", moe_tp=1)
    visits = table.tokens * table.topk / table.moe_ep
    met = np.minimum(table.n_experts / table.moe_ep, np.maximum(1, visits))
    weights = 3.0 * table.hidden * table.inter
    each = 2.0 * (5 * table.hidden + 6 * table.inter)
    wide = 1 if dtype == "fp8" else 2
    moved_bytes = met * weights * wide + (visits + rate.elsewhere * (table.tokens * table.topk - visits)) * each
    peak, bandwidth = chip.peak("fp8" if dtype == "fp8" else "bf16"), chip.memory.bandwidth_bytes_per_second
    seconds = roofline_seconds(2 * visits * weights, moved_bytes, rate, peak, bandwidth, met * weights)
    return table.assign(dist="balanced", us=1e6 * seconds)


def test_what_kernels_of_experts_move_and_pad_in_vain_is_found(tmp_path: Path) -> None:
    wide = replace(TRUE, elsewhere=0.7)
    narrow = replace(TRUE, elsewhere=0.3, step_seconds=2e-12)
    pd.concat([experts("bfloat16", wide), experts("fp8", narrow)]).to_parquet(tmp_path / "moe_grid.parquet")
    assert run("l40s", str(tmp_path), out=tmp_path / "l40s.toml") == 0
    for constants in calibration.read(tmp_path / "l40s.toml"):
        for found, true in ((constants.experts, wide), (constants.experts_8bit, narrow)):
            assert found.elsewhere == pytest.approx(true.elsewhere, rel=0.1)
            assert found.step_seconds == pytest.approx(true.step_seconds, rel=0.1)
            assert (found.compute, found.memory) == pytest.approx((true.compute, true.memory), rel=0.05)


def test_experts_that_a_cache_kept_do_not_pass_for_the_memory(tmp_path: Path) -> None:
    plain = experts("bfloat16", TRUE)
    expert = 3.0 * plain.hidden * plain.inter
    visits = plain.tokens * plain.topk / plain.moe_ep
    here = plain.n_experts / plain.moe_ep
    read = 2 * expert * np.minimum(here, np.maximum(1, visits))
    small = (2 * expert * here <= 96 * 2**20) & (
        read / 864e9 > 2 * visits * expert / load_hardware("l40s").peak("bf16")
    )
    assert small.any()
    near = plain.assign(us=plain.us.where(~small, 1e6 * read / 864e9 / 2))
    (far_group,), (near_group,) = (READERS["moe_grid"](table) for table in (plain, near))
    assert isinstance(far_group, Group)
    assert isinstance(near_group, Group)
    from_memory, priced = (group.seconds(generic(stack="vllm")) for group in (far_group, near_group))
    assert (priced[small] < from_memory[small]).all()
    assert (priced[~small] == from_memory[~small]).all()


def test_four_bit_weights_that_are_not_widened_have_constants_of_their_own() -> None:
    widened = experts("w4a16_mxfp4", TRUE)
    table = pd.concat([widened, widened.assign(kernel="vllm_gptossmxfp4moe_triton_oai")], ignore_index=True)
    apart, first = (group for group in READERS["moe_grid"](table) if isinstance(group, Group))
    assert (first.constant, apart.constant) == ("experts_narrow_weights", "experts_mxfp4")
    assert len(first.measured_seconds) == len(apart.measured_seconds) == len(widened)
    constants = generic(load_hardware("l40s"), "vllm")
    slower = replace(constants, experts_narrow_weights=replace(constants.experts_narrow_weights, launch_seconds=1.0))
    assert (first.seconds(slower) > first.seconds(constants)).all()
    assert (apart.seconds(slower) == apart.seconds(constants)).all()


# ---- Real measurements.


@pytest.mark.parametrize(
    ("constant", "gain_pct"),
    [("gemm_narrow_weights", 3.0), ("gemm_8bit", 1.0), ("gemm", -0.2)],
)
def test_steps_pay_where_kernels_do_not_split_the_sum(
    shared: Path, monkeypatch: pytest.MonkeyPatch, constant: str, gain_pct: float
) -> None:
    """What waves and tiles cost, on rows of A100 that took no part in the fit, and where that does not show."""
    found = [group for group in READERS["gemm_grid"](_a100(shared)) if isinstance(group, Group)]
    groups = [group for group in found if group.constant == constant]
    base = generic(stack="trtllm")
    without = replace(base, **{constant: replace(getattr(base, constant), step_seconds=0.0)})
    monkeypatch.setattr("experiments.scoreboard.fit.STEPPING", (constant,))
    stepping = fit(constant, groups, base).held_out_pct[0]
    monkeypatch.setattr("experiments.scoreboard.fit.STEPPING", ())
    sharp = fit(constant, groups, without).held_out_pct[0]
    assert sharp - stepping > gain_pct
    assert (sharp - stepping < 0.5) == (constant == "gemm")


def _a100(shared: Path) -> pd.DataFrame:
    rows = pd.read_parquet(shared / "measured" / "gemm_grid.parquet", filters=[("hw", "==", "A100-SXM-80G")])
    return rows[rows["backend"].astype(str).str.startswith("trtllm")]
