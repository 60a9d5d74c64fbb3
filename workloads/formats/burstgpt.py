"""BurstGPT traces, versions 1 to 3: whole seconds, two lengths, and in version 3 the conversation.

Source: https://github.com/HPMLL/BurstGPT (CC-BY 4.0).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from workloads.formats.assembly import Columns, single_sessions
from workloads.formats.source import Head
from workloads.formats.table import Field, read_columns

KNOWN_AS = "BurstGPT CSV (Timestamp,[Session ID,Elapsed time,]Model,Request tokens,Response tokens,...)"

FIELDS = [Field("Timestamp", "number"), Field("Request tokens", "whole", 0), Field("Response tokens", "whole", 0)]
SESSION = Field("Session ID", "label")


def recognise(head: Head) -> bool:
    """Tell whether the first line has the columns that all versions share."""
    return {field.name for field in FIELDS} <= set(head.columns)


def read(path: Path, head: Head, random: np.random.Generator) -> Columns:
    """Read the trace; arrivals count from the earliest row, and a response of 0 tokens marks a failed request.

    Stamps are whole seconds, so requests lie anywhere in the second behind; stamps with a fraction are taken as exact.
    Rows without a conversation (calls of the API) are each a conversation of their own.
    """
    with_session = SESSION.name in head.columns
    columns = read_columns(path, head.columns, [*FIELDS, SESSION] if with_session else FIELDS)
    stamps = columns["Timestamp"]
    whole_seconds = bool((stamps == np.floor(stamps)).all())
    stamps = stamps - stamps.min(initial=np.inf)
    return Columns(
        stamps,
        columns["Request tokens"],
        columns["Response tokens"],
        session=single_sessions(columns[SESSION.name]) if with_session else None,
        bin_seconds=1.0 if whole_seconds else None,
    )
