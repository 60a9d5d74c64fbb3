"""The canonical tables of measurements: which columns they have, and reading those that a folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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


def read(folder: Path) -> dict[str, pd.DataFrame]:
    """Return the tables that a folder holds, as ``<name>.parquet`` or ``<name>.csv``.

    Raises
    ------
    ValueError
        There is none, or one lacks a column, is no table, or has times that are not above zero.
    """
    found = {name: path for name in COLUMNS for path in _paths(folder, name)}
    if not found:
        raise ValueError(f"{folder}: none of {', '.join(COLUMNS)} is here, as .parquet or .csv")
    return {name: read_table(path, name) for name, path in found.items()}


def read_table(path: Path, name: str) -> pd.DataFrame:
    """Return one table; see `read`."""
    import pandas as pd
    from pyarrow import ArrowException

    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError, ArrowException) as error:
        raise ValueError(f"{path}: cannot be read as a table: {error}") from None
    if missing := [column for column in COLUMNS[name] if column not in table.columns]:
        raise ValueError(f"{path}: column {', '.join(missing)} is missing; {name} has {', '.join(COLUMNS[name])}")
    time = COLUMNS[name][-1]
    values = pd.to_numeric(table[time], errors="coerce")
    if not (values > 0).all():
        line = int((~(values > 0)).to_numpy().argmax())
        raise ValueError(f"{path}, row {line + 1}: {time} is {table[time].iloc[line]}; allowed: a time above 0")
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


def _paths(folder: Path, name: str) -> list[Path]:
    paths = (folder / f"{name}{suffix}" for suffix in (".parquet", ".csv"))
    return [path for path in paths if path.is_file()][:1]
