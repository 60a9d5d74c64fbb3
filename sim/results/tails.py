"""How far a percentile may be off, read from how many samples of each section lie beyond it, and in how many places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from sim.results.percentiles import Floats, Integers, percentiles, ranks

PIECES = 50  # of all runs together, to see whether slow requests come in bursts
SLOW = 20  # how much wider a tail is looked at for that


@dataclass(frozen=True)
class Sections:
    """Samples in sections that know nothing of each other.

    Attributes
    ----------
    values : one (samples,) array a section, without NaN, in order of time.
    counts : how often each value occurred, the same shapes; None for once each.
    """

    values: Sequence[Floats]
    counts: Sequence[Integers] | None

    @cached_property
    def sizes(self) -> Floats:
        """Samples in each section, (sections,)."""
        return np.array([len(v) for v in self.values] if self.counts is None else [c.sum() for c in self.counts], float)

    @cached_property
    def _together(self) -> tuple[Floats, Integers | None]:
        """All values; where each has a count, in ascending order with how many samples are reached."""
        values = np.concatenate([*self.values, np.empty(0)])
        if self.counts is None:
            return values, None
        order = np.argsort(values)
        return values[order], np.cumsum(np.concatenate([*self.counts, np.empty(0, dtype=np.int64)])[order])

    def pooled(self, levels: Sequence[float]) -> Floats:
        """Return the percentiles of all samples together, (levels,)."""
        values, reached = self._together
        if reached is None or not len(reached) or not reached[-1]:
            return percentiles(values if reached is None else np.empty(0), levels)
        return values[np.searchsorted(reached, ranks(np.asarray(levels, float), int(reached[-1])))]

    def each(self, level: float) -> Floats:
        """Return a percentile of every section, (sections,)."""
        counts = [None] * len(self.values) if self.counts is None else self.counts
        return np.array([percentiles(v, [level], c)[0] for v, c in zip(self.values, counts, strict=True)])

    def _how_many(self, compare: Callable[[Floats, float], npt.NDArray[np.bool_]], threshold: float) -> Floats:
        """Return how many samples of each section compare so with the threshold, (sections,)."""
        chosen = [compare(run, threshold) for run in self.values]
        if self.counts is None:
            return np.array([np.count_nonzero(mask) for mask in chosen], float)
        return np.array([times[mask].sum() for times, mask in zip(self.counts, chosen, strict=True)], float)

    def share_error(self, threshold: float) -> float:
        """Return the standard error of the share of samples up to a pooled percentile.

        From the spread of the sections' shares (a ratio of sums, W. G. Cochran, "Sampling Techniques", 1977, section
        2.11). Where many samples equal the percentile, the larger of the errors below and up to it counts.
        """
        count, total = len(self.values), self.sizes.sum()
        errors = []
        for compare in (np.less, np.less_equal):
            reached = self._how_many(compare, threshold)
            apart = (reached - reached.sum() / total * self.sizes) / (total / count)
            errors.append(float(np.sqrt(np.sum(apart**2) / (count - 1) / count)))
        return max(errors)

    def dispersion(self, level: float, threshold: float) -> float:
        """Return how many samples beyond a percentile are worth one independent sample, at least 1.

        The variance of the number of slow samples over 50 equal pieces of the sections, divided by the variance if they
        were independent (the index of dispersion, D. R. Cox & P. A. W. Lewis, "The Statistical Analysis of Series of
        Events", 1966). Slow is what lies beyond `threshold`, the pooled percentile at `wider(level)`.
        """
        pieces = max(1, round(PIECES / max(1, len(self.values))))
        counts = [np.ones(len(run), np.int64) for run in self.values] if self.counts is None else self.counts
        beyond = [
            (run > threshold if level >= 0.5 else run < threshold) * times
            for run, times in zip(self.values, counts, strict=True)
        ]
        slow = np.array([piece.sum() for run in beyond for piece in np.array_split(run, pieces)])
        total = np.array([piece.sum() for times in counts for piece in np.array_split(times, pieces)])
        share = slow.sum() / max(total.sum(), 1)
        if not 0 < share < 1:  # one value holds the whole tail: nothing comes in bursts
            return 1.0
        independent = share * (1 - share) * total.sum()
        spread = np.sum((slow - share * total) ** 2)
        return max(1.0, float(spread / independent * len(total) / max(len(total) - 1, 1)))


def wider(level: float) -> float:
    """Return the level of a tail 20 times as wide, at most half of all samples.

    A rule that looked at the percentile's own tail would favour the runs that happen to have missed the slowest.

    >>> round(wider(0.99), 3), wider(0.9)
    (0.8, 0.5)
    """
    tail = min(0.5, SLOW * min(level, 1 - level))
    return 1 - tail if level >= 0.5 else tail
