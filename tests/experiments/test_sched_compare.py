"""The default question, run small from the shell: what it leaves behind, and that its numbers follow from its rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments import grid, sched_compare
from experiments.asked.options import Options, read
from experiments.run import main
from experiments.shown import console
from experiments.shown.output import new_folder, write
from experiments.tried.comparison import ARMS
from sim.results.separation import separation
from tests.experiments.conftest import Finished


@pytest.fixture(scope="module")
def requests(finished: Finished) -> pd.DataFrame:
    return pd.read_parquet(finished.folder / "requests.parquet")


@pytest.fixture(scope="module")
def summary(finished: Finished) -> pd.DataFrame:
    return pd.read_csv(finished.folder / "summary.csv", keep_default_na=True)


def number(summary: pd.DataFrame, arm: str, load: float, metric: str, level: float | None = None) -> pd.Series:
    same = (summary.arm == arm) & np.isclose(summary.load, load) & (summary.metric == metric)
    rows = summary[same & (summary.level.isna() if level is None else np.isclose(summary.level, level))]
    assert len(rows) == 1
    return rows.iloc[0]


def test_every_file_is_there_and_no_half_written_one(finished: Finished) -> None:
    names = {path.name for path in finished.folder.iterdir()}
    tables = {"requests.parquet", "summary.csv", "differences.csv", "summary.json", "config.toml", "report.html"}
    benches = {f"vllm_bench_{arm}.json" for arm in ("prefill_first", "prefill_first_cached", "inflight_batching")}
    pictures = ("survival_ttft", "survival_itl", "load_ttft", "load_e2e", "timeline", "tail")
    figures = {f"{name}.{kind}" for name in pictures for kind in ("png", "svg")}
    assert names == tables | benches | {"vllm_bench_inflight_batching_cached.json"} | figures


def test_json_is_all_that_is_printed_and_equals_the_file(finished: Finished) -> None:
    printed = json.loads(finished.printed)
    assert {Path(path).name for path in printed.pop("files")} == {path.name for path in finished.folder.iterdir()}
    assert printed == json.loads((finished.folder / "summary.json").read_text())
    assert printed["options"]["quick"] is True


def test_same_options_give_the_same_bytes(finished: Finished, tmp_path: Path) -> None:
    again = sched_compare.run(read(finished.folder / "config.toml"))
    for path in write(again, tmp_path / "again", lambda _: None):
        if path.suffix in (".csv", ".toml") or "vllm_bench" in path.name:
            assert path.read_bytes() == (finished.folder / path.name).read_bytes(), path.name


def test_nothing_is_overwritten(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["sched_compare", "--out", str(finished.folder)])
    assert ended.value.code == 2
    assert "not overwritten" in capsys.readouterr().err


def test_default_folder_is_named_after_the_options_and_counted_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = new_folder(None, Options(trace="chat", seeds=2))
    assert first == new_folder(None, Options(trace="chat", seeds=2)) != new_folder(None, Options(trace="chat", seeds=3))
    first.mkdir(parents=True)
    assert new_folder(None, Options(trace="chat", seeds=2)).name == first.name + "-2"


def test_every_arm_and_replication_has_the_same_requests_at_every_load(requests: pd.DataFrame) -> None:
    lengths = requests.groupby(["arm", "load", "seed"], observed=True)[["prompt_tokens", "output_tokens"]]
    by_seed: dict[int, set[bytes]] = {}
    for (_, _, seed), group in lengths:
        by_seed.setdefault(seed, set()).add(group.to_numpy().tobytes())
    assert sorted(by_seed) == [1, 2, 3]
    assert all(len(different) == 1 for different in by_seed.values())
    assert len(set.union(*by_seed.values())) == 3
    arrivals = requests.groupby(["load", "seed", "request_id"]).arrival_seconds.nunique()
    assert (arrivals == 1).all()


def test_percentiles_goodput_and_verdicts_follow_from_the_rows(requests: pd.DataFrame, summary: pd.DataFrame) -> None:
    arm, load = "inflight_batching + prefix cache", sorted(requests.load.unique())[1]
    rows = requests[(requests.arm == arm) & (requests.load == load)]
    kept = []
    for _, run in rows.groupby("seed"):
        first, last = run.arrival_seconds.min(), run.arrival_seconds.max()
        begin, end = first + 0.10 * (last - first), last - 0.05 * (last - first)
        kept.append(run[(run.arrival_seconds >= begin) & (run.arrival_seconds <= end)])
    counted = pd.concat(kept)
    assert (rows.counted == rows.index.isin(counted.index)).all()
    for metric, column in (("TTFT", "ttft_seconds"), ("TPOT", "tpot_seconds"), ("E2E", "end_to_end_seconds")):
        for level in (0.5, 0.9, 0.99):
            expected = np.percentile(counted[column].dropna(), 100 * level, method="inverted_cdf")
            assert number(summary, arm, load, metric, level).estimate == pytest.approx(expected)
    good = [((run.ttft_seconds <= 2) & ~(run.tpot_seconds > 0.2)).mean() for run in kept]
    assert number(summary, arm, load, "goodput_share").estimate == pytest.approx(np.mean(good))
    hits = [run.cached_tokens.sum() / run.prompt_tokens.sum() for run in kept]
    assert number(summary, arm, load, "prefix_hit_share").estimate == pytest.approx(np.mean(hits))


def test_an_overloaded_arm_has_a_growth_rate_and_no_percentile(summary: pd.DataFrame) -> None:
    overloaded = summary[summary.verdict == "overloaded"]
    assert set(overloaded.arm) == {"prefill_first", "inflight_batching"}
    assert (overloaded.share_of_capacity > 1).all()
    latencies = overloaded[overloaded.metric.isin(["TTFT", "TPOT", "ITL", "E2E", "goodput_share"])]
    assert latencies[["estimate", "low", "high"]].isna().all(axis=None)
    assert latencies.method.str.startswith("overloaded").all()
    assert (overloaded[overloaded.metric == "backlog_growth_per_second"].estimate > 0).all()
    stable = summary[(summary.verdict == "stable") & (summary.metric == "TTFT") & (summary.level == 0.5)]
    assert stable.estimate.notna().all()


def test_differences_are_those_of_the_summary(finished: Finished, summary: pd.DataFrame) -> None:
    differences = pd.read_csv(finished.folder / "differences.csv")
    told = differences[differences.metric.isin(["TTFT", "E2E"]) & differences.difference.notna()]
    assert len(told) > 10
    for row in told.itertuples():
        first, second = (
            number(summary, arm, row.load, row.metric, row.level).estimate for arm in (row.first, row.second)
        )
        assert row.difference == pytest.approx(second - first)
        assert row.percent == pytest.approx(100 * (second / first - 1))
        assert row.low <= row.difference <= row.high


def test_bench_files_are_whole_replies_in_the_shape_of_vllm(finished: Finished, requests: pd.DataFrame) -> None:
    for arm in ARMS:
        name = f"vllm_bench_{arm.replace(' + prefix cache', '_cached')}.json"
        bench = json.loads((finished.folder / name).read_text())
        rows = requests[(requests.arm == arm) & (requests.load == bench["request_rate"]) & (requests.seed == 1)]
        assert bench["num_prompts"] == len(rows) == bench["completed"] + bench["failed"]
        assert len(bench["ttfts"]) == bench["completed"] - bench["preempted_requests_left_out"]
        assert bench["preempted_requests_left_out"] == (rows.preemptions > 0).sum()
        assert [len(gaps) + 1 for gaps in bench["itls"]] == bench["output_lens"]
        ends = [ttft + sum(gaps) for ttft, gaps in zip(bench["ttfts"], bench["itls"], strict=True)]
        assert ends == pytest.approx(bench["latencies"], abs=1e-5)
        assert bench["p99_ttft_ms"] == pytest.approx(1e3 * np.percentile(rows.ttft_seconds.dropna(), 99))


def test_bench_files_have_the_keys_of_the_public_sample(finished: Finished, shared: Path) -> None:
    sample = json.loads((shared / "formats" / "made_vllm_bench.json").read_text())
    bench = json.loads((finished.folder / "vllm_bench_prefill_first.json").read_text())
    assert set(sample) <= set(bench)


def test_report_holds_the_figures_and_asks_for_nothing_from_elsewhere(finished: Finished) -> None:
    report = (finished.folder / "report.html").read_text()
    assert report.count("<svg") == 6
    assert "src=" not in report
    assert "roofserve sched_compare --config" in report


def test_it_says_how_many_replications_tell_two_arms_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compared = sched_compare.run(Options(load=(0.5,), requests=100, seeds=3))
    console.show(compared, [tmp_path / "summary.csv"])
    said = " ".join(capsys.readouterr().out.split())
    first, second = (compared.cell(arm, compared.loads[0]) for arm in compared.arms[:3:2])
    means = [cell.per_section("mean_end_to_end_seconds") for cell in (first, second)]
    expected = separation(means[1] - means[0]).sentence("prefill_first", "inflight_batching", "mean E2E")
    assert expected in said
    assert said.count("3 replications") >= 4, "one for each pair, beside the sampling"


def test_stopping_it_leaves_the_loads_that_were_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate, calls = sched_compare.simulate, []

    def stopped(scenario, machine):
        calls.append(scenario)
        if len(calls) > 4 + 4 + 2:  # capacities, one load, and into the next
            raise KeyboardInterrupt
        return simulate(scenario, machine)

    monkeypatch.setattr(sched_compare, "simulate", stopped)
    options = ["--load", "0.5,0.7", "--requests", "100", "--seeds", "1", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        main(["sched_compare", *options])
    assert ended.value.code == 130
    printed = capsys.readouterr()
    assert "INTERRUPTED" in printed.out
    assert "interrupted" in printed.err
    assert len(list((tmp_path / ".out.points").glob("*.parquet"))) == 4 + 4 + 2
    assert pd.read_parquet(tmp_path / "out" / "requests.parquet").load.unique().tolist() == [0.5]
    assert read(tmp_path / "out" / "config.toml").load == (0.5, 0.7)


def test_workers_and_resuming_change_nothing(tmp_path: Path) -> None:
    options = Options(load=(0.5, 2.0), requests=120, seeds=2)
    alone = sched_compare.run(options, where=grid.Where(workers=1))
    points = tmp_path / "points"
    shared = sched_compare.run(options, where=grid.Where(workers=2, resume=points))
    kept = sorted(points.iterdir())
    assert len(kept) == 4 * 2 * 3  # arms, seeds, and all at once or one of two loads
    for path in kept[::2]:
        path.unlink()
    resumed = sched_compare.run(options, where=grid.Where(workers=1, resume=points))
    assert sorted(points.iterdir()) == kept
    for other in (shared, resumed):
        pd.testing.assert_frame_equal(other.summary, alone.summary, check_exact=True)
        pd.testing.assert_frame_equal(other.differences, alone.differences, check_exact=True)
        for cell, same in zip(other.cells.values(), alone.cells.values(), strict=True):
            for result, expected in zip(cell.results, same.results, strict=True):
                pd.testing.assert_frame_equal(result.requests, expected.requests, check_exact=True)
                pd.testing.assert_frame_equal(result.iterations_table(), expected.iterations_table(), check_exact=True)
                assert (result.name, result.title) == (expected.name, expected.title)
