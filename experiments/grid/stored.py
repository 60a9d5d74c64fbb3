"""The rows of a finished point as Parquet: what workers send, what lies on disk, and what a sweep returns."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.shown import files

Row = dict[str, Any]
ERROR = b"error"


def encode(rows: Sequence[Mapping[str, Any]], error: str | None = None) -> bytes:
    """Return rows as a Parquet file; an error text is kept beside them.

    Parameters
    ----------
    rows : values are numbers, texts, None, or one-dimensional arrays of numbers; a row may lack a column.

    Raises
    ------
    ValueError
        If a column holds anything else.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [_plain(row.get(name)) for row in rows]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
            shown = ", ".join(sorted({type(value).__name__ for value in values}))
            raise ValueError(
                f"column {name!r} of a result holds {shown}; allowed: numbers, texts or one-dimensional arrays, "
                "one kind a column"
            ) from None
    result = pa.table(columns).replace_schema_metadata(None if error is None else {ERROR: error.encode()})
    target = io.BytesIO()
    pq.write_table(result, target, compression="lz4", use_dictionary=False, write_statistics=False)
    return target.getvalue()


def decode(content: bytes) -> tuple[list[Row], str | None]:
    """Return the rows and the error text of `encode`; arrays come back as arrays.

    >>> decode(encode([{"load": 0.5, "gaps": np.array([3, 4], dtype=np.int8)}]))
    ([{'load': 0.5, 'gaps': array([3, 4], dtype=int8)}], None)
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = pq.ParquetFile(io.BytesIO(content), pre_buffer=False).read(use_threads=False)
    columns = {}
    for name in found.column_names:
        column = found.column(name)
        is_list = pa.types.is_list(column.type)
        columns[name] = [_array(value) for value in column] if is_list else column.to_pylist()
    rows = [{name: values[place] for name, values in columns.items()} for place in range(found.num_rows)]
    error = (found.schema.metadata or {}).get(ERROR)
    return rows, None if error is None else error.decode()


def read(path: Path) -> bytes | None:
    """Return a finished point, or None where there is none; one that failed counts as none and is tried again."""
    try:
        content = path.read_bytes()
        _, error = decode(content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):  # what is no Parquet is not ours: written anew
        return None
    return content if error is None else None


def write(path: Path, content: bytes) -> None:
    """Keep a finished point: whole or not at all, whenever the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.written(path, lambda part: part.write_bytes(content))


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value)
    return value


def _array(value: Any) -> Any:
    return value.values.to_numpy(zero_copy_only=False) if value.is_valid else None
