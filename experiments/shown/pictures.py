"""Which figures a comparison is shown in, and the sentence under each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from experiments.shown import figures
from experiments.tried.cell import Cell
from experiments.tried.comparison import POLICIES, Comparison
from sim.results.percentiles import BEYOND, Floats, Integers
from sim.results.runs import LEVELS
from sim.results.tokens import longest_pause

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TIMELINE_SECONDS = 4.0
MOST_REPLICAS = 3  # below each other, to be legible


@dataclass(frozen=True)
class Picture:
    """A figure, the name of its files, what it shows in words, and what to look at."""

    name: str
    figure: Figure
    alt: str
    sentence: str


def pictures(comparison: Comparison) -> Iterator[Picture]:
    """Draw the figures of a comparison one after another."""
    for metric in ("TTFT", "ITL"):
        yield from _survival(comparison, metric)
    for metric in ("TTFT", "E2E"):
        yield from _load_latency(comparison, metric)
    yield _timeline(comparison)
    if not comparison.systems:
        yield _tail(comparison)


def _survival(comparison: Comparison, metric: str) -> Iterator[Picture]:
    load = comparison.shown
    cells = {arm: comparison.cell(arm, load) for arm in comparison.arms}
    curves = {arm: _pooled(cell, metric) for arm, cell in cells.items() if cell.verdict.stable}
    curves = {arm: curve for arm, curve in curves.items() if _samples(*curve) >= 2 * BEYOND}
    if not curves:
        return
    intervals = {
        arm: {
            level: (found.low, found.high) for level, found in zip(LEVELS, cells[arm].percentiles[metric], strict=True)
        }
        for arm in curves
    }
    context = f"at {100 * load.share_of_capacity:.0f} % load"
    what = {"TTFT": "until the first token", "ITL": "between two tokens of a reply"}[metric]
    yield Picture(
        f"survival_{metric.lower()}",
        figures.survival(curves, metric, context, intervals),
        figures.survival_alt(curves, metric, context),
        f"How many waited longer than a given time {what}, {context}; whiskers are 95 % intervals.",
    )


def _load_latency(comparison: Comparison, metric: str) -> Iterator[Picture]:
    table = comparison.summary
    rows = table[(table.metric == metric) & np.isfinite(table.load)]
    for level in (0.99, 0.9, 0.5):
        if rows[rows.level == level].estimate.notna().any():
            yield Picture(
                f"load_{metric.lower()}",
                figures.load_latency(rows, metric, level),
                figures.load_latency_alt(rows, metric, level),
                f"p{100 * level:g} {metric} over the load; an arm is drawn as far as it keeps up.",
            )
            return


def _timeline(comparison: Comparison) -> Picture:
    drawn = comparison.arms[:MOST_REPLICAS] if comparison.systems else POLICIES
    results = {arm: comparison.cell(arm, comparison.shown).results[0] for arm in drawn}
    begin, end = longest_pause(results[drawn[0]])
    margin = max(TIMELINE_SECONDS - (end - begin), end - begin) / 2
    begin, end = max(0.0, begin - margin), end + margin
    return Picture(
        "timeline",
        figures.timeline(results, begin, end),
        figures.timeline_alt(results, begin, end),
        _timeline_sentence(comparison, drawn),
    )


def _timeline_sentence(comparison: Comparison, drawn: tuple[str, ...]) -> str:
    if comparison.systems:
        some = "" if len(drawn) == len(comparison.arms) else f"the first {len(drawn)} of "
        return (
            f"One replica of {some}the systems, the same requests, around the longest pause that {drawn[0]} makes "
            "running replies take (first replication)."
        )
    return (
        "One replica without cache, the same requests under both policies, around the longest pause that prefill first "
        "makes running replies take (first replication)."
    )


def _tail(comparison: Comparison) -> Picture:
    from experiments.shown.figures.latency_parts import tail_parts
    from experiments.tried.tail import Tail, findings

    runs = {policy: comparison.cell(policy, comparison.shown).results for policy in POLICIES}
    tail = Tail(comparison.options, runs)
    waits, stalls = findings(tail)
    return Picture(
        "tail",
        tail_parts(tail.table, waits, stalls),
        f"Stacked bars, a bar for each policy. {waits}. {stalls}.",
        "Where the time of the slowest 1 % goes, by first and by last token, without cache; parts sum to the latency. "
        "`roofserve explain` follows a single request.",
    )


def _pooled(cell: Cell, metric: str) -> tuple[Floats, Integers | None]:
    runs, counts = cell.samples(metric)
    return np.concatenate(runs), None if counts is None else np.concatenate(counts)


def _samples(values: Floats, counts: Integers | None) -> int:
    known = ~np.isnan(values)
    return int(known.sum() if counts is None else counts[known].sum())
