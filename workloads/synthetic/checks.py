"""What a sensible parameter is, and the sentence that says so."""

from __future__ import annotations

import math


def require(good: bool, parameter: str, value: object, allowed: str) -> None:
    """Refuse a parameter unless it is good.

    Raises
    ------
    ValueError
        Naming the parameter, its value and what is allowed.
    """
    if not good:
        raise ValueError(f"{parameter} is {value}; allowed: {allowed}")


def require_count(parameter: str, value: int, least: int = 1) -> None:
    """Refuse a count below `least`."""
    require(value >= least, parameter, value, f"a whole number, at least {least}")


def require_positive(parameter: str, value: float) -> None:
    """Refuse what is not a positive finite number."""
    require(value > 0 and math.isfinite(value), parameter, value, "a positive number")


def require_not_negative(parameter: str, value: float) -> None:
    """Refuse what is not a finite number of at least 0."""
    require(value >= 0 and math.isfinite(value), parameter, value, "a number, at least 0")
