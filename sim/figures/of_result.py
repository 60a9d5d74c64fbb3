"""What a single run draws of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sim.figures.replica_timeline import timeline, timeline_alt
from sim.figures.survival_curves import survival, survival_alt
from sim.figures.words import three_digits
from sim.results.runs import LATENCIES, LEVELS
from sim.results.tokens import longest_pause

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sim.results.result import Result

TIMELINE_SECONDS = 4.0


def latency(result: Result, metric: str) -> Figure:
    """Draw how many waited longer than a time; see `sim.figures.survival_curves`.

    Raises
    ------
    ValueError
        If there is no such metric, or too few samples.
    """
    if metric not in LATENCIES:
        raise ValueError(f"metric is {metric!r}; allowed: {', '.join(LATENCIES)}")
    runs = result.runs()
    values, counts = runs.samples(metric)
    curves = {result.name: (np.concatenate(values), None if counts is None else np.concatenate(counts))}
    intervals = {
        result.name: {
            level: (found.low, found.high) for level, found in zip(LEVELS, runs.percentiles[metric], strict=True)
        }
    }
    context = f"at {three_digits(len(result.trace) / max(result.trace.duration_seconds, 1e-9))} requests/s"
    if not runs.verdict.stable:
        context += ", overloaded: it grows with the length of the run"
    figure = survival(curves, metric, context, intervals)
    vars(figure)["alt"] = survival_alt(curves, metric, context, intervals)
    return figure


def around_pause(result: Result, begin_seconds: float | None, end_seconds: float | None) -> Figure:
    """Draw iterations and tokens between two moments, one of which may be left out, or around the longest pause."""
    if begin_seconds is not None:
        begin, end = begin_seconds, begin_seconds + TIMELINE_SECONDS if end_seconds is None else end_seconds
    elif end_seconds is not None:
        begin, end = max(0.0, end_seconds - TIMELINE_SECONDS), end_seconds
    else:
        begin, end = longest_pause(result)
        margin = max(TIMELINE_SECONDS - (end - begin), end - begin) / 2
        begin, end = max(0.0, begin - margin), end + margin
    figure = timeline({result.name: result}, begin, end)
    vars(figure)["alt"] = timeline_alt({result.name: result}, begin, end)
    return figure
