"""Where a promise ends, against a queue whose percentile is known; and the files, costs and reasons of the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments import grid
from experiments.asked import candidates
from experiments.asked.slo import Clause, parse
from experiments.capacity import Question, capacity, run, summary
from experiments.shown.capacity_answer import WITHIN_TRACE, headline, plot, shown, stopping
from experiments.tried.rate_search import Found, Trial, search
from sim.engine.clock import TICKS_PER_SECOND, IterationClock
from sim.engine.replay import replay
from sim.results.result import Result
from sim.results.separation import LOOKS
from sim.scheduling.batch import Limits
from sim.scheduling.schedulers import SCHEDULERS
from workloads.trace import Trace

ONE_CORE = grid.Where(workers=1)
SERVICE = 200  # mean service of the queue [ms], a prompt token each
SEAT = Limits(blocks=10_000, sequences=1, tokens=8_192, context=8_193)
CLOCK = IterationClock(
    0, range(0, 8_193 * TICKS_PER_SECOND // 1000, TICKS_PER_SECOND // 1000), [0, 0], 0, 0, lambda *_: 0
)


def queue(rate: float, seed: int) -> Result:
    """One seat, exponential arrivals, geometric services: M/G/1, all but M/M/1."""
    random = np.random.default_rng(seed)
    gaps, tokens = random.exponential(1.0, 1_500), random.geometric(1 / SERVICE, 1_500)
    one = np.ones(1_500, dtype=np.int64)
    trace = Trace(np.cumsum(gaps) / rate, tokens, one, one)
    return Result(trace, SEAT, replay(trace, SEAT, SCHEDULERS["prefill_first"], CLOCK))


@pytest.mark.parametrize("first_seed", [0, 1_000, 2_000])
def test_the_interval_holds_the_rate_at_which_the_percentile_of_an_m_m_1_queue_reaches_its_bound(first_seed) -> None:
    """P(time > t) = exp(-(mu - lambda) t), so that p95 is at most t up to lambda = mu - ln(20) / t."""
    bound = 3.0
    truth = 1e3 / SERVICE - np.log(20) / bound
    clauses = (Clause("E2E", 0.95, bound),)
    found = search(lambda rate, seed: queue(rate, seed + first_seed), clauses, 5.0, 1, looks=LOOKS[:4], tolerance=0.05)
    assert found.low <= truth <= found.high
    assert found.low <= found.rate <= found.high
    assert found.high / found.low < 1.35
    assert found.at(found.low).replications == LOOKS[3], "the lower end is known from all replications"
    assert found.at(found.low).probability > 0.99
    assert found.at(found.high).probability < 0.01


def test_a_promise_that_cannot_be_kept_even_alone_ends_at_no_rate() -> None:
    found = search(queue, (Clause("E2E", 0.95, 0.05),), 5.0, 1, looks=LOOKS[:2])
    assert np.isnan(found.low)
    assert np.isnan(found.rate)
    assert min(trial.rate for trial in found.trials) == pytest.approx(0.1)


def test_a_promise_that_any_latency_keeps_ends_where_the_backlog_grows() -> None:
    found = search(queue, (Clause("E2E", 0.5, 1e6),), 5.0, 1, looks=LOOKS[:2], tolerance=0.1)
    assert 0.85 * 5 < found.low < 1.1 * 5 < 1.1 * found.high
    assert not found.at(found.high).stable
    assert found.at(found.high).growth > 0


def test_the_crossing_is_where_the_line_between_two_margins_falls_below_zero() -> None:
    def trial(rate: float, margins: list[float], decision: int) -> Trial:
        return Trial(rate, np.array(margins)[:, None], np.zeros(1), True, 0.0, decision)

    found = Found((trial(1.0, [0.01, 0.03], 1), trial(2.0, [0.0, -0.01], 0), trial(3.0, [-0.2, -0.3], -1)))
    assert found.rate == pytest.approx(1 + 0.02 / 0.025)
    assert found.by_seed == pytest.approx([2.0, 1 + 0.03 / 0.04])


def question(text: str, **changed) -> Question:
    base = Question(parse(text), "llama-2-13b", "generic", "chat", 100, LOOKS[:2], 0.1, None)
    return replace(base, **changed)


CHOSEN = candidates.parse("l20:2,l4:1,h20:1:fp8")


@pytest.fixture(scope="module")
def trials() -> pd.DataFrame:
    return run(question("ttft p90 <= 2 s"), CHOSEN, ONE_CORE, lambda _: None)


def test_candidates_are_ranked_with_cost_and_reason(trials: pd.DataFrame) -> None:
    asked = question("ttft p90 <= 2 s")
    table = summary(trials, asked, CHOSEN, {"l20": 0.9, "h20-96": 1.8})
    assert list(table["rank"]) == [1, 2, 3]
    served = table[table["rate"] > 0]
    assert (np.diff(served["cost_per_million_tokens"]) >= 0).all()
    lengths = asked.options
    assert lengths.requests == 100
    for row in served.to_dict(orient="records"):
        price = {"2 x l20": 0.9, "1 x h20": 1.8}[row["candidate"][:7]]
        tokens_an_hour = row["tokens_per_second"] * 3600
        assert row["cost_per_million_tokens"] == pytest.approx(price * row["cards"] / tokens_an_hour * 1e6)
        assert row["rate_low"] <= row["rate"] <= row["rate_high"]
    assert "does not fit" in table["limit"].iloc[-1]
    assert list(table["watts"].iloc[:2]) == [550.0, 400.0] or list(table["watts"].iloc[:2]) == [400.0, 550.0]


def test_without_prices_the_most_requests_a_card_come_first_and_there_is_no_cost(trials: pd.DataFrame) -> None:
    table = summary(trials, question("ttft p90 <= 2 s"), CHOSEN, {})
    assert (np.diff(table["rate_per_card"].dropna()) <= 0).all()
    assert "cost per 1M tokens" not in shown(table, priced=False)
    assert headline(table).endswith("the most per card")
    figure = plot(table)
    assert len(figure.axes[0].get_yticks()) == 3


def test_a_looser_promise_is_kept_at_least_as_far(trials: pd.DataFrame) -> None:
    strict = summary(trials, question("ttft p90 <= 2 s"), CHOSEN[:1], {})
    asked = question("ttft p90 <= 20 s")
    loose = summary(run(asked, CHOSEN[:1], ONE_CORE, lambda _: None), asked, CHOSEN[:1], {})
    assert loose["rate_high"].iloc[0] >= strict["rate_low"].iloc[0]


def test_a_recorded_trace_is_judged_by_its_time_blocks_and_says_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    arrival, lengths = np.sort(rng.uniform(0, 600, 300)), rng.integers(50, 300, (300, 2))
    lines = [f"{a:.6f},{p},{o}" for a, (p, o) in zip(arrival, lengths, strict=True)]
    lines[150] = f"{arrival[150]:.6f},5000,10"  # beyond the context: rejected, and so missed
    path = tmp_path / "own.csv"
    path.write_text("\n".join(["arrival_seconds,prompt_tokens,output_tokens", *lines]) + "\n")
    asked = question("ttft p90 <= 2 s", trace=str(path), requests=None)
    trials = run(asked, CHOSEN[:1], ONE_CORE, lambda _: None)
    assert set(trials["replications"]) == {5}
    table = summary(trials, asked, CHOSEN[:1], {})
    assert table["rate_low"].iloc[0] <= table["rate"].iloc[0] <= table["rate_high"].iloc[0]
    assert stopping(table, trials, asked) == [WITHIN_TRACE]
    light = sorted(trials[trials["rate"] == trials["rate"].min()].iloc[0]["margin ttft p90"])
    assert light[0] == pytest.approx(0.1 - 1 / 50, abs=0.003), "the rejected one counts in its block of about fifty"
    assert light[1:] == pytest.approx([0.1] * 4)


def test_what_nobody_can_keep_is_said_with_the_value_at_light_load() -> None:
    asked = question("ttft p90 <= 1 ms")
    table = summary(run(asked, CHOSEN[:1], ONE_CORE, lambda _: None), asked, CHOSEN[:1], {})
    assert table["limit"].iloc[0].startswith("ttft p90 at any rate: ")
    assert headline(table) == "None of 1 candidates keeps the promise at any rate"


def test_the_command_writes_what_it_says(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "answer"
    given = {"slo": "ttft p90 <= 2 s", "candidates": "l20:2,h20:1:fp8", "requests": 100, "where": ONE_CORE}
    assert capacity(**given, price=("l20=1,h20=2",), price_date="2026-01-31", json=True, quick=True, out=folder) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {path.name for path in folder.iterdir()} == {"capacity.csv", "trials.csv", "summary.json"}
    assert any("Prices of 2026-01-31" in note for note in answer["notes"])
    assert any("replications" in note and "would" in note for note in answer["notes"]), "how many seeds it takes"
    assert len(pd.read_csv(folder / "capacity.csv")) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"slo": "ttft p99 <= 2"}, "--slo clause"),
        ({"candidates": "l20:0"}, "tp is '0'"),
        ({"price": ("l20",)}, "--price is 'l20'"),
        ({"price": ("l20=1",), "price_date": "soon"}, "--price-date is 'soon'; allowed: a day as YYYY-MM-DD"),
        ({"slo": "ttft p99.9 <= 2 s", "requests": 300}, "--requests is 300; allowed: at least 2,942, to see beyond"),
        ({"model": "llama-9"}, "llama-9"),
    ],
)
def test_impossible_questions_are_refused_before_anything_is_simulated(given, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"allowed|no model|unknown|named") as error:
        capacity(**given, where=ONE_CORE, out=tmp_path / "never")
    assert message in str(error.value)
