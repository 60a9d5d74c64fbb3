"""What became of a statement of the article: our numbers, a verdict, and the command that shows it."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from typing import Any

from experiments.article.table import FOLDER

HOLDS = "holds"
DOES_NOT_HOLD = "does not hold"
NOT_DECIDABLE = "not decidable by a performance simulator"


@dataclass(frozen=True)
class Number:
    """One number behind a verdict.

    Attributes
    ----------
    quantity, unit : what it is.
    ours, low, high : our figure, and its interval where it has one: 95 % where there is sampling, else what 90 % of
        the plausible constants of the cost model give.
    article : the article's figure, where it has one.
    """

    quantity: str
    unit: str
    ours: float
    low: float = float("nan")
    high: float = float("nan")
    article: float = float("nan")


@dataclass(frozen=True)
class Finding:
    """A statement of the article and its fate.

    Attributes
    ----------
    name : C1 to C8, or the row of the framework table.
    says : the article's statement.
    ours : our figures in a sentence.
    verdict : `HOLDS`, ``"holds if ..."``, `DOES_NOT_HOLD` with a reason behind it, or `NOT_DECIDABLE`.
    command : shows it.
    numbers : behind it.
    """

    name: str
    says: str
    ours: str
    verdict: str
    command: str
    numbers: tuple[Number, ...] = ()

    @property
    def kind(self) -> str:
        """The verdict without its reason: holds, holds if, does not hold, or not decidable."""
        return next(kind for kind in KINDS if self.verdict.startswith(kind))


KINDS = ("holds if", HOLDS, DOES_NOT_HOLD, "not decidable")
"""The kinds of verdicts, each before what it is the beginning of."""


@cache
def article() -> dict[str, Any]:
    """Return the article's statements and the numbers in them."""
    return tomllib.loads((FOLDER / "claims.toml").read_text(encoding="utf-8"))


def percent(low: float, high: float) -> str:
    """Return a range of shares in percent.

    >>> percent(0.4, 0.623), percent(0.5, 0.5)
    ('40-62 %', '50 %')
    """
    ends = [f"{100 * value:.0f}" for value in (low, high)]
    return f"{ends[0]} %" if ends[0] == ends[1] else f"{ends[0]}-{ends[1]} %"
