"""When to stop: how many replications tell two arms apart, and whether a mean is already known to be above zero."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np

from sim.results.intervals import CONFIDENCE, Interval, replicated
from sim.results.percentiles import Floats

POWER = 0.9
"""How often as many replications as `Separation.needed` must tell the arms apart."""

MOST = 10_000
"""Replications beyond which arms are called equal for every purpose."""

LOOKS = (4, 6, 9, 14, 20)
"""After how many replications `decided` may be asked; the chance of an error is spent in equal parts."""


@dataclass(frozen=True)
class Separation:
    """Whether the replications of two arms told them apart, and how many it takes.

    Attributes
    ----------
    difference : b - a with its interval, over paired replications.
    needed : replications that tell the arms apart nine times in ten, if the difference and its spread are those seen;
        None if more than `MOST`.
    """

    difference: Interval
    needed: int | None

    @property
    def separated(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.difference.low > 0 or self.difference.high < 0

    def sentence(self, a: str, b: str, what: str) -> str:
        """Say how many replications it takes.

        >>> separation(np.array([1.0, 1.2, 0.9])).sentence("A", "B", "p99 TTFT")
        '3 replications tell B from A by p99 TTFT; 3 would do.'
        >>> separation(np.array([1.0, -1.2, 0.9])).sentence("A", "B", "p99 TTFT")
        '3 replications do not tell B from A by p99 TTFT; about 300 would, if the difference is what it looks like.'
        """
        ran, verb = self.difference.samples, "tell" if self.separated else "do not tell"
        said = f"{ran} replications {verb} {b} from {a} by {what}"
        if self.separated and self.needed is not None:
            return f"{said}; {self.needed} would do."
        if self.needed is None:
            return f"{said}; not even {MOST:,} would, if the difference is what it looks like."
        return f"{said}; about {self.needed:,} would, if the difference is what it looks like."


def separation(differences: Floats) -> Separation:
    """Tell from paired differences whether two arms differ, and how many replications it takes to know.

    The number solves ``|mean| sqrt(n) / deviation = t(n - 1; 0.975) + t(n - 1; 0.9)`` (G. W. Snedecor & W. G. Cochran,
    "Statistical Methods", 1989, section 6.14): the interval then leaves out zero in `POWER` of the cases. It is as
    uncertain as the deviation it rests on; from five replications it is right within a factor of two or three.

    Parameters
    ----------
    differences : (replications,) b - a of the same statistic on the same random numbers.

    Raises
    ------
    ValueError
        If there are fewer than two.
    """
    if len(differences) < 2:
        raise ValueError(f"separation: {len(differences)} replications; allowed: 2 and more")
    mean, deviation = abs(float(np.mean(differences))), float(np.std(differences, ddof=1))
    return Separation(replicated(differences), _needed(mean, deviation))


def decided(values: Floats, among: int = 1) -> int:
    """Return 1 if the mean is known to be above zero, -1 if below, 0 if nobody can tell yet.

    To be asked at the `LOOKS` alone. A test that is repeated until it says something errs more often than its level;
    each look therefore has its equal part of 5 % (Bonferroni; C. Jennison & B. W. Turnbull, "Group Sequential Methods",
    1999, chapter 2, on better and less simple divisions), which keeps the whole below 5 % whatever the looks have in
    common. Equal values that are not zero decide at once.

    Parameters
    ----------
    values : (replications,), independent.
    among : how many such questions share the 5 %.

    Raises
    ------
    ValueError
        If there are fewer than two.
    """
    from scipy.special import stdtrit

    count = len(values)
    if count < 2:
        raise ValueError(f"decided: {count} replications; allowed: 2 and more")
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / np.sqrt(count)
    half = float(stdtrit(count - 1, 1 - (1 - CONFIDENCE) / len(LOOKS) / among / 2)) * error
    return int(mean > half) - int(mean < -half)


def probability_positive(values: Floats) -> float:
    """Return how likely the mean behind the values is above zero, all means alike likely before (Student's t).

    >>> probability_positive(np.array([-1.0, 1.0])), probability_positive(np.array([2.0, 2.0]))
    (0.5, 1.0)
    """
    from scipy.special import stdtr

    count = len(values)
    mean = float(np.mean(values))
    error = float(np.std(values, ddof=1)) / np.sqrt(count) if count > 1 else 0.0
    if error == 0.0:
        return 0.5 if mean == 0.0 else float(mean > 0)
    return float(stdtr(count - 1, mean / error))


def _needed(mean: float, deviation: float) -> int | None:
    from scipy.special import stdtrit

    if deviation == 0.0:
        return 2 if mean else None

    def enough(count: int) -> bool:
        wanted = stdtrit(count - 1, (1 + CONFIDENCE) / 2) + stdtrit(count - 1, POWER)
        return bool(mean * np.sqrt(count) / deviation >= wanted)

    found = bisect_left(range(2, MOST + 1), True, key=enough)
    return found + 2 if found < MOST - 1 else None
