"""The article's sizing table, as data, and the one rule from which all of its counts follow."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import hardware_profiles
from hardware_profiles.profile import HardwareProfile

FOLDER = Path(__file__).parent
COLUMNS = {"fp16": 2.0, "8bit": 1.0}
"""The two columns of the table, and how many bytes a weight has in them."""

RULE = (
    "The article's counts follow one rule: the smallest power of two from 2 up of which nine tenths of the labelled "
    "memory hold the weights of the class's upper size."
)
FILL = 0.9
FEWEST = 2


@dataclass(frozen=True)
class SizeClass:
    """A row of the table.

    Attributes
    ----------
    name : as the article has it.
    upper_billion : its largest model [1e9 parameters].
    model : the shipped model that stands for it.
    cards : by column and the article's name of the chip, how many the article recommends.
    remark : what the article adds.
    """

    name: str
    upper_billion: float
    model: str
    cards: Mapping[tuple[str, str], int]
    remark: str


@cache
def size_classes() -> tuple[SizeClass, ...]:
    """Return the rows of the table, ascending."""
    return tuple(
        SizeClass(
            row["name"],
            row["upper_billion"],
            row["model"],
            {
                (column, chip): int(count)
                for column in COLUMNS
                for count, chips in row[column].items()
                for chip in chips
            },
            row.get("remark", ""),
        )
        for row in _table()["classes"]
    )


@cache
def article_chips() -> dict[str, HardwareProfile]:
    """Return the chips of the article's table by the article's name for them."""
    return {name: hardware_profiles.load(profile) for name, profile in _table()["chips"].items()}


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads((FOLDER / "sizing.toml").read_text(encoding="utf-8"))


def cards_by_rule(upper_billion: float, weight_bytes: float, memory_bytes: float) -> int:
    """Return how many cards the article's rule gives; see `RULE`.

    >>> cards_by_rule(53, 2, 48 * 2**30), cards_by_rule(540, 2, 80 * 2**30)
    (4, 16)
    """
    cards = FEWEST
    while upper_billion * 1e9 * weight_bytes > FILL * cards * memory_bytes:
        cards *= 2
    return cards
