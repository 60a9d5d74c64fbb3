"""The scoreboard: what it says about measurements made up to be exact, and about real ones."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.scoreboard.groups import Group, folds
from experiments.scoreboard.layers import (
    EAGER_PROMPT_HOST_SECONDS,
    EAGER_SECONDS_PER_SEQUENCE,
    EAGER_SERIAL_SECONDS,
    eager_seconds,
)
from experiments.scoreboard.score import READERS, Row, rows_of
from experiments.scoreboard.tables import COLUMNS, read
from experiments.validate import covered, run, scoreboard
from hardware_profiles import load
from sim.physics.efficiency import generic
from sim.physics.iteration import EAGER_HOST_SECONDS, HOST_SECONDS, IterationModel
from sim.physics.parallelism import Parallelism
from sim.physics.roofline import roofline_seconds
from sim.physics.totals import Totals, decodes, prompt
from workloads.models import load as load_model


def gemm_table(hardware: str, factor: float = 1.0) -> pd.DataFrame:
    """Matrix products as long as the generic constants say, times a factor."""
    chip = load(hardware)
    rate = generic(chip).gemm
    m, n, k = (column.ravel() for column in np.meshgrid([1, 16, 256, 4096], [1024, 4096], [2048, 8192]))
    flops, moved_bytes = 2.0 * m * n * k, 2.0 * (n * k + m * (n + k))
    bandwidth = chip.memory.bandwidth_bytes_per_second
    us = factor * 1e6 * roofline_seconds(flops, moved_bytes, rate, chip.peak("bf16"), bandwidth)
    labels = {"hw": hardware, "backend": "vllm-1.0", "dtype": "bfloat16", "kernel": "made up"}
    return pd.DataFrame(labels | {"m": m, "n": n, "k": k, "us": us})


def by_level(rows: list[Row]) -> dict[str, Row]:
    return {row.level: row for row in rows}


def test_rows_that_are_exact_have_no_error_and_meet_the_goal(tmp_path: Path) -> None:
    gemm_table("L40S").to_csv(tmp_path / "gemm_grid.csv", index=False)
    rows = by_level(scoreboard(tmp_path))
    assert set(rows) == {"datasheet", "generic"}  # nobody calibrated this chip
    assert rows["generic"].median_abs_pct == 0.0
    assert rows["generic"].met is True
    assert rows["generic"].goal_pct == 15
    assert rows["generic"].n == 16
    assert rows["datasheet"].bias_pct is not None
    assert rows["datasheet"].bias_pct < -15  # peaks that no kernel reaches, and no launch
    assert rows["datasheet"].met is None  # nothing is promised of the bare datasheet


def test_the_sign_of_the_bias_says_who_is_slower(tmp_path: Path) -> None:
    gemm_table("L40S", factor=1.25).to_parquet(tmp_path / "gemm_grid.parquet")
    row = by_level(scoreboard(tmp_path))["generic"]
    assert (row.median_abs_pct, row.bias_pct, row.met) == (20.0, -20.0, False)


def test_what_is_unknown_is_reported_and_the_rest_is_scored(tmp_path: Path) -> None:
    table = pd.concat([gemm_table("L40S"), gemm_table("L40S").assign(hw="Quantum-9"), gemm_table("A100-SXM-80G")])
    odd = gemm_table("L40S").assign(dtype="ternary")
    eight_bit = gemm_table("A100-SXM-80G").assign(dtype="fp8")
    pd.concat([table, odd, eight_bit]).to_csv(tmp_path / "gemm_grid.csv", index=False)
    rows = scoreboard(tmp_path)
    notes = {(row.hardware, row.model): row.note for row in rows if row.level == "skipped"}
    assert "Quantum-9" in notes["Quantum-9", "vllm-1.0 bfloat16"]
    assert "ternary" in notes["L40S", "vllm-1.0 ternary"]
    assert "lacks" in notes["A100-SXM-80G", "vllm-1.0 fp8"]
    assert {row.hardware for row in rows if row.level == "calibrated"} == {"A100-SXM-80G"}
    assert {row.hardware for row in rows if row.level == "generic"} == {"L40S", "A100-SXM-80G"}


def test_an_unknown_model_still_has_its_products_scored() -> None:
    products = gemm_table("L40S").drop(columns=["backend", "kernel"])
    products = products.assign(src="me", model="nobody-1b", tp=1, op="up", tokens=products.m, dtype="fp16")
    norm = products.head(2).assign(op="norm", n=0, k=0)
    found = READERS["layer_ops"](pd.concat([products, norm]))
    rows = rows_of(found)
    assert by_level(rows)["generic"].median_abs_pct == 0.0
    assert "nobody-1b" in by_level(rows)["skipped"].note


def test_modules_of_several_kernels_are_left_out_of_traces_of_pytorch() -> None:
    products = gemm_table("RTX3090").drop(columns=["backend", "kernel"]).head(4)
    products = products.assign(src="llmservingsim-v0", model="Llama-3.1-8B", tp=1, op="q_proj", tokens=products.m)
    embedding, norm = (products.head(2).assign(op=name, n=0, k=0) for name in ("embedding", "input_layernorm"))
    found = READERS["layer_ops"](pd.concat([products, embedding, norm]))
    rows = {group.constant: len(group.measured_seconds) for group in found if isinstance(group, Group)}
    assert rows == {"gemm": 4, "elementwise": 2}
    assert {group.stack for group in found if isinstance(group, Group)} == {"pytorch"}
    left_out = by_level(rows_of(found))["skipped"]
    assert (left_out.n, left_out.note) == (2, "not modelled: input_layernorm")


def test_iterations_are_priced_as_the_simulator_prices_them() -> None:
    chip = load("l40s")
    model = IterationModel(load_model("llama-3.1-8b"), chip, efficiency=generic(chip))
    decode = 1e3 * float(model.seconds(Totals(8, 8, decode_sequences=8, decode_kv_tokens=8000)))
    prompt = 1e3 * float(model.seconds(Totals(1000, 2, 1000, 2 * 500 * 501 / 2)))
    common = {"src": "me", "hw": "L40S", "model": "Llama-3.1-8B", "tp": 1, "dtype": "bf16"}
    rows = [
        common | {"phase": "decode", "batch": 8, "q_len": 1, "ctx": 1000, "ms": decode},
        common | {"phase": "prefill", "batch": 2, "q_len": 500, "ctx": 500, "ms": prompt},
    ]
    scored = [row for row in rows_of(READERS["iteration"](pd.DataFrame(rows))) if row.level == "generic"]
    assert [row.median_abs_pct for row in scored] == [0.0, 0.0]
    assert {row.goal_pct for row in scored} == {12}


def test_what_is_faster_than_the_peaks_is_left_out_and_counted() -> None:
    common = {"src": "splitwise", "hw": "A100-SXM-80G", "model": "Llama-2-70b-hf", "tp": 2, "dtype": "fp16"}
    prompts = common | {"phase": "prefill", "q_len": 512, "ctx": 512}
    # 32,768 tokens are 4.5e15 flops, 7.3 s at the peak of two devices: the second time is of a part of them.
    rows = [prompts | {"batch": 1, "ms": 200.0}, prompts | {"batch": 64, "ms": 794.0}]
    scored = by_level(rows_of(READERS["iteration"](pd.DataFrame(rows))))
    assert scored["generic"].n == scored["skipped"].n == 1
    assert "faster than the peaks" in scored["skipped"].note
    alone = by_level(rows_of(READERS["iteration"](pd.DataFrame(rows[:1]))))
    assert scored["generic"] == alone["generic"]


def test_the_host_of_an_eager_engine_is_waited_for() -> None:
    few, many = (decodes(np.array([count]), np.array([64])) for count in (1, 33))
    small = IterationModel(load_model("llama-3.1-8b"), load("h100-sxm"), host_seconds=HOST_SECONDS)
    alone, together = (float(eager_seconds(small, totals, generic())[0]) for totals in (few, many))
    assert alone == EAGER_HOST_SECONDS
    assert together == pytest.approx(alone + 32 * EAGER_SECONDS_PER_SEQUENCE)
    assert float(eager_seconds(small, prompt(8), generic())) == EAGER_PROMPT_HOST_SECONDS
    large = replace(small, model=load_model("llama-2-70b"), parallelism=Parallelism(2))
    bare = replace(large, host_seconds=0.0)
    slower = [
        float(eager_seconds(large, prompt(tokens), generic()) - EAGER_SERIAL_SECONDS - bare.seconds(prompt(tokens)))
        for tokens in (512, 4096)
    ]
    assert slower[0] > 1e-3  # NCCL takes longer than the kernels of today
    assert slower[1] == pytest.approx(0.0, abs=1e-12)  # which leave it large messages


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"us": -1.0}, "row 1: us is -1.0"),
        ({"us": "fast"}, "row 1: us is fast"),
    ],
)
def test_times_that_cannot_be_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    gemm_table("L40S").assign(**change).to_csv(tmp_path / "gemm_grid.csv", index=False)
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


def test_a_folder_without_tables_and_a_table_without_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of gemm_grid"):
        read(tmp_path)
    gemm_table("L40S").drop(columns="kernel").to_csv(tmp_path / "gemm_grid.csv", index=False)
    with pytest.raises(ValueError, match="column kernel is missing"):
        read(tmp_path)
    (tmp_path / "gemm_grid.csv").unlink()
    (tmp_path / "comm.parquet").write_text("no table")
    with pytest.raises(ValueError, match=r"comm\.parquet: cannot be read"):
        read(tmp_path)


def test_equal_shapes_are_in_the_same_part_wherever_they_stand() -> None:
    table = gemm_table("L40S")
    part = folds(table, ("m", "n", "k"))
    shuffled = table.sample(frac=1, random_state=1)
    assert folds(shuffled, ("m", "n", "k")).tolist() == part[shuffled.index].tolist()
    assert len(set(part.tolist())) > 1


def test_json_has_the_fields_that_readers_expect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gemm_table("L40S").to_csv(tmp_path / "gemm_grid.csv", index=False)
    assert run(tmp_path, json=True) == 0
    rows = json.loads(capsys.readouterr().out)
    fields = ("table", "hardware", "model", "level", "n", "median_abs_pct", "p90_abs_pct", "bias_pct", "goal_pct")
    assert all(set(row) >= {*fields, "met"} for row in rows)
    assert rows == [asdict(row) for row in scoreboard(tmp_path)]
    assert run(tmp_path) == 0
    assert "1 of 1 goals met" in capsys.readouterr().out
    assert run(tmp_path, markdown=True) == 0
    assert "| matrix products | 16 |" in capsys.readouterr().out


# ---- Real measurements. Goals that are missed stand here with the reason, so that a change of either shows.

MISSED_GENERIC: dict[str, int] = {}
MISSED_CALIBRATED = {
    "attention_grid": 2,  # TensorRT-LLM changes decoding kernels with batch and context: A100, and fp8 KV on H100
    "iteration": 1,  # prompts at TP 2: cuBLAS of 2023 likes 512 rows better than those around them
}


@pytest.fixture(scope="module")
def real(shared: Path) -> list[Row]:
    return scoreboard(shared / "measured")


@pytest.mark.parametrize(("level", "known"), [("generic", MISSED_GENERIC), ("calibrated", MISSED_CALIBRATED)])
def test_goals_are_met_but_where_the_reason_is_known(real: list[Row], level: str, known: dict[str, int]) -> None:
    captured = [row for row in real if row.level == level and row.table != "comm"]
    missed: dict[str, int] = {}
    for row in captured:
        if row.met is False:
            missed[row.table] = missed.get(row.table, 0) + 1
    assert missed == known


def test_all_reduces_inside_cuda_graphs_meet_their_goals(real: list[Row]) -> None:
    rows = [row for row in real if row.table == "comm" and "vllm_graph" in row.model and row.goal_pct]
    calibrated = [row for row in rows if row.level == "calibrated"]
    generic_rows = [row for row in rows if row.level == "generic"]
    assert len(calibrated) == 12
    assert sum(row.met is False for row in calibrated) <= 1  # A100 with eight devices: 10.2 %
    assert max(row.median_abs_pct or 0.0 for row in generic_rows) < 16


def test_calibration_helps_wherever_it_was_made(real: list[Row]) -> None:
    rows = {(row.table, row.hardware, row.model, row.level): row for row in real}
    gains = []
    for (*place, level), row in rows.items():
        if level == "calibrated" and row.table != "comm":
            gains.append((rows[*place, "generic"].median_abs_pct or 0) - (row.median_abs_pct or 0))
    assert np.mean(np.array(gains) >= 0) > 0.9
    assert min(gains) > -5


def test_the_bare_datasheet_is_too_fast_nearly_everywhere(real: list[Row]) -> None:
    biases = [row.bias_pct or 0.0 for row in real if row.level == "datasheet"]
    assert np.mean([bias < 0 for bias in biases]) > 0.9
    assert np.median(biases) < -30


def test_mixed_batches_are_one_kernel_on_some_chips_and_two_on_others() -> None:
    row = {"prefill_chunk": 512, "kv_prefill": 0, "n_decode": 64, "kv_decode": 4096, "model": "m", "tp": 1}
    row |= {"n_heads": 32, "n_kv": 8, "head_dim": 128, "us": 1000.0}
    frame = pd.DataFrame([row | {"hw": hardware} for hardware in ("L40S", "H100-SXM")])
    found = {group.hardware: group for group in READERS["attention_mixed"](frame) if isinstance(group, Group)}
    assert found["L40S"].constant == "mixed_attention"
    assert found["H100-SXM"].constant == ""  # a sum of two kernels, each calibrated by itself
    assert found["L40S"].seconds(generic()) > 2 * found["H100-SXM"].seconds(generic())


def test_the_band_without_a_chip_covers_most_of_what_was_measured_on_it(shared: Path) -> None:
    found = covered(shared / "measured", samples=60)
    rows = {(row.hardware, row.constant): row.covered_pct for row in found}
    assert rows["a100-sxm-80", "gemm"] > 90
    assert rows["h100-sxm", "gemm"] > 80
    assert np.median(list(rows.values())) > 80
    # RTX 4090 reaches more of its peak than any other chip, as all boards do that halve it.
    assert {place for place, covered_pct in rows.items() if covered_pct < 55} == {("rtx-4090", "gemm")}


def test_every_table_of_the_schema_has_a_reader() -> None:
    assert set(READERS) == set(COLUMNS)


@cache
def measured(shared: Path) -> dict[str, pd.DataFrame]:
    return read(shared / "measured")


ODD = st.sampled_from(["", "Quantum-9", 0, -1, 1.5, 3, 1e300, np.inf, np.nan, None])
"""What a cell may hold that no measurement does."""


@settings(max_examples=10)
@given(st.data())
def test_every_row_is_scored_or_reported_whatever_stands_in_it(shared: Path, data: st.DataObject) -> None:
    tables = {name: frame.sample(12, random_state=1).astype(object) for name, frame in measured(shared).items()}
    for name in data.draw(st.sets(st.sampled_from(sorted(tables)), max_size=3), label="missing"):
        del tables[name]
    for name, frame in tables.items():
        for _ in range(data.draw(st.integers(0, 3), label="odd cells")):
            column = data.draw(st.sampled_from(COLUMNS[name]), label=name)
            frame.iloc[data.draw(st.integers(0, 11)), frame.columns.get_loc(column)] = data.draw(ODD)
    with TemporaryDirectory() as folder:
        for name, frame in tables.items():
            frame.to_csv(Path(folder, f"{name}.csv"), index=False)
        rows = scoreboard(Path(folder))
    counted = [row for row in rows if row.level in ("generic", "skipped")]
    assert {name: 12 for name in tables} == {
        name: sum(row.n for row in counted if row.table == name) for name in tables
    }
    assert all(np.isfinite(row.median_abs_pct or 0.0) for row in rows)
