"""Which uncertain constant matters most to a number: a table and a figure of what each does on its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sim.physics.band import INTERVALS, Swing

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

SLOW, FAST = "#D55E00", "#0072B2"
LEAST = 0.01
"""Constants that move a number by less than this share of it are left out of the figure."""


def table(swings: Sequence[Swing], point: float) -> pd.DataFrame:
    """Return the interval of each constant, and the number at either end of it, largest swing first.

    Parameters
    ----------
    swings : see `sim.physics.band.tornado`.
    point : the number with every constant in the middle.
    """
    import pandas as pd

    rows = [
        {
            "constant": swing.name,
            "low": INTERVALS[swing.name].low,
            "high": INTERVALS[swing.name].high,
            "fast": swing.fast,
            "slow": swing.slow,
            "fast_percent": 100 * (swing.fast / point - 1),
            "slow_percent": 100 * (swing.slow / point - 1),
        }
        for swing in swings
    ]
    columns = ["constant", "low", "high", "fast", "slow", "fast_percent", "slow_percent"]
    return pd.DataFrame(rows, columns=columns)


def plot(swings: Sequence[Swing], point: float, number: str, subtitle: str) -> Figure:
    """Return one bar a constant, from the number at one end of its interval to that at the other.

    Parameters
    ----------
    swings, point : in seconds.
    number : what they are of, as in "the iteration".
    subtitle : of which machine, under which constants.
    """
    from sim.figures.style import INK, MEDIUM, QUIET, SMALL, new_figure, plain_axes, top_of_axes

    shown = [swing for swing in swings if swing.width >= LEAST * point] or list(swings[:1])
    first = shown[0]
    change = f"{100 * (first.fast / point - 1):+.0f} to {100 * (first.slow / point - 1):+.0f} %"
    figure = new_figure(f"{_capital(first.name)} matters most to {number}: {change}", subtitle)
    axes = plain_axes(figure, 0.2, 0.17, 0.76, top_of_axes(figure) - 0.21)
    for place, swing in enumerate(shown):
        for end, hue in ((swing.fast, FAST), (swing.slow, SLOW)):
            axes.barh(place, 1e3 * (end - point), left=1e3 * point, color=hue, height=0.62)
            side = "left" if end > point else "right"
            percent = 100 * (end / point - 1)
            text = f" {percent:+.0f} % " if abs(percent) >= 0.5 else " <1 % "
            axes.text(1e3 * end, place, text, va="center", ha=side, size=SMALL, color=INK)
    axes.axvline(1e3 * point, color=INK, lw=0.8)
    axes.set_yticks(range(len(shown)), [swing.name for swing in shown])
    axes.invert_yaxis()
    ends = [1e3 * end for swing in shown for end in (swing.fast, swing.slow)]
    room = 0.12 * (max(ends) - min(ends))
    axes.set_xlim(min(ends) - room, max(ends) + room)
    axes.set_xlabel(f"{number} [ms], each constant alone at either end of its 90 % interval", color=QUIET, size=MEDIUM)
    return figure


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
