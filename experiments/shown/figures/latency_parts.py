"""Where time goes: latencies as stacked bars of their parts, and one request as a waterfall over the iterations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sim.figures.replica_timeline import DECODE, FACES, HATCHES, KINDS, MIXED, PREFILL, iterations_between
from sim.figures.style import INK, QUIET, SMALL, Floats, name_rows, new_figure, plain_axes, top_of_axes
from sim.figures.words import duration, percent, readable
from sim.results.attribution import PARTS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sim.results.result import Result

FILLS = {
    "seats": ("#f5c26b", ""),
    "token_budget": ("#E69F00", "////"),
    "kv_blocks": ("#D55E00", ""),
    "policy": ("#f5c26b", "...."),
    "front_end": ("#8b949e", ""),
    "behind_prefill": ("#e3b7d0", "\\\\\\\\"),
    "behind_decode": ("#e3b7d0", ""),
    "own_prefill": ("#0072B2", ""),
    "shared_prefill": ("#CC79A7", ""),
    "own_decode": ("#9fd0ef", ""),
    "prefill_stall": ("#7a3366", ""),
    "held": ("#7a3366", "////"),
    "preemption": ("#1b1f24", ""),
    "swap": ("#1b1f24", "////"),
    "communication": ("#009E73", ""),
    "host": ("#c3cad2", ""),
}
"""Fill and hatch of each part: oranges wait in the queue, purples are others' work, blues and green its own."""

_LABELLED = 0.05  # share of the longest bar from which a part has its share written into it
_ROOMY = 3  # policies up to which a bar is high enough for that
_DARK = ("own_prefill", "prefill_stall", "held", "preemption", "swap", "kv_blocks", "communication")


def tail_parts(table: pd.DataFrame, title: str, subtitle: str) -> Figure:
    """Draw mean TTFT and mean end-to-end time of the slowest requests, a stacked bar for each policy.

    Parameters
    ----------
    table : a row for each policy, metric ("TTFT", "E2E") and part, with its mean in the tail, `seconds`.
    title, subtitle : the findings.
    """
    figure = new_figure(title, subtitle)
    present = [part for part in PARTS if table[table.part == part].seconds.max() > 0]
    top, bottom, gap = top_of_axes(figure) - 0.07, 0.115 + 0.04 * -(-len(present) // 3), 0.17
    height = (top - bottom - gap) / 2
    for place, (metric, rows) in enumerate(table.groupby("metric", sort=False)):
        axes = plain_axes(figure, 0.16, top - (place + 1) * height - place * gap, 0.82, height)
        policies = list(dict.fromkeys(rows.policy))
        for row, policy in enumerate(policies):
            _stack(axes, row, rows[rows.policy == policy].set_index("part").seconds, rows)
        name_rows(axes, [readable(policy) for policy in policies])
        what = {"TTFT": "time to first token", "E2E": "time to last token"}[str(metric)]
        axes.set_title(f"slowest by {what}", size=SMALL + 1, loc="left", weight="bold", color=INK, pad=3)
        axes.set_xlabel("mean of these requests [s]", size=SMALL, labelpad=1)
    _legend(figure, present)
    return figure


def _stack(axes: Axes, row: int, seconds: pd.Series, rows: pd.DataFrame) -> None:
    left = 0.0
    longest = float(rows.groupby("policy").seconds.sum().max())
    for part in PARTS:
        width = float(seconds[part])
        if not width:
            continue
        fill, hatch = FILLS[part]
        axes.barh(row, width, left=left, height=0.62, color=fill, hatch=hatch, edgecolor="white", lw=0.4, gid=part)
        if width > _LABELLED * longest and rows.policy.nunique() <= _ROOMY:
            ink = "white" if part in _DARK else INK
            text = percent(width / float(seconds.sum()))
            box = {"facecolor": fill, "edgecolor": "none", "pad": 1.0} if hatch else None
            axes.text(left + width / 2, row, text, ha="center", va="center", size=SMALL, color=ink, bbox=box)
        left += width
    axes.text(left, row, f" {duration(left)}", va="center", size=SMALL, color=INK)
    axes.set_xlim(0, 1.1 * longest)


def _legend(figure: Figure, present: list[str]) -> None:
    from matplotlib.patches import Patch

    entries = [Patch(facecolor=FILLS[part][0], hatch=FILLS[part][1], edgecolor="white", lw=0.4) for part in present]
    figure.legend(
        entries, [PARTS[part] for part in present], loc="lower center", bbox_to_anchor=(0.5, 0.005), ncols=3,
        frameon=False, fontsize=SMALL, handlelength=1.4, columnspacing=1.2, handletextpad=0.5,
    )  # fmt: skip


def waterfall(result: Result, request: int, parts: dict[str, float], title: str, subtitle: str) -> Figure:
    """Draw the parts of one request one behind the other, and above them what the replica did meanwhile.

    The parts stand in the order of their states, not of their moments: stalls and decoding alternate in truth.

    Parameters
    ----------
    parts : part -> [s], summing to the end-to-end time.
    """
    figure = new_figure(title, subtitle)
    top = top_of_axes(figure) - 0.06
    lane = plain_axes(figure, 0.36, top - 0.09, 0.62, 0.09)
    axes = plain_axes(figure, 0.36, 0.12, 0.62, top - 0.17 - 0.12)
    whole = sum(parts.values())
    _lane(lane, result, request, whole)
    shown = {part: value for part, value in parts.items() if value}
    left = 0.0
    for row, (part, value) in enumerate(shown.items()):
        fill, hatch = FILLS[part]
        axes.barh(row, value, left=left, height=0.7, color=fill, hatch=hatch, edgecolor="white", lw=0.3, gid=part)
        late = left + value > 0.75 * whole
        text = f"{duration(value)} ({percent(value / whole)})"
        x, side = (left, "right") if late and left > 0.25 * whole else (left + value, "left")
        axes.text(x, row, f" {text} ", va="center", ha=side, size=SMALL, color=INK)
        left += value
    axes.set_yticks(range(len(shown)), [PARTS[part] for part in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    first = float(result.ttft_seconds[request])
    for place in (lane, axes):
        place.set_xlim(0, 1.02 * whole)
        place.axvline(first, color=QUIET, lw=0.8, ls=(0, (3, 2)))
    lane.tick_params(labelbottom=False)
    lane.text(first, 1.06, " first token", size=SMALL, color=QUIET, transform=lane.get_xaxis_transform())
    axes.set_xlabel("time since its arrival [s]", size=SMALL + 1)
    return figure


def _lane(axes: Axes, result: Result, request: int, whole: float) -> None:
    arrival = float(result.arrival_seconds[request])
    start, end, kind = iterations_between(result, arrival, arrival + whole)
    for name in (DECODE, MIXED, PREFILL):
        chosen = kind == name
        bars: Floats = np.column_stack([start[chosen] - arrival, (end - start)[chosen]])
        axes.broken_barh(
            bars.tolist(), (0, 1), facecolor=FACES[name], hatch=HATCHES[name], edgecolor=FACES[PREFILL], lw=0,
            label=KINDS[name] if chosen.any() else None,
        )  # fmt: skip
    axes.set_yticks([0.5], ["iterations"])
    axes.tick_params(axis="y", length=0)
    axes.legend(
        loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, frameon=False, fontsize=SMALL, handlelength=1.2,
        columnspacing=1.0, borderaxespad=0.1,
    )  # fmt: skip
