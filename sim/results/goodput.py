"""How much of what is asked is answered in time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim.results.percentiles import Floats
from sim.results.warmup import steady, window


@dataclass(frozen=True)
class Objectives:
    """Service-level objectives (SLO) of one request; infinity for none.

    Attributes
    ----------
    ttft_seconds, tpot_seconds, end_to_end_seconds : upper bounds, inclusive [s].
    """

    ttft_seconds: float = float("inf")
    tpot_seconds: float = float("inf")
    end_to_end_seconds: float = float("inf")

    def __post_init__(self) -> None:
        """Refuse bounds that no request could meet."""
        for name, bound in vars(self).items():
            if not bound > 0:
                raise ValueError(f"objectives: {name} is {bound}; allowed: a positive number of seconds")


def met(
    objectives: Objectives, ttft_seconds: Floats, tpot_seconds: Floats, end_to_end_seconds: Floats
) -> npt.NDArray[np.bool_]:
    """Tell which requests were answered within *all* objectives, (requests,).

    A request without an end (rejected, ignored, stalled: NaN) has not met them. A finished one without a time per
    output token (one token only: NaN) has nothing to miss there. The definition is the goodput of Y. Zhong et al.,
    "DistServe", OSDI 2024: TTFT and TPOT both, request by request.

    Parameters
    ----------
    ttft_seconds, tpot_seconds, end_to_end_seconds : (requests,) [s].

    Examples
    --------
    >>> times = np.array([0.1, 0.3, np.nan]), np.array([np.nan, 0.02, np.nan]), np.array([0.1, 2.0, np.nan])
    >>> met(Objectives(ttft_seconds=0.2, tpot_seconds=0.05), *times)
    array([ True, False, False])
    """
    in_time = (ttft_seconds <= objectives.ttft_seconds) & (end_to_end_seconds <= objectives.end_to_end_seconds)
    return np.asarray(in_time & ~(tpot_seconds > objectives.tpot_seconds), dtype=np.bool_)


def goodput(met_objectives: npt.NDArray[np.bool_], arrival_seconds: Floats) -> tuple[float, float]:
    """Return the share of requests that met their objectives, and how many did per second [requests/s].

    Both count the requests that arrive after the warm-up and before the cool-down (`warmup.RULE`), whatever became of
    them; the rate is per second of that window. One pair a run: `intervals.replicated` gives the interval.

    Parameters
    ----------
    met_objectives : (requests,) as from `met`, of *all* requests that were asked.
    arrival_seconds : (requests,) [s].

    Returns
    -------
    share, requests_per_second : NaN if there is no request; the rate is NaN too if all arrive at one instant.

    Examples
    --------
    >>> goodput(np.array([True, True, False, True, True]), np.array([0.0, 20.0, 40.0, 60.0, 100.0]))
    (0.666..., 0.0235...)
    """
    if not len(arrival_seconds):
        return float("nan"), float("nan")
    good = met_objectives[steady(arrival_seconds)]
    begin, end = window(arrival_seconds)
    rate = float(good.sum()) / (end - begin) if end > begin else float("nan")
    return (float(good.mean()) if len(good) else float("nan")), rate
