"""Queues whose answer is known, and a fast way to run them: the time in system of M/M/1, M/E2/1 and M/H2/1.

Services have mean 1. Hyperexponential services (two kinds of request, a few of them long) vary more than exponential
ones, services of two equal stages less. The transform of the time in system is rational in both cases, so that its tail
is a sum of two exponentials; Pollaczek and Khinchine give the mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import brentq

from sim.results.percentiles import Floats
from sim.results.warmup import steady


def lindley(gap_seconds: Floats, service_seconds: Floats) -> tuple[Floats, Floats]:
    """Serve first come first served, (..., requests): waiting is what the work runs above its running minimum."""
    work = np.zeros(gap_seconds.shape)
    np.cumsum(service_seconds[..., :-1] - gap_seconds[..., 1:], axis=-1, out=work[..., 1:])
    arrival = np.cumsum(gap_seconds, axis=-1)
    return arrival, work - np.minimum.accumulate(work, axis=-1) + service_seconds


@dataclass(frozen=True)
class Queue:
    """One server at a load; `variation` is the squared coefficient of variation of the service: 0.5, or 1 and more."""

    load: float
    variation: float = 1.0

    def run(self, random: np.random.Generator, replications: int, requests: int) -> list[Floats]:
        """Return the counted times in system of some replications, in order of arrival."""
        shape = replications, requests
        gap, service = random.standard_exponential(shape) / self.load, random.standard_exponential(shape)
        if self.variation < 1:
            service = (service + random.standard_exponential(shape)) / 2
        elif self.variation > 1:
            service /= np.where(random.random(shape) < self._shares[0], *self._rates)
        arrival, delay = lindley(gap, service)
        return [own[steady(time)] for time, own in zip(arrival, delay, strict=True)]

    @property
    def mean(self) -> float:
        """Mean time in system (Pollaczek & Khinchine)."""
        return 1 + self.load * (1 + self.variation) / (2 * (1 - self.load))

    @cached_property
    def terms(self) -> tuple[Floats, Floats]:
        """Weights and rates of the tail: P(time > t) = sum of weight * exp(-rate * t).

        (1 - load) s B(s) / (s - load + load B(s)) with B the transform of the service, in partial fractions.
        """
        above, below = self._transform
        bottom = np.polyadd(np.polymul([1, -self.load], below), self.load * above)
        roots = np.roots(np.polydiv(bottom, [1, 0])[0])
        top = (1 - self.load) * np.polymul([1, 0], above)
        residues = np.polyval(top, roots) / np.polyval(np.polyder(bottom), roots)
        return residues / -roots, -roots

    def tail(self, time: float) -> float:
        """Return how likely a request stays longer."""
        weights, rates = self.terms
        return float(np.sum(weights * np.exp(-rates * time)))

    def percentile(self, level: float) -> float:
        """Return a percentile of the time in system."""
        return float(brentq(lambda time: self.tail(time) - (1 - level), 0.0, 1e4))

    @property
    def _shares(self) -> Floats:
        first = 0.5 * (1 + np.sqrt((self.variation - 1) / (self.variation + 1)))
        return np.array([first, 1 - first])  # balanced means: either kind brings half of the work

    @property
    def _rates(self) -> Floats:
        return 2 * self._shares

    @property
    def _transform(self) -> tuple[Floats, Floats]:
        """The transform of the service as polynomials, above and below the line."""
        if self.variation < 1:
            return np.array([4.0]), np.array([1.0, 4.0, 4.0])
        if self.variation == 1:
            return np.array([1.0]), np.array([1.0, 1.0])
        (p, q), (a, b) = self._shares, self._rates
        return np.polyadd(p * a * np.array([1, b]), q * b * np.array([1, a])), np.polymul([1, a], [1, b])
