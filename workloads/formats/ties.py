"""Time stamps that are coarser than the arrivals they record, and how to spread them over their bin."""

from __future__ import annotations

import numpy as np

from workloads.trace import Floats

SHARED_FRACTION = 0.5
REGULAR_FRACTION = 0.9
JITTER = 0.01


def bin_seconds(stamps: Floats) -> float | None:
    """Return the width of the bins into which arrivals were rounded [s], or None if the stamps look exact.

    Stamps are taken for bins if at least half of the requests share theirs with another one and if nine in ten gaps
    between distinct stamps are, within 1 %, a multiple of one spacing: the typical one among the small gaps.
    Stamps that jitter by a millisecond (Mooncake: 2,999, 3,000 or 3,001 ms) are found, which a greatest common
    divisor would miss; requests that coincide by chance are not.

    >>> bin_seconds(np.array([0.0, 0.0, 3.0, 3.0, 3.0, 9.001, 9.001]))
    3.0
    >>> bin_seconds(np.array([0.0, 0.3, 0.3, 1.7, 2.2])) is None
    True
    """
    distinct, counts = np.unique(stamps, return_counts=True)
    if len(distinct) < 2 or counts[counts > 1].sum() < SHARED_FRACTION * len(stamps):
        return None
    gaps = np.diff(distinct)
    smallest = np.quantile(gaps, 0.1, method="lower")
    spacing = float(np.median(gaps[gaps <= 1.5 * smallest]))
    regular = np.abs(gaps / spacing - np.round(gaps / spacing)) <= JITTER
    return round(spacing, 6) if regular.mean() >= REGULAR_FRACTION else None


def spread(stamps: Floats, width_seconds: float, random: np.random.Generator) -> Floats:
    """Spread arrivals uniformly over their bin, in the order in which they are listed.

    Parameters
    ----------
    stamps : (requests,) non-decreasing starts of the bins [s].
    width_seconds : a bin reaches from its stamp this far, or to the next stamp if that comes earlier.
    random : the uniform draws; those of one bin are sorted, so the order of requests never changes.

    Returns
    -------
    (requests,) non-decreasing arrivals [s], each between its stamp and the end of its bin.
    """
    distinct, which = np.unique(stamps, return_inverse=True)
    ends = np.minimum(distinct + width_seconds, np.append(distinct[1:], np.inf))
    draws = random.random(len(stamps))
    draws = draws[np.lexsort((draws, which))]
    arrivals: Floats = np.minimum(stamps + draws * (ends - distinct)[which], ends[which])
    return arrivals
