"""The project's own CSV: the columns of a trace under their own names, easy to write by hand or by script."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from workloads.formats.assembly import Columns
from workloads.formats.source import Head, shorten
from workloads.formats.table import Field, read_columns, refuse_rows
from workloads.trace import Trace

KNOWN_AS = "plain CSV (arrival_seconds,prompt_tokens,output_tokens[,max_tokens][,session][,best_of], in any order)"

REQUIRED = [
    Field("arrival_seconds", "number", 0),
    Field("prompt_tokens", "whole", 1),
    Field("output_tokens", "whole", 1),
]
OPTIONAL = [Field("max_tokens", "whole", 1), Field("session", "whole", 0), Field("best_of", "whole", 1)]


def recognise(head: Head) -> bool:
    """Tell whether the first line has the required columns."""
    return {field.name for field in REQUIRED} <= set(head.columns)


def read(path: Path, head: Head, random: np.random.Generator) -> Columns:
    """Read the trace as it stands.

    Raises
    ------
    ValueError
        If a column is unknown, or `max_tokens` is less than `output_tokens` in a row.
    """
    fields = [field for field in [*REQUIRED, *OPTIONAL] if field.name in head.columns]
    if sorted(field.name for field in fields) != sorted(head.columns):
        allowed = ", ".join(field.name for field in [*REQUIRED, *OPTIONAL])
        raise ValueError(f"{path}: line 1 is {shorten(head.line)}; allowed columns, each once: {allowed}")
    columns = read_columns(path, head.columns, fields)
    declared, output_tokens = columns.get("max_tokens"), columns["output_tokens"]
    if declared is not None:
        allowed = "allowed: at least output_tokens"
        refuse_rows(
            path,
            declared < output_tokens,
            lambda row: f"max_tokens is {declared[row]}; {allowed}, {output_tokens[row]}",
        )
    return Columns(
        columns["arrival_seconds"],
        columns["prompt_tokens"],
        output_tokens,
        max_tokens=declared,
        session=columns.get("session"),
        best_of=columns.get("best_of"),
    )


def write(trace: Trace, path: Path) -> None:
    """Write a trace so that `read` returns the same columns, to the last bit.

    Raises
    ------
    ValueError
        If the trace knows something that the format cannot hold: shared prefixes, priorities, or requests that wait for
        others.
    """
    for column in ("segments", "previous", "think_seconds", "priority"):
        if getattr(trace, column) is not None:
            raise ValueError(f"{path}: a plain CSV cannot hold {column} of trace {trace.name!r}")
    names = [field.name for field in [*REQUIRED, *OPTIONAL] if getattr(trace, field.name) is not None]
    rows = zip(*(getattr(trace, name).tolist() for name in names), strict=True)
    with path.open("w", encoding="utf-8") as file:
        file.write(",".join(names) + "\n")
        file.writelines(",".join(map(repr, row)) + "\n" for row in rows)
