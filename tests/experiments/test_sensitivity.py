"""What turns a decision round: cases against the requests they claim, thresholds against a known line, the files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments import grid, sensitivity
from experiments.asked import candidates
from experiments.asked.assumptions import ASSUMPTIONS, Case, touches
from experiments.asked.options import Options, completed
from experiments.asked.workload import Workload
from experiments.sensitivity import Metric, Question, parse_metric
from experiments.shown.sensitivity_answer import headline, plot, shown
from sim import simulate
from sim.physics.band import INTERVALS, constants_at
from sim.physics.totals import Totals
from sim.scenario import Scenario

ONE_CORE = grid.Where(workers=1)
FIRST, SECOND = candidates.parse(sensitivity.DEFAULT_CANDIDATES)
ASKED = Question(FIRST, SECOND, Metric("E2E", None), "llama-2-13b", "generic", 0.85, 120, 6, None, 2)
CONTEXT = 4096


def test_the_base_is_the_workload_of_every_other_experiment() -> None:
    ours = Case().trace(200, 1.5, 3, CONTEXT)
    theirs = Workload(completed(Options(requests=200)), CONTEXT).trace(1.5, 3)
    for name in ("arrival_seconds", "prompt_tokens", "output_tokens", "max_tokens"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name))
    assert [ours.segments.row(i) for i in (0, 199)] == [theirs.segments.row(i) for i in (0, 199)]


def test_each_assumption_about_requests_changes_what_it_says_and_nothing_else() -> None:
    base = Case().trace(2_000, 2.0, 1, CONTEXT)
    longer = Case(reply=1.4).trace(2_000, 2.0, 1, CONTEXT)
    assert np.array_equal(longer.prompt_tokens, base.prompt_tokens)
    assert longer.output_tokens.mean() == pytest.approx(1.4 * base.output_tokens.mean(), rel=0.02)
    alike = Case(spread=0.0).trace(2_000, 2.0, 1, CONTEXT)
    assert set(alike.output_tokens) == {round(base.output_tokens.mean())}
    assert set(alike.prompt_tokens) == {round(base.prompt_tokens.mean())}
    wider = Case(spread=1.3).trace(2_000, 2.0, 1, CONTEXT)
    assert wider.output_tokens.std() > base.output_tokens.std()
    assert np.corrcoef(wider.output_tokens, base.output_tokens)[0, 1] > 0.98
    for trace in (longer, alike, wider):
        assert np.array_equal(trace.arrival_seconds, base.arrival_seconds)
        assert (trace.prompt_tokens + trace.output_tokens <= CONTEXT).all()
    bunched = Case(burstiness=0.25).trace(2_000, 2.0, 1, CONTEXT)
    gaps = np.diff(bunched.arrival_seconds)
    assert gaps.std() / gaps.mean() == pytest.approx(2.0, rel=0.15)  # 1 / sqrt(shape)
    assert np.array_equal(bunched.output_tokens, base.output_tokens)
    private, shared = (Case(shared=tokens).trace(50, 2.0, 1, CONTEXT) for tokens in (0, 1024))
    assert private.segments is None
    assert shared.segments is not None
    assert shared.segments.row(0) == [(0, 0, min(1024, int(shared.prompt_tokens[0])))]


def test_less_memory_is_fewer_blocks_and_a_slower_host_a_slower_iteration() -> None:
    base = FIRST.scenario("llama-2-13b")
    less = Case(utilisation=0.9).scenario(base)
    assert less.machine.limits.blocks < base.machine.limits.blocks
    slow = Case(constant="host", position=0.95).scenario(base)
    assert slow.host_seconds == pytest.approx(INTERVALS["host"].high * base.host_seconds)


@pytest.mark.parametrize("name", list(INTERVALS))
def test_the_base_of_a_constant_is_where_the_generic_one_is(name: str) -> None:
    one, model = ASSUMPTIONS[name], FIRST.scenario("llama-2-13b").machine.model
    constants, host = constants_at(model.efficiency, {name: one.base})
    totals = Totals(544, 33, 512, 512 * 513 / 2, decode_sequences=32, decode_kv_tokens=32 * 1024)
    moved = replace(model, efficiency=constants, host_seconds=host * model.host_seconds)
    assert float(moved.seconds(totals)) == pytest.approx(float(model.seconds(totals)), rel=1e-9)
    assert one.low <= one.base <= one.high


def test_constants_that_a_machine_does_not_use_are_left_out() -> None:
    alone = Scenario(tensor=1).machine.model
    assert not touches(ASSUMPTIONS["PCIe"], alone)
    assert not touches(ASSUMPTIONS["experts"], alone)
    assert not touches(ASSUMPTIONS["narrow kernels"], alone)
    assert touches(ASSUMPTIONS["PCIe"], Scenario(tensor=2).machine.model)
    assert touches(ASSUMPTIONS["burstiness"], alone)


def test_the_difference_is_that_of_two_runs_on_the_same_requests() -> None:
    found, _ = sensitivity.differences(ASKED, Case())
    burst = Case().trace(120, np.inf, 1, CONTEXT)
    first, second = (one.scenario("llama-2-13b") for one in (FIRST, SECOND))
    rate = float(f"{0.85 * sensitivity.saturated(simulate(replace(first, trace=burst))):.4g}")
    trace = Case().trace(120, rate, 4, CONTEXT)
    begin, end = np.array([0.1, 0.95]) * np.ptp(trace.arrival_seconds) + trace.arrival_seconds[0]
    means = []
    for scenario in (first, second):
        result = simulate(replace(scenario, trace=trace))
        counted = (result.arrival_seconds >= begin) & (result.arrival_seconds <= end)
        means.append(result.end_to_end_seconds[counted].mean())
    assert found[3] == pytest.approx(100 * (means[1] / means[0] - 1), rel=1e-3)
    assert len(found) == 6


def line(crossing: float):
    """Return a difference that falls linearly with the length of replies and crosses zero at `crossing`."""

    def differences(question: Question, case: Case) -> tuple[np.ndarray, bool]:
        return 10 * (case.reply - crossing) + np.linspace(-0.1, 0.1, 6), case.reply < 1.3

    return differences


@pytest.fixture
def fresh():
    sensitivity._at_base.cache_clear()
    yield
    sensitivity._at_base.cache_clear()


@pytest.mark.parametrize(("crossing", "flips"), [(1.2, "surely"), (0.8, "surely"), (1.4, "perhaps"), (9.0, "no")])
def test_the_value_that_turns_a_decision_round_is_found(monkeypatch, fresh, crossing: float, flips: str) -> None:
    monkeypatch.setattr(sensitivity, "differences", line(crossing))
    row = sensitivity.swing("reply length", replace(ASKED, steps=12))
    assert row["flips"] == flips
    assert row["overloaded"] == "high"
    if flips == "surely":
        assert float(row["threshold"].removeprefix("x")) == pytest.approx(crossing, rel=0.01)
    if flips == "no":
        assert row["threshold"] == ""


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return sensitivity.run(ASKED, ONE_CORE, lambda _: None)


def test_rows_share_the_base_and_come_by_how_far_they_move_it(table: pd.DataFrame) -> None:
    assert table["base"].nunique() == 1
    moved = table[["low", "base", "high"]].max(axis=1) - table[["low", "base", "high"]].min(axis=1)
    assert (np.diff(moved) <= 0).all()
    assert {"PCIe", "reply length", "memory for the server", "burstiness", "shared prompt"} <= set(table["assumption"])
    assert not {"experts", "narrow kernels", "NVLink"} & set(table["assumption"])
    nothing = table[table["assumption"] == "shared prompt"].iloc[0]
    assert nothing["low"] == nothing["base"] == nothing["high"], "no cache, so nothing is shared"
    assert set(shown(table)["turns it round"]) <= {"surely", "perhaps", "no"}


def test_the_figure_draws_the_line_that_turns_the_decision_round(table: pd.DataFrame) -> None:
    axes = plot(table, ASKED).axes[0]
    assert any(line.get_xdata()[0] == 0.0 for line in axes.lines)
    names = [tick.get_text().split("\n")[0] for tick in axes.get_yticklabels()]
    assert names[-1] == table["assumption"].iloc[0], "the widest on top"
    assert "than" in headline(table, ASKED)


def test_the_command_writes_what_it_says(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "answer"
    given_options = {"requests": 100, "seeds": 6, "metric": "ttft p50", "load": 0.4, "where": ONE_CORE}
    assert sensitivity.sensitivity(**given_options, quick=True, json=True, out=folder) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {path.name for path in folder.iterdir()} == {"sensitivity.csv", "summary.json"}
    assert any("6 replications" in note for note in answer["notes"])


def test_metrics_are_read() -> None:
    assert parse_metric("E2E p99.9") == Metric("E2E", pytest.approx(0.999))
    assert parse_metric(" itl mean ") == Metric("ITL", None)


@pytest.mark.parametrize(
    ("given_options", "message"),
    [
        ({"candidates": "l20"}, "--candidates is 'l20'; allowed: two"),
        ({"metric": "speed"}, "--metric is 'speed'; allowed: ttft, tpot, itl, e2e, and mean or a percentile"),
        ({"metric": "ttft p100"}, "--metric is 'ttft p100'"),
        ({"metric": "ttft p9.9.9"}, "--metric is 'ttft p9.9.9'"),
        ({"seeds": 3}, "--seeds is 3; allowed: a whole number, at least 6"),
        ({"load": 0.0}, "--load is 0.0"),
        ({"candidates": "l20:2,l4:1"}, "does not fit"),
    ],
)
def test_impossible_questions_are_refused(given_options, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"allowed|fit") as error:
        sensitivity.sensitivity(**given_options, where=ONE_CORE, quick=True, out=tmp_path / "never")
    assert message in str(error.value)
