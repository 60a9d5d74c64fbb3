"""Promise or pause: direction and size of what eviction costs, and what the command leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments import eviction
from experiments.run import main


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    loop = eviction.Loop(requests=128, concurrency=32, prompt_tokens=16384, output_tokens=512)
    scenario = eviction.Scenario(
        loop.trace, "h200-sxm", "llama-3.3-70b", "fp8-kv8", 1, block_tokens=32, context=17408, tokens=17408
    )
    return eviction.run(scenario, loop, quick=True)


def test_a_closed_loop_keeps_as_many_requests_as_it_has_clients():
    trace = eviction.Loop(5, 2, 10, 3).trace
    assert trace.previous.tolist() == [-1, -1, 0, 1, 2]
    assert (trace.max_tokens == trace.output_tokens).all()


def test_under_pressure_pausing_goes_the_way_that_was_measured(table):
    before, after = next(eviction.pairs(table, "case"))
    for name, (no_evict, max_utilization) in eviction.MEASURED.items():
        assert (getattr(after, name) < getattr(before, name)) == (max_utilization < no_evict), name
    assert after.pauses > 0 == before.pauses
    assert after.recomputed_tokens >= after.pauses * after.prompt_tokens


def test_without_eviction_our_clock_is_near_the_measured_one(table):
    before, _ = next(eviction.pairs(table, "case"))
    # Constants of the cost model are generic, and cards and pool of the report are assumed.
    for name, (measured, _) in eviction.MEASURED.items():
        assert getattr(before, name) == pytest.approx(measured, rel=0.35), name


def test_off_pressure_both_policies_do_the_same(table):
    for before, after in eviction.pairs(table):
        if before.pool_tokens >= before.concurrency * (before.prompt_tokens + before.output_tokens):
            assert before._asdict() | {"Index": 0, "policy": ""} == after._asdict() | {"Index": 0, "policy": ""}


def test_a_promise_is_never_broken_and_nobody_is_lost(table):
    assert not table[table.policy == "inflight_batching"].pauses.any()
    assert (table.served == 128).all()


def test_the_figure_has_a_point_for_each_load_and_memory(table):
    figure = eviction.plot(table)
    drawn = [len(line.get_xdata()) for axes in figure.axes for line in axes.lines if line.get_marker() == "o"]
    assert drawn == [2, 2, 2, 2]


def test_the_command_prints_one_object_and_leaves_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["eviction", "--quick", "--json", "--out", str(tmp_path / "results")])
    assert not ended.value.code
    printed = json.loads(capsys.readouterr().out)
    assert {Path(path).name for path in printed["files"]} == {"eviction.csv", "summary.json"}
    written = pd.read_csv(tmp_path / "results" / "eviction.csv")
    assert len(written) == len(printed["tables"]["eviction"])
    assert np.isfinite(written.tokens_per_second).all()
    assert "measured: -40.6 %, 9.1 times" in printed["finding"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--requests", "0"], "--requests is 0"),
        (["--prompt", "200000", "--output", "1"], "hold no request"),
        (["--model", "nothing"], "nothing"),
    ],
)
def test_mistakes_are_named(wrong: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["eviction", *wrong, "--quick", "--out", str(tmp_path / "results")])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
