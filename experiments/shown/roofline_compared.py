"""One iteration on two chips, operator by operator: a table and a figure side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.figures.words import three_digits

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from rich.table import Table

LEAST = 0.005
"""Operators below this share of the iteration on both chips are left out of the figure."""


def paired(one: pd.DataFrame, two: pd.DataFrame) -> pd.DataFrame:
    """Return the operators of either chip, in the order of a layer; what one chip does not run takes it no time."""
    columns = ["operator", "seconds", "share", "bound_by"]
    both = one[columns].merge(two[columns], on="operator", how="outer", sort=False, suffixes=("_1", "_2"))
    order = list(dict.fromkeys([*one["operator"], *two["operator"]]))
    both = both.sort_values("operator", key=lambda names: names.map(order.index), ignore_index=True)
    numbers = ["seconds_1", "share_1", "seconds_2", "share_2"]
    return both.assign(**both[numbers].fillna(0.0)).fillna("")


def table(first: str, one: pd.DataFrame, second: str, two: pd.DataFrame) -> Table:
    """Return the table for a terminal."""
    from rich.table import Table

    shown = Table("operator", box=None, pad_edge=False)
    for name in (first, second):
        shown.add_column(f"{name} ms", justify="right")
        shown.add_column("share", justify="right")
        shown.add_column("bound by")
    shown.add_column("second / first", justify="right")
    for row in paired(one, two).to_dict(orient="records"):
        cells = [
            (
                three_digits(1e3 * row[f"seconds_{chip}"]),
                f"{100 * row[f'share_{chip}']:.1f} %",
                str(row[f"bound_by_{chip}"]),
            )
            for chip in (1, 2)
        ]
        ratio = f"{row['seconds_2'] / row['seconds_1']:.2f}" if row["seconds_1"] else ""
        shown.add_row(str(row["operator"]), *cells[0], *cells[1], ratio)
    return shown


def plot(one: pd.DataFrame, two: pd.DataFrame) -> Figure:
    """Return two bars an operator, one a chip, coloured by what bounds it."""
    from matplotlib.lines import Line2D

    from experiments.shown.roofline_answer import BOUND_HUES
    from sim.figures.style import INK, MEDIUM, QUIET, SMALL, new_figure, plain_axes, top_of_axes

    both = paired(one, two)
    shown = both[(both["share_1"] >= LEAST) | (both["share_2"] >= LEAST)].reset_index(drop=True)
    whole = [frame.attrs["seconds"] for frame in (one, two)]
    names = [frame.attrs["chip"] for frame in (one, two)]
    quick, slow = (1, 0) if whole[1] < whole[0] else (0, 1)
    gain = shown["seconds_2"] - shown["seconds_1"]
    most = shown["operator"].iloc[int(gain.abs().to_numpy().argmax())]
    title = f"{names[quick]} is {whole[slow] / whole[quick]:.2g} times as fast as {names[slow]}; most of it in {most}"
    figure = new_figure(title, f"{one.attrs['what']}; pale bars: {names[1]}; constants: {one.attrs['level']}")
    axes = plain_axes(figure, 0.2, 0.13, 0.76, top_of_axes(figure) - 0.17)
    for place, row in enumerate(shown.to_dict(orient="records")):
        for chip, shift, alpha in ((1, -0.19, 1.0), (2, 0.19, 0.5)):
            milliseconds = 1e3 * float(row[f"seconds_{chip}"])
            hue = BOUND_HUES.get(str(row[f"bound_by_{chip}"]), QUIET)
            axes.barh(place + shift, milliseconds, height=0.36, color=hue, alpha=alpha)
            text = f" {three_digits(milliseconds)}"
            axes.text(milliseconds, place + shift, text, va="center", size=SMALL - 1, color=INK)
    axes.set_yticks(range(len(shown)), list(shown["operator"]))
    axes.invert_yaxis()
    axes.set_xlabel(
        f"time [ms]; whole iterations {three_digits(1e3 * whole[0])} and {three_digits(1e3 * whole[1])}",
        color=QUIET,
        size=MEDIUM,
    )
    used = {*shown["bound_by_1"], *shown["bound_by_2"]}
    handles = [
        Line2D([], [], color=hue, marker="s", ls="", label=f"bound by {name}")
        for name, hue in BOUND_HUES.items()
        if name in used
    ]
    axes.legend(handles=handles, frameon=False, fontsize=SMALL, loc="center right", bbox_to_anchor=(1.0, 0.45))
    return figure
