"""How one iteration reads: in a terminal, as a roofline and as a waterfall."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from sim.figures.words import three_digits

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.console import Console
    from rich.table import Table

BOUND_HUES = {"compute": "#D55E00", "memory": "#0072B2", "launch": "#CC79A7", "link": "#009E73", "host": "#57606a"}
"""Colour of what bounds an operator (Okabe & Ito)."""


def plot(frame: pd.DataFrame) -> Figure:
    """Return the roofline: what the chip could do at each intensity, and what each operator reaches."""
    from sim.figures.style import INK, MEDIUM, QUIET, RULE, SMALL, new_figure, plain_axes, top_of_axes

    work = frame[(frame["flops"] > 0) & (frame["bytes"] > 0)]
    reached = work["flops"] / work["seconds"]
    bandwidth, peaks = frame.attrs["bandwidth"], frame.attrs["peaks"]
    counts = [
        f"{(work['bound_by'] == name).sum()} of {len(work)} operators that compute are bound by {name}"
        for name in BOUND_HUES
    ]
    title = f"{frame.attrs['chip']}: " + max(counts, key=lambda text: int(text.split()[0]))
    figure = new_figure(title, f"{frame.attrs['what']}; constants: {frame.attrs['level']}")
    axes = plain_axes(figure, 0.1, 0.13, 0.58, top_of_axes(figure) - 0.17)
    low = min(work["intensity"].min() / 2, 0.5)
    high = max(work["intensity"].max() * 2, 4 * peaks[-1] / bandwidth)
    x = np.geomspace(low, high, 200)
    roofs = [np.column_stack([x, np.minimum(x * bandwidth, peak)]) for peak in peaks]
    axes.set(xscale="log", yscale="log", xlim=(low, high))
    axes.set_ylim(reached.min() / 3, peaks[-1] * 2)
    for roof in roofs:
        axes.plot(roof[:, 0], roof[:, 1], color=INK, lw=1.2)
    rate, peak = frame.attrs["built"].rates["gemm"]
    reachable = np.minimum(x * bandwidth * rate.memory, peak * rate.compute)
    axes.plot(x, reachable, color=INK, lw=1.0, ls=(0, (4, 3)), gid="reachable")
    axes.set_xlabel("flops per byte of device memory", color=QUIET, size=MEDIUM)
    axes.set_ylabel("flop/s", color=QUIET, size=MEDIUM)
    axes.grid(True, color=RULE, lw=0.4)
    order = work.assign(reached=reached).sort_values("reached", ascending=False).to_dict(orient="records")
    for row, height in zip(order, np.linspace(0.97, 0.42, len(order)), strict=True):
        hue, point = BOUND_HUES[row["bound_by"]], (row["intensity"], row["reached"])
        axes.scatter(*point, s=20 + 500 * row["share"], color=hue, alpha=0.85, linewidths=0)
        label = f"{row['operator']} {100 * row['share']:.0f} %"
        line = {"arrowstyle": "-", "color": hue, "lw": 0.5, "relpos": (0, 0.5)}
        axes.annotate(
            label, point, xytext=(1.04, height), textcoords="axes fraction", size=SMALL, color=INK, arrowprops=line
        )
    _legend(axes, work, (1.02, 0.0), ceilings=True)
    return figure


def waterfall(frame: pd.DataFrame) -> Figure:
    """Return where the time goes: one bar an operator, each beginning where the one before it ends."""
    from sim.figures.style import INK, MEDIUM, QUIET, SMALL, new_figure, plain_axes, top_of_axes

    shown = frame[frame["share"] >= 0.002]
    largest = shown.sort_values("share").iloc[-1]
    title = f"{frame.attrs['chip']}: {largest['operator']} takes {100 * largest['share']:.0f} % of the iteration"
    figure = new_figure(title, f"{frame.attrs['what']}; constants: {frame.attrs['level']}")
    axes = plain_axes(figure, 0.2, 0.1, 0.76, top_of_axes(figure) - 0.14)
    start = 0.0
    for place, (_, row) in enumerate(shown.iterrows()):
        milliseconds = 1e3 * float(row["seconds"])
        axes.barh(place, milliseconds, left=start, color=BOUND_HUES[str(row["bound_by"])], height=0.7)
        start += milliseconds
        axes.text(start, place, f" {three_digits(milliseconds)} ms", va="center", size=SMALL, color=INK)
    axes.set_yticks(range(len(shown)), list(shown["operator"]))
    axes.invert_yaxis()
    axes.set_xlim(0, start * 1.12)
    axes.set_xlabel(
        f"time from the start [ms]; the whole iteration takes {three_digits(1e3 * frame.attrs['seconds'])} ms",
        color=QUIET,
        size=MEDIUM,
    )
    _legend(axes, shown, (0.0, 0.0))
    return figure


def _legend(axes: Axes, frame: pd.DataFrame, place: tuple[float, float], *, ceilings: bool = False) -> None:
    """Say which colour stands for which bound, and which line for what, at a place given in shares of the axes."""
    from matplotlib.lines import Line2D

    from sim.figures.style import INK, SMALL

    shown = [name for name in BOUND_HUES if (frame["bound_by"] == name).any()]
    handles = [Line2D([], [], color=BOUND_HUES[name], marker="s", ls="", label=f"bound by {name}") for name in shown]
    if ceilings:
        handles.append(Line2D([], [], color=INK, lw=1.2, label="datasheet"))
        handles.append(Line2D([], [], color=INK, lw=1.0, ls=(0, (4, 3)), label="within reach of\nmatrix products"))
    axes.legend(handles=handles, frameon=False, fontsize=SMALL, loc="lower left", bbox_to_anchor=place)


def tell(tables: dict[str, pd.DataFrame]) -> None:
    """Print each iteration; of one alone also its operators, switches and memory; of two how they compare."""
    from rich.console import Console

    from experiments.shown import roofline_compared

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=140, no_color=True)
    for frame in tables.values():
        console.print(f"{frame.attrs['chip']} · {frame.attrs['what']}", style="bold")
        console.print(
            f"{three_digits(1e3 * frame.attrs['seconds'])} ms{_band(frame)} · evidence: {frame.attrs['level']}"
        )
        if len(tables) == 1:
            console.print(_operators(frame))
            _show_alone(console, frame)
        console.print(_swings(frame), style="dim")
        console.print()
    if len(tables) == 2:
        (first, one), (second, two) = tables.items()
        console.print(roofline_compared.table(first, one, second, two))
        ratio = one.attrs["seconds"] / two.attrs["seconds"]
        console.print(f"{second} takes {1 / ratio:.2f} times as long as {first} for the same iteration.")


def _show_alone(console: Console, frame: pd.DataFrame) -> None:
    """Print what switches would do to the iteration, and what the memory of a card is spent on."""
    from rich.table import Table

    from experiments.tried import roofline_memory, roofline_switches

    built = frame.attrs["built"]
    changes = Table("with one thing changed", "ms", "times as long", box=None, pad_edge=False)
    for row in roofline_switches.table(built, frame.attrs["totals"]).to_dict(orient="records"):
        changes.add_row(row["switch"], three_digits(1e3 * row["seconds"]), f"{row['times']:.2f}")
    console.print()
    console.print(changes)
    console.print()
    try:
        memory = roofline_memory.table(built, frame.attrs["context"])
    except ValueError as error:  # an iteration can be priced on cards that cannot hold the model
        console.print(str(error), style="dim")
        return
    terms = Table(
        f"memory of a card ({memory.attrs['usable'] / 1e9:.2f} GB usable)", "GB", "share", box=None, pad_edge=False
    )
    for row in memory.to_dict(orient="records"):
        terms.add_row(row["term"], f"{row['bytes'] / 1e9:.2f}", f"{100 * row['share']:.1f} %")
    console.print(terms)
    for note in memory.attrs["notes"]:
        console.print(note, style="dim")
    console.print()


def _operators(frame: pd.DataFrame) -> Table:
    from rich.table import Table

    shown = Table("operator", box=None, pad_edge=False)
    for name in ("kernels", "GFLOP", "MB", "flop/byte", "ms", "share"):
        shown.add_column(name, justify="right")
    shown.add_column("bound by")
    for row in frame.to_dict(orient="records"):
        numbers = (three_digits(row["flops"] / 1e9), three_digits(row["bytes"] / 1e6), _number(row["intensity"]))
        time = three_digits(1e3 * row["seconds"]), f"{100 * row['share']:.1f} %"
        shown.add_row(str(row["operator"]), str(row["kernels"]), *numbers, *time, str(row["bound_by"]))
    return shown


def _band(frame: pd.DataFrame) -> str:
    found = frame.attrs.get("band")
    return f" [{three_digits(1e3 * float(found.low))}, {three_digits(1e3 * float(found.high))}]" if found else ""


def _swings(frame: pd.DataFrame) -> str:
    """Say which uncertain constants matter most."""
    whole = frame.attrs["seconds"]
    parts = [
        f"{swing.name} {100 * (swing.fast / whole - 1):+.0f} to {100 * (swing.slow / whole - 1):+.0f} %"
        for swing in frame.attrs["swings"][:4]
    ]
    return f"brackets: 90 % band of the constants; those that matter most, each on its own: {', '.join(parts)}"


def _number(value: float) -> str:
    return "" if math.isnan(value) else three_digits(value)
