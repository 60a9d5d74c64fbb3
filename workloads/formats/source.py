"""Files as formats see them: a head to recognise, numbered lines, and wrong lines collected for one report."""

from __future__ import annotations

import gzip
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

BLOCK_BYTES = 1 << 24
HEAD_BYTES = 1 << 20
SHOWN_PROBLEMS = 10
SHOWN_CHARACTERS = 120
LARGEST_TOKENS = 10**9


@dataclass(frozen=True)
class Head:
    """The beginning of a file, enough to recognise its format.

    Attributes
    ----------
    line : the first line, without its end.
    columns : the first line cut at commas.
    keys : names of JSON fields that occur near the beginning.
    """

    line: str
    columns: tuple[str, ...]
    keys: frozenset[str]


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file, unpacking it if its content (not its name) is gzip; a ValueError says that it cannot be read."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            yield cast(BinaryIO, file)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error


def read_head(path: Path) -> Head:
    """Return the head of a file; a ValueError says that it is missing, empty or broken."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    with open_file(path) as file:
        text = file.read(HEAD_BYTES).decode("utf-8-sig", errors="replace")
    if not text.strip():
        raise ValueError(f"{path}: the file is empty")
    line = text.split("\n", 1)[0].rstrip("\r")
    columns = tuple(column.strip(' "') for column in line.split(","))
    return Head(line, columns, frozenset(re.findall(r'"(\w+)"\s*:', text)))


def read_blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield ``(number of the first line, whole lines)``, in blocks of about 16 MiB."""
    number = 1
    with open_file(path) as file:
        while block := file.read(BLOCK_BYTES):
            block += file.readline()
            yield number, block
            number += block.count(b"\n")


@dataclass
class Problems:
    """The wrong lines of one file: the first ten in full, the rest counted."""

    path: Path
    count: int = 0
    shown: list[str] = field(default_factory=list)

    def add(self, line: int, what: str) -> None:
        """Note what is wrong with a line."""
        self.count += 1
        if self.count <= SHOWN_PROBLEMS:
            self.shown.append(f"line {line}: {what}")

    def check(self) -> None:
        """Raise a ValueError that lists what was noted, if anything was."""
        if self.count:
            rest = f"\n  and {self.count - len(self.shown)} more" if self.count > len(self.shown) else ""
            raise ValueError(f"{self.path}: {self.count} wrong line(s)\n  " + "\n  ".join(self.shown) + rest)


def shorten(text: str) -> str:
    """Return the text in quotes, cut so that it fits into a message."""
    return repr(text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + " ...")


def read_objects(path: Path, problems: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(line number, object)`` of a JSON Lines file; empty lines are passed over, wrong ones noted."""
    for first, block in read_blocks(path):
        text = block.decode("utf-8-sig" if first == 1 else "utf-8", errors="replace")
        for number, line in enumerate(text.split("\n"), first):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                problems.add(number, f"not JSON ({error}): {shorten(line)}")
                continue
            if isinstance(row, dict):
                yield number, row
            else:
                problems.add(number, f"not a JSON object: {shorten(line)}")


def whole(row: dict[str, Any], key: str, smallest: int = 0) -> int:
    """Return a whole number of a JSON object; a ValueError says what is wrong with it."""
    value = _present(row, key)
    if type(value) is not int or not smallest <= value <= LARGEST_TOKENS:
        raise ValueError(f"{key} is {shorten(str(value))}; allowed: a whole number from {smallest} to {LARGEST_TOKENS}")
    return value


def number(row: dict[str, Any], key: str) -> float:
    """Return a number of a JSON object that is at least 0; a ValueError says what is wrong with it."""
    value = _present(row, key)
    # The comparison is false for "not a number" too.
    if type(value) not in (int, float) or not 0 <= value <= sys.float_info.max:
        raise ValueError(f"{key} is {shorten(str(value))}; allowed: a number of at least 0")
    return float(value)


def _present(row: dict[str, Any], key: str) -> Any:
    if key not in row:
        raise ValueError(f"{key} is missing; the line has {', '.join(map(str, row)) or 'nothing'}")
    return row[key]


def collect(path: Path, add: Callable[[dict[str, Any]], None]) -> None:
    """Call `add` for every object of a JSON Lines file; its ValueErrors are reported together, by line."""
    problems = Problems(path)
    for line, row in read_objects(path, problems):
        try:
            add(row)
        except ValueError as error:
            problems.add(line, str(error))
    problems.check()
