"""CSV files as columns: blocks of lines parsed at once, and line by line where a block has something wrong in it."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from workloads.formats.source import LARGEST_TOKENS, Problems, read_blocks, shorten
from workloads.trace import Integers

STAMP = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?")

# What 64 bits of nanoseconds hold.
FIRST_YEAR, LAST_YEAR = 1678, 2261
STAMP_FORM = f"YYYY-MM-DD hh:mm:ss[.fraction][zone] of the years {FIRST_YEAR} to {LAST_YEAR}"

Column = npt.NDArray[Any]


@dataclass(frozen=True)
class Field:
    """A column to read.

    Attributes
    ----------
    name : its title in the first line of the file.
    kind : "whole" and "number" as they say; "stamp" a date and time, read as whole nanoseconds since 1970 (UTC unless
        it says otherwise); "label" any text, read as 0, 1, 2 ... in order of first appearance and -1 where it is empty.
    smallest : the least value allowed.
    """

    name: str
    kind: Literal["whole", "number", "stamp", "label"]
    smallest: float = -math.inf


def read_columns(path: Path, header: tuple[str, ...], fields: list[Field]) -> dict[str, Column]:
    """Read some columns of a CSV file whose first line is `header`.

    Parameters
    ----------
    path : a CSV file, plain or gzip. It is never held in memory as text, only as columns.
    header : titles of all its columns, as in `Head.columns`.
    fields : what to read; each must be in `header`.

    Returns
    -------
    dict of (rows,) arrays: int64 for "whole", "stamp" and "label", float64 for "number".

    Raises
    ------
    ValueError
        Listing the first ten wrong lines by number: columns missing, text for a number, a value that is too small.
    """
    if len(set(header)) < len(header):
        raise ValueError(f"{path}: line 1 names a column twice: {shorten(','.join(header))}")
    problems = Problems(path)
    labels: dict[str, int] = {}
    parts: dict[str, list[Column]] = {field.name: [] for field in fields}
    for first, block in read_blocks(path):
        if first == 1:
            first, block = 2, block[block.find(b"\n") + 1 :] if b"\n" in block else b""
        columns = _parse_block(block, header, fields, labels)
        if columns is None:
            columns = _parse_lines(block, first, header, fields, labels, problems)
        for field in fields:
            parts[field.name].append(columns[field.name])
    problems.check()
    # One column after the other, so that no more than one is held twice.
    return {field.name: np.concatenate(parts.pop(field.name)) for field in fields}


def refuse_rows(path: Path, bad: npt.NDArray[np.bool_], say: Callable[[int], str]) -> None:
    """Raise a ValueError that lists the bad rows of a CSV file by line, if there are any.

    Parameters
    ----------
    path : the file, which is walked once more to find the lines (empty ones are no rows).
    bad : (rows,) which rows are wrong.
    say : what is wrong with a row.
    """
    if not bad.any():
        return
    problems = Problems(path)
    texts = (line for first, block in read_blocks(path) for line in enumerate(block.split(b"\n"), first))
    lines = [number for number, text in texts if text.strip()][1:]
    for row in np.flatnonzero(bad).tolist():
        problems.add(lines[row], say(row))
    problems.check()


def _parse_block(
    block: bytes, header: tuple[str, ...], fields: list[Field], labels: dict[str, int]
) -> dict[str, Column] | None:
    """Parse a block at once; None if anything in it is unusual, so that reading by line can say what."""
    import pyarrow
    import pyarrow.csv

    stamp = pyarrow.timestamp("ns", tz="UTC" if _has_zone(block) else None)
    types = {"whole": pyarrow.int64(), "number": pyarrow.float64(), "stamp": stamp, "label": pyarrow.string()}
    try:
        table = pyarrow.csv.read_csv(
            pyarrow.BufferReader(block),
            read_options=pyarrow.csv.ReadOptions(column_names=list(header)),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=[field.name for field in fields],
                column_types={field.name: types[field.kind] for field in fields},
            ),
        )
    except pyarrow.ArrowInvalid:
        return None
    columns: dict[str, Column] = {}
    for field in fields:
        column = table[field.name]
        if column.null_count:
            return None
        if field.kind == "label":
            values = _label_numbers(column.combine_chunks().dictionary_encode(), labels)
        else:
            values = column.cast(pyarrow.int64()).to_numpy() if field.kind == "stamp" else column.to_numpy()
        if not _allowed(values, field).all():
            return None
        columns[field.name] = values
    return columns


def _has_zone(block: bytes) -> bool:
    first = block.lstrip().split(b"\n", 1)[0]
    return re.search(rb"\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d)", first) is not None


def _label_numbers(encoded: Any, labels: dict[str, int]) -> Integers:
    numbers = [_label_number(text, labels) for text in encoded.dictionary.to_pylist()]
    labelled: Integers = np.array(numbers, dtype=np.int64)[encoded.indices.to_numpy()]
    return labelled


def _label_number(text: str, labels: dict[str, int]) -> int:
    return labels.setdefault(text, len(labels)) if text else -1


def _allowed(values: Any, field: Field) -> Any:
    """Compare a value or an array of them with the limits of the field ("not a number" is outside of any)."""
    largest = LARGEST_TOKENS if field.kind == "whole" else np.finfo(float).max
    return (values >= field.smallest) & (values <= largest)


def _parse_lines(
    block: bytes,
    first: int,
    header: tuple[str, ...],
    fields: list[Field],
    labels: dict[str, int],
    problems: Problems,
) -> dict[str, Column]:
    rows: list[list[int | float]] = []
    places = [header.index(field.name) for field in fields]
    for line, texts in _split_lines(block, first, problems):
        if len(texts) != len(header):
            problems.add(line, f"has {len(texts)} columns, expected {len(header)}: {shorten(','.join(texts))}")
            continue
        try:
            rows.append([_value(texts[place], field, labels) for place, field in zip(places, fields, strict=True)])
        except ValueError as error:
            problems.add(line, str(error))
    columns = zip(*rows, strict=True) if rows else [()] * len(fields)
    return {
        field.name: np.array(values, dtype=np.float64 if field.kind == "number" else np.int64)
        for field, values in zip(fields, columns, strict=True)
    }


def _split_lines(block: bytes, first: int, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    for line, text in enumerate(block.decode("utf-8", errors="replace").split("\n"), first):
        if text.strip():
            try:
                yield line, next(csv.reader([text.rstrip("\r")]))
            except csv.Error as error:
                problems.add(line, f"not CSV ({error}): {shorten(text)}")


def _value(text: str, field: Field, labels: dict[str, int]) -> int | float:
    if field.kind == "label":
        return _label_number(text, labels)
    if field.kind == "stamp":
        return _nanoseconds(text.strip(), field.name)
    value: int | float
    try:
        value = int(text) if field.kind == "whole" else float(text)
        good = "_" not in text and bool(_allowed(value, field))
    except ValueError:
        good = False
    if not good:
        least = f" of at least {field.smallest:g}" if math.isfinite(field.smallest) else ""
        kind = "whole number" if field.kind == "whole" else "number"
        most = f" and at most {LARGEST_TOKENS}" if field.kind == "whole" else ""
        raise ValueError(f"{field.name} is {shorten(text)}; allowed: a {kind}{least}{most}")
    return value


def _nanoseconds(text: str, name: str) -> int:
    match = STAMP.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        day, clock, fraction, zone = match.groups()
        moment = datetime.fromisoformat(f"{day} {clock}{zone or '+00:00'}")
        if not FIRST_YEAR <= moment.year <= LAST_YEAR:
            raise ValueError
    except ValueError:
        raise ValueError(f"{name} is {shorten(text)}; allowed: {STAMP_FORM}") from None
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86400 + since.seconds) * 10**9 + int((fraction or "").ljust(9, "0"))
