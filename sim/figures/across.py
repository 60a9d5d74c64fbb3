"""A latency or the goodput across one field of a scenario, a line for each of the others, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
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
from sim.figures.words import CACHED, duration, listed, percentile_name, policy_finding, readable, three_digits
from sim.results.runs import LATENCIES, LEVELS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sim.results.goodput import Objectives
    from sim.variations import Variations

GOODPUT = "goodput"
AXES = {
    "load": "load [requests/s]",
    "tokens": "most new tokens in an iteration",
    "tensor": "cards that share the model (TP)",
    "sequences": "most sequences at once",
    "prefix_cache": "prefix cache",
}
_UNITS = {"load": "requests/s", "tensor": "cards", "tokens": "tokens"}
_REACH = 4.0  # times the largest estimate
_LANE = 0.045  # height of a row of overload marks, as a share of the axes


@dataclass(frozen=True)
class _Line:
    """Points in the order of the field; estimates are NaN where overloaded, or where there are too few samples."""

    x: Floats
    estimate: Floats
    low: Floats
    high: Floats
    overloaded: npt.NDArray[np.bool_]


def across_field(
    variations: Variations,
    metric: str,
    level: float,
    across: str,
    objectives: Objectives | None,
    title: str | None,
) -> Figure:
    """Draw it; see `sim.variations.Variations.plot`.

    Raises
    ------
    ValueError
        If there is no such metric or percentile, the field is not varied, or goodput is asked without objectives.
    """
    _check(variations, metric, level, across, objectives)
    values = list(dict.fromkeys(row[across] for row in variations.values))
    numeric = all(isinstance(value, Real) and not isinstance(value, bool) for value in values)
    lines = _lines(variations, metric, level, across, objectives, None if numeric else values)
    what = GOODPUT if metric == GOODPUT else f"{percentile_name(level)} {metric}"
    finding = title or _finding(lines, what, across, None if numeric else values)
    figure = new_figure(finding, _subtitle(variations, objectives if metric == GOODPUT else None))
    axes = plain_axes(figure, 0.115, 0.125, 0.865, top_of_axes(figure) - 0.17)
    _scales(axes, lines, what, across, None if numeric else values)
    styles = arm_styles(lines)
    for lane, (name, line) in enumerate(lines.items()):
        _draw(axes, name, line, styles[name], 3.0 * (lane - (len(lines) - 1) / 2), numeric)
        marks = line.x[line.overloaded]
        heights = np.full(len(marks), 0.97 - _LANE * lane)
        look: dict[str, Any] = {"ls": "none", "marker": "^", "mfc": "none", "mec": styles[name].hue, "ms": 6}
        axes.plot(marks, heights, transform=axes.get_xaxis_transform(), gid="overloaded", **look)
    if any(line.overloaded.any() for line in lines.values()):
        note = "△ overloaded: latencies grow as long as it lasts"
        axes.text(0.0, 1.02, note, transform=axes.transAxes, size=SMALL, color=QUIET)
    if len(lines) > 1:
        drawn = {name: _path(line, what != GOODPUT) for name, line in lines.items() if np.isfinite(line.estimate).any()}
        labels = [Label(name, readable(name), styles[name].ink, points[::-1]) for name, points in drawn.items()]
        label_lines(axes, labels, {name: [points] for name, points in drawn.items()})
    vars(figure)["alt"] = _alt(finding, lines, what, across)
    return figure


def _check(variations: Variations, metric: str, level: float, across: str, objectives: Objectives | None) -> None:
    if metric not in (*LATENCIES, GOODPUT):
        raise ValueError(f"metric is {metric!r}; allowed: {', '.join(LATENCIES)}, {GOODPUT}")
    if level not in LEVELS:
        raise ValueError(f"level is {level}; allowed: {', '.join(map(str, LEVELS))}")
    if across not in variations.varied:
        raise ValueError(f"across is {across!r}, which is not varied; allowed: {', '.join(variations.varied)}")
    if metric == GOODPUT and objectives is None:
        raise ValueError("goodput needs objectives; allowed: objectives=Objectives(ttft_seconds=..., tpot_seconds=...)")


def _lines(
    variations: Variations,
    metric: str,
    level: float,
    across: str,
    objectives: Objectives | None,
    categories: Sequence[Any] | None,
) -> dict[str, _Line]:
    rows: dict[str, list[tuple[float, ...]]] = {}
    for values, runs in zip(variations.values, variations.runs, strict=True):
        x = float(values[across]) if categories is None else float(categories.index(values[across]))
        if objectives is not None and metric == GOODPUT:
            found = replace(runs, objectives=objectives).quantity("goodput_share")
        else:
            found = runs.percentiles[metric][LEVELS.index(level)]
        row = (x, found.estimate, found.low, found.high, not runs.verdict.stable)
        rows.setdefault(_name({name: value for name, value in values.items() if name != across}), []).append(row)
    columns = {name: np.array(sorted(points)).T for name, points in rows.items()}
    return {name: _Line(f[0], f[1], f[2], f[3], f[4].astype(bool)) for name, f in columns.items()}


def _name(values: dict[str, Any]) -> str:
    """Return what a line is called: the policy with its cache as elsewhere, numbers with the field they belong to.

    >>> _name({"policy": "orca", "prefix_cache": True}), _name({"tensor": 2, "prefix_cache": True}), _name({})
    ('orca + prefix cache', '2 cards, prefix cache on', 'all')
    """
    values = dict(values)
    cached = values.pop("prefix_cache", None) if "policy" in values else None
    parts = [value if isinstance(value, str) else _place(name, value) for name, value in values.items()]
    return (", ".join(parts) or "all") + (CACHED if cached else "")


def _path(line: _Line, logarithmic: bool) -> Floats:
    """Return points along a line that its name may stand beside."""
    known = np.isfinite(line.estimate)
    x, y = line.x[known], line.estimate[known]
    if len(x) < 2:
        return np.column_stack([x, y])
    between = np.linspace(x[0], x[-1], 40)
    found = np.exp(np.interp(between, x, np.log(y))) if logarithmic else np.interp(between, x, y)
    return np.column_stack([between, found])


def _draw(axes: Axes, name: str, line: _Line, style: ArmStyle, shift_points: float, joined: bool) -> None:
    """Draw one line; its intervals stand a little aside, so that they do not cover those of others."""
    from matplotlib.transforms import ScaledTranslation

    beside = axes.transData + ScaledTranslation(shift_points / 72, 0, axes.figure.dpi_scale_trans)
    known = np.isfinite(line.low)
    bars: dict[str, Any] = {"color": style.hue, "lw": 2.6, "alpha": 0.4, "transform": beside, "gid": "interval"}
    axes.vlines(line.x[known], line.low[known], line.high[known], **bars)
    path = style.line if joined else (0, (1, 3))
    axes.plot(line.x, line.estimate, color=style.hue, ls=path, lw=1.6 if joined else 0.8, gid="curve", label=name)
    look: dict[str, Any] = {"ls": "none", "marker": style.marker, "mfc": style.face, "mec": style.hue, "mew": 1.2}
    axes.plot(line.x, line.estimate, ms=5, gid="mark", **look)


def _scales(axes: Axes, lines: dict[str, _Line], what: str, across: str, categories: Sequence[Any] | None) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    x = np.unique(np.concatenate([line.x for line in lines.values()]))
    left, right = float(x[0]), float(x[-1])
    room = 0.08 * (right - left) or 0.5
    axes.set_xlim(left - room, right + room)
    if categories is None and across != "load" and len(x) > 1 and x[0] > 0 and x[-1] / x[0] >= 4:
        axes.set_xscale("log")
        axes.set_xlim(left / (right / left) ** 0.08, right * (right / left) ** 0.08)
        axes.set_xticks(x, [f"{value:,g}" for value in x])
        axes.xaxis.set_minor_locator(NullLocator())
    elif categories is not None:
        axes.set_xticks(range(len(categories)), list(map(_category, categories)))
        axes.set_xlim(-0.4, len(categories) - 0.6)
    axes.set_xlabel(AXES.get(across, across.replace("_", " ")), size=SMALL + 1)
    if what == GOODPUT:
        axes.set_ylim(0, 1.12)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
        axes.set_yticks(np.linspace(0, 1, 6).tolist())
        axes.set_ylabel("requests answered within the objectives", size=SMALL + 1)
        return
    estimates, bounds = (
        np.concatenate([np.concatenate(columns) for columns in chosen])
        for chosen in (
            [(line.estimate,) for line in lines.values()],
            [(line.low, line.high) for line in lines.values()],
        )
    )
    known = estimates[np.isfinite(estimates)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.1, 10.0)
    # An interval of few replications may span decades; it is cut rather than everything else flattened.
    low = max(low / _REACH, float(np.nanmin(bounds, initial=low)))
    high = min(high * _REACH, float(np.nanmax(bounds, initial=high)))
    time_scale(axes, "y", low / 1.2, high * (high / low) ** 0.25 * 1.15)
    axes.set_ylabel(f"{what} [logarithmic]", size=SMALL + 1)


def _category(value: Any) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else readable(str(value))


def _finding(lines: dict[str, _Line], what: str, across: str, categories: Sequence[Any] | None) -> str:
    """Return what the figure says at the last place where every line has a value."""
    table = np.array([line.estimate for line in lines.values()])
    common = np.flatnonzero(np.isfinite(table).all(axis=0))
    if not len(common):
        return f"{what}: everywhere something is overloaded, or has too few samples"
    x = next(iter(lines.values())).x[common]
    places = [_place(across, at if categories is None else categories[int(at)]) for at in x]
    if what == GOODPUT:
        shares = {readable(name): f"{100 * line.estimate[common[-1]]:.0f} %" for name, line in lines.items()}
        said = listed([f"{share} ({name})" if len(lines) > 1 else share for name, share in shares.items()])
        return f"Answered in time at {places[-1]}: {said}"
    if len(lines) > 1:
        bounds = {name: (float(line.low[common[-1]]), float(line.high[common[-1]])) for name, line in lines.items()}
        found = {name: float(line.estimate[common[-1]]) for name, line in lines.items()}
        return policy_finding(found, what, f"at {places[-1]}", bounds)
    shown = table[0, common]
    least, most = (0, -1) if categories is None else (int(np.argmin(shown)), int(np.argmax(shown)))
    verb = "goes from" if categories is None else "ranges from"
    return f"{what} {verb} {duration(shown[least])} at {places[least]} to {duration(shown[most])} at {places[most]}"


def _place(across: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"{across.replace('_', ' ')} {_category(value)}"
    if isinstance(value, Real):
        return f"{value:,g} {_UNITS[across]}" if across in _UNITS else f"{across.replace('_', ' ')} {value:,g}"
    return _category(value)


def _subtitle(variations: Variations, objectives: Objectives | None) -> str:
    sample = f"{variations.replications} replications" if variations.replications > 1 else "one run"
    said = f"{sample} of {len(variations.runs[0].results[0].trace):,} requests; bars are 95 % intervals"
    if objectives is None:
        return said
    bounds = {name.removesuffix("_seconds"): bound for name, bound in vars(objectives).items() if np.isfinite(bound)}
    return f"{said}. In time: " + ", ".join(
        f"{name.upper().replace('_', ' ')} within {duration(bound)}" for name, bound in bounds.items()
    )


def _alt(finding: str, lines: dict[str, _Line], what: str, across: str) -> str:
    said = []
    for name, line in lines.items():
        points = [
            f"{three_digits(x)}: {_value(what, value, over)}"
            for x, value, over in zip(line.x, line.estimate, line.overloaded, strict=True)
        ]
        said.append(f"{readable(name)}: {', '.join(points)}")
    return f"Line chart of {what} across {across}. {finding}. {'; '.join(said)}."


def _value(what: str, value: float, overloaded: bool) -> str:
    if not np.isfinite(value):
        return "overloaded" if overloaded else "unknown"
    return f"{100 * value:.0f} %" if what == GOODPUT else duration(value)
