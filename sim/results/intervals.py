"""How far the truth may be from what a few runs show: 95 % confidence intervals that respect autocorrelation.

Requests of one run wait for each other, so their latencies are not independent and neither a bootstrap nor the order
statistics within one run give an interval that covers. The units of information here are whole replications, or long
time blocks of a recorded trace that cannot be replicated (A. M. Law, "Simulation Modeling and Analysis", ch. 9).

The point of a percentile comes from all samples together. Averaging the percentiles of the runs instead loses the tail:
in an M/M/1 queue at load 0.8 the average of five p99 over 2,000 requests each is 11 % too low, the pooled p99 1 %. Its
interval comes from the *shares* of the runs' samples that lie beyond that point. A share is a mean, so it is unbiased
however short a run is, and Student's t tells between which shares 1 % lies; the pooled percentiles at these two shares
are the bounds (R. S. Woodruff, "Confidence intervals for medians and other position measures", JASA 47, 1952). Where
the shares vary so much that none or all might lie beyond, there is no such bound, and the percentile is *sectioned*:
the spread of the runs' own percentiles around the pooled one, on a log scale (S. Asmussen & P. W. Glynn, "Stochastic
Simulation", 2007, section III.5a).

Measured coverage of nominal 95 % intervals for the time in system of queues started empty, warm-up removed; in brackets
the share of the experiments in which the p99 was not refused, where that is not all (docs/explanation/statistics.md
says how it was measured and draws the conclusions; tests/theory repeats some):

====  =====================  =====  ===========  ======  ===========
load  5 replications of      M/M/1               M/H2/1, variation 2
----  ---------------------  ------------------  -------------------
..                           mean   p99          mean    p99
====  =====================  =====  ===========  ======  ===========
0.5   2,000 requests         0.95   0.95         0.95    0.95
0.5   10,000 requests        0.95   0.95         0.95    0.95
0.8   2,000 requests         0.93   -- (0.00)
0.8   10,000 requests        0.94   0.94 (0.99)
0.9   2,000 requests         0.87   -- (0.00)
0.9   10,000 requests        0.93   -- (0.01)    0.92    -- (0.00)
0.9   40,000 requests        0.94   0.94 (0.98)  0.94    0.91 (0.75)
0.9   60,000 requests        0.95   0.94         0.94    0.95 (0.98)
====  =====================  =====  ===========  ======  ===========

Means are never refused: at load 0.9 they want 10,000 requests and more. What a run has not met, it cannot report: near
saturation the cure is longer runs, not more of them (load 0.9, 300,000 requests in all: p99 0.95 from five runs, 0.90
from twenty). Five blocks of one recorded trace of 20,000 requests cover 0.94 (mean) and 0.94 (p99) at load 0.5; at 0.9
the mean 0.91, and the p99 is refused. More blocks make it worse (0.84 with 30), hence five.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sim.results.percentiles import BEYOND, Floats, Integers, enough, percentiles
from sim.results.tails import Sections, wider

CONFIDENCE = 0.95
BLOCKS = 5  # time blocks of a recorded trace
INDEPENDENT = 5  # what the samples beyond a percentile must be worth before its interval is shown


@dataclass(frozen=True)
class Interval:
    """A number and how well it is known.

    Attributes
    ----------
    estimate : in the unit of the samples; NaN if it is refused.
    low, high : bounds of the 95 % confidence interval; NaN if there is none.
    method : how the bounds came about, or why there are none (then it begins with "n too small").
    samples : how many samples the estimate rests on.
    """

    estimate: float
    low: float
    high: float
    method: str
    samples: int

    @property
    def refused(self) -> bool:
        """Whether there are no bounds; `method` says why."""
        return bool(np.isnan(self.low))


@dataclass(frozen=True)
class Paired:
    """The difference of two arms that saw the same random numbers.

    Attributes
    ----------
    difference : b - a, in the unit of the samples.
    percent : (b / a - 1) * 100 [%].
    variance_reduction : (var(a) + var(b)) / var(b - a): how many times as many independent replications the same
        precision would have taken; infinite if all differences are equal.
    """

    difference: Interval
    percent: Interval
    variance_reduction: float


def replicated(estimates: Floats, samples: int | None = None) -> Interval:
    """Give Student's t interval of the mean over independent replications.

    Parameters
    ----------
    estimates : (replications,) one estimate a replication: a mean, a rate, a share. For percentiles use
        `percentile_intervals`, which does not average away the tail.
    samples : what the estimates rest on in total; the number of replications if None.

    Examples
    --------
    >>> interval = replicated(np.array([1.0, 2.0, 3.0]))
    >>> round(interval.low, 2), interval.estimate, round(interval.high, 2), interval.method
    (-0.48, 2.0, 4.48, 't over 3 replications')
    """
    values = np.asarray(estimates, dtype=np.float64)
    point = float(values.mean()) if len(values) else float("nan")
    return _sectioned(point, values, _label(len(values), False), len(values) if samples is None else samples)


def percentile_intervals(
    runs: Sequence[Floats],
    levels: Sequence[float],
    weights: Sequence[Integers] | None = None,
    within_trace: bool = False,
) -> tuple[Interval, ...]:
    """Give the pooled percentiles of some runs with their intervals (method and coverage: see the module).

    A percentile is refused (all NaN) with fewer than ten samples expected beyond it in all runs together; single runs
    may have fewer, since the point is pooled. Its interval alone is refused if these samples are worth fewer than five
    *independent* ones (`tails.Sections.dispersion`): slow requests come in bursts, and a tail made of two bursts does
    not tell how often bursts come.

    Parameters
    ----------
    runs : one (samples,) array a replication, **in order of time**; NaN means "has no such value". For a recorded
        trace its time blocks, see `time_blocks`.
    levels : shares in [0, 1].
    weights : how often each value occurred, one (samples,) array a replication; None for once each.
    within_trace : whether the runs are time blocks of one recorded trace.
    """
    known = [~np.isnan(run) for run in runs]
    counts = None if weights is None else [count[mask] for count, mask in zip(weights, known, strict=True)]
    sections = Sections([run[mask] for run, mask in zip(runs, known, strict=True)], counts)
    points, label = sections.pooled([*levels, *map(wider, levels)]).tolist(), _label(len(runs), within_trace)
    return tuple(
        _percentile_interval(level, points[i], points[len(levels) + i], sections, label)
        for i, level in enumerate(levels)
    )


def percentile_sections(
    runs: Sequence[Floats], levels: Sequence[float], weights: Sequence[Integers] | None = None
) -> tuple[Floats, Floats]:
    """Return the percentiles of all runs together, (levels,), and of each run, (runs, levels)."""
    together = None if weights is None else np.concatenate([*weights, np.empty(0, dtype=np.int64)])
    pooled = percentiles(np.concatenate([*runs, np.empty(0)]), levels, together)
    each = [percentiles(run, levels, None if weights is None else weights[i]) for i, run in enumerate(runs)]
    return pooled, np.array(each).reshape(len(runs), len(levels))


def time_blocks(values: Floats, blocks: int = BLOCKS) -> list[Floats]:
    """Cut a column in order of arrival into consecutive blocks of as many requests each (plus or minus one).

    Blocks of equal counts, not equal spans: a quiet hour would otherwise weigh as much as a busy one, or be empty.
    """
    return np.array_split(values, blocks)


def batch_means(values: Floats, statistic: Callable[[Floats], float], blocks: int = BLOCKS) -> Interval:
    """Give the statistic of a recorded trace with an interval from non-overlapping time blocks.

    The point is the statistic of the whole trace, the spread that of the blocks around it. It says how far this trace
    determines its own long-run value; other days may differ more. Blocks must be long compared with the time for which
    congestion lasts, or their correlation makes the interval too narrow: few long blocks beat many short ones
    (B. Schmeiser, "Batch size effects in the analysis of simulation output", Operations Research 30(3), 1982).

    Parameters
    ----------
    values : (samples,) in order of arrival.
    statistic : of such an array, a mean or a share; for percentiles use
        ``percentile_intervals(time_blocks(values), levels, within_trace=True)``.

    Examples
    --------
    >>> batch_means(np.arange(100.0) % 10, np.mean).method
    't over 5 time blocks, within this trace'
    """
    sections = np.array([statistic(block) for block in time_blocks(values, blocks) if len(block)])
    point = float(statistic(values)) if len(values) else float("nan")
    return _sectioned(point, sections, _label(len(sections), True), len(values))


def paired(a: Floats, b: Floats, pooled: tuple[float, float] | None = None, within_trace: bool = False) -> Paired:
    """Compare two arms that were given the same arrivals, lengths and seeds (common random numbers).

    Parameters
    ----------
    a, b : (replications,) or (time blocks,): the same statistic of either arm in the same replication.
    pooled : the statistic of either arm over all its samples, when that is not the mean of the sections (percentiles:
        see `percentile_sections`), so that the difference agrees with the two numbers shown.
    within_trace : whether the sections are time blocks of one recorded trace.

    Raises
    ------
    ValueError
        If the arms have different numbers of replications.

    Notes
    -----
    Student's t on the differences; the percentage by the delta method for a ratio (Asmussen & Glynn, section III.3).

    Examples
    --------
    >>> result = paired(np.array([10.0, 20.0, 30.0]), np.array([11.0, 21.0, 31.0]))
    >>> result.difference.low, result.difference.high, round(result.percent.estimate, 3), result.variance_reduction
    (1.0, 1.0, 5.0, inf)
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired: {len(a)} and {len(b)} replications; allowed: as many in either arm")
    whole_a, whole_b = pooled or ((float(a.mean()), float(b.mean())) if len(a) else (float("nan"),) * 2)
    label = "paired " + _label(len(a), within_trace)
    difference = _sectioned(whole_b - whole_a, b - a, label, len(a))
    ratio = whole_b / whole_a if whole_a else float("nan")
    percent = _sectioned(100 * (ratio - 1), 100 * (ratio - 1 + (b - ratio * a) / (whole_a or 1.0)), label, len(a))
    return Paired(difference, percent, _variance_reduction(a, b))


def _percentile_interval(level: float, point: float, slow: float, sections: Sections, label: str) -> Interval:
    samples = int(sections.sizes.sum())
    name, beyond = f"p{100 * level:g}", samples * min(level, 1 - level)
    if not enough(samples, level):
        reason = f"n too small: {beyond:.3g} samples expected beyond {name}, {BEYOND} needed"
        return Interval(float("nan"), float("nan"), float("nan"), reason, samples)
    worth = beyond / sections.dispersion(level, slow)
    if worth < INDEPENDENT:
        reason = f"n too small: the {beyond:.0f} samples beyond {name} come in bursts, worth {worth:.1f} independent"
        return Interval(point, float("nan"), float("nan"), f"{reason} ones, {INDEPENDENT} needed", samples)
    if len(sections.values) > 1 and sections.sizes.min() > 0:
        half = _quantile(len(sections.values)) * sections.share_error(point)
        if level - half > 0 and level + half < 1:
            low, high = sections.pooled([level - half, level + half])
            return Interval(point, float(low), float(high), label, samples)
    each = sections.each(level)
    if min(point, float(each.min())) <= 0:  # no logarithm: a percentile of waiting times may be zero
        return _sectioned(point, each, label, samples)
    scaled = _sectioned(float(np.log(point)), np.log(each), label, samples)
    return Interval(point, float(np.exp(scaled.low)), float(np.exp(scaled.high)), scaled.method, samples)


def _sectioned(point: float, sections: Floats, label: str, samples: int) -> Interval:
    """Student's t around `point`, the spread of the sections taken around it too."""
    count = len(sections)
    if count < 2 or not np.isfinite(sections).all():
        missing = int(np.sum(~np.isfinite(sections)))
        reason = f"{missing} of {count} sections have no value" if missing else f"{count} of at least 2 sections"
        return Interval(point, float("nan"), float("nan"), f"n too small: {reason}", samples)
    error = np.sqrt(np.sum((sections - point) ** 2) / (count - 1) / count)
    half = float(_quantile(count) * error)
    return Interval(point, point - half, point + half, label, samples)


def _quantile(sections: int) -> float:
    """Return how many standard errors of a mean of so many sections the interval is wide, either way."""
    from scipy.special import stdtrit

    return float(stdtrit(sections - 1, (1 + CONFIDENCE) / 2))


def _label(sections: int, within_trace: bool) -> str:
    return f"t over {sections} time blocks, within this trace" if within_trace else f"t over {sections} replications"


def _variance_reduction(a: Floats, b: Floats) -> float:
    if len(a) < 2:
        return float("nan")
    apart, together = float(np.var(a) + np.var(b)), float(np.var(b - a))
    if together > 1e-24 * apart:  # what is left of equal differences after rounding
        return apart / together
    return float("inf") if apart > 0 else 1.0
