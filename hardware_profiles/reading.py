"""Strict reading of a TOML file: every complaint names the file, the field, the value and what is allowed."""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

Choice = TypeVar("Choice", bound=str)


@dataclass(frozen=True)
class Unit:
    """What a number counts, and how to tell that somebody counted in something larger.

    Attributes
    ----------
    name : in words, e.g. "bytes per second".
    smallest, largest : a number outside is surely in another unit.
    slips : (below, unit, factor): what a number below that limit looks like, smallest first; the factor as text
        ("e9") when it can simply be appended, else as a number.
    """

    name: str
    smallest: float = 0.0
    largest: float = math.inf
    slips: tuple[tuple[float, str, str | int], ...] = ()

    def slip(self, value: float) -> str | None:
        """Return what is wrong with the size of `value` and how to write it, or None.

        >>> LINK_RATE.slip(450)
        'looks like GB/s; write bytes per second, e.g. 450e9'
        """
        if self.smallest <= value <= self.largest:
            return None
        unit, factor = next(((unit, factor) for below, unit, factor in self.slips if value < below), (None, None))
        if factor is None:
            return f"is out of any range; write {self.name}, {self.smallest:g} to {self.largest:g}"
        example = f"{value:.10g}{factor}" if isinstance(factor, str) else f"{round(value * factor)}"
        return f"looks like {unit}; write {self.name}, e.g. {example}"


FLOPS = Unit("flops per second", 1e11, 1e18, ((10, "PFLOPS", "e15"), (1e6, "TFLOPS", "e12")))
CAPACITY = Unit("bytes", 1e9, 1e14, ((1e4, "GB", 2**30), (1e9, "MiB", 2**20)))
CACHE = Unit("bytes", 1e5, 1e9, ((1e3, "MB", 2**20), (1e5, "KB", 2**10)))
MEMORY_RATE = Unit("bytes per second", 1e9, 1e15, ((20, "TB/s", "e12"), (1e5, "GB/s", "e9")))
LINK_RATE = Unit("bytes per second", 1e8, 1e14, ((1e5, "GB/s", "e9"),))
LATENCY = Unit("seconds", 0.0, 0.01, ((math.inf, "microseconds", "e-6"),))
PART = Unit("a part of the peak", 0.01, 1.0, ((math.inf, "per cent", "e-2"),))
POWER = Unit("watts", 0.0, 1e6)
PRICE = Unit("US dollars per hour", 0.0, 1e6)


@dataclass(frozen=True)
class Table:
    """One table of a TOML file and where it stands.

    `file` and `path` (dotted, "" for the top) go into every complaint; `values` is what the parser found.
    """

    file: str
    path: str
    values: Mapping[str, Any]

    def field(self, key: str) -> str:
        """Return the dotted name of `key`."""
        return f"{self.path}.{key}" if self.path else key

    def error(self, key: str, problem: str) -> ValueError:
        """Return the complaint about `key`, to be raised."""
        return ValueError(f"{self.file}: {self.field(key)} {problem}")

    def allow(self, allowed: Collection[str]) -> None:
        """Refuse a field that does not exist, suggesting the nearest one that does."""
        for key in self.values:
            if key not in allowed:
                near = difflib.get_close_matches(key, allowed, n=1)
                hint = f"did you mean {self.field(near[0])}? " if near else ""
                raise self.error(key, f"is not a field; {hint}allowed here: {', '.join(allowed)}")

    def get(self, key: str) -> Any:
        """Return the raw value of a field that must be there."""
        if key not in self.values:
            raise self.error(key, "is missing")
        return self.values[key]

    def text(self, key: str) -> str:
        """Return a text that is not empty."""
        value = self.get(key)
        if not isinstance(value, str) or not value.strip():
            raise self.error(key, f"must be a text in quotes, got {value!r}")
        return value

    def choice(self, key: str, allowed: tuple[Choice, ...]) -> Choice:
        """Return one of `allowed`."""
        value = self.get(key)
        if value not in allowed:
            raise self.error(key, f"must be one of {', '.join(allowed)}, got {value!r}")
        return allowed[allowed.index(value)]

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts, empty if the field is absent."""
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, f"must be a list of texts, got {value!r}")
        return tuple(value)

    def number(self, key: str, unit: Unit) -> float:
        """Return a number above zero in `unit`; booleans, texts, nan and inf are none."""
        return self._check(key, self.get(key), unit)

    def optional_number(self, key: str, unit: Unit) -> float | None:
        """Return a number as `number` does, or None if the field is absent."""
        return self.number(key, unit) if key in self.values else None

    def pair(self, key: str, unit: Unit) -> tuple[float, float] | None:
        """Return ``[low, high]``, or None if the field is absent."""
        if key not in self.values:
            return None
        value = self.values[key]
        if not isinstance(value, list) or len(value) != 2:
            raise self.error(key, f"must be [low, high] in {unit.name}, got {value!r}")
        low, high = (self._check(key, item, unit) for item in value)
        if low > high:
            raise self.error(key, f"must be [low, high], got the higher first: {value!r}")
        return low, high

    def whole(self, key: str) -> int:
        """Return a whole number, 1 or more."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.error(key, f"must be a whole number, 1 or more, got {value!r}")
        return value

    def truth(self, key: str) -> bool:
        """Return true or false; false if the field is absent."""
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, got {value!r}")
        return value

    def table(self, key: str) -> Table:
        """Return the table ``[key]`` inside this one."""
        value = self.get(key)
        if not isinstance(value, dict):
            raise self.error(key, f"must be a table [{self.field(key)}], got {value!r}")
        return Table(self.file, self.field(key), value)

    def _check(self, key: str, value: Any, unit: Unit) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(key, f"must be a number of {unit.name}, got {value!r}")
        if not 0 < value < math.inf:
            raise self.error(key, f"must be a finite number above zero ({unit.name}), got {value!r}")
        if slip := unit.slip(value):
            raise self.error(key, f"= {value!r} {slip}")
        return float(value)


def read_toml(path: Path) -> Table:
    """Parse the file at `path`; ValueError naming the file (and the line) where it is absent or not TOML."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or "not a text in UTF-8"
        raise ValueError(f"{path}: cannot be read: {reason}") from None
    try:
        return Table(str(path), "", tomllib.loads(text))
    except (ValueError, RecursionError) as problem:
        raise ValueError(f"{path}: is not valid TOML: {problem}") from None
