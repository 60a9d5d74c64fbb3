"""How the trade between users and cards reads: in a terminal, in a report, and as a figure."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.asked.candidates import POLICY
from experiments.pareto import Question
from experiments.shown.table_experiment import EVIDENCE, Answer, records
from sim.figures.words import readable, three_digits
from sim.results.separation import separation

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from experiments.shown.pictures import Picture

COMMON = f", {readable(POLICY)}"
"""How a candidate serves unless it says otherwise; figures leave it out."""

NOTES = (
    "A user's speed is one by the median time per further token (TPOT); a card's is the tokens of replies that end in "
    "a second, by the cards. All candidates see the same requests, each at shares of what it serves when all arrive at "
    "once; loads at which the backlog grows are left out.",
    "In brackets 95 % intervals over the replications. The outer band is what other plausible constants of the cost "
    "model make of the first replication, from the least to the most.",
)


def answer(
    table: pd.DataFrame, failures: Mapping[str, str], question: Question, given: Mapping[str, Any], quick: bool
) -> Answer:
    """Return the frontier and every point."""
    return Answer(
        name="pareto",
        question=f"How fast for each user, how much for each card? Chat on {question.model}.",
        finding=headline(table),
        options=given,
        tables={"pareto": _flat(table)},
        shown=[("The frontier: nobody is as fast for users and makes more of a card", shown(frontier(table)))],
        detail=[("Every point", shown(table))],
        notes=[*NOTES, *stopping(table), *(f"{name} cannot serve: {why}" for name, why in failures.items())],
        draw=lambda: [_picture(table)],
        evidence=EVIDENCE if question.efficiency == "generic" else f"{question.efficiency} constants",
        quick=quick,
    )


def frontier(table: pd.DataFrame) -> pd.DataFrame:
    """Return the points on the frontier, fastest for users first."""
    return table[table["frontier"]].sort_values("per_user", ascending=False, kind="stable")


def headline(table: pd.DataFrame) -> str:
    """Return who is best at which speed, in a sentence."""
    stretches = [
        (name, [row["per_user"] for row in rows])
        for name, rows in groupby(records(frontier(table))[::-1], key=lambda row: row["name"])
    ]
    if not stretches:
        return "Every candidate is overloaded at every load"
    name, _ = stretches[0]
    if len(stretches) == 1:
        return f"{name} makes the most of a card at every speed"
    said = [f"{name} makes the most of a card up to {three_digits(stretches[0][1][-1])} tokens/s for each user"]
    said += [f"{name} up to {three_digits(speeds[-1])}" for name, speeds in stretches[1:]]
    return f"{said[0]}, then {said[1]}" + (f", in the end {said[-1]}" if len(said) > 2 else "")


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Return points for people."""
    import pandas as pd

    def text(row: Mapping[str, Any], name: str) -> str:
        if row[name] != row[name]:
            return "overloaded"
        return f"{three_digits(row[name])} [{three_digits(row[f'{name}_low'])}, {three_digits(row[f'{name}_high'])}]"

    def band(row: Mapping[str, Any]) -> str:
        return f"{three_digits(row['per_user_least'])} to {three_digits(row['per_user_most'])}"

    rows = records(table)
    return pd.DataFrame(
        {
            "candidate": table["name"],
            "load": [f"{100 * row['share']:.0f} %" for row in rows],
            "req/s": table["rate"],
            "tokens/s per user": [text(row, "per_user") for row in rows],
            "other constants": [band(row) if row["stable"] else "-" for row in rows],
            "tokens/s per card": [text(row, "per_card") for row in rows],
        }
    )


def stopping(table: pd.DataFrame) -> list[str]:
    """Say how many replications tell the best two candidates apart in the middle of what both can do for users."""
    curves = {name: rows[rows["stable"]] for name, rows in table.groupby("name", sort=False)}
    names = list(dict.fromkeys(frontier(table)["name"]))
    best = [*names, *(name for name in curves if name not in names)][:2]
    if len(best) < 2 or min(len(curves[name]) for name in best) < 2:
        return []
    seeds = [np.array([list(curves[name][f"{what}_seeds"]) for what in ("per_user", "per_card")]) for name in best]
    low, high = max(one[0].min() for one in seeds), min(one[0].max() for one in seeds)
    if low >= high:
        return []
    speed = float(np.sqrt(low * high))
    cards = [
        np.array([np.interp(speed, *_ascending(users, cards)) for users, cards in zip(one[0].T, one[1].T, strict=True)])
        for one in seeds
    ]
    what = f"tokens/s per card at {three_digits(speed)} tokens/s for each user"
    return [separation(cards[1] - cards[0]).sentence(str(best[0]), str(best[1]), what)]


def plot(table: pd.DataFrame) -> Figure:
    """Return every candidate's line, with bands where it is on the frontier, and the frontier named."""
    from sim.figures.labels import Label, label_lines
    from sim.figures.style import INK, MEDIUM, QUIET, arm_styles, new_figure, plain_axes, top_of_axes

    subtitle = f"{COMMON[2:]} unless named; crosses: 95 % over replications; shaded: other plausible constants"
    figure = new_figure(headline(table).replace(COMMON, ""), subtitle)
    axes = plain_axes(figure, 0.1, 0.13, 0.86, top_of_axes(figure) - 0.17)
    known = table[table["stable"]]
    styles = arm_styles(dict.fromkeys(known["name"]))
    axes.plot(*_envelope(known), color=INK, lw=5.0, alpha=0.2, solid_capstyle="round", zorder=1)
    labels, lines = [], {}
    for name, rows in known.sort_values("share").groupby("name", sort=False):
        style = styles[str(name)]
        points = rows[["per_user", "per_card"]].to_numpy(dtype=float)
        crosses = _line(axes, rows, points, style.hue)
        on = rows[rows["frontier"]][["per_user", "per_card"]].to_numpy(dtype=float)
        text = str(name).removesuffix(COMMON) + (" (frontier)" if len(on) else "")
        labels.append(Label(str(name), text, style.ink, np.concatenate([on[::-1], points[::-1]])))
        lines[str(name)] = [points, *crosses]
    axes.set_xlim(0, 1.15 * float(known["per_user"].max()))
    axes.set_ylim(0, 1.1 * float(known["per_card"].max()))
    axes.set_xlabel("tokens/s for each user", color=QUIET, size=MEDIUM)
    axes.set_ylabel("tokens/s per card", color=QUIET, size=MEDIUM)
    label_lines(axes, labels, lines)
    return figure


def _line(axes: Axes, rows: pd.DataFrame, points: Any, hue: str) -> list[Any]:
    """Draw a candidate; return the crosses of one on the frontier as lines, which labels should not cover."""
    leads = bool(rows["frontier"].any())
    axes.plot(points[:, 0], points[:, 1], color=hue, lw=1.8 if leads else 0.9, marker="o", ms=3.5 if leads else 2.0)
    if not leads:
        return []
    axes.fill_betweenx(points[:, 1], rows["per_user_least"], rows["per_user_most"], color=hue, alpha=0.1, lw=0)
    crosses = []
    for row in records(rows):
        x, y = row["per_user"], row["per_card"]
        crosses.append(np.array([[row["per_user_low"], y], [row["per_user_high"], y]]))
        crosses.append(np.array([[x, row["per_card_low"]], [x, row["per_card_high"]]]))
    crosses = [cross for cross in crosses if np.isfinite(cross).all()]
    for cross in crosses:
        axes.plot(cross[:, 0], cross[:, 1], color=hue, lw=0.8)
    return crosses


def _envelope(known: pd.DataFrame) -> tuple[Any, Any]:
    """Return the upper edge of all lines together: what a card makes at most at a user's speed."""
    users = np.linspace(float(known["per_user"].min()), float(known["per_user"].max()), 400)
    best = np.zeros(len(users))
    for _, rows in known.sort_values("per_user").groupby("name", sort=False):
        speeds, cards = rows[["per_user", "per_card"]].to_numpy(dtype=float).T
        best = np.maximum(best, np.interp(users, speeds, cards, left=0.0, right=0.0))
    return users, np.maximum.accumulate(best[::-1])[::-1]


def _ascending(users: Any, cards: Any) -> tuple[Any, Any]:
    order = np.argsort(users)
    return users[order], cards[order]


def _flat(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns=["per_card_seeds", "per_user_seeds"])


def _picture(table: pd.DataFrame) -> Picture:
    from experiments.shown.pictures import Picture

    sentence = (
        "Each line is a candidate from light to heavy load: to the right users are served faster, upwards cards do."
    )
    return Picture("pareto", plot(table), f"Lines. {headline(table)}.", sentence)
