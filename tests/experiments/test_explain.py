"""`explain`: its numbers are the attribution's, its sentences are its numbers, and mistakes are one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.asked.options import Options
from experiments.explain import accusation, headings, of_request, parts_of, told
from experiments.run import main
from experiments.shown.figures.latency_parts import FILLS, tail_parts, waterfall
from experiments.tried import tail as tail_runs
from experiments.tried.offenders import offenders, without
from experiments.tried.tail import Tail, findings
from sim.engine.clock import uniform_clock
from sim.engine.replay import replay
from sim.figures.words import duration, readable
from sim.results.attribution import OWN, PARTS
from sim.results.result import Result
from sim.scheduling.batch import Limits
from sim.scheduling.schedulers import SCHEDULERS
from tests.strategies import traces
from workloads.trace import Trace

SMALL = Options(requests=120, seeds=2, load=(1.1,))


@pytest.fixture(scope="module")
def tail() -> Tail:
    return tail_runs.run(SMALL)


def test_the_parts_of_the_tail_sum_to_the_mean_of_the_slowest(tail: Tail) -> None:
    for policy, runs in tail.results.items():
        rows = tail.table[(tail.table.policy == policy) & (tail.table.metric == "E2E")]
        counted = [tail_runs.steady(run.arrival_seconds) for run in runs]
        times = np.concatenate([run.end_to_end_seconds[rows] for run, rows in zip(runs, counted, strict=True)])
        slowest = np.sort(times)[-int(rows.requests.iloc[0]) :]
        assert len(slowest) == int(np.ceil(0.01 * len(times)))
        assert rows.seconds.sum() == pytest.approx(slowest.mean(), rel=1e-12)
        assert rows.share.sum() == pytest.approx(1.0)


def test_sentences_say_what_the_table_says(tail: Tail) -> None:
    _, stalls = findings(tail)
    row = tail.table[(tail.table.part == "prefill_stall") & (tail.table.metric == "E2E")].iloc[0]
    assert row.policy == "prefill_first"
    assert duration(row.seconds) in stalls
    assert "under in-flight batching" in stalls


def test_where_policies_are_many_the_title_names_the_extremes(tail: Tail) -> None:
    more = tail_runs.run(SMALL, ("prefill_first", "static_batching", "orca"))
    title, subtitle = headings(more)
    first = more.table[more.table.metric == "TTFT"].groupby("policy").seconds.sum()
    ends = [f"{duration(first[policy])} ({readable(policy)})" for policy in (first.idxmin(), first.idxmax())]
    assert title.endswith(f"take {ends[0]} to {ends[1]} on average")
    assert "of replies take" in subtitle
    assert headings(tail) == findings(tail)


def test_one_request_is_told_with_its_own_work_and_what_it_lost(tail: Tail) -> None:
    request = tail.slowest("prefill_first")
    parts = parts_of(tail, "prefill_first", request)
    result = tail.results["prefill_first"][0]
    assert sum(parts.values()) == pytest.approx(result.end_to_end_seconds[request], rel=1e-12)
    story = told(tail, request, "prefill_first")
    assert f"Request {request} " in story
    assert duration(sum(parts[name] for name in OWN)) in story
    assert of_request(tail, request)["prefill_first [s]"].sum() == pytest.approx(sum(parts.values()))


def test_own_work_of_the_tail_is_what_its_parts_say(tail: Tail) -> None:
    own = tail.table[(tail.table.metric == "E2E") & tail.table.part.isin(set(OWN) - {"front_end"})]
    pd.testing.assert_series_equal(
        tail.own_table.groupby("policy").seconds.sum(), own.groupby("policy").seconds.sum(), rtol=1e-12
    )
    assert tail.own_table.groupby("policy").share.sum().to_numpy() == pytest.approx(1)


def test_offenders_are_drawn_with_their_charges_and_gains(tail: Tail) -> None:
    accused = [offenders(runs[0], policy, 0.05, 4) for policy, runs in tail.results.items()]
    drawn = accusation(accused)
    assert accused[0].sentence in drawn.alt
    for axes, found in zip(drawn.figure.axes, accused, strict=True):
        widths = [bar.get_width() for bar in axes.patches]
        assert widths == sorted(widths, reverse=True)
        assert set(widths) >= set(found.charged_seconds[found.removed])
        assert sorted(axes.lines[0].get_xdata()) == sorted(found.gained_seconds)


def test_figures_draw_every_part_as_long_as_it_is(tail: Tail) -> None:
    request = tail.slowest("prefill_first")
    parts = parts_of(tail, "prefill_first", request)
    figure = waterfall(tail.results["prefill_first"][0], request, parts, "title", "")
    drawn = {patch.get_gid(): patch.get_width() for patch in figure.axes[1].patches}
    assert drawn == pytest.approx({part: value for part, value in parts.items() if value})
    bars = tail_parts(tail.table, "title", "")
    assert sum(patch.get_width() for patch in bars.axes[0].patches) == pytest.approx(
        tail.table[tail.table.metric == "TTFT"].seconds.sum()
    )
    assert set(FILLS) == set(PARTS)


def test_the_command_leaves_figures_tables_and_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["explain", "--requests", "120", "--seeds", "1", "--load", "1.1", "--policy", "orca", "--request", "60"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--json", "--out", str(tmp_path / "out")])
    assert ended.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["options"]["request"] == 60
    assert {row["part"] for row in printed["tables"]["tail"]} == set(PARTS)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert len(printed["tables"]["offenders"]) > 3
    assert {"report.html", "offenders.csv", "tail.csv", "request.csv", "tail.svg", "waterfall_orca.png"} <= names


def test_leaving_out_the_only_offender_gives_back_what_it_is_charged_for() -> None:
    def run(*rows: tuple[float, int, int]) -> Result:
        arrival, prompt, output = (np.array(column) for column in zip(*rows, strict=True))
        trace, limits = Trace(arrival, prompt, output, output), Limits(200)
        return Result(
            trace, limits, replay(trace, limits, SCHEDULERS["prefill_first"], uniform_clock(2**40, 2**30, 900))
        )

    rows = [(0.0, 10, 9), (20.0, 10, 9), (22.5, 800, 1), (60.0, 10, 9)]
    found = offenders(run(*rows), "prefill_first", 1.0, 4)
    assert found.removed[0] == 2
    # The prompt of 800 tokens stalls the request before it: an iteration of 1 s and 800 / 1024 s.
    assert found.charged_seconds[2] == pytest.approx(1 + 800 / 1024)
    assert found.gained_seconds[0] == pytest.approx(1 + 800 / 1024)


@given(trace=traces(), request=st.integers(0, 23))
def test_without_a_request_all_others_stay_as_they_are(trace: Trace, request: int) -> None:
    independent = replace(trace, previous=None)
    if request >= len(trace) or len(trace) == 1:
        return
    rest = without(independent, request)
    others = np.arange(len(trace)) != request
    np.testing.assert_array_equal(rest.arrival_seconds, trace.arrival_seconds[others])
    np.testing.assert_array_equal(rest.output_tokens, trace.output_tokens[others])


def test_sessions_cannot_lose_a_request() -> None:
    two = np.array([3, 4])
    with pytest.raises(ValueError, match="has sessions; allowed for reruns: independent requests"):
        without(Trace(np.zeros(2), two, two, two, previous=np.array([-1, 0])), 0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--policy", "fifo"], "--policy names 'fifo'; allowed: prefill_first"),
        (["--reruns", "-1"], "--reruns is -1; allowed: 0 or more"),
        (["--request", "9999"], "--request is 9999; allowed: 0 to 59"),
    ],
)
def test_mistakes_are_one_sentence(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["explain", "--requests", "60", "--seeds", "1", "--load", "1", *options])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
