"""Who slowed the slowest: what the most charged requests are charged for, and what their absence gains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sim.figures.style import INK, QUIET, RULE, SMALL, arm_styles, new_figure, plain_axes, top_of_axes
from sim.figures.words import readable, three_digits

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from experiments.tried.offenders import Offenders

SHOWN = 12
"""Requests in a panel, those left out in reruns first."""


def offender_charges(accused: Sequence[Offenders]) -> Figure:
    """Draw a panel for each policy: bars of charges, and a dot where a rerun without the request says what it cost."""
    figure = new_figure(*_headings(accused))
    top, gap, left = top_of_axes(figure) - 0.07, 0.15, 0.13
    width = (0.98 - left - gap * (len(accused) - 1)) / len(accused)
    styles = arm_styles([found.policy for found in accused])
    for place, found in enumerate(accused):
        axes = plain_axes(figure, left + place * (width + gap), 0.17, width, top - 0.17)
        _panel(axes, found, styles[found.policy].hue)
        axes.set_title(readable(found.policy), size=SMALL + 1, loc="left", weight="bold", color=INK, pad=3)
        axes.set_xlabel("time of all victims together [s]", size=SMALL, labelpad=1)
    _legend(figure)
    return figure


def _legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries = [Patch(color=QUIET, alpha=0.45), Line2D([], [], marker="o", ls="", color=INK, ms=4)]
    figure.legend(
        entries, ["what the request is charged for", "what the victims gain in a rerun without it"], loc="lower center",
        bbox_to_anchor=(0.5, 0.0), ncols=2, frameon=False, fontsize=SMALL, handlelength=1.4,
    )  # fmt: skip


def _headings(accused: Sequence[Offenders]) -> tuple[str, str]:
    shares = [found.charged_seconds.max() / max(found.charged_seconds.sum(), 1e-300) for found in accused]
    low, high = (f"{100 * share:.2g}" for share in (min(shares), max(shares)))
    title = f"The worst offender causes {low if low == high else f'{low} to {high}'} % of what the slowest wait"
    found = [three_digits(a.rank_correlation) for a in accused if not math.isnan(a.rank_correlation)]
    rerun = f"; rank correlation with what reruns without them gain: {' and '.join(found)}" if found else ""
    return title, f"Charges to single requests by the {len(accused[0].victims)} slowest{rerun}"


def _panel(axes: Axes, found: Offenders, hue: str) -> None:
    ranked = np.argsort(-found.charged_seconds, kind="stable")
    shown = list(dict.fromkeys([*found.removed.tolist(), *ranked.tolist()]))[:SHOWN]
    shown.sort(key=lambda request: -found.charged_seconds[request])
    rows = range(len(shown))
    axes.barh(rows, found.charged_seconds[shown], height=0.6, color=hue, alpha=0.45)
    gains = dict(zip(found.removed.tolist(), found.gained_seconds.tolist(), strict=True))
    dots = [(gains[request], row) for row, request in enumerate(shown) if request in gains]
    if dots:
        axes.plot(*zip(*dots, strict=True), "o", color=INK, ms=4)
    axes.axvline(0, color=RULE, lw=0.8, zorder=0)
    axes.set_yticks(rows, [f"request {request}" for request in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, colors=QUIET)
