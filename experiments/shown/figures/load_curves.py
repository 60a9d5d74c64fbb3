"""Latency over load: how it rises, and where a server stops keeping up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sim.figures.labels import Label, label_lines
from sim.figures.style import (
    QUIET,
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
    listed,
    percentile_name,
    policy_finding,
    readable,
    three_digits,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = ("arm", "load", "share_of_capacity", "metric", "level", "estimate", "low", "high", "verdict")
_SHADE, _DEEP_SHADE = "#eceff2", "#d9dee4"
_LANE = 0.036  # height of a row of overload marks, as a share of the axes


@dataclass(frozen=True)
class _Line:
    """One arm in order of load; estimate, low and high are NaN where it is overloaded or `n` too small."""

    load: Floats
    estimate: Floats
    low: Floats
    high: Floats
    overloaded: npt.NDArray[np.bool_]


def load_latency(table: pd.DataFrame, metric: str, level: float, finding: str | None = None) -> Figure:
    """Draw a percentile over the load with its interval as a band, and mark where arms are overloaded.

    Parameters
    ----------
    table : columns `COLUMNS`; load [requests/s], share_of_capacity (1 is all of it), estimate, low and high [s],
        verdict beginning with "overloaded" where the arm does not keep up. Such rows have no steady latency: whatever
        their estimate, only a mark at the top of the figure says that they were tried.
    metric, level : which rows to take.
    finding : the title, where the caller knows better than what two intervals tell (paired differences).

    Raises
    ------
    ValueError
        If columns are missing, no row is left, or shares and loads disagree.
    """
    lines, capacity = _lines(table, metric, level)
    title, subtitle = _findings(lines, capacity, f"{percentile_name(level)} {metric}")
    figure = new_figure(finding or title, subtitle)
    axes = plain_axes(figure, 0.115, 0.125, 0.865, top_of_axes(figure) - 0.235)
    _scales(axes, lines, capacity, f"{percentile_name(level)} {metric}")
    _shade(axes, lines)
    styles = arm_styles(lines)
    _note_missing(axes, lines)
    for lane, (arm, line) in enumerate(lines.items()):
        _draw(axes, arm, line, styles[arm])
        _mark_overload(axes, line, styles[arm], 0.975 - _LANE * lane)
    drawn = {arm: _points(line) for arm, line in lines.items() if np.isfinite(line.estimate).any()}
    labels = [Label(arm, readable(arm), styles[arm].ink, points[::-1]) for arm, points in _highest_first(drawn)]
    label_lines(axes, labels, {arm: [points, *_edges(lines[arm])] for arm, points in drawn.items()})
    return figure


def load_latency_alt(table: pd.DataFrame, metric: str, level: float) -> str:
    """Return what `load_latency` shows as text."""
    lines, capacity = _lines(table, metric, level)
    what = f"{percentile_name(level)} {metric}"
    parts = [f"Line chart of {what} over load in requests per second, with 95 % intervals as bands"]
    parts.append(_findings(lines, capacity, what)[0])
    for arm, line in lines.items():
        points = _points(line)
        said = readable(arm) + ": "
        if len(points):
            (first, low), (last, high) = points[0], points[-1]
            said += f"{duration(low)} at {three_digits(first)} requests/s to {duration(high)} at {three_digits(last)}"
        over = line.load[line.overloaded]
        said += (", " if len(points) and len(over) else "") + (
            f"overloaded from {three_digits(over[0])}" if len(over) else ""
        )
        parts.append(said)
    return ". ".join(parts) + "."


def _lines(table: pd.DataFrame, metric: str, level: float) -> tuple[dict[str, _Line], float]:
    """Return the arms in the order of the table, and the capacity that the shares refer to [requests/s]."""
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing:
        raise ValueError(f"load_latency: table has no column {missing[0]!r}; needed: {', '.join(COLUMNS)}")
    rows = table[(table["metric"] == metric) & np.isclose(table["level"], level)]
    if rows.empty:
        raise ValueError(f"load_latency: table has no rows with metric {metric!r} and level {level:g}")
    capacities = rows["load"] / rows["share_of_capacity"]
    capacity = float(capacities.median())
    if not np.allclose(capacities, capacity, rtol=0.02):
        raise ValueError("load_latency: share_of_capacity is not proportional to load; allowed: one capacity a figure")
    lines = {}
    for arm, group in rows.groupby("arm", sort=False):
        group = group.sort_values("load")
        overloaded = group["verdict"].astype(str).str.startswith("overloaded").to_numpy(dtype=bool)
        numbers = group[["estimate", "low", "high"]].to_numpy(dtype=np.float64, copy=True)
        numbers[overloaded] = np.nan
        lines[str(arm)] = _Line(
            group["load"].to_numpy(dtype=np.float64), numbers[:, 0], numbers[:, 1], numbers[:, 2], overloaded
        )
    return lines, capacity


def _findings(lines: Mapping[str, _Line], capacity: float, what: str) -> tuple[str, str]:
    """Return the finding at the highest load that most arms bear, with intervals if possible, and what lies beyond."""
    loads = sorted({float(load) for line in lines.values() for load in line.load})
    at = {load: _steady_at(lines, load) for load in loads}
    known = {load: sum(np.isfinite(low) and np.isfinite(high) for _, low, high in at[load].values()) for load in loads}
    load = max(loads, key=lambda load: (known[load], len(at[load]), load))
    if not at[load]:
        return f"No arm keeps up at {three_digits(loads[0])} requests/s or more", ""
    bounds = {arm: (low, high) for arm, (_, low, high) in at[load].items()}
    estimates = {arm: estimate for arm, (estimate, _, _) in at[load].items()}
    title = policy_finding(estimates, what, f"at {100 * load / capacity:.0f} % load", bounds)
    cache = cache_finding(estimates, what, bounds)
    return title, ". ".join(part for part in (cache, _overload_finding(lines)) if part)


def _overload_finding(lines: Mapping[str, _Line]) -> str:
    starts: dict[float, list[str]] = {}
    for arm, line in lines.items():
        if line.overloaded.any():
            starts.setdefault(float(line.load[line.overloaded][0]), []).append(readable(arm))
    if not starts:
        return "No arm is overloaded at these loads"
    parts = [f"{listed(arms)} from {three_digits(load)} requests/s" for load, arms in sorted(starts.items())]
    return f"Overloaded: {'; '.join(parts)}"


def _steady_at(lines: Mapping[str, _Line], load: float) -> dict[str, tuple[float, float, float]]:
    found = {}
    for arm, line in lines.items():
        for i in np.flatnonzero((line.load == load) & np.isfinite(line.estimate)):
            found[arm] = (float(line.estimate[i]), float(line.low[i]), float(line.high[i]))
    return found


def _scales(axes: Axes, lines: Mapping[str, _Line], capacity: float, what: str) -> None:
    numbers = np.concatenate([np.concatenate([line.estimate, line.low, line.high]) for line in lines.values()])
    numbers = numbers[np.isfinite(numbers) & (numbers > 0)]
    low, high = (float(numbers.min()), float(numbers.max())) if len(numbers) else (0.1, 1.0)
    room = max(high / low, 2.0)
    # The marks of overloaded arms stand above all curves.
    time_scale(axes, "y", low / room**0.08, high * room ** (0.1 + 1.3 * _LANE * (1 + len(lines))))
    loads = np.concatenate([line.load for line in lines.values()])
    width = float(np.ptp(loads)) or float(loads[0])
    axes.set_xlim(max(0.0, float(loads.min()) - 0.06 * width), float(loads.max()) + 0.06 * width)
    axes.set_xlabel("load [requests/s]", size=SMALL + 1)
    axes.set_ylabel(f"{what} [ms or s, logarithmic]", size=SMALL + 1)

    def to_share(load: Any) -> Any:
        return 100 * load / capacity

    def to_load(share: Any) -> Any:
        return share * capacity / 100

    above = axes.secondary_xaxis("top", functions=(to_share, to_load))
    above.set_xlabel("share of capacity [%]", size=SMALL + 1, color=QUIET)
    above.tick_params(labelsize=SMALL, labelcolor=QUIET, color=QUIET)
    above.spines["top"].set_color(QUIET)


def _shade(axes: Axes, lines: Mapping[str, _Line]) -> None:
    """Shade where some arm is overloaded, and deeper where all are."""
    loads = np.unique(np.concatenate([line.load for line in lines.values()]))
    over = [[bool(line.overloaded[line.load == load].any()) for line in lines.values()] for load in loads]
    right = axes.get_xlim()[1]
    some, every = (_first_edge(axes, loads, list(map(test, over))) for test in (any, all))
    for left, end, shade, text, height in (
        (some, every, _SHADE, "some overloaded (↑)", 0.08),
        (every, right, _DEEP_SHADE, "all overloaded (↑)", 0.02),
    ):
        if left < end:
            axes.axvspan(left, end, color=shade, lw=0, zorder=-2, gid="overload")
            axes.annotate(
                text, (end, height), xycoords=axes.get_xaxis_transform(), xytext=(-4, 0), textcoords="offset points",
                size=SMALL, color=QUIET, style="italic", ha="right",
            )  # fmt: skip


def _first_edge(axes: Axes, loads: Floats, hit: list[bool]) -> float:
    """Return the middle between the first load that is hit and the one before; an edge of the axes if there is none."""
    left, right = axes.get_xlim()
    if not any(hit):
        return right
    first = hit.index(True)
    return float((loads[first - 1] + loads[first]) / 2) if first else left


def _draw(axes: Axes, arm: str, line: _Line, style: ArmStyle) -> None:
    known = np.isfinite(line.low) & np.isfinite(line.high)
    axes.fill_between(line.load, line.low, line.high, color=style.hue, alpha=0.18, lw=0, gid="band")
    axes.vlines(line.load[known], line.low[known], line.high[known], color=style.hue, lw=2.4, alpha=0.35, gid="whisker")
    axes.plot(line.load, line.estimate, color=style.hue, ls=style.line, lw=1.6, label=arm, gid="line")
    look: dict[str, Any] = {"ls": "none", "marker": style.marker, "color": style.hue}
    axes.plot(line.load[known], line.estimate[known], mfc=style.face, ms=4.5, mew=1.2, gid="mark", **look)
    axes.plot(line.load[~known], line.estimate[~known], ms=2, gid="no interval", **look)


def _mark_overload(axes: Axes, line: _Line, style: ArmStyle, height: float) -> None:
    """Put a hollow arrow at the top for each load that the arm could not bear."""
    where = line.load[line.overloaded]
    if len(where):
        axes.plot(
            where, np.full(len(where), height), ls="none", marker=r"$\uparrow$", ms=6.5, mew=0.4, color=style.hue,
            transform=axes.get_xaxis_transform(), gid="overloaded",
        )  # fmt: skip


def _note_missing(axes: Axes, lines: Mapping[str, _Line]) -> None:
    if any((np.isfinite(line.estimate) & ~np.isfinite(line.high)).any() for line in lines.values()):
        text = "small marks: n too small for an interval"
        axes.annotate(text, (0.01, 0.02), xycoords="axes fraction", size=SMALL, color=QUIET, style="italic")


def _points(line: _Line) -> Floats:
    known = np.isfinite(line.estimate)
    return np.column_stack([line.load[known], line.estimate[known]])


def _highest_first(drawn: Mapping[str, Floats]) -> list[tuple[str, Floats]]:
    return sorted(drawn.items(), key=lambda item: -float(item[1][-1, 1]))


def _edges(line: _Line) -> list[Floats]:
    edges = [np.column_stack([line.load, edge])[np.isfinite(edge)] for edge in (line.low, line.high)]
    return [edge for edge in edges if len(edge)]
