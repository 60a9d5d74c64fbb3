"""How sure a comparison is where nobody calibrated the chip: the same requests again, at other plausible constants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.figures.words import three_digits
from sim.uncertainty import Estimate, bands

if TYPE_CHECKING:
    import pandas as pd

    from experiments.tried.comparison import Arm
    from workloads.trace import Trace

Bands = Mapping[str, Mapping[str, Estimate]]
"""Estimates by arm and by number; every arm at the same constants in every draw."""

SHOWN = ("TTFT p50", "TTFT p99", "TPOT p50", "E2E p99")
CLEAR = 0.9
"""Share of the draws in which one arm must be ahead, for its lead to be called sure."""


def of(by_name: Mapping[str, Arm], trace: Trace, samples: int) -> dict[str, dict[str, Estimate]]:
    """Serve one trace under every arm at so many draws of the constants (common random numbers)."""
    return {
        name: bands(replace(arm.scenario, trace=trace), samples, np.random.default_rng(1))
        for name, arm in by_name.items()
    }


def table(found: Bands) -> pd.DataFrame:
    """Return one row an arm and number: the point, the ends of the band [s], and the draws."""
    import pandas as pd

    rows: list[dict[str, Any]] = [
        {
            "arm": arm,
            "number": number,
            "point": each.point,
            "low": each.low,
            "high": each.high,
            "draws": len(each.values),
        }
        for arm, numbers in found.items()
        for number, each in numbers.items()
    ]
    return pd.DataFrame(rows)


def ahead(found: Bands, number: str) -> dict[tuple[str, str], float]:
    """Return, for every two arms, in which share of the draws the first is the faster; ties count half."""
    shares = {}
    for first, second in combinations(found, 2):
        one, two = found[first][number].values, found[second][number].values
        shares[first, second] = float(np.mean(one < two) + 0.5 * np.mean(one == two))
    return shares


def lines(found: Bands) -> list[str]:
    """Return the bands and what they leave open, one sentence an arm and a pair of arms."""
    said = []
    for arm, numbers in found.items():
        parts = (
            f"{number} {three_digits(numbers[number].point)} s "
            f"[{three_digits(numbers[number].low)}, {three_digits(numbers[number].high)}]"
            for number in SHOWN
        )
        said.append(f"- {arm}: {' · '.join(parts)}")
    for number in ("TTFT p99", "E2E p99"):
        open_ones = [
            f"{first} against {second} ({100 * share:.0f} %)"
            for (first, second), share in ahead(found, number).items()
            if 1 - CLEAR < share < CLEAR
        ]
        verdict = (
            f"open for {'; '.join(open_ones)}" if open_ones else "the same at nine of ten draws, for every two arms"
        )
        said.append(f"- which arm is ahead in {number}: {verdict}")
    return said
