"""One arm at one load of a comparison."""

from __future__ import annotations

from dataclasses import dataclass

from sim.results.runs import Runs


@dataclass(frozen=True)
class Load:
    """How fast requests come: per second, as a share of the capacity, and for a recorded trace as a speed."""

    requests_per_second: float
    share_of_capacity: float
    speed: float | None = None

    def __str__(self) -> str:
        """Return words for tables.

        >>> str(Load(3.0, 0.72))
        '3 req/s (72 % of capacity)'
        """
        return self.short.replace(" %", " % of capacity")

    @property
    def short(self) -> str:
        """The same for narrow columns."""
        pace = "" if self.speed is None else f", speed {self.speed:g}"
        return f"{self.requests_per_second:.3g} req/s ({100 * self.share_of_capacity:.0f} %{pace})"


@dataclass(frozen=True)
class Cell(Runs):
    """One arm at one load; of a recorded trace there is one run.

    Attributes
    ----------
    arm, load : which.
    """

    arm: str
    load: Load
