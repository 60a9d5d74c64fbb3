"""What a percentile is, and how many samples it takes before one may be shown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

BEYOND = 10  # samples that must lie beyond a percentile before it is shown


def percentiles(values: Floats, levels: Sequence[float], weights: Integers | None = None) -> Floats:
    """Return the smallest sample that at least a share `level` of all samples does not exceed, for each level.

    This is the inverse of the empirical distribution function (type 1 of Hyndman & Fan, "Sample quantiles in
    statistical packages", The American Statistician 50(4), 1996): always a value that occurred, never a mixture of
    two, and the only common definition under which a weight means exactly that many equal samples.

    Parameters
    ----------
    values : (samples,) in any unit and order; NaN means "has no such value" and is left out.
    levels : shares in [0, 1]; 0.99 is the 99th percentile.
    weights : (samples,) how often each value occurred, integers >= 0; None for once each.

    Returns
    -------
    (levels,) in the unit of `values`; NaN if there is no sample.

    Raises
    ------
    ValueError
        If a level lies outside [0, 1].

    Examples
    --------
    >>> percentiles(np.array([4.0, 1.0, 3.0, 2.0]), [0.5, 0.51])
    array([2., 3.])
    >>> percentiles(np.array([1.0, 9.0]), [0.9, 0.91], weights=np.array([9, 1]))
    array([1., 9.])
    """
    shares = np.asarray(levels, dtype=np.float64)
    if not ((shares >= 0) & (shares <= 1)).all():
        raise ValueError(f"percentile level is {levels}; allowed: shares between 0 and 1")
    known = ~np.isnan(values)
    if weights is not None:
        known &= weights > 0
    if not known.any():
        return np.full(len(shares), np.nan)
    sample = np.asarray(values, dtype=np.float64)[known]
    if weights is None:
        rank = ranks(shares, len(sample)) - 1
        return np.asarray(np.partition(sample, np.unique(rank))[rank], dtype=np.float64)
    order = np.argsort(sample)
    reached = np.cumsum(weights[known][order])
    return np.asarray(sample[order][np.searchsorted(reached, ranks(shares, int(reached[-1])))], dtype=np.float64)


def percentile(values: Floats, level: float, weights: Integers | None = None) -> float:
    """Return one percentile; see `percentiles`.

    >>> percentile(np.arange(1.0, 101.0), 0.99)
    99.0
    """
    return float(percentiles(values, [level], weights)[0])


def enough(samples: int, level: float) -> bool:
    """Tell whether at least ten of `samples` independent samples are expected beyond the percentile.

    The tail of a percentile is what it is known from, so the rule counts there: p99 takes 1,000 samples, p99.9
    10,000. It is necessary only. Latencies of one run are autocorrelated and their tails come in bursts, so that ten
    samples may be one event; `intervals.percentile_intervals` therefore also counts in how many places they lie.

    >>> enough(999, 0.99), enough(1000, 0.99), enough(20, 0.5)
    (False, True, True)
    """
    return samples * min(level, 1 - level) >= BEYOND * (1 - 1e-9)


def ranks(shares: Floats, samples: int) -> Integers:
    """Return which sample in ascending order (from 1) is the percentile; 0.07 * 100 must not round up to rank 8."""
    return np.maximum(np.ceil(shares * samples * (1 - 1e-12)), 1).astype(np.int64)
