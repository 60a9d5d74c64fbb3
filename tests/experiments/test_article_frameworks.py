"""`frameworks`: what stands in front, what is late, and the article's table, against arithmetic by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from experiments.article.finding import article
from experiments.article.framework_rows import TODAY, article_rows, first_token
from experiments.frameworks import HOP_SECONDS, HUES, headline, missed, plot, run
from experiments.run import main
from sim import Scenario, simulate, systems
from sim.results.goodput import Objectives
from workloads.trace import Trace

NAMES = ("tensorrt-llm-2024-01", "vllm-0.2.7", "vllm-0.33")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return run(NAMES, quick=True)


def cell(table: pd.DataFrame, name: str, way: str, column: str) -> float:
    return float(table[(table["system"] == name) & (table["as"] == way)][column].iloc[0])


@pytest.mark.parametrize(("name", "servers"), [("tensorrt-llm-2024-01", 2), ("vllm-0.2.7", 1), ("vllm-0.33", 1)])
def test_a_service_answers_later_by_what_stands_in_front_and_decodes_as_fast(
    table: pd.DataFrame, name: str, servers: int
) -> None:
    for column in ("mean_ttft_seconds", "mean_end_to_end_seconds"):
        later = cell(table, name, "service", column) - cell(table, name, "engine", column)
        assert later == pytest.approx(servers * HOP_SECONDS, abs=1e-9)
    assert cell(table, name, "service", "p50_tpot_seconds") == cell(table, name, "engine", "p50_tpot_seconds")
    assert cell(table, name, "service", "highest_load") <= 1.001 * cell(table, name, "engine", "highest_load")


def test_the_assumption_on_a_server_in_front_is_that_of_the_presets() -> None:
    front = {systems.load(name).overheads.front_end_seconds for name in ("vllm-0.2.7", *TODAY)}
    assert front == {HOP_SECONDS}


def test_a_common_load_is_one_that_all_can_bear(table: pd.DataFrame) -> None:
    assert table["load"].nunique() == 1
    assert table["load"].iloc[0] == pytest.approx(0.9 * table["highest_load"].min(), rel=1e-9)


def test_a_cache_that_is_on_by_default_saves_the_system_prompt(table: pd.DataFrame) -> None:
    assert cell(table, "vllm-0.2.7", "engine", "prefix_hit_share") == 0
    assert 0.2 < cell(table, "vllm-0.33", "engine", "prefix_hit_share") < 0.5
    assert cell(table, "vllm-0.33", "engine", "highest_load") > cell(table, "vllm-0.2.7", "engine", "highest_load")


def test_missed_counts_those_who_wait_and_those_who_are_refused() -> None:
    trace = Trace(np.zeros(4), np.array([100, 100, 100, 5000]), np.array([2, 2, 2, 2]), np.array([2, 2, 2, 2]))
    result = simulate(Scenario(trace, sequences=1))
    second = float(result.ttft_seconds[1])
    assert missed(result, Objectives()) == pytest.approx(1 / 4)
    assert missed(result, Objectives(second)) == pytest.approx(2 / 4)
    assert missed(result, Objectives(second / 10)) == 1.0


def test_every_row_of_the_articles_table_has_a_verdict(table: pd.DataFrame) -> None:
    rows = article_rows(table).set_index("row")
    assert list(rows.index) == [row["title"] for row in article()["rows"]]
    assert rows.verdict["FP8"] == "holds"
    assert rows.verdict["INT8 and below"].startswith("holds if these are left out: vLLM 0.2.7, W4A8")
    assert rows.today["prefix sharing"] == "prefix sharing: all"
    assert rows.today["padding"] == "prompts are padded: none"
    assert rows.today["Dynamic SplitFuse"].startswith("chunked prefill (Dynamic SplitFuse): vLLM 0.33, TensorRT-LLM")
    assert "SGLang 0.5: the system has it" in rows.today["Dynamic SplitFuse"]


@pytest.mark.parametrize(
    ("ttft", "end", "verdict"),
    [
        ((0.3, 0.4), (9.0, 8.0), "holds"),
        ((0.5, 0.4), (9.0, 8.0), "does not hold: first tokens come no sooner"),
        ((0.3, 0.4), (7.0, 8.0), "does not hold: last ones no later"),
    ],
)
def test_the_row_on_first_tokens_is_read_from_the_times(
    ttft: tuple[float, float], end: tuple[float, float], verdict: str
) -> None:
    rows = [
        {"system": name, "as": "engine", "mean_ttft_seconds": a, "mean_end_to_end_seconds": b}
        for name, a, b in zip(("vllm-0.2.7", "tensorrt-llm-2024-01"), ttft, end, strict=True)
    ]
    assert first_token(pd.DataFrame(rows))[0] == verdict
    assert first_token(pd.DataFrame(rows[:1]))[0].startswith("not decidable")


def test_the_title_computes_its_ratio_and_figure_shows_both_ways(table: pd.DataFrame) -> None:
    changed = table.copy()
    changed["highest_load"] = [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]
    assert headline(changed).startswith("vLLM 0.33 serves 3 times what TensorRT-LLM 2024-01 does on the same cards")
    assert headline(changed).endswith("servers in front add 10 to 20 ms to the first token (assumed)")
    axes = plot(table).axes[0]
    assert {patch.get_gid() for patch in axes.patches} == {f"highest_load {way}" for way in HUES}
    changed["highest_load"] = 0.0
    assert "No two products" in headline(changed)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--system", "vllm-0.33"], "--system is vllm-0.33; allowed: two and more of"),
        (["--precision", "fp8"], "vLLM 0.2.7 has no FP8"),
        (["--system", "vllm-0.33", "vllm-9"], "vllm-9"),
        (["--slo-ttft", "0"], "ttft_seconds is 0"),
    ],
)
def test_what_cannot_be_asked_is_said(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["frameworks", *options, "--quick"])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
