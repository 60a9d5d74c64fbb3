"""What all figures have in common: size, colours, type and scales."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from sim.figures.words import CACHED, duration, policy_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

SIZE_INCHES = (7.0, 4.3)
DOTS_PER_INCH = 200
INK, QUIET, RULE = "#1b1f24", "#57606a", "#d0d7de"
SMALL, MEDIUM, LARGE = 8.0, 9.0, 11.0  # points

# Okabe & Ito, "Color Universal Design", 2008; the two policies compared most get the two easiest to tell apart. Hues
# of equal lightness look alike in grey, so every policy has a marker of its own too.
_HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True)
class ArmStyle:
    """How one arm looks, in every figure.

    Attributes
    ----------
    hue, marker : say which policy.
    line : solid without prefix cache, dashed with.
    ink : the hue, dark enough for small type (contrast above 4.5 on white).
    face : marker fill; white with prefix cache.
    """

    hue: str
    marker: str
    line: str | tuple[int, tuple[float, ...]]
    ink: str
    face: str


def arm_styles(arms: Iterable[str]) -> dict[str, ArmStyle]:
    """Return the style of each arm; policies known to the simulator keep theirs whatever else is shown.

    >>> arm_styles(["inflight_batching"])["inflight_batching"].hue
    '#D55E00'
    """
    from sim.scenario import COMPARED

    arms = list(arms)
    shown = list(map(policy_of, arms))
    order = list(dict.fromkeys([*(COMPARED if set(COMPARED) & set(shown) else ()), *shown]))
    styles = {}
    for arm in arms:
        place = order.index(policy_of(arm)) % len(_HUES)
        hue, cached = _HUES[place], arm.endswith(CACHED)
        line: str | tuple[int, tuple[float, ...]] = (0, (4.0, 1.8)) if cached else "-"
        styles[arm] = ArmStyle(hue, _MARKERS[place], line, _darker(hue), "white" if cached else hue)
    return styles


def new_figure(title: str, subtitle: str) -> Figure:
    """Return an empty figure with the finding above it, and beneath that what else there is to say."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from sim.figures.drawing import Drawing

    figure = Drawing(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, facecolor="white")
    FigureCanvasAgg(figure)
    heading = figure.text(0.02, 0.975, title, size=LARGE, weight="bold", color=INK, va="top", gid="title")
    _fit(heading, 0.96)
    if subtitle:
        below = heading.get_window_extent().y0 / figure.bbox.height - 0.012
        _fit(figure.text(0.02, below, subtitle, size=MEDIUM, color=QUIET, va="top", gid="subtitle"), 0.96)
    return figure


def plain_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Return axes at a place given in shares of the figure, without chart junk."""
    axes = figure.add_axes((left, bottom, width, height))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(labelsize=SMALL, colors=INK, color=QUIET)
    axes.set_facecolor("none")
    axes.set_axisbelow(True)
    return axes


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows of a bar chart, the first on top."""
    axes.set_yticks(range(len(names)), names, color=INK)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.5, -0.5)


def top_of_axes(figure: Figure) -> float:
    """Return the share of the height below the headings."""
    return float(min(text.get_window_extent().y0 for text in figure.texts) / figure.bbox.height)


def time_scale(axes: Axes, which: Literal["x", "y"], low: float, high: float) -> None:
    """Give an axis a logarithmic scale in times, with ticks that people read: 10, 20, 50, 100 ms ..."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    axis = axes.xaxis if which == "x" else axes.yaxis
    decades = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    steps = (1, 2, 5) if np.log10(high / low) < 2.5 else (1, 3) if np.log10(high / low) < 3.5 else (1,)
    ticks = np.sort(np.outer(10.0**decades, steps).ravel())
    axis.set_major_locator(FixedLocator(ticks[(ticks >= low) & (ticks <= high)].tolist()))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda seconds, _: _short(seconds)))


def _fit(text: Any, width: float) -> None:
    """Break a text into lines no wider than a share of the figure, though not in front of a percent sign."""
    words, lines = re.split(r"\s+(?!%)", text.get_text()), [""]
    limit = width * text.figure.bbox.width
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        text.set_text(longer)
        if lines[-1] and text.get_window_extent().width > limit:
            lines.append(word)
        else:
            lines[-1] = longer
    text.set_text("\n".join(lines))


def _darker(hue: str) -> str:
    return "#" + "".join(f"{int(int(hue[i : i + 2], 16) * 0.72):02x}" for i in (1, 3, 5))


def _short(seconds: float) -> str:
    """Return a round time without the zeros that a measured one would show."""
    number, unit = duration(seconds).split()
    return f"{float(number.replace(',', '')):g} {unit}"
