"""The trade between users and cards: speeds recomputed by hand, the frontier against brute force, and the files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import grid
from experiments.asked import candidates
from experiments.pareto import Question, on_frontier, pareto, run
from experiments.shown.pareto_answer import headline, plot, shown, stopping
from sim import simulate
from workloads.declared import with_max_tokens
from workloads.synthetic.chat import chat

ONE_CORE = grid.Where(workers=1)
ASKED = Question("llama-2-13b", "generic", 250, 3, 2, (0.1, 0.7, 2.5), None)
CHOSEN = candidates.parse("l20:2,l4:1,l20:2:fp8")


@pytest.fixture(scope="module")
def answer() -> tuple[pd.DataFrame, dict[str, str]]:
    return run(ASKED, CHOSEN, ONE_CORE, lambda _: None)


def test_both_speeds_are_what_tokens_and_times_say(answer) -> None:
    table, _ = answer
    row = table[(table["name"] == CHOSEN[0].name) & (table["share"] == 0.1)].iloc[0]
    scenario = CHOSEN[0].scenario("llama-2-13b")
    cards, times = [], []
    for seed in (1, 2, 3):
        rng = np.random.default_rng(np.random.SeedSequence(seed))
        trace = with_max_tokens(chat(rng, 250, row["rate"], system_prompt_tokens=512, context_tokens=4096), "auto")
        result = simulate(replace(scenario, trace=trace))
        first, last = result.arrival_seconds.min(), result.arrival_seconds.max()
        begin, end = first + 0.1 * (last - first), last - 0.05 * (last - first)
        ended = (result.finish_seconds >= begin) & (result.finish_seconds < end)
        cards.append(trace.output_tokens[ended].sum() / (end - begin) / 2)
        came = (result.arrival_seconds >= begin) & (result.arrival_seconds <= end)
        further = trace.output_tokens[came] - 1
        gaps = (result.finish_seconds - result.arrival_seconds - result.ttft_seconds)[came] / np.maximum(further, 1)
        times.append(gaps[further > 0])
    assert row["per_card"] == pytest.approx(np.mean(cards))
    assert list(row["per_card_seeds"]) == pytest.approx(cards)
    pooled = np.sort(np.concatenate(times))
    assert row["per_user"] == pytest.approx(1 / pooled[int(np.ceil(len(pooled) / 2)) - 1])
    assert row["per_user_low"] <= row["per_user"] <= row["per_user_high"]
    assert row["per_user_least"] <= row["per_user"] <= row["per_user_most"]


def test_overloaded_points_have_no_speed_and_what_cannot_serve_says_why(answer) -> None:
    table, failures = answer
    over = table[table["share"] == 2.5]
    assert not over["stable"].any()
    assert over["per_user"].isna().all()
    assert not over["frontier"].any()
    assert list(failures) == [CHOSEN[1].name]
    assert "does not fit" in failures[CHOSEN[1].name]
    assert "overloaded" in set(shown(table)["tokens/s per user"])


def test_light_load_is_faster_for_users_and_makes_less_of_a_card(answer) -> None:
    table, _ = answer
    for _, rows in table[table["stable"]].groupby("name"):
        assert (np.diff(rows.sort_values("share")["per_user"]) < 0).all()
        assert (np.diff(rows.sort_values("share")["per_card"]) > 0).all()


POINTS = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(1, 9), st.integers(1, 9), st.booleans()), min_size=1, max_size=8
)


@given(POINTS)
def test_nobody_on_the_frontier_is_beaten_and_the_best_of_all_is_on_it(points) -> None:
    names, users, cards, stable = (list(column) for column in zip(*points, strict=True))
    table = pd.DataFrame({"name": names, "per_user": users, "per_card": cards, "stable": stable}, dtype=object)
    table = (
        table.drop_duplicates(["name", "per_user"]).drop_duplicates(["per_user", "per_card"]).astype({"stable": bool})
    )
    chosen = on_frontier(table)
    known = table[table["stable"]]
    for on, row in zip(chosen, table.to_dict(orient="records"), strict=True):
        others = known[(known["per_user"] >= row["per_user"]) & (known["per_card"] >= row["per_card"])]
        beaten = len(others) > bool(row["stable"])
        assert not (on and beaten)
        assert not (on and not row["stable"])
    if len(known):
        assert any(chosen)


def test_figure_finding_and_stopping_name_the_same_candidates(answer) -> None:
    table, _ = answer
    assert "FP8" in headline(table)
    (sentence,) = stopping(table)
    assert "3 replications" in sentence
    assert "tokens/s per card at" in sentence
    labels = [text.get_text() for text in plot(table).axes[0].texts]
    assert any("FP8 (frontier)" in label for label in labels)


def test_the_command_writes_what_it_says(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "answer"
    given_options = {"candidates": "l20:2,l20:2:fp8", "requests": 100, "seeds": 2, "draws": 0, "where": ONE_CORE}
    assert pareto(**given_options, quick=True, json=True, out=folder) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {path.name for path in folder.iterdir()} == {"pareto.csv", "summary.json"}
    assert len(answer["tables"]["pareto"]) == 6


@pytest.mark.parametrize(
    ("given_options", "message"),
    [
        ({"requests": 10}, "--requests is 10; allowed: a whole number, at least 100"),
        ({"seeds": 1}, "--seeds is 1"),
        ({"draws": -1}, "--draws is -1"),
        ({"candidates": "l4:1", "requests": 100}, "no candidate can serve: Llama-2-13B in w16a16 does not fit"),
    ],
)
def test_impossible_questions_are_refused(given_options, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--|no candidate") as error:
        pareto(**given_options, where=ONE_CORE, quick=True, out=tmp_path / "never")
    assert message in str(error.value)
