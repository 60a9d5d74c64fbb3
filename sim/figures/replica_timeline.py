"""A few seconds of one replica: what each iteration did, and when the running requests got their tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sim.engine.clock import seconds
from sim.figures.style import (
    INK,
    QUIET,
    SMALL,
    ArmStyle,
    Floats,
    arm_styles,
    new_figure,
    plain_axes,
    top_of_axes,
)
from sim.figures.words import duration, listed, readable, three_digits
from sim.results.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Integers = npt.NDArray[np.int64]

DECODE, MIXED, PREFILL = 0, 1, 2
KINDS = {PREFILL: "prefill", MIXED: "prefill and decode", DECODE: "decode"}
# Light, striped and dark: what stops replies stands out, in grey too. Not the hues that stand for policies.
FACES = {PREFILL: "#7a3366", MIXED: "#e3b7d0", DECODE: "#d3d9df"}
HATCHES = {PREFILL: "", MIXED: "/////", DECODE: ""}
_STALL, _STALL_FACTOR = "#7a3366", 2.5
_ROWS = 14  # requests that can be told apart
_BARS = 1000  # iterations that can be told apart, margins included


@dataclass(frozen=True)
class Passage:
    """What a replica did in a stretch of time, iteration by iteration.

    Attributes
    ----------
    start, end : (iterations,) [s].
    kind : (iterations,) `DECODE`, `MIXED` or `PREFILL`.
    requests : ids of those that were waiting or running, in order of arrival.
    tokens : for each of them when its tokens came out [s]; empty where the log does not tell (after a preemption).
    """

    start: Floats
    end: Floats
    kind: Integers
    requests: Integers
    tokens: tuple[Floats, ...]


def timeline(results: Mapping[str, Result], start_seconds: float, end_seconds: float) -> Figure:
    """Draw what one replica did under each policy between two moments, and the tokens of its requests below.

    A dark bar over a gap in the tokens is a prompt that everybody had to wait for; gaps of more than 2.5 decode
    iterations are drawn as such.

    Parameters
    ----------
    results : policy or arm -> a run; all of the same trace, to compare like with like.
    start_seconds, end_seconds : the window, in the time of the simulation [s].

    Raises
    ------
    ValueError
        If the window is empty, or there is no run.
    """
    if not results or not end_seconds > start_seconds:
        raise ValueError(
            f"timeline: {len(results)} runs from {start_seconds:g} to {end_seconds:g} s; allowed: at least one run, "
            "and an end after the start"
        )
    passages = {arm: passage(result, start_seconds, end_seconds) for arm, result in results.items()}
    title, subtitle = _findings(passages, start_seconds, end_seconds)
    figure = new_figure(title, subtitle)
    styles = arm_styles(results)
    bottom, gap = 0.115, 0.06
    top = top_of_axes(figure) - 0.085
    height = (top - bottom - gap * (len(results) - 1)) / len(results)
    for place, (arm, result) in enumerate(results.items()):
        axes = plain_axes(figure, 0.115, top - (place + 1) * height - place * gap, 0.86, height)
        _draw(axes, passages[arm], result, styles[arm])
        axes.set_xlim(start_seconds, end_seconds)
        axes.set_title(readable(arm), size=SMALL + 1, weight="bold", color=styles[arm].ink, loc="left", pad=3)
        if place + 1 < len(results):
            axes.tick_params(labelbottom=False)
    axes.set_xlabel("time since the start of the run [s]", size=SMALL + 1)
    _legend(figure, top + 0.04)
    return figure


def timeline_alt(results: Mapping[str, Result], start_seconds: float, end_seconds: float) -> str:
    """Return what `timeline` shows as text."""
    passages = {arm: passage(result, start_seconds, end_seconds) for arm, result in results.items()}
    title, _ = _findings(passages, start_seconds, end_seconds)
    rows = []
    for arm, seen in passages.items():
        inside = (seen.start < end_seconds) & (seen.end > start_seconds)
        counts = [f"{int((seen.kind[inside] == kind).sum())} {name}" for kind, name in KINDS.items()]
        rows.append(
            f"{readable(arm)}: iterations: {', '.join(counts)}; {len(seen.requests)} requests in the system; "
            f"longest gap between tokens {duration(_longest_gap(seen, start_seconds, end_seconds))}"
        )
    window = f"between {three_digits(start_seconds)} and {three_digits(end_seconds)} s"
    what = f"Timeline of one replica per policy {window}, iterations above, tokens of requests below"
    return ". ".join([what, title, *rows]) + "."


def passage(result: Result, start_seconds: float, end_seconds: float) -> Passage:
    """Return the iterations and tokens from a window's length before the window to as long after it.

    The margin is there so that gaps which cross the edges are known.
    """
    span = end_seconds - start_seconds
    start, end, kind = iterations_between(result, start_seconds - span, end_seconds + span)
    first_token = result.arrival_seconds + result.ttft_seconds
    here = (result.arrival_seconds < end_seconds) & (result.finish_seconds > start_seconds)
    requests = np.flatnonzero(here)
    requests = requests[np.argsort(result.arrival_seconds[requests], kind="stable")]
    decoded = end[kind != PREFILL]
    told = _follows_from_log(result)
    tokens = []
    for request in requests.tolist():
        first, finish = float(first_token[request]), float(result.finish_seconds[request])
        later = decoded[(decoded > first) & (decoded <= finish)]
        tokens.append(np.concatenate([[first], later]) if told[request] else np.empty(0))
    return Passage(start, end, kind, requests, tuple(tokens))


def iterations_between(result: Result, start_seconds: float, end_seconds: float) -> tuple[Floats, Floats, Integers]:
    """Return start [s], end [s] and kind of every iteration that touches the window, stretches taken apart."""
    log = result.iterations
    rows = np.flatnonzero((seconds(log.end) > start_seconds) & (seconds(log.start) < end_seconds))
    count = log.iterations[rows]
    row = np.repeat(rows, count)
    index = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    start = log.start[row] + index * log.first[row] + log.growth[row] * (index * (index - 1) // 2)
    end = start + log.first[row] + log.growth[row] * index
    kind = np.where(log.prompts[row] == 0, DECODE, np.where(log.decodes[row] > 0, MIXED, PREFILL))
    touching = (seconds(end) > start_seconds) & (seconds(start) < end_seconds)
    return seconds(start)[touching], seconds(end)[touching], kind[touching]


def _follows_from_log(result: Result) -> npt.NDArray[np.bool_]:
    """Tell for which requests every decoding iteration from first to last token gave one token."""
    log, replay = result.iterations, result.replay
    decodes = np.concatenate([[0], np.cumsum(np.where(log.decodes > 0, log.iterations, 0))])
    from_first, to_last = (np.searchsorted(log.end, at, side="right") for at in (replay.first_token, replay.finish))
    further = decodes[to_last] - decodes[from_first]
    return np.asarray((replay.preemptions == 0) & (further == result.trace.output_tokens - 1), dtype=np.bool_)


def _longest_gap(seen: Passage, start_seconds: float, end_seconds: float) -> float:
    """Return the longest time that a running request waited for its next token, of gaps that touch the window [s]."""
    gaps = [
        float(np.max(np.diff(times)[(times[1:] > start_seconds) & (times[:-1] < end_seconds)], initial=0.0))
        for times in seen.tokens
        if len(times) > 1
    ]
    return max(gaps, default=0.0)


def _findings(passages: Mapping[str, Passage], start_seconds: float, end_seconds: float) -> tuple[str, str]:
    gaps = {arm: _longest_gap(seen, start_seconds, end_seconds) for arm, seen in passages.items()}
    longest_first = sorted(gaps, key=lambda arm: -gaps[arm])
    said = [f"{duration(gaps[arm])} under {readable(arm)}" for arm in longest_first]
    title = f"Running replies pause for up to {listed(said)}"
    shares = []
    for arm, seen in passages.items():
        inside = np.clip(seen.end, start_seconds, end_seconds) - np.clip(seen.start, start_seconds, end_seconds)
        alone = inside[seen.kind == PREFILL].sum() / (end_seconds - start_seconds)
        shares.append(f"{100 * alone:.0f} % ({readable(arm)})")
    return title, f"Share of the time in which only prompts run and nobody gets a token: {listed(shares)}"


def _draw(axes: Axes, seen: Passage, result: Result, style: ArmStyle) -> None:
    for kind, face in FACES.items():
        of_kind = seen.kind == kind
        bars = np.column_stack([seen.start[of_kind], (seen.end - seen.start)[of_kind]])
        edge = "white" if kind != MIXED else FACES[PREFILL]
        width = 0.3 if len(seen.kind) < _BARS else 0.0
        axes.broken_barh(
            bars.tolist(), (-3.2, 2.4), facecolor=face, hatch=HATCHES[kind], edgecolor=edge, lw=width, gid=KINDS[kind]
        )
    shown = _shown(seen)
    usual = float(np.median((seen.end - seen.start)[seen.kind == DECODE])) if (seen.kind == DECODE).any() else np.inf
    for row, place in enumerate(shown.tolist()):
        request, times = int(seen.requests[place]), seen.tokens[place]
        arrival = float(result.arrival_seconds[request])
        first = arrival + float(result.ttft_seconds[request])
        axes.plot([arrival, first], [row, row], color=QUIET, lw=0.8, ls=(0, (1, 1.5)), gid="waiting")
        axes.plot([first], [row], ".", color=style.hue, ms=4, gid="first token")
        if len(times) > 1:
            _tokens(axes, times, row, usual, style.hue)
    axes.set_ylim(max(len(shown), 1) - 0.2, -3.6)
    axes.set_yticks([-2.0, (len(shown) - 1) / 2], ["iterations", _rows_label(seen)])
    axes.tick_params(axis="y", length=0)


def _tokens(axes: Axes, times: Floats, row: int, usual: float, hue: str) -> None:
    """Draw a tick for each token of one request, as one broken line, and a bar for each pause."""
    height = 0.32
    x = np.repeat(times, 3)
    y = np.tile([row - height, row + height, np.nan], len(times))
    axes.plot(x, y, color=hue, lw=0.7, gid="tokens")
    pauses = np.flatnonzero(np.diff(times) > _STALL_FACTOR * usual)
    axes.hlines(
        np.full(len(pauses), row), times[pauses], times[pauses + 1], color=_STALL, lw=1.8, alpha=0.75, gid="pauses"
    )


def _shown(seen: Passage) -> Integers:
    """Return which requests to draw: all, or as many as can be told apart, evenly from first to last arrival."""
    count = len(seen.requests)
    return (
        np.unique(np.linspace(0, count - 1, min(count, _ROWS)).round().astype(np.int64))
        if count
        else np.empty(0, np.int64)
    )


def _rows_label(seen: Passage) -> str:
    count = len(seen.requests)
    return "tokens of\n" + (f"{count} requests" if count <= _ROWS else f"{_ROWS} of {count}\nrequests")


def _legend(figure: Figure, height: float) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: list[tuple[object, str]] = [
        (
            Patch(facecolor=FACES[kind], hatch=HATCHES[kind], edgecolor=FACES[PREFILL] if kind == MIXED else "white"),
            name,
        )
        for kind, name in KINDS.items()
    ]
    entries.append((Line2D([], [], color=QUIET, lw=0.8, ls=(0, (1, 1.5))), "waiting"))
    entries.append((Line2D([], [], color=INK, marker="|", ls="none", ms=5), "token"))
    entries.append((Line2D([], [], color=_STALL, lw=1.8, alpha=0.75), "pause"))
    figure.legend(
        *zip(*entries, strict=True), loc="center right", bbox_to_anchor=(0.99, height), ncols=len(entries),
        frameon=False, fontsize=SMALL, handlelength=1.4, columnspacing=1.1, handletextpad=0.5,
    )  # fmt: skip
