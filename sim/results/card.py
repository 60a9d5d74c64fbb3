"""A run as a reader meets it first: in a line, and as a card of key figures for a notebook, light or dark."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sim.engine.replay import FINISHED, STALLED

if TYPE_CHECKING:
    from sim.results.percentiles import Floats
    from sim.results.result import Result
    from sim.results.runs import Runs

ROWS = {
    "TTFT": ("time to first token", "s", 1.0),
    "ITL": ("gap between tokens", "ms", 1e3),
    "TPOT": ("mean time per further token", "ms", 1e3),
    "E2E": ("time to last token", "s", 1.0),
}
WIDTH, HEIGHT, POINTS = 360, 48, 180  # of the sparkline [pixels]
_SIGNS = {"stable": "✓", "overloaded": "▲", "unclear": "?"}
_CELL = "padding:2px 10px;text-align:right;border:none"


def line(result: Result) -> str:
    """Return the run in a line: the scheduler, how many requests, the verdict and two percentiles."""
    from sim.figures.words import duration, verdict
    from sim.results.percentiles import percentile

    if not len(result.trace):
        return f"Result({result.name}, no requests)"
    word = verdict(result.runs())
    said = [f"{len(result.trace):,} requests", word]
    for metric, values in (("TTFT", result.ttft_seconds), ("E2E", result.end_to_end_seconds)):
        if word != "overloaded" and np.isfinite(values).any():
            said.append(f"median {metric} {duration(percentile(values, 0.5))}")
    return f"Result({result.name}, {', '.join(said)})"


def html(result: Result) -> str:
    """Return the run as a card: what was simulated, the verdict, percentiles with their intervals, and the queue."""
    title = escape(result.title or result.name)
    if not len(result.trace):
        return f"<p><strong>{title}</strong>: no requests</p>"
    runs = result.runs()
    beware = "".join(f"<div>Beware: {escape(flag)}.</div>" for flag in result.flags)
    return (
        f'<div style="max-width:46em;line-height:1.45"><div><strong>{title}</strong></div>'
        f"{_verdict(result, runs)}{_percentiles(runs)}{_rates(result, runs)}{sparkline(result)}"
        f'<div style="font-size:85%;opacity:.8">95 % intervals from five time blocks of this one run; replications '
        f"tell more.{beware}</div></div>"
    )


def sparkline(result: Result) -> str:
    """Return how many requests were in the system over the run as an SVG in the colour of the text around it."""
    moments, count = in_system(result)
    most = max(int(count.max()), 1)
    mean = float(np.mean(count))
    said = f"Requests in the system over {moments[-1] - moments[0]:,.0f} s: {mean:.1f} on average, at most {most}"
    x = np.linspace(0, WIDTH, len(count))
    y = HEIGHT - 1 - (HEIGHT - 4) * count / most
    points = " ".join(f"{left:.1f},{top:.1f}" for left, top in zip(x, y, strict=True))
    return (
        f'<svg role="img" aria-label="{said}" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'style="display:block;margin:6px 0 0;max-width:100%"><title>{said}</title>'
        f'<polygon points="0,{HEIGHT} {points} {WIDTH},{HEIGHT}" fill="currentColor" fill-opacity=".14"/>'
        f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="1.3"/></svg>'
        f'<div style="font-size:85%;opacity:.8">{said}.</div>'
    )


def in_system(result: Result, points: int = POINTS) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return moments from the first arrival to the last departure [s], and how many requests are in the system then."""
    outcome, arrival = result.replay.outcome, result.arrival_seconds
    left = np.where(outcome == FINISHED, result.finish_seconds, np.where(outcome == STALLED, np.inf, arrival))
    known = left[np.isfinite(left)]
    moments = np.linspace(arrival.min(), max(arrival.max(), known.max(initial=0.0)), points)
    inside = [np.searchsorted(np.sort(times), moments, side="right") for times in (arrival, left)]
    return moments, inside[0] - inside[1]


def _verdict(result: Result, runs: Runs) -> str:
    from sim.figures.words import overload, verdict

    word = verdict(runs)
    more = escape(overload(runs) if word == "overloaded" else runs.verdict.reason)
    border = "border:1px solid currentColor;border-radius:4px;padding:0 6px"
    load = f"{len(result.trace):,} requests of {escape(result.trace.name)}"
    if result.trace.duration_seconds:
        load += f", {len(result.trace) / result.trace.duration_seconds:.3g} per second"
    said = more if word == "overloaded" else f"{word} ({more})"
    return f'<div>{load} · <span style="{border}">{_SIGNS[word]} {said}</span></div>'


def _percentiles(runs: Runs) -> str:
    if not runs.verdict.stable:
        return "<div>No percentiles: while a backlog grows, latencies depend on how long one looks.</div>"
    from sim.figures.words import with_bounds
    from sim.results.runs import LEVELS

    shown = (0.5, 0.9, 0.99)
    head = "".join(f'<th scope="col" style="{_CELL}">p{100 * level:g} [95 % interval]</th>' for level in shown)
    rows = []
    for metric, (meaning, unit, scale) in ROWS.items():
        found = [runs.percentiles[metric][LEVELS.index(level)] for level in shown]
        cells = "".join(f'<td style="{_CELL}">{escape(with_bounds(interval, unit, scale))}</td>' for interval in found)
        name = f'<th scope="row" style="{_CELL};text-align:left"><abbr title="{meaning}">{metric}</abbr></th>'
        rows.append(f"<tr>{name}{cells}</tr>")
    head = f"<thead><tr><td></td>{head}</tr></thead>"
    return f'<table style="margin:6px 0;color:inherit">{head}<tbody>{"".join(rows)}</tbody></table>'


def _rates(result: Result, runs: Runs) -> str:
    said = [
        f"{result.output_tokens_per_second:,.0f} output tokens/s",
        f"busy {100 * result.busy_share:.0f} % of the time",
        f"KV cache {100 * result.kv_occupancy:.0f} % full while busy",
    ]
    if result.prefix_hit_share:
        said.append(f"{100 * result.prefix_hit_share:.0f} % of prompt tokens found in the prefix cache")
    if result.padding_share:
        said.append(f"{100 * result.padding_share:.0f} % of the tokens computed for nobody")
    said += [f"{count:,} {what.replace('_', ' ')}" for what, count in runs.counts.items() if count]
    return f"<div>{' · '.join(said)}</div>"
