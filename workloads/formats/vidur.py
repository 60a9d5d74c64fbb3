"""Vidur's processed traces: seconds and two lengths, or the lengths alone.

Source: https://github.com/microsoft/vidur, folder data/processed_traces (MIT).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from workloads.formats.assembly import NO_ARRIVALS, Columns
from workloads.formats.source import Head
from workloads.formats.table import Field, read_columns

KNOWN_AS = "Vidur CSV ([arrived_at,]num_prefill_tokens,num_decode_tokens,...)"

LENGTHS = [Field("num_prefill_tokens", "whole", 1), Field("num_decode_tokens", "whole", 1)]
ARRIVAL = Field("arrived_at", "number", 0)


def recognise(head: Head) -> bool:
    """Tell whether the first line has the two lengths."""
    return {field.name for field in LENGTHS} <= set(head.columns)


def read(path: Path, head: Head, random: np.random.Generator) -> Columns:
    """Read the trace; without `arrived_at` all requests arrive at once, and a note says so."""
    timed = ARRIVAL.name in head.columns
    columns = read_columns(path, head.columns, [ARRIVAL, *LENGTHS] if timed else LENGTHS)
    prompt_tokens, output_tokens = (columns[field.name] for field in LENGTHS)
    arrival_seconds = columns[ARRIVAL.name] if timed else np.zeros(len(prompt_tokens))
    return Columns(arrival_seconds, prompt_tokens, output_tokens, notes=[] if timed else [NO_ARRIVALS])
