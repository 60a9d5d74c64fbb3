"""How the sizing table reads: in a terminal, in a report, and as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from experiments.article.table import RULE
from experiments.shown.table_experiment import Answer, records
from experiments.sizing import COUNTS, Need

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from experiments.shown.pictures import Picture

SHOWN_RANKS = 15
MANY = 16
"""Sequences at once of an instance that is shared, for the remark on the article's batch of one."""

HUES = {"agrees": "#56B4E9", "fewer": "#009E73", "more": "#E69F00", "none": "#CC79A7", "": "#f3f4f6"}
"""Colour of a cell by how our number of cards compares with the article's (Okabe & Ito)."""
MEANINGS = {
    "agrees": "as the article",
    "fewer": "fewer are enough",
    "more": "more are needed",
    "none": "none is enough",
    "": "not recommended there",
}
OURS = (
    "Ours: the smallest power of two of cards on which weights, runtime reserve and the KV cache fit into nine tenths "
    f"of the visible memory and the objectives are met, up to {COUNTS[-1]}; of its splits into TP and PP the fastest. "
    f"Servers have 8 cards; stages beyond pass activations over 200 Gbit/s."
)
CLASSES = (
    "A class is its upper size in the article's rule and one published model in ours (column `model` of the csv); "
    "models of before 2023 are sized beyond the context they were trained for."
)
PRICES = "Prices are rental per hour, on demand, where a dated source is known (`hardware CHIP` shows it); else a dash."


def article(table: pd.DataFrame, need: Need, asked: Mapping[str, Any], quick: bool) -> Answer:
    """Return the article's table recomputed, and where the fuller model differs."""
    recommended = table[table["article_cards"].notna()]
    reproduced = int(recommended["reproduced"].sum())
    differ = recommended[recommended["differs"]]
    one_chip = table["article_chip"].nunique() == 1
    instances = [("The smallest instances of the article's recommendations", _instances(recommended))]
    return Answer(
        name="sizing",
        question=f"How many cards for one instance? {need_in_words(need)}",
        finding=headline(table),
        options=asked,
        tables={"sizing": table},
        shown=[
            (
                "Cards: the article's -> ours; alone where the article recommends none; - if none up to 64 will do",
                matrix(table),
            ),
            ("Where ours differ, and why", _reasons(differ)),
            *(instances if one_chip else []),
        ],
        detail=[] if one_chip else instances,
        notes=[RULE, OURS, CLASSES, PRICES, *([] if quick or need.concurrency >= MANY else [crowded(table, need)])],
        draw=lambda: [_picture("sizing", heatmap(table), _alt(table), _sentence(table))],
        last=[f"{reproduced} of {len(recommended)} recommendations reproduced"],
        quick=quick,
    )


def own_case(table: pd.DataFrame, need: Need, asked: Mapping[str, Any], quick: bool) -> Answer:
    """Return the ranked recommendations for one model."""
    shown = _instances(table.head(SHOWN_RANKS)).drop(columns="model")
    shown.insert(0, "rank", range(1, len(shown) + 1))
    return Answer(
        name="sizing",
        question=f"Which cards for {table['model'].iloc[0]}? {need_in_words(need)}",
        finding=headline(table),
        options=asked,
        tables={"sizing": table},
        shown=[
            (
                f"Best {len(shown)} of {len(table)}: in time, then by the middle of the known prices, then by power",
                shown,
            )
        ],
        notes=[OURS, PRICES],
        draw=lambda: [
            _picture("sizing", bars(table), headline(table), "Time of each further token, best ranks first.")
        ],
        quick=quick,
    )


def crowded(table: pd.DataFrame, need: Need) -> str:
    """Return what becomes of the article's recommendations when an instance serves many at once, in a sentence."""
    from experiments.sizing import run

    chips = table["chip"].unique()
    full = run(replace(need, concurrency=MANY), str(chips[0]) if len(chips) == 1 else None)
    full = full[full["article_cards"].notna()]
    kinds = [_kind(row) for row in records(full)]
    more = kinds.count("more") + kinds.count("none")
    return f"With {MANY} sequences of {need.context:,} tokens at once, {more} of the {len(kinds)} need more cards."


def need_in_words(need: Need) -> str:
    """Return what an instance has to do, in a sentence."""
    return (
        f"{need.concurrency} sequence{'s' if need.concurrency > 1 else ''} of {need.context:,} tokens, first token of "
        f"{need.prompt:,} within {need.slo_ttft:g} s, then {need.slo_tpot:g} s each."
    )


def headline(table: pd.DataFrame) -> str:
    """Return the finding, computed."""
    if "class" not in table:
        best = table.iloc[0]
        if not best["meets"]:
            return f"No chip that was asked for serves {best['model']} in time on up to {COUNTS[-1]} cards"
        known = best["usd_per_hour"] == best["usd_per_hour"]
        price = f" for {best['usd_per_hour']:.2f}-{best['usd_per_hour_high']:.2f} USD/h" if known else ""
        return (
            f"{best['cards']} x {best['chip']} ({best['split']}, {best['precision']}) serves {best['model']}{price}: "
            f"TTFT {best['ttft_seconds']:.3g} s, TPOT {1e3 * best['tpot_seconds']:.3g} ms"
        )
    recommended = table[table["article_cards"].notna()]
    kinds = [_kind(row) for row in records(recommended)]
    counts = {kind: kinds.count(kind) for kind in ("agrees", "fewer", "more", "none")}
    return (
        f"Of {len(kinds)} recommendations of the article {counts['agrees']} are the smallest instance that answers in "
        f"time, {counts['fewer']} could do with fewer cards, {counts['more'] + counts['none']} need more"
    )


def matrix(table: pd.DataFrame) -> pd.DataFrame:
    """Return the article's counts and ours, classes down and chips across."""
    import pandas as pd

    texts = [_cell(row) for row in records(table)]
    long = table[["class", "column", "article_chip"]].assign(text=texts)
    wide = long.pivot(index=["class", "column"], columns="article_chip", values="text")
    order = list(dict.fromkeys(zip(table["class"], table["column"], strict=True)))
    wide = wide.loc[order, list(dict.fromkeys(table["article_chip"]))]
    return pd.DataFrame(wide.reset_index())


def heatmap(table: pd.DataFrame) -> Figure:
    """Return the figure of the whole table: where the fuller model agrees with the article."""
    from matplotlib.patches import Patch, Rectangle

    from sim.figures.style import INK, MEDIUM, SMALL, new_figure, plain_axes, top_of_axes

    figure = new_figure(headline(table), "cards for one instance: article -> ours; a single number is ours")
    axes = plain_axes(figure, 0.16, 0.1, 0.82, top_of_axes(figure) - 0.17)
    rows = list(dict.fromkeys(zip(table["class"], table["column"], strict=True)))
    chips = list(dict.fromkeys(table["article_chip"]))
    for cell in records(table):
        x, y = chips.index(cell["article_chip"]), rows.index((cell["class"], cell["column"]))
        kind = _kind(cell)
        axes.add_patch(Rectangle((x, y), 1, 1, facecolor=HUES[kind], edgecolor="white", lw=1.2))
        weight = "bold" if kind in ("fewer", "more", "none") else "normal"
        text = _cell(cell)
        axes.text(x + 0.5, y + 0.52, text, ha="center", va="center", size=SMALL, color=INK, weight=weight)
    axes.set(xlim=(0, len(chips)), ylim=(len(rows), 0))
    axes.set_xticks([x + 0.5 for x in range(len(chips))], chips, size=MEDIUM)
    axes.set_yticks([y + 0.5 for y in range(len(rows))], [_row_name(*row) for row in rows], size=SMALL)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    present = set(map(_kind, records(table)))
    handles = [Patch(facecolor=HUES[kind], label=meaning) for kind, meaning in MEANINGS.items() if kind in present]
    axes.legend(
        handles=handles,
        ncols=len(handles),
        frameon=False,
        fontsize=SMALL,
        columnspacing=1.2,
        loc="upper center",
        bbox_to_anchor=(0.42, -0.01),
    )
    return figure


def bars(table: pd.DataFrame) -> Figure:
    """Return the figure of the ranked recommendations for one model."""
    from sim.figures.style import INK, MEDIUM, QUIET, SMALL, new_figure, plain_axes, top_of_axes

    shown = table[table["room_sequences"].notna()].head(SHOWN_RANKS)
    figure = new_figure(headline(table), "time of each further token; cards and split beside the bar, best rank on top")
    axes = plain_axes(figure, 0.3, 0.12, 0.5, top_of_axes(figure) - 0.15)
    for place, row in enumerate(records(shown)):
        milliseconds = 1e3 * row["tpot_seconds"]
        axes.barh(place, milliseconds, color=HUES["agrees"] if row["meets"] else HUES["more"], height=0.7)
        price = "" if row["usd_per_hour"] != row["usd_per_hour"] else f", {row['usd_per_hour_mean']:.2f} USD/h"
        label = f" {milliseconds:.3g} ms: {row['split']}{price}"
        axes.text(milliseconds, place, label, va="center", size=SMALL, color=INK)
    names = [f"{row['cards'] or 'too slow'} x {row['chip']} {row['precision']}" for row in records(shown)]
    axes.set_yticks(range(len(shown)), names, size=SMALL)
    axes.invert_yaxis()
    axes.set_xlabel("TPOT [ms]", color=QUIET, size=MEDIUM)
    return figure


def _row_name(size_class: str, column: str) -> str:
    return f"{size_class} {'FP16' if column == 'fp16' else '8 bit'}"


def _kind(row: Mapping[str, Any]) -> str:
    if row["article_cards"] is None or row["article_cards"] != row["article_cards"]:
        return ""
    if not row["cards"]:
        return "none"
    if row["cards"] == row["article_cards"]:
        return "agrees"
    return "fewer" if row["cards"] < row["article_cards"] else "more"


def _cell(row: Mapping[str, Any]) -> str:
    ours = str(row["cards"]) if row["cards"] else "-"
    kind = _kind(row)
    if not kind or kind == "agrees":
        return ours if not kind else f"{ours} = {ours}"
    return f"{int(row['article_cards'])} \N{RIGHTWARDS ARROW} {ours}"


def _reasons(differ: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each reason to differ, with the recommendations that it concerns."""
    import pandas as pd

    rows = []
    for why, group in differ.groupby("why", sort=False):
        cases = [
            f"{_row_name(row['class'], row['column'])} {row['article_chip']} "
            f"{int(row['article_cards'])} \N{RIGHTWARDS ARROW} {row['cards'] or '-'}"
            for row in records(group)
        ]
        rows.append({"why": why, "cases": len(cases), "which": "; ".join(cases)})
    return pd.DataFrame(rows, columns=["why", "cases", "which"])


def _instances(table: pd.DataFrame) -> pd.DataFrame:
    """Return what people read of the instances: the numbers with their units in the heading."""
    import pandas as pd

    names = table["article_chip"] if "article_chip" in table else table["chip"]
    places = table["class"] + " " + table["column"] if "class" in table else table["model"]
    return pd.DataFrame(
        {
            "model": places,
            "chip": names,
            "precision": table["precision"],
            "cards": [int(count) if count else "too slow" for count in table["cards"]],
            "split": table["split"],
            "sequences that fit": ["-" if room != room else int(room) for room in table["room_sequences"]],
            "TTFT [s]": table["ttft_seconds"],
            "TPOT at batch 1 [ms]": 1e3 * table["tpot_batch_1_seconds"],
            "TPOT [ms]": 1e3 * table["tpot_seconds"],
            "USD/h from": table["usd_per_hour"],
            "USD/h to": table["usd_per_hour_high"],
            "kW": table["watts"] / 1e3,
        }
    )


def _picture(name: str, figure: Figure, alt: str, sentence: str) -> Picture:
    from experiments.shown.pictures import Picture

    return Picture(name, figure, alt, sentence)


def _alt(table: pd.DataFrame) -> str:
    chips: Sequence[str] = list(dict.fromkeys(table["article_chip"]))
    return f"Heatmap of cards by class of models and chip ({', '.join(chips)}). {headline(table)}."


def _sentence(table: pd.DataFrame) -> str:
    reasons = table.loc[table["differs"], "why"].value_counts()
    return "; ".join(f"{count} cases: {why}" for why, count in reasons.items()) + "."
