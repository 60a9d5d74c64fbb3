"""Many replicas or few, and routers: what the commands leave, against sums done by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments import grid, replicas_vs_tp, routers
from experiments.run import main
from experiments.tried.cluster_load import Measured, Setup, Study, measure, trace_of
from sim import simulate
from workloads.trace import Trace

STUDY = Study(
    hardware="a800-sxm",
    model="llama-2-13b",
    precision="w16a16",
    policy="inflight_batching",
    context=None,
    setups=replicas_vs_tp.ways("llama-2-13b", 4),
    conversations=False,
    requests=160,
    seeds=2,
    slo_ttft=2.0,
    slo_tpot=0.05,
)
HERE = grid.Where(workers=1)


@pytest.fixture(scope="module")
def measured() -> Measured:
    return replicas_vs_tp.run(STUDY, (0.4,), HERE)


def test_every_way_uses_all_cards() -> None:
    for cards in (2, 8, 16):
        assert {way.replicas * way.tensor for way in replicas_vs_tp.ways("llama-2-13b", cards)} == {cards}


def test_numbers_are_those_of_a_simulation_by_hand(measured: Measured) -> None:
    (rate,) = measured.rates
    found = {}
    for setup in STUDY.setups:
        scenario = replace(STUDY.scenario(setup), trace=None)
        results = [simulate(replace(scenario, trace=trace_of(STUDY, rate, seed, 4096))) for seed in (1, 2)]
        for mine, theirs in zip(results, measured.runs[setup.name, rate].results, strict=True):
            np.testing.assert_array_equal(mine.ttft_seconds, theirs.ttft_seconds)
        burst = simulate(replace(scenario, trace=trace_of(STUDY, np.inf, 1, 4096)))
        finish = np.sort(burst.finish_seconds)
        found[setup.name] = (120 - 40) / (finish[120] - finish[40])
    for name, capacity in found.items():
        assert measured.capacities[name][0] == pytest.approx(capacity)
    assert rate == pytest.approx(0.4 * max(values.mean() for values in measured.capacities.values()), rel=0.01)


def test_all_ways_see_the_same_requests(measured: Measured) -> None:
    traces = [[result.trace for result in runs.results] for runs in measured.runs.values()]
    for seed in range(2):
        first: Trace = traces[0][seed]
        assert all((other[seed].prompt_tokens == first.prompt_tokens).all() for other in traces)


def test_more_cards_to_a_replica_make_single_tokens_faster_at_low_load(measured: Measured) -> None:
    table = measured.table()
    rows = table[(table.metric == "TPOT") & (table.level == 0.5)].set_index("tensor")["estimate"]
    assert rows.sort_index().is_monotonic_decreasing


def test_the_finding_follows_from_the_capacities(measured: Measured) -> None:
    said = replicas_vs_tp.headline(measured)
    best = max(measured.capacities, key=lambda name: measured.capacities[name].mean())
    assert said.startswith(f"{best} serves most")


def test_what_does_not_fit_is_left_out_and_named() -> None:
    large = replace(STUDY, model="llama-2-70b", setups=replicas_vs_tp.ways("llama-2-70b", 4))
    able, notes = large.possible()
    assert [setup.name for setup in able.setups] == ["2 x TP 2", "1 x TP 4"]
    assert len(notes) == 1
    assert notes[0].startswith("Left out: 4 x TP 1")
    with pytest.raises(ValueError, match="Llama-2-70B in w16a16 does not fit"):
        replace(large, setups=large.setups[:1]).possible()


def test_affinity_finds_more_in_the_caches_than_lots() -> None:
    setups = tuple(Setup(name, 3, 2, name, True) for name in ("random", "prefix_affinity"))
    study = replace(STUDY, setups=setups, conversations=True, requests=240)
    found = measure(study, (0.5,), HERE)
    hits = {name: found.runs[name, found.rates[0]].quantity("prefix_hit_share").estimate for name in found.capacities}
    assert hits["prefix_affinity"] > 1.15 * hits["random"]
    assert routers.headline(found).startswith("prefix_affinity finds")


@pytest.mark.parametrize(
    "tokens",
    [
        ["replicas_vs_tp", "--cards", "4", "--requests", "100", "--seeds", "2"],
        ["routers", "--requests", "100", "--seeds", "2", "--router", "random", "least_requests"],
    ],
    ids=lambda tokens: tokens[0],
)
def test_commands_leave_tables_figures_and_a_report(
    tokens: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        main([*tokens, "--workers", "1", "--out", str(out), "--json"])
    assert ended.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert {path.name for path in out.iterdir()} == {Path(path).name for path in printed["files"]}
    assert (out / "report.html").exists()
    assert list(out.glob("*.svg"))
    table = pd.read_csv(out / f"{tokens[0]}.csv")
    assert set(table["metric"]) >= {"TTFT", "E2E", "goodput_share", "capacity_requests_per_second"}
    assert not list(tmp_path.glob(".*points")), "what was kept while it lasted is gone"


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["replicas_vs_tp", "--cards", "1"], "--cards is 1; allowed: 2 and more"),
        (["replicas_vs_tp", "--router", "nearest"], "--router is nearest; allowed: round_robin"),
        (["replicas_vs_tp", "--workers", "0"], "--workers is 0; allowed: a whole number"),
        (["routers", "--router", "random"], "--router is random; allowed: two or more of"),
        (["routers", "--replicas", "1"], "--replicas is 1; allowed: 2 and more"),
    ],
)
def test_mistakes_end_in_one_sentence(
    tokens: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(tokens)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
