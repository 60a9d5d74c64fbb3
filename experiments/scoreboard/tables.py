"""The canonical tables of measurements: which columns they have, and reading those that a folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

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


def read(folder: Path, *, required: bool = True) -> dict[str, pd.DataFrame]:
    """Return the tables that a folder holds, as ``<name>.parquet`` or ``<name>.csv``.

    Raises
    ------
    ValueError
        There is none though one is required, or one lacks a column, is no table, or has times that are not above zero.
    """
    paths = {name: path_of(folder, name) for name in COLUMNS}
    if required and not any(paths.values()):
        raise ValueError(f"{folder}: none of {', '.join(COLUMNS)} is here, as .parquet or .csv")
    return {name: read_table(path, name) for name, path in paths.items() if path}


def read_table(path: Path, name: str) -> pd.DataFrame:
    """Return one table; see `read`."""
    table = read_columns(path, name, COLUMNS[name])
    check(table, path, COLUMNS[name][-1], "a time above 0")
    return table


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


def check(
    table: pd.DataFrame, path: Path, column: str, allowed: str, low: float = 0.0, *, or_low: bool = False
) -> None:
    """Raise ValueError, naming the row, where a column is no number above `low` (or `low` itself, with `or_low`)."""
    import pandas as pd

    values = pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=float)
    good = np.isfinite(values) & ((values >= low) if or_low else (values > low))
    if not good.all():
        line = int((~good).argmax())
        raise ValueError(f"{path}, row {line + 1}: {column} is {table[column].iloc[line]}; allowed: {allowed}")


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
