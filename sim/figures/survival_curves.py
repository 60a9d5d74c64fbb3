"""Tails: what share of requests or tokens is slower than a given time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sim.figures.labels import Label, label_lines
from sim.figures.style import (
    QUIET,
    RULE,
    SMALL,
    ArmStyle,
    Floats,
    arm_styles,
    new_figure,
    plain_axes,
    time_scale,
    top_of_axes,
)
from sim.figures.words import (
    cache_finding,
    duration,
    percentile_name,
    policy_finding,
    readable,
)
from sim.results.percentiles import BEYOND, enough, percentiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curves = Mapping[str, tuple[Floats, npt.NDArray[np.int64] | None]]
Whiskers = Mapping[str, Mapping[float, tuple[float, float]]]

LEVELS = (0.5, 0.9, 0.99, 0.999)
_POINTS = 300  # more cannot be seen at this size
_SMALLEST = 4e-4  # share at the lower edge: room below p99.9


def _counted(metric: str) -> str:
    """Return what a metric is measured of."""
    return "tokens" if metric == "ITL" else "requests"


def survival(
    curves: Curves, metric: str, context: str, intervals: Whiskers | None = None, finding: str | None = None
) -> Figure:
    """Draw the share of samples slower than a time, both on logarithmic scales, percentiles marked.

    A curve ends where fewer than ten samples are left, and a percentile with fewer beyond it is not marked.

    Parameters
    ----------
    curves : arm -> (values [s], how often each occurred or None for once each); NaN values are left out.
    metric : "TTFT" or "ITL".
    context : where this was seen, to follow the finding: "at 72 % load".
    intervals : arm -> level -> (low, high) [s], drawn as whiskers on the marks; NaN for none.
    finding : the title, where the caller knows better than what two percentiles tell (paired differences).

    Raises
    ------
    ValueError
        If there is no arm, or one without ten samples.
    """
    lines, marks = _measure(curves)
    title, subtitle = _findings(marks, metric, context, intervals)
    figure = new_figure(finding or title, subtitle)
    axes = plain_axes(figure, 0.1, 0.125, 0.835, top_of_axes(figure) - 0.16)
    _scales(axes, lines, metric, intervals)
    styles = arm_styles(curves)
    for arm, line in lines.items():
        _draw(axes, arm, line, styles[arm], marks[arm], intervals)
    level = _common_level(marks, intervals)
    name = percentile_name(level)
    labels = [
        Label(arm, f"{readable(arm)}: {name} {duration(marks[arm][level])}", styles[arm].ink, _anchors(line, 1 - level))
        for arm, line in sorted(lines.items(), key=lambda item: -marks[item[0]][level])
    ]
    label_lines(axes, labels, {arm: [line] for arm, line in lines.items()})
    return figure


def survival_alt(curves: Curves, metric: str, context: str, intervals: Whiskers | None = None) -> str:
    """Return what `survival` shows with the same arguments, as text."""
    _, marks = _measure(curves)
    rows = [
        f"{readable(arm)}: "
        + ", ".join(f"{percentile_name(level)} {duration(value)}" for level, value in marks[arm].items())
        for arm in curves
    ]
    counted = _counted(metric)
    axes = f"Survival curves, share of {counted} slower than a given {metric}, both axes logarithmic"
    return f"{axes}, {context}. {_findings(marks, metric, context, intervals)[0]}. {'; '.join(rows)}."


def _measure(curves: Curves) -> tuple[dict[str, Floats], dict[str, dict[float, float]]]:
    """Return of each arm the points (time [s], share slower) of its curve, and the percentiles to mark [s]."""
    if not curves:
        raise ValueError("survival: curves is empty; allowed: at least one arm")
    lines, marks = {}, {}
    for arm, (values, weights) in curves.items():
        known = ~np.isnan(values)
        samples = int(known.sum() if weights is None else weights[known].sum())
        if samples < 2 * BEYOND:
            raise ValueError(f"survival: {arm} has {samples} samples; allowed: at least {2 * BEYOND}")
        # Shares evenly spaced on a logarithmic scale show all that a line of every sample would.
        shares = np.geomspace(1.0, max(_SMALLEST, BEYOND / samples), _POINTS)
        levels = [level for level in LEVELS if enough(samples, level)]
        found = percentiles(values, [*(1 - shares).tolist(), *levels], weights)
        lines[arm] = np.column_stack([found[:_POINTS], shares])
        marks[arm] = dict(zip(levels, found[_POINTS:].tolist(), strict=True))
    return lines, marks


def _common_level(marks: Mapping[str, Mapping[float, float]], intervals: Whiskers | None) -> float:
    """Return p99, or the highest level below it that every arm has samples and, if there are any, intervals for."""
    common = [level for level in LEVELS if level <= 0.99 and all(level in marked for marked in marks.values())]
    known = [level for level in common if np.isfinite([_bounds(intervals, arm, level) for arm in marks]).all()]
    return max(known or common)


def _bounds(intervals: Whiskers | None, arm: str, level: float) -> tuple[float, float]:
    return (intervals or {}).get(arm, {}).get(level, (float("nan"), float("nan")))


def _findings(
    marks: Mapping[str, Mapping[float, float]], metric: str, context: str, intervals: Whiskers | None
) -> tuple[str, str]:
    level = _common_level(marks, intervals)
    what = f"{percentile_name(level)} {metric}"
    values = {arm: marked[level] for arm, marked in marks.items()}
    bounds = {arm: _bounds(intervals, arm, level) for arm in marks} if intervals else None
    return policy_finding(values, what, context, bounds), cache_finding(values, what, bounds)


def _scales(axes: Axes, lines: Mapping[str, Floats], metric: str, intervals: Whiskers | None) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    low = min(float(line[2, 0]) for line in lines.values())
    ends = [float(line[-1, 0]) for line in lines.values()]
    ends += [_bounds(intervals, arm, level)[1] for arm in lines for level in LEVELS]
    high = float(np.nanmax(ends))
    low = max(low, high * 1e-4, 1e-9)
    least = min(float(line[-1, 1]) for line in lines.values())
    axes.set_yscale("log")
    axes.set_ylim(least * 0.8, 1.25)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axes.yaxis.set_minor_locator(NullLocator())
    left, right = low * 0.9, high * (high / low) ** 0.06
    time_scale(axes, "x", left, right)
    axes.set_xlabel(f"{metric} [ms or s, logarithmic]", size=SMALL + 1)
    axes.set_ylabel(f"{_counted(metric)} slower than that [%]", size=SMALL + 1)
    for level in LEVELS:
        if 1 - level > least * 0.8:
            axes.axhline(1 - level, color=RULE, lw=0.8, zorder=0)
            at = (1.01, 1 - level)
            axes.annotate(
                percentile_name(level), at, xycoords=axes.get_yaxis_transform(), size=SMALL, color=QUIET, va="center"
            )


def _draw(
    axes: Axes, arm: str, line: Floats, style: ArmStyle, marks: Mapping[float, float], intervals: Whiskers | None
) -> None:
    axes.plot(line[:, 0], line[:, 1], color=style.hue, ls=style.line, lw=1.6, label=arm, gid="curve")
    look: dict[str, Any] = {"ms": 4.5, "mfc": style.face, "mec": style.hue, "mew": 1.2, "zorder": 4}
    for level, value in marks.items():
        height = 1 - level
        ends = _bounds(intervals, arm, level)
        if np.isfinite(ends).all():
            axes.plot(ends, [height] * 2, color=style.hue, lw=3.2, alpha=0.35, solid_capstyle="butt", gid="whisker")
        axes.plot([value], [height], style.marker, gid="mark", **look)


def _anchors(line: Floats, share: float) -> Floats:
    """Return the points that a label may stand at, those near the percentile it quotes first."""
    few = line[:: max(1, len(line) // 40)]
    return few[np.argsort(np.abs(np.log(few[:, 1] / share)), kind="stable")]
