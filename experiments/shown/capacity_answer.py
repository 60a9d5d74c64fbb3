"""How the answer on capacity reads: in a terminal, in a report, and as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.asked import slo
from experiments.capacity import Question, found_in
from experiments.shown.table_experiment import EVIDENCE, Answer, records
from sim.figures.words import three_digits
from sim.results.separation import separation

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from experiments.shown.pictures import Picture

INK, DOUBT, MISSED = "#0072B2", "#9ecae1", "#D55E00"
NOTES = (
    "Rate: where the average share of requests within a bound falls to the level of its percentile; between the two "
    "ends of the interval the replications do not tell. At the lower end every promise is known to be kept, at the "
    "upper one is known to be broken or the backlog grows: each with an error of at most 5 %, all looks together.",
    "A request that was rejected or not finished has missed every bound. All candidates see the same requests.",
    "Watts are the boards' limit (TDP), not what they draw under this load. Tokens are those of replies.",
)

WITHIN_TRACE = (
    "A recorded trace cannot be replicated: five time blocks of it take the place of replications, and intervals speak "
    "of this trace alone."
)


def answer(
    table: pd.DataFrame, trials: pd.DataFrame, question: Question, given: Mapping[str, Any], quick: bool
) -> Answer:
    """Return the ranked candidates."""
    priced = bool(table["cost_per_million_tokens"].notna().any())
    flags = sorted({flag for flag in table["flags"] if flag})
    dated = [f"Prices of {given['price_date']}: {given['price']} per card and hour, as given."] if priced else []
    return Answer(
        name="capacity",
        question=f"How many requests per second of {question.trace} can be asked of {question.model} with "
        f"{slo.in_words(question.clauses)}?",
        finding=headline(table),
        options=given,
        tables={"capacity": table, "trials": _flat(trials)},
        shown=[(_caption(table, priced), shown(table, priced))],
        detail=[("Every rate that was tried", _tried(trials, question))],
        notes=[*NOTES, *dated, *stopping(table, trials, question), *(f"Beware: {flag}" for flag in flags)],
        draw=lambda: [_picture(table)],
        evidence=EVIDENCE if question.efficiency == "generic" else f"{question.efficiency} constants",
        quick=quick,
    )


def headline(table: pd.DataFrame) -> str:
    """Return the best candidate and what limits it, in a sentence."""
    served = table[table["rate"] > 0]
    if served.empty:
        return f"None of {len(table)} candidates keeps the promise at any rate"
    best = records(served)[0]
    cost = best["cost_per_million_tokens"]
    known = served["cost_per_million_tokens"].notna().all()
    why = f"cheapest, {three_digits(cost)} per million tokens" if known else "the most per card"
    why = f", {why}" if len(served) > 1 else ""
    return f"{best['candidate']} keeps the promise up to {three_digits(best['rate'])} req/s{_bounds(best)}{why}"


def shown(table: pd.DataFrame, priced: bool) -> pd.DataFrame:
    """Return the ranked candidates for people."""
    import pandas as pd

    columns: dict[str, Any] = {
        "rank": table["rank"],
        "candidate": table["candidate"],
        "req/s": [three_digits(row["rate"]) + _bounds(row) if row["rate"] > 0 else "-" for row in records(table)],
        "req/s per card": table["rate_per_card"],
        "tokens/s": table["tokens_per_second"],
        "watts": table["watts"],
    }
    if priced:
        columns["cost per 1M tokens"] = table["cost_per_million_tokens"]
    return pd.DataFrame(columns | {"what ends it": _limits(table)})


def stopping(table: pd.DataFrame, trials: pd.DataFrame, question: Question) -> list[str]:
    """Say how many replications tell the best two candidates apart, by requests/s a card."""
    if question.options.is_recorded:
        return [WITHIN_TRACE]
    best = [row for row in records(table) if row["rate"] > 0][:2]
    if len(best) < 2:
        return []
    first, second = (
        found_in(trials[trials["name"] == row["candidate"]], question.clauses).by_seed / row["cards"] for row in best
    )
    both = min(len(first), len(second))
    apart = separation(second[:both] - first[:both])
    return [apart.sentence(best[0]["candidate"], best[1]["candidate"], "requests/s a card")]


def plot(table: pd.DataFrame) -> Figure:
    """Return a bar for each candidate: known to be kept, not known, and what ends it."""
    from sim.figures.style import INK as TEXT
    from sim.figures.style import MEDIUM, QUIET, SMALL, new_figure, plain_axes, top_of_axes

    figure = new_figure(headline(table), "dark: promise known to be kept; light: the replications do not tell")
    limits = dict(zip(table["candidate"], _limits(table), strict=True))
    rows = records(table)[::-1]
    axes = plain_axes(figure, 0.30, 0.13, 0.67, top_of_axes(figure) - 0.15)
    most = max([row["rate_high"] for row in rows if row["rate_high"] > 0] or [1.0])
    for place, row in enumerate(rows):
        if not row["rate"] > 0:
            axes.text(0.01 * most, place, _short(limits[row["candidate"]], 70), va="center", size=SMALL, color=MISSED)
            continue
        high = row["rate_high"] if row["rate_high"] > 0 else row["rate"]
        axes.barh(place, row["rate_low"], color=INK, height=0.5)
        axes.barh(place, high - row["rate_low"], left=row["rate_low"], color=DOUBT, height=0.5)
        axes.plot([row["rate"]] * 2, [place - 0.25, place + 0.25], color=TEXT, lw=1.4)
        axes.annotate(
            f"{three_digits(row['rate'])} · {_short(limits[row['candidate']], 48)}",
            (high, place),
            (5, 0),
            textcoords="offset points",
            va="center",
            size=SMALL,
            color=QUIET,
        )
    axes.set_yticks(range(len(rows)), [row["candidate"].replace(", ", "\n") for row in rows], size=SMALL)
    axes.set_xlim(0, 1.9 * most)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xticks([tick for tick in axes.get_xticks() if tick <= 1.05 * most])
    axes.set_xlabel("requests/s", size=MEDIUM, color=QUIET)
    axes.xaxis.set_label_coords(0.25, -0.09)
    return figure


def _limits(table: pd.DataFrame) -> list[str]:
    """Return what ends each promise; of what cannot serve at all the beginning, the csv file has the whole."""
    return [
        row["limit"] if row["saturated"] > 0 else str(row["limit"]).split(":")[0].split(",")[0]
        for row in records(table)
    ]


def _bounds(row: Mapping[str, Any]) -> str:
    low, high = (three_digits(row[name]) if row[name] == row[name] else "?" for name in ("rate_low", "rate_high"))
    return f" [{low}, {high}]"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rsplit(" ", 1)[0] + " …"


def _caption(table: pd.DataFrame, priced: bool) -> str:
    by = (
        "cost per million tokens"
        if priced and table["cost_per_million_tokens"][table["rate"] > 0].notna().all()
        else ""
    )
    return f"Best first, by {by or 'requests/s a card'}; in brackets between which rates the promise ends"


def _flat(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials with arrays as their means: a csv file has no arrays."""
    flat = trials.drop(columns=["candidate", "question", "flags"], errors="ignore")
    for name in flat:
        flat[name] = [value.mean() if isinstance(value, np.ndarray) else value for value in flat[name]]
    return flat


def _tried(trials: pd.DataFrame, question: Question) -> pd.DataFrame:
    import pandas as pd

    known = trials[trials["failure"].isna()] if "failure" in trials else trials
    words = {1: "kept", 0: "not known", -1: "broken"}
    columns: dict[str, Any] = {
        "candidate": known["name"],
        "req/s": known["rate"],
        "replications": known["replications"].astype(int),
        "promise": [words[int(sign)] if stable else "overloaded" for sign, stable in _pairs(known)],
    }
    for clause in question.clauses:
        columns[f"{clause.name} [s]"] = known[f"value {clause.name}"]
    return pd.DataFrame(columns)


def _pairs(known: pd.DataFrame) -> Sequence[tuple[Any, Any]]:
    return list(zip(known["decision"], known["stable"], strict=True))


def _picture(table: pd.DataFrame) -> Picture:
    from experiments.shown.pictures import Picture

    rows = [
        f"{row['candidate']}: {three_digits(row['rate'])}{_bounds(row)}" for row in records(table) if row["rate"] > 0
    ]
    sentence = "Request rates up to which the promise is kept, and what ends it."
    return Picture("capacity", plot(table), f"Bars. {headline(table)}. {'; '.join(rows)}.", sentence)
