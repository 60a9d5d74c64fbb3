"""What a service promises, as percentiles of latencies: read from a line, and judged from runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim.engine.replay import FINISHED
from sim.results.percentiles import BEYOND, Floats
from sim.results.runs import Section

METRICS = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2e": "E2E"}
UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "min": 60.0}
EXAMPLE = "ttft p99 <= 2 s, tpot p95 <= 50 ms"
_CLAUSE = re.compile(
    r"(?P<metric>[a-z0-9]+)\s+p(?P<level>[0-9.]+)\s*(?:<=|≤)\s*(?P<bound>[0-9.e+-]+)\s*(?P<unit>[a-z]*)"
)


@dataclass(frozen=True)
class Clause:
    """One promise: a percentile of a latency is at most a bound.

    Attributes
    ----------
    metric : TTFT, TPOT, ITL or E2E.
    level : of the percentile, in (0, 1).
    seconds : the bound [s].
    """

    metric: str
    level: float
    seconds: float

    @property
    def name(self) -> str:
        """The percentile in words.

        >>> Clause("TTFT", 0.99, 2.0).name
        'ttft p99'
        """
        return f"{self.metric.lower()} p{100 * self.level:g}"

    def __str__(self) -> str:
        """Return the clause as it is written.

        >>> str(Clause("TPOT", 0.95, 0.05))
        'tpot p95 <= 50 ms'
        """
        bound = f"{self.seconds:g} s" if self.seconds >= 1 else f"{1e3 * self.seconds:g} ms"
        return f"{self.name} <= {bound}"

    def met_share(self, section: Section) -> float:
        """Return which share of what counts is within the bound; NaN if nothing counts.

        A percentile is within its bound if and only if at least its level of all samples is. The share is a mean, so
        that the shares of replications can be averaged and tested, which their percentiles cannot. A request that
        was rejected or never finished has missed every bound (with every token that it did not get, for ITL); a reply
        of one token has no TPOT to miss.
        """
        rows = section.counted
        served = section.result.replay.outcome[rows] == FINISHED
        if self.metric == "ITL":
            gaps, counts = section.gaps
            lost = int(np.maximum(section.result.trace.output_tokens[rows][~served] - 1, 0).sum())
            within, total = float(counts[gaps <= self.seconds].sum()), float(counts.sum()) + lost
        else:
            latency = section.latency(self.metric)
            within = float(np.count_nonzero(latency <= self.seconds))
            total = float(np.count_nonzero(~np.isnan(latency) | ~served))
        return within / total if total else float("nan")

    def least_requests(self, replications: int, counted_share: float) -> int:
        """Return how many requests a run must have, that ten lie beyond the percentile in all replications together."""
        return int(np.ceil(BEYOND / (min(self.level, 1 - self.level) * replications * counted_share) * (1 - 1e-9)))


def parse(text: str) -> tuple[Clause, ...]:
    """Read clauses with commas between, each METRIC pLEVEL <= BOUND UNIT.

    Raises
    ------
    ValueError
        Naming the clause, what is wrong, and what is allowed.

    >>> [str(clause) for clause in parse("TTFT p99 <= 2 s, tpot p95<=50ms")]
    ['ttft p99 <= 2 s', 'tpot p95 <= 50 ms']
    """
    clauses = tuple(_clause(part) for part in text.split(","))
    names = [clause.name for clause in clauses]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ValueError(f"--slo has {twice} twice; allowed: each percentile once, as in {EXAMPLE!r}")
    return clauses


def in_words(clauses: Sequence[Clause]) -> str:
    """Return the clauses in one line."""
    return ", ".join(map(str, clauses))


def margins(clauses: Sequence[Clause], sections: Sequence[Section]) -> Floats:
    """Return by how much the share within each bound exceeds its level, (sections, clauses)."""
    return np.array([[clause.met_share(section) - clause.level for clause in clauses] for section in sections])


def _clause(text: str) -> Clause:
    shown = f"--slo clause {text.strip()!r}"
    found = _CLAUSE.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError(f"{shown} cannot be read; allowed: METRIC pLEVEL <= BOUND UNIT, as in {EXAMPLE!r}")
    metric, unit = found["metric"], found["unit"]
    if metric not in METRICS:
        raise ValueError(f"{shown}: {metric!r} is no latency; allowed: {', '.join(METRICS)}")
    if unit not in UNITS:
        raise ValueError(f"{shown}: the unit is {unit!r}; allowed: {', '.join(UNITS)}")
    level, bound = _number(found["level"], shown) / 100, _number(found["bound"], shown) * UNITS[unit]
    if not 0 < level < 1:
        raise ValueError(f"{shown}: the percentile is p{found['level']}; allowed: above p0, below p100")
    if not 0 < bound < np.inf:
        raise ValueError(f"{shown}: the bound is {found['bound']} {unit}; allowed: a positive time")
    return Clause(METRICS[metric], level, bound)


def _number(text: str, shown: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{shown}: {text!r} is no number; allowed: numbers such as 99.9 or 50") from None
