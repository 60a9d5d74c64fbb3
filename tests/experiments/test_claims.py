"""The article's claims: each verdict follows from the intervals, load by load, and none is canned."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.article.scheduler_claims import claims
from experiments.tried.cell import Load
from experiments.tried.comparison import SATURATED

LOADS = (Load(1.0, 0.3), Load(2.0, 0.6), Load(3.0, 0.9), Load(4.0, 1.2))
FIRST, LAST = "mean_ttft_seconds", "mean_end_to_end_seconds"
METRICS = (("TTFT", 0.5), ("TTFT", 0.99), ("E2E", 0.5), ("E2E", 0.99), (FIRST, np.nan), (LAST, np.nan))
LOWER, HIGHER, NONE, UNKNOWN = (-0.3, -0.1), (0.1, 0.3), (-0.1, 0.1), (np.nan, np.nan)


def comparison(**bounds: list[tuple[float, float]]) -> Any:
    """Return a comparison with no difference anywhere, except in `bounds`: metric -> (low, high) at each load."""
    rows = []
    pairs = [
        ("policy", "no cache"),
        ("policy", "prefix cache"),
        ("cache", "prefill_first"),
        ("cache", "inflight_batching"),
    ]
    quantities = [("goodput_share", np.nan), ("busy_share", np.nan), ("gpu_seconds_per_request", np.nan)]
    for effect, within in pairs:
        for metric, level in [*METRICS, *quantities, (SATURATED, np.nan)]:
            for place, load in enumerate(LOADS if metric != SATURATED else [Load(np.inf, np.nan)]):
                low, high = bounds.get(metric, [NONE if metric != "goodput_share" else (-0.001, 0.001)] * 4)[place]
                middle = (low + high) / 2
                rows.append((effect, within, load.requests_per_second, metric, level, middle, low, high, 100 * middle))
    columns = ["effect", "within", "load", "metric", "level", "difference", "low", "high", "percent"]
    table = pd.DataFrame(rows, columns=columns)
    table["percent_low"], table["percent_high"] = 100 * table.low, 100 * table.high
    table["method"] = np.where(table.low.isna(), "prefill_first: overloaded", "paired t over 5 replications")
    cell = SimpleNamespace(sections=[SimpleNamespace(prefix_hit_share=0.5)])
    return SimpleNamespace(differences=table, loads=LOADS, recorded=False, cells={"some": cell})


def answer(compared: Any, says: str, scope: str) -> tuple[str, bool]:
    return next((claim.answer, claim.held) for claim in claims(compared) if says in claim.says and claim.scope == scope)


def test_a_claim_holds_where_its_interval_excludes_zero_and_only_there() -> None:
    said, held = answer(
        comparison(**{FIRST: [NONE, HIGHER, HIGHER, UNKNOWN], "TTFT": [UNKNOWN] * 4}), "optimises", "no cache"
    )
    assert held
    assert "no difference shown at 30 % load" in said
    assert "holds at 60-90 % load (in-flight mean TTFT +20 %)" in said


def test_loads_at_which_nothing_is_known_are_named_with_the_reason() -> None:
    unknown = [NONE, NONE, NONE, UNKNOWN]
    said, held = answer(comparison(**{FIRST: unknown, "TTFT": unknown}), "optimises", "no cache")
    assert not held
    assert said.endswith("cannot be told at 120 % load (overloaded)")


def test_the_opposite_of_a_claim_is_said_to_be_shown() -> None:
    said, held = answer(comparison(**{LAST: [NONE, NONE, HIGHER, HIGHER]}), "worsens", "prefix cache")
    assert not held
    assert "does not hold: the opposite is shown at 90-120 % load" in said


def test_metrics_that_contradict_each_other_hold_in_part_only() -> None:
    said, _ = answer(comparison(**{FIRST: [HIGHER] * 4, "TTFT": [LOWER] * 4}), "optimises", "no cache")
    assert said.startswith("holds in part only at 30-120 % load")


@pytest.mark.parametrize(
    ("goodput", "verdict"),
    [
        ((-0.005, -0.001), "holds"),
        ((-0.08, -0.02), "does not hold: fewer requests"),
        ((-0.08, 0.02), "goodput is too uncertain to tell"),
    ],
)
def test_mixing_balances_if_the_last_token_gains_and_goodput_surely_loses_less_than_one_percent(
    goodput: tuple[float, float], verdict: str
) -> None:
    said, held = answer(comparison(**{LAST: [LOWER] * 4, "goodput_share": [goodput] * 4}), "balances", "no cache")
    assert said.startswith(verdict)
    assert held == (verdict == "holds")


@pytest.mark.parametrize(
    ("bounds", "begins"), [(LOWER, "holds: "), (NONE, "no difference"), (HIGHER, "does not hold: ")]
)
def test_saved_work_is_judged_when_saturated(bounds: tuple[float, float], begins: str) -> None:
    said, held = answer(comparison(**{SATURATED: [bounds]}), "saves GPU work", "inflight_batching")
    assert said.startswith(begins)
    assert held == (bounds == LOWER)
