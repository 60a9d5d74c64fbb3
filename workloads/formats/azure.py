"""Azure LLM inference traces (2023, 2024; multimodal 2025): a wall clock and two lengths, nothing about content.

Source: https://github.com/Azure/AzurePublicDataset (CC-BY 4.0).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from workloads.formats.assembly import Columns
from workloads.formats.source import Head
from workloads.formats.table import Field, read_columns

KNOWN_AS = "Azure CSV (TIMESTAMP,ContextTokens,GeneratedTokens)"

FIELDS = [Field("TIMESTAMP", "stamp"), Field("ContextTokens", "whole", 0), Field("GeneratedTokens", "whole", 0)]


def recognise(head: Head) -> bool:
    """Tell whether the first line has the three columns."""
    return {field.name for field in FIELDS} <= set(head.columns)


def read(path: Path, head: Head, random: np.random.Generator) -> Columns:
    """Read the trace; arrivals count from the earliest row, with all seven decimals of the time stamps."""
    columns = read_columns(path, head.columns, FIELDS)
    stamps = columns["TIMESTAMP"]
    stamps -= stamps.min(initial=np.iinfo(np.int64).max)
    notes = ["ContextTokens include the images of a prompt"] if "NumImages" in head.columns else []
    return Columns(stamps / 1e9, columns["ContextTokens"], columns["GeneratedTokens"], notes=notes)
