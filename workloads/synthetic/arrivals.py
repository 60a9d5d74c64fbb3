"""When requests come: functions ``(rng, n, rate_per_second)`` to ``(n,)`` sorted arrival times [s].

Every function draws at one request per second and stretches the clock afterwards. The same seed at another rate is the
same sequence of requests coming faster or slower, so experiments can be paired across loads. An infinite rate means
everybody at time 0 (an offline batch). Parameters beyond the rate are bound with `functools.partial`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from workloads.synthetic.checks import require, require_count, require_positive
from workloads.trace import Floats

Arrivals = Callable[[np.random.Generator, int, float], Floats]


def poisson(rng: np.random.Generator, n: int, rate_per_second: float) -> Floats:
    """Return arrivals that know nothing of each other: exponential gaps.

    Parameters
    ----------
    n : how many requests arrive.
    rate_per_second : mean arrival rate [1/s].

    Returns
    -------
    (n,) arrival times [s], sorted.

    Raises
    ------
    ValueError
        If `n` is below 1 or the rate is not positive.

    Examples
    --------
    >>> poisson(np.random.default_rng(0), 3, 2.0).round(2)
    array([0.34, 0.85, 0.86])
    """
    return gamma(rng, n, rate_per_second, burstiness=1.0)


def gamma(rng: np.random.Generator, n: int, rate_per_second: float, *, burstiness: float) -> Floats:
    """Return arrivals with gamma gaps, as ``vllm bench serve --burstiness`` sends them.

    Parameters
    ----------
    burstiness : shape of the gamma distribution of the gaps: below 1 arrivals bunch, 1 is Poisson, above 1 they are
        evenly spread. The coefficient of variation of a gap is ``1 / sqrt(burstiness)``.

    Returns
    -------
    (n,) arrival times [s], sorted.

    Raises
    ------
    ValueError
        If `n` is below 1, or the rate or `burstiness` is not positive.
    """
    _require_arrivals(n, rate_per_second)
    require_positive("burstiness", burstiness)
    return np.cumsum(rng.standard_gamma(burstiness, n) / burstiness) / rate_per_second


def on_off(
    rng: np.random.Generator, n: int, rate_per_second: float, *, on_seconds: float, off_seconds: float
) -> Floats:
    """Return Poisson arrivals for `on_seconds`, none for `off_seconds`, and so on.

    The periods belong to the clock and the rate to the requests: another rate puts more or fewer of the same requests
    into a period, it does not shorten the periods (`Trace.sped_up` does).

    Parameters
    ----------
    rate_per_second : mean over whole cycles [1/s]; while on, arrivals are ``(on + off) / on`` times as fast.
    on_seconds, off_seconds : lengths of the periods [s].

    Returns
    -------
    (n,) arrival times [s], sorted; the first period is on.

    Raises
    ------
    ValueError
        If `n` is below 1, the rate or `on_seconds` is not positive, or `off_seconds` is negative.
    """
    require_positive("on_seconds", on_seconds)
    require(0 <= off_seconds < np.inf, "off_seconds", off_seconds, "a number, at least 0")
    time_on = poisson(rng, n, rate_per_second) * (on_seconds / (on_seconds + off_seconds))
    return time_on + np.floor(time_on / on_seconds) * off_seconds


def ramp(rng: np.random.Generator, n: int, rate_per_second: float, *, initial_relative_rate: float) -> Floats:
    """Return arrivals whose rate changes linearly in time, exactly `n` of them in ``n / rate_per_second`` seconds.

    Given their number, the arrivals of a Poisson process are independent draws from its normalised intensity; they are
    drawn as such, so that the ramp ends where it should.

    Parameters
    ----------
    rate_per_second : mean over the whole ramp [1/s].
    initial_relative_rate : rate at the start in units of the mean, 0 to 2; at the end it is 2 minus that. From 2 to
        6 requests/s is a mean of 4 with an initial relative rate of 0.5.

    Returns
    -------
    (n,) arrival times [s], sorted.

    Raises
    ------
    ValueError
        If `n` is below 1, the rate is not positive or `initial_relative_rate` is not in 0 to 2.
    """
    _require_arrivals(n, rate_per_second)
    require(0 <= initial_relative_rate <= 2, "initial_relative_rate", initial_relative_rate, "0 to 2 (1 is constant)")
    reached = np.cumsum(rng.standard_exponential(n + 1))
    share = reached[:-1] / reached[-1]
    # The root of a*t + (1-a)*t**2 = share in the form that does not cancel when a is near 1.
    a = initial_relative_rate
    elapsed = 2 * share / (a + np.sqrt(np.maximum(a * a + 4 * (1 - a) * share, 0.0)))
    return np.asarray(n * elapsed / rate_per_second, dtype=np.float64)


def _require_arrivals(n: int, rate_per_second: float) -> None:
    require_count("n", n)
    require(rate_per_second > 0, "rate_per_second", rate_per_second, "a positive number, or inf for all at once")
