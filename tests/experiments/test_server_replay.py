"""Recorded runs of servers: replayed and scored, made up ones that are exact and a real one."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.scoreboard.groups import Skipped
from experiments.scoreboard.replays import since_queued_seconds
from experiments.scoreboard.score import Row
from experiments.scoreboard.servers import Recorded, read
from experiments.scoreboard.summary import markdown
from experiments.validate import run, scoreboard
from sim.results.result import Result
from sim.scenario import simulate

BLOCK = 16
RECORD: dict[str, Any] = {
    "cluster": {"nodes": [{"instances": [{"hardware": "L40S", "pd_type": None}]}]},
    "meta": {
        "model": "meta-llama/Llama-3.1-8B",
        "engine_kwargs": {
            "tensor_parallel_size": 1,
            "data_parallel_size": 1,
            "enable_expert_parallel": False,
            "max_num_seqs": 8,
            "max_num_batched_tokens": 512,
            "max_model_len": 4096,
            "dtype": "bfloat16",
            "kv_cache_dtype": "auto",
        },
        "kv_cache": {
            "num_gpu_blocks": None,
            "block_size": BLOCK,
            "gpu_memory_utilization": 0.9,
            "enable_prefix_caching": True,
        },
    },
    "resolved_subset": {"scheduler_config": {"async_scheduling": True, "policy": "fcfs"}},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the record with one entry changed."""
    record = deepcopy(RECORD)
    *folders, name = path.split(".")
    entry = record
    for folder in folders:
        entry = entry[folder]
    entry[name] = value
    return record


def table(n: int = 40, seed: int = 1) -> pd.DataFrame:
    """Requests without measured times; every tenth shares two blocks with the one before, at its start."""
    rng = np.random.default_rng(seed)
    request = np.arange(n)
    shares = request % 10 == 9
    return pd.DataFrame(
        {
            "run": "mine",
            "req": request,
            "arrival_s": np.sort(rng.uniform(0, 4, n)),
            "in_tok": rng.integers(64, 900, n),
            "out_tok": rng.integers(1, 60, n),
            "prefix_hit_ideal": np.where(shares, 2 * BLOCK, 0),
            "prefix_parent_req": np.where(shares, request - 1, -1),
            "queued_s": 0.0,
            "sched_s": 0.0,
            "ttft_from_queued_ms": 1.0,
            "tpot_ms": 1.0,
            "e2e_ms": 1.0,
        }
    )


def write(folder: Path, rows: pd.DataFrame, record: dict[str, Any] = RECORD) -> None:
    rows.to_csv(folder / "e2e_requests.csv", index=False)
    (folder / "e2e_runs.json").write_text(json.dumps({"mine": record}))


def simulated(folder: Path) -> tuple[Recorded, Result]:
    (recorded,) = read(folder)
    assert isinstance(recorded, Recorded)
    return recorded, simulate(recorded.scenario)


def exact(folder: Path, record: dict[str, Any] = RECORD) -> pd.DataFrame:
    """Requests as long as the simulator says, blocks as it predicts them."""
    write(folder, table(), record)
    recorded, _ = simulated(folder)
    machine = recorded.scenario.machine
    blocks = machine.limits.blocks
    with_blocks = deepcopy(record)
    with_blocks["meta"]["kv_cache"]["num_gpu_blocks"] = blocks
    result = simulate(recorded.scenario)
    rows = table().assign(
        ttft_from_queued_ms=1e3 * since_queued_seconds(result),
        tpot_ms=1e3 * result.tpot_seconds,
        e2e_ms=1e3 * result.end_to_end_seconds,
    )
    write(folder, rows, with_blocks)
    return rows


def skipped(rows: list[Row]) -> str:
    assert {row.level for row in rows} == {"skipped"}
    return rows[0].note


def test_a_run_that_is_exact_has_no_error_and_meets_every_goal(tmp_path: Path) -> None:
    exact(tmp_path)
    rows = scoreboard(tmp_path)
    generic = {row.model.removeprefix("mine, "): row for row in rows if row.level == "generic"}
    assert len(generic) == 2 * 3 * 4 + 1  # pools, quantities, statistics; and the blocks
    assert max(row.median_abs_pct or 0.0 for row in generic.values()) == 0.0
    assert all(row.met for row in generic.values() if row.goal_pct is not None)
    assert generic["given blocks, TPOT p99"].goal_pct == 12
    assert generic["given blocks, TTFT p50"].goal_pct == 12  # nobody waited for a seat
    assert generic["given blocks, TTFT p90"].goal_pct is None
    assert generic["KV blocks"].met is True
    assert generic["given blocks, TPOT per request"].n == int((table().out_tok > 1).sum())
    assert {row.level for row in rows} == {"datasheet", "generic"}  # nobody calibrated this chip
    assert all("utilisation" in row.note for row in generic.values() if "blocks, T" in row.model)


def test_without_recorded_blocks_only_the_predicted_ones_are_used(tmp_path: Path) -> None:
    write(tmp_path, table())
    assert {row.model.split(", ")[1] for row in scoreboard(tmp_path)} == {"predicted blocks"}


def test_an_engine_notices_an_arrival_when_the_iteration_in_flight_ends(tmp_path: Path) -> None:
    write(tmp_path, table(200))
    _, result = simulated(tmp_path)
    unnoticed = result.ttft_seconds - since_queued_seconds(result)
    longest = float((result.iterations.first + result.iterations.growth * result.iterations.iterations).max()) / 2**40
    assert unnoticed.min() == 0.0
    assert np.median(unnoticed) > 0.0
    assert unnoticed.max() <= longest
    assert unnoticed[0] == 0.0  # nothing ran yet


def test_recorded_prefixes_are_found_in_the_cache_and_only_if_it_was_on(tmp_path: Path) -> None:
    write(tmp_path, table())
    _, result = simulated(tmp_path)
    assert result.replay.cached_tokens.tolist() == table().prefix_hit_ideal.tolist()
    write(tmp_path, table(), changed("meta.kv_cache.enable_prefix_caching", False))
    _, result = simulated(tmp_path)
    assert not result.replay.cached_tokens.any()


def test_a_prefix_of_a_prefix_is_the_text_of_the_first(tmp_path: Path) -> None:
    rows = table(3).assign(in_tok=200, prefix_parent_req=[-1, 0, 1], prefix_hit_ideal=[0, 64, 96])
    write(tmp_path, rows)
    recorded, _ = simulated(tmp_path)
    segments = recorded.scenario.trace.segments
    assert segments is not None
    assert [segments.row(i) for i in range(3)] == [[], [(-1, 0, 64)], [(-1, 0, 64), (-2, 64, 32)]]


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("meta.engine_kwargs.data_parallel_size", 2, "DP 2 without experts"),
        ("meta.engine_kwargs.pipeline_parallel_size", 33, "allowed are 1 to 32"),
        ("meta.engine_kwargs.max_num_seqs", None, "max_num_seqs"),
        ("meta.engine_kwargs.max_num_batched_tokens", "many", "max_num_batched_tokens"),
        ("meta.engine_kwargs.dtype", "ternary", "ternary"),
        ("meta.engine_kwargs.tensor_parallel_size", 3, "unevenly"),
        ("meta.model", "nobody-1b", "nobody-1b"),
        ("meta.model", "Qwen/Qwen3-32B", "does not fit"),
        ("cluster.nodes", [{"instances": [{"hardware": "Quantum-9"}]}], "Quantum-9"),
        ("cluster.nodes", [{"instances": [{"hardware": "L40S"}, {"hardware": "L40S"}]}], "2 instances"),
        ("resolved_subset.scheduler_config.policy", "priority", "priority"),
        ("meta", None, "unknown model"),
    ],
)
def test_what_cannot_be_replayed_is_reported(tmp_path: Path, path: str, value: Any, says: str) -> None:
    write(tmp_path, table(), changed(path, value))
    assert says in skipped(scoreboard(tmp_path))


@pytest.mark.parametrize(
    ("options", "split"),
    [
        ({"tensor_parallel_size": 2, "pipeline_parallel_size": 2}, (2, 2, 1, 1)),
        ({"data_parallel_size": 2, "enable_expert_parallel": True}, (1, 1, 2, 2)),
        ({"data_parallel_size": 2}, (1, 1, 1, 2)),
        ({"tensor_parallel_size": 2, "enable_expert_parallel": True}, (2, 1, 2, 1)),
    ],
)
def test_servers_of_several_devices_are_replayed_as_they_were_split(
    tmp_path: Path, options: dict[str, Any], split: tuple[int, ...]
) -> None:
    record = changed("meta.model", "Qwen/Qwen3-30B-A3B")
    record["meta"]["engine_kwargs"] |= options
    record["cluster"]["nodes"][0]["instances"] = [{"hardware": "RTXPRO6000"}]
    exact(tmp_path, record)
    recorded, result = simulated(tmp_path)
    found = recorded.scenario.parallelism
    assert (found.tensor, found.pipeline, found.expert, found.data) == split
    assert np.isfinite(result.end_to_end_seconds).all()
    generic = [row for row in scoreboard(tmp_path) if row.level == "generic"]
    assert len(generic) == 2 * 3 * 4 + 1
    assert max(row.median_abs_pct or 0.0 for row in generic) == 0.0


def test_two_devices_over_pcie_are_scored_and_flagged(tmp_path: Path) -> None:
    write(tmp_path, table(), changed("meta.engine_kwargs.tensor_parallel_size", 2))
    notes = {row.note for row in scoreboard(tmp_path) if row.level == "generic"}
    assert any("unmeasured: all-reduce of 2" in note for note in notes)


def test_one_run_that_is_unknown_does_not_hide_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, pd.concat([table(), table().assign(run="elsewhere")]))
    assert {row.level for row in scoreboard(tmp_path)} == {"datasheet", "generic", "skipped"}
    assert run(tmp_path) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "not scored: 40 rows: e2e_runs.json says nothing about the run elsewhere" in printed
    assert "near saturation" in printed


def test_text_shared_with_a_request_that_came_later_or_is_not_there_is_nobody_elses(tmp_path: Path) -> None:
    for parent in (5, 99):
        write(tmp_path, table().assign(prefix_parent_req=parent, prefix_hit_ideal=16))
        recorded, _ = simulated(tmp_path)
        segments = recorded.scenario.trace.segments
        assert segments is not None
        assert segments.row(0) == []


def test_either_file_alone_is_reported(tmp_path: Path) -> None:
    (tmp_path / "e2e_runs.json").write_text(json.dumps({"mine": RECORD}))
    assert "e2e_requests.csv is missing" in skipped(scoreboard(tmp_path))
    (tmp_path / "e2e_runs.json").unlink()
    table().to_csv(tmp_path / "e2e_requests.csv", index=False)
    assert "says nothing about the run mine" in skipped(scoreboard(tmp_path))


@pytest.mark.parametrize("change", [{"out_tok": 0}, {"in_tok": "long"}, {"arrival_s": -1.0}, {"req": np.nan}])
def test_a_request_that_cannot_be_is_reported_and_the_others_are_replayed(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    rows = pd.concat([table(), table(1).assign(**({"req": 40} | change))])
    write(tmp_path, rows)
    odd, run = read(tmp_path)
    (name,) = change
    assert isinstance(odd, Skipped)
    assert (odd.rows, odd.model) == (1, name)
    assert f"row 41: {name} is not a number from" in odd.reason
    assert isinstance(run, Recorded)
    assert len(run.scenario.trace) == 40


def test_what_was_not_recorded_is_replayed_and_not_scored(tmp_path: Path) -> None:
    rows = exact(tmp_path)
    rows.loc[:9, "e2e_ms"] = np.nan
    rows.loc[0, "tpot_ms"] = 0.0
    write(tmp_path, rows)
    counts = {row.model.split(", ")[-1]: row.n for row in scoreboard(tmp_path) if row.level == "generic"}
    assert counts["end to end per request"] == 30
    assert counts["TTFT per request"] == 40
    assert counts["TPOT per request"] == int((rows.out_tok > 1).sum()) - (rows.out_tok[0] > 1)


def test_a_first_token_may_be_counted_from_the_arrival(tmp_path: Path) -> None:
    rows = exact(tmp_path).drop(columns=["ttft_from_queued_ms", "queued_s", "sched_s", "prefix_hit_ideal"])
    write(tmp_path, rows.assign(prefix_parent_req=np.nan, ttft_ms=1.0))
    recorded, result = simulated(tmp_path)
    write(tmp_path, rows.assign(prefix_parent_req=np.nan, ttft_ms=1e3 * result.ttft_seconds))
    assert not recorded.ttft_is_since_queued
    errors = [row.median_abs_pct for row in scoreboard(tmp_path) if row.level == "generic" and "TTFT" in row.model]
    assert errors == [0.0] * 4


def test_files_that_cannot_be_read_are_reported(tmp_path: Path) -> None:
    write(tmp_path, table().drop(columns="out_tok"))
    assert "column out_tok is missing" in skipped(scoreboard(tmp_path))
    write(tmp_path, table().drop(columns="ttft_from_queued_ms"))
    assert "columns ttft_from_queued_ms and ttft_ms are missing" in skipped(scoreboard(tmp_path))
    write(tmp_path, table())
    for text, says in (("{", "is not JSON"), ("[]", "is a list; allowed: an object"), ('{"mine": 3}', "says nothing")):
        (tmp_path / "e2e_runs.json").write_text(text)
        assert says in skipped(scoreboard(tmp_path))


def test_a_chip_is_known_by_any_name_that_was_recorded(tmp_path: Path) -> None:
    record = changed("cluster.nodes", [{"instances": [{"hardware": "my server"}]}])
    record["meta"]["hardware"] = {"device_name": "NVIDIA L40S"}
    write(tmp_path, table(), record)
    recorded, _ = simulated(tmp_path)
    assert recorded.hardware == "NVIDIA L40S"


# ---- A real server: vLLM 0.19 on RTX 4090.


@pytest.fixture(scope="module")
def real(shared: Path) -> list[Row]:
    return scoreboard(shared / "measured")


def replayed(rows: list[Row], level: str) -> list[Row]:
    return [row for row in rows if row.table == "e2e_requests" and row.level == level]


def test_calibrated_constants_meet_every_goal_of_a_real_server(real: list[Row]) -> None:
    rows = replayed(real, "calibrated")
    assert len(rows) == 25
    assert all(row.met for row in rows if row.goal_pct is not None)
    assert max(row.median_abs_pct or 0.0 for row in rows) < 5


def test_generic_constants_are_a_little_too_slow_for_a_chip_that_reaches_more_than_most(real: list[Row]) -> None:
    # Matrix units at half rate reach nearly all of that half; memory and launches are still those of most chips.
    rows = replayed(real, "generic")
    assert all(4 < (row.bias_pct or 0.0) < 10 for row in rows if "per request" in row.model)
    assert not [row.model for row in rows if row.met is False]


def test_the_bare_datasheet_makes_that_server_too_fast(real: list[Row]) -> None:
    assert all((row.bias_pct or 0.0) < -10 for row in replayed(real, "datasheet"))


def test_its_kv_blocks_are_predicted_from_separate_terms(real: list[Row]) -> None:
    (row,) = (row for row in replayed(real, "calibrated") if "KV blocks" in row.model)
    assert (row.median_abs_pct or 0.0) < 5
    assert all(term in row.note for term in ("weights 16.06 GB", "activation", "sampling", "context"))


def test_a_run_that_is_reported_names_the_table(shared: Path, tmp_path: Path) -> None:
    rows = pd.read_csv(shared / "measured" / "e2e_requests.csv")
    rows.to_parquet(tmp_path / "e2e_requests.parquet")
    (found,) = read(tmp_path)
    assert isinstance(found, Skipped)
    assert (found.table, found.rows) == ("e2e_requests", 300)


def test_the_scoreboard_of_the_readme_is_what_validate_prints(real: list[Row]) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert markdown(real) in readme, "replace it by the output of: roofserve validate --data DIR --markdown"
