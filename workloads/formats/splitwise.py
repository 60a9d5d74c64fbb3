"""Traces of the Splitwise simulator: seconds, sizes, and the kind of a request.

Source: https://github.com/Mutinifni/splitwise-sim (MIT).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from workloads.formats.assembly import Columns
from workloads.formats.source import Head
from workloads.formats.table import Field, read_columns, refuse_rows

KNOWN_AS = "Splitwise CSV (request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size)"

FIELDS = [
    Field("arrival_timestamp", "number", 0),
    Field("prompt_size", "whole", 1),
    Field("token_size", "whole", 1),
    Field("request_type", "whole", 0),
    Field("batch_size", "whole", 1),
]
LANGUAGE_MODEL = 2


def recognise(head: Head) -> bool:
    """Tell whether the first line has the columns that are read."""
    return {field.name for field in FIELDS} <= set(head.columns)


def read(path: Path, head: Head, random: np.random.Generator) -> Columns:
    """Read the requests of type 2 (language models); others are left out, and a note counts them.

    Raises
    ------
    ValueError
        If a row stands for a batch of several requests.
    """
    columns = read_columns(path, head.columns, FIELDS)
    batch = columns["batch_size"]
    refuse_rows(path, batch != 1, lambda row: f"batch_size is {batch[row]}; allowed: 1, a single request")
    other = columns["request_type"] != LANGUAGE_MODEL
    result = Columns(columns["arrival_timestamp"], columns["prompt_size"], columns["token_size"])
    if other.any():
        result.notes.append(f"{other.sum():,} of {len(other):,} rows are left out, their request_type is not 2 (LLM)")
        result.take(np.flatnonzero(~other))
    return result
