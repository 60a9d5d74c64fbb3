"""Who slowed the slowest requests: the charges of `blame`, and what happens where an offender is not there."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.engine.clock import seconds
from sim.engine.replay import FINISHED, replay
from sim.figures.words import duration, readable, three_digits
from sim.results.blame import blame
from sim.results.percentiles import Floats, Integers
from sim.results.result import Result
from sim.results.warmup import steady
from sim.scheduling.schedulers import SCHEDULERS
from workloads.trace import Trace

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Offenders:
    """What some victims charge others for, and what they gain without them.

    Attributes
    ----------
    policy : under which.
    victims : (victims,) requests.
    charged_seconds : (requests,) what each is charged for by all victims but itself [s].
    removed : (reruns,) requests that were left out, one a rerun, the most charged first.
    gained_seconds : (reruns,) by how much sooner all victims together then end [s]; negative where later.
    """

    policy: str
    victims: Integers
    charged_seconds: Floats
    removed: Integers
    gained_seconds: Floats

    @property
    def rank_correlation(self) -> float:
        """Spearman's, of charge and gain over the reruns; NaN for fewer than three or where all are equal."""
        from scipy.stats import rankdata

        if len(self.removed) < 3:
            return math.nan
        charge, gain = (rankdata(values) for values in (self.charged_seconds[self.removed], self.gained_seconds))
        if not (np.ptp(charge) and np.ptp(gain)):
            return math.nan
        return float(np.corrcoef(charge, gain)[0, 1])

    @property
    def table(self) -> pd.DataFrame:
        """A row a rerun: who was left out, rank and size of the charge, and the gain."""
        import pandas as pd

        rank = np.argsort(np.argsort(-self.charged_seconds, kind="stable"), kind="stable") + 1
        return pd.DataFrame(
            {
                "policy": self.policy,
                "request": self.removed,
                "rank": rank[self.removed],
                "charged_seconds": self.charged_seconds[self.removed],
                "gained_seconds": self.gained_seconds,
            }
        )

    @property
    def sentence(self) -> str:
        """What the charges say and how far the reruns bear them out."""
        top = int(np.argmax(self.charged_seconds))
        share = self.charged_seconds[top] / self.charged_seconds.sum()
        said = (
            f"Under {readable(self.policy)} the slowest {len(self.victims)} requests charge request {top} most, for "
            f"{duration(float(self.charged_seconds[top]))} ({100 * share:.2g} % of all that they charge)."
        )
        if math.isnan(self.rank_correlation):
            return said
        worse = int((self.gained_seconds < 0).sum())
        return (
            f"{said} Left out one at a time, {len(self.removed)} offenders from the most to the least charged give a "
            f"rank correlation of {three_digits(self.rank_correlation)} between charge and gain; "
            + (f"without {worse} of them the victims end later, not sooner." if worse else "none makes them later.")
        )


def offenders(result: Result, policy: str, tail: float, reruns: int) -> Offenders:
    """Charge the slowest share `tail` of a run by end-to-end time, and rerun without some of the offenders.

    Parameters
    ----------
    result : a run without prefix cache in which nobody waits for the end of another.
    reruns : how many at most, evenly over the ranks of the charges on a logarithmic scale.

    Raises
    ------
    ValueError
        If there are sessions: a request cannot be left out of its own.
    """
    counted = np.flatnonzero(steady(result.arrival_seconds) & (result.replay.outcome == FINISHED))
    slowest = np.argsort(-result.end_to_end_seconds[counted], kind="stable")
    victims = np.sort(counted[slowest[: math.ceil(tail * len(counted))]])
    charged = seconds(blame(result.limits, result.replay, victims).by_offender())
    ranked = np.argsort(-charged, kind="stable")
    most = int((charged > 0).sum())
    places = np.geomspace(1, most, reruns).round().astype(np.int64) if most else np.zeros(0, dtype=np.int64)
    removed = ranked[np.unique(places) - 1]
    gained = [_gain(result, policy, victims, request) for request in removed.tolist()]
    return Offenders(policy, victims, charged, removed, np.array(gained, dtype=np.float64))


def _gain(result: Result, policy: str, victims: Integers, request: int) -> float:
    trace = without(result.trace, request)
    other = replay(trace, result.limits, SCHEDULERS[policy], result.replay.timing)
    kept = victims[victims != request]
    after = kept - (kept > request)
    # Arrivals are the same, so that ends tell all.
    return float(seconds((result.replay.finish[kept] - other.finish[after]).sum()))


def without(trace: Trace, request: int) -> Trace:
    """Return the trace without one request, and without what prompts share.

    Raises
    ------
    ValueError
        If requests follow one another.

    >>> two = np.array([3, 4])
    >>> without(Trace(np.zeros(2), two, two, two), 0).prompt_tokens
    array([4])
    """
    if trace.previous is not None and (trace.previous >= 0).any():
        raise ValueError(f"trace {trace.name!r} has sessions; allowed for reruns: independent requests")
    columns = {field.name: getattr(trace, field.name) for field in fields(Trace)}
    cut: dict[str, Any] = {
        name: np.delete(column, request) for name, column in columns.items() if isinstance(column, np.ndarray)
    }
    return replace(trace, **cut | {"previous": None, "think_seconds": None, "segments": None})
