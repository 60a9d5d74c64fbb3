"""The canonical tables of measurements: which columns they have, and reading those that a folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.scoreboard.groups import Skipped

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {
    "gemm_grid": ("hw", "backend", "dtype", "kernel", "m", "n", "k", "us"),
    "attention_grid": (
        *("hw", "backend", "phase", "kv_dtype", "attn_dtype", "batch", "q_len", "kv_len"),
        *("n_heads", "n_kv", "head_dim", "us"),
    ),
    "attention_mixed": (
        *("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "hw", "model", "tp"),
        *("n_heads", "n_kv", "head_dim", "us"),
    ),
    "moe_grid": (
        *("hw", "backend", "dtype", "kernel", "tokens", "hidden", "inter", "topk", "n_experts"),
        *("moe_tp", "moe_ep", "dist", "us"),
    ),
    "comm": ("hw", "op", "backend", "world", "per_node", "bytes", "us"),
    "layer_ops": ("src", "hw", "model", "tp", "dtype", "op", "tokens", "m", "n", "k", "us"),
    "iteration": ("src", "hw", "model", "tp", "dtype", "phase", "batch", "q_len", "ctx", "ms"),
}
"""Columns of every table, times in us or ms as named; others are ignored."""

LABELS = frozenset(
    {
        *("hw", "backend", "dtype", "kernel", "phase", "kv_dtype", "attn_dtype"),
        *("model", "dist", "op", "src"),
    }
)
"""Columns of words; all others hold numbers."""

MAY_BE_ZERO = {
    "attention_mixed": ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode"),
    "layer_ops": ("n", "k"),
    "comm": ("bytes",),
    "iteration": ("ctx",),
}
"""Numbers that may be 0; all others are above it."""


def read(folder: Path) -> dict[str, pd.DataFrame]:
    """Return the tables that a folder holds, as ``<name>.parquet`` or ``<name>.csv``.

    Raises
    ------
    ValueError
        There is none, or one lacks a column, is no table, or has a number that cannot be.
    """
    return {name: read_table(path, name) for name, path in _paths(folder, required=True).items()}


def read_table(path: Path, name: str) -> pd.DataFrame:
    """Return one table; see `read`."""
    table, odd = _sorted_out(read_columns(path, name, COLUMNS[name]), path, name)
    if odd:
        raise ValueError(odd[0].reason)
    return table


def read_what_can_be(folder: Path, *, required: bool) -> tuple[dict[str, pd.DataFrame], list[Skipped]]:
    """Return the tables that a folder holds without what cannot be read of them, and what that is.

    Raises
    ------
    ValueError
        There is no table though one is required.
    """
    frames: dict[str, pd.DataFrame] = {}
    skipped: list[Skipped] = []
    for name, path in _paths(folder, required=required).items():
        try:
            frames[name], odd = _sorted_out(read_columns(path, name, COLUMNS[name]), path, name)
        except ValueError as error:
            odd = [Skipped(name, "", "", 0, str(error))]
        skipped += odd
    return frames, skipped


def _paths(folder: Path, *, required: bool) -> dict[str, Path]:
    paths = {name: path for name in COLUMNS if (path := path_of(folder, name))}
    if required and not paths:
        raise ValueError(f"{folder}: none of {', '.join(COLUMNS)} is here, as .parquet or .csv")
    return paths


def _sorted_out(table: pd.DataFrame, path: Path, name: str) -> tuple[pd.DataFrame, list[Skipped]]:
    """Return the rows whose numbers can be, as numbers, and what is wrong with the others."""
    import pandas as pd

    table, skipped = table.reset_index(drop=True), []
    place = np.arange(len(table))
    for column in COLUMNS[name]:
        if column in LABELS:
            table[column] = table[column].astype(object).where(table[column].notna(), "").astype(str)
            continue
        zero = column in MAY_BE_ZERO.get(name, ())
        values = pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=np.float64)
        good = np.isfinite(values) & ((values >= 0) if zero else (values > 0)) & (values < 2.0**53)
        if not good.all():
            first = int((~good).argmax())
            allowed = "numbers from 0" if zero else "numbers above 0"
            reason = f"{path}, row {place[first] + 1}: {column} is {table[column].iloc[first]}; allowed: {allowed}"
            skipped.append(Skipped(name, "", column, int((~good).sum()), reason))
        table, place, values = table[good].reset_index(drop=True), place[good], values[good]
        table[column] = values if (values % 1).any() else values.astype(np.int64)
    return table, skipped


def read_columns(path: Path, name: str, columns: Sequence[str]) -> pd.DataFrame:
    """Return a table that has these columns; ValueError if it cannot be read or lacks one."""
    import pandas as pd
    from pyarrow import ArrowException

    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError, ArrowException) as error:
        raise ValueError(f"{path}: cannot be read as a table: {error}") from None
    if missing := [column for column in columns if column not in table.columns]:
        raise ValueError(f"{path}: column {', '.join(missing)} is missing; {name} has {', '.join(columns)}")
    return table


def name_of(path: Path) -> str:
    """Return which table a file holds, by its name or else by its columns; ValueError if none."""
    import pandas as pd

    if path.stem in COLUMNS:
        return path.stem
    header = set(pd.read_parquet(path).columns if path.suffix == ".parquet" else pd.read_csv(path, nrows=0).columns)
    for name, columns in COLUMNS.items():
        if header.issuperset(columns):
            return name
    raise ValueError(f"{path}: has the columns of none of {', '.join(COLUMNS)}")


def path_of(folder: Path, name: str) -> Path | None:
    """Return the file of a table in a folder, None where there is none."""
    paths = (folder / f"{name}{suffix}" for suffix in (".parquet", ".csv"))
    return next((path for path in paths if path.is_file()), None)
