"""How the assumptions behind a decision read: in a terminal, in a report, and as a tornado."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.sensitivity import Question
from experiments.shown.table_experiment import EVIDENCE, Answer, records
from sim.figures.words import capitalised
from sim.results.separation import separation

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from experiments.shown.pictures import Picture

LOW, HIGH, FLIP = "#0072B2", "#E69F00", "#D55E00"
SHOWN = 9
"""Bars in the figure; assumptions that change nothing at all are left out."""

NOTES = (
    "Difference: the second candidate's number against the first's in the median replication, both on the same "
    "requests; in brackets between two ranks of the replications (order statistics, at least 95 %): tails jump.",
    "Each assumption is moved alone, all others stay at the base; constants of the cost model between the ends of the "
    "interval in which they lie on nine of ten chips (`roofline` draws theirs). The rate of arrivals stays as it is.",
    "Reply length: x the base. Memory: x the share that the server may use. Spread: every length's ratio to the mean "
    "to this power, 0 makes all alike. Burstiness: shape of the gaps between arrivals, 1 is Poisson, less is bursts.",
    "surely: at one end the whole interval lies on the other side of zero; perhaps: a part of it does.",
)


def answer(table: pd.DataFrame, question: Question, given: Mapping[str, Any], quick: bool) -> Answer:
    """Return what turns the decision round."""
    first, second = question.first.name, question.second.name
    over = [f"{row['assumption']} ({row['overloaded']})" for row in records(table) if row["overloaded"]]
    overloaded = [f"At these ends a backlog grows, and numbers depend on the length of the run: {', '.join(over)}."]
    base = np.asarray(table["base_seeds"].iloc[0], dtype=float)
    return Answer(
        name="sensitivity",
        question=f"{second} instead of {first}, by {question.metric}? Chat on {question.model} at "
        f"{100 * question.load:.0f} % load of the first: what would turn the answer round?",
        finding=headline(table, question),
        options=given,
        tables={"sensitivity": table.drop(columns=[name for name in table if str(name).endswith("_seeds")])},
        shown=[(f"{question.metric} of the second against the first, each assumption at either end", shown(table))],
        notes=[*NOTES, *(overloaded if over else []), separation(base).sentence(first, second, str(question.metric))],
        draw=lambda: [_picture(table, question)],
        evidence=EVIDENCE if question.efficiency == "generic" else f"{question.efficiency} constants in the middle",
        quick=quick,
    )


def headline(table: pd.DataFrame, question: Question) -> str:
    """Return who is ahead at the base, and what turns that round."""
    row = records(table)[0]
    ahead, behind = (question.second, question.first) if row["base"] < 0 else (question.first, question.second)
    ahead_words, behind_words = _short(ahead.name, behind.name)
    percent = abs(row["base"] if row["base"] < 0 else 100 * (1 / (1 + row["base"] / 100) - 1))
    known = "" if row["base_low"] * row["base_high"] > 0 else " (not known for sure)"
    start = capitalised(f"{ahead_words} has {percent:.2g} % less {question.metric} than {behind_words}{known}")
    flips = [f"{one['assumption']} ({one['threshold']})" for one in records(table) if one["threshold"]]
    sure = [one["assumption"] for one in records(table) if one["flips"] == "surely"]
    if not flips:
        return f"{start}; no assumption turns that round on its own"
    turned = "turns that round" if sure else "might turn that round"
    return f"{start}; {flips[0]} {turned}" + (f", and {len(flips) - 1} more" if len(flips) > 1 else "")


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Return the assumptions for people, the widest swing first."""
    import pandas as pd

    def end(row: Mapping[str, Any], name: str) -> str:
        return f"{row[name]:+.3g} % [{row[f'{name}_low']:+.3g}, {row[f'{name}_high']:+.3g}]"

    rows = records(table)
    return pd.DataFrame(
        {
            "assumption": table["assumption"],
            "from": table["at_low"],
            "difference there": [end(row, "low") for row in rows],
            "to": table["at_high"],
            "difference there ": [end(row, "high") for row in rows],
            "turns it round": table["flips"],
            "at": [row["threshold"] or "-" for row in rows],
        }
    )


def plot(table: pd.DataFrame, question: Question) -> Figure:
    """Return the tornado: a bar for each assumption around the base, and the line that turns the decision round."""
    from sim.figures.style import INK, MEDIUM, QUIET, SMALL, new_figure, plain_axes, top_of_axes

    first, second = _short(question.first.name, question.second.name)
    figure = new_figure(
        headline(table, question), f"{question.metric} of {second} against {first}, one assumption at a time"
    )
    moving = (table["low"] != table["base"]) | (table["high"] != table["base"])
    rows = records(table[moving].head(SHOWN))[::-1] or records(table.head(1))
    axes = plain_axes(figure, 0.24, 0.14, 0.73, top_of_axes(figure) - 0.2)
    base = rows[0]["base"]
    ends = [row[name] for row in rows for name in ("low", "high")]
    left, right = min([*ends, 0.0]), max([*ends, 0.0])
    room = 0.02 * (right - left)
    for place, row in enumerate(rows):
        for name, hue in (("low", LOW), ("high", HIGH)):
            axes.barh(place, row[name] - base, left=base, color=hue, height=0.55)
        low_left = row["low"] <= row["high"]
        for name, at_left in (("low", low_left), ("high", not low_left)):
            edge = min(row[name], base) - room if at_left else max(row[name], base) + room
            side = "right" if at_left else "left"
            note = axes.text(
                edge, place, row[f"at_{name}"], va="center", ha=side, size=SMALL - 1, color=QUIET, zorder=3
            )
            note.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8})
    axes.axvline(base, color=INK, lw=1.0)
    axes.axvline(0.0, color=FLIP, lw=1.4, ls=(0, (4, 2)))
    axes.set_yticks(range(len(rows)), [_row_name(row) for row in rows], size=SMALL)
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_color(FLIP if row["threshold"] else INK)
    axes.set_xlim(left - 0.3 * (right - left), right + 0.3 * (right - left))
    axes.set_ylim(-0.6, len(rows) - 0.1)
    axes.text(0.0, len(rows) - 0.45, " equal ", size=SMALL, color=FLIP, ha="left" if base < 0 else "right", va="center")
    axes.set_xlabel(f"difference [%]; left of the dashed line {second} is better", color=QUIET, size=MEDIUM)
    return figure


def _row_name(row: Mapping[str, Any]) -> str:
    return str(row["assumption"]) + (f"\nturns it at {row['threshold']}" if row["threshold"] else "")


def _short(one: str, other: str) -> tuple[str, str]:
    """Return two names without the words that both begin with.

    >>> _short("2 x l20 W16A16, prefill-first", "2 x l20 W16A16, vLLM 0.33")
    ('prefill-first', 'vLLM 0.33')
    """
    (head, _, tail), (other_head, _, other_tail) = one.partition(", "), other.partition(", ")
    if head == other_head:
        return tail, other_tail
    return (head, other_head) if tail == other_tail else (one, other)


def _picture(table: pd.DataFrame, question: Question) -> Picture:
    from experiments.shown.pictures import Picture

    sentence = "Each bar is one assumption moved alone; bars that reach the dashed line turn the decision round."
    return Picture("sensitivity", plot(table, question), f"Tornado. {headline(table, question)}.", sentence)
