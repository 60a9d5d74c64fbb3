"""Files that are whole or absent: written beside their place, then moved into it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def written(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary file in the same folder, move it to `path`, and return that."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def text(path: Path, content: str) -> Path:
    """Write a text file."""
    return written(path, lambda part: part.write_text(content, encoding="utf-8", newline="\n"))


def json_text(value: Any, indent: int | None = 2) -> str:
    """Return strict JSON: numbers that are none become null, infinity the text "inf" (as `vllm bench serve` has it).

    >>> json_text({"a": (1.0, float("nan"), float("inf"))}, indent=None)
    '{"a": [1.0, null, "inf"]}'
    """
    return json.dumps(_strict(value), indent=indent, allow_nan=False, ensure_ascii=False)


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    if hasattr(value, "item"):  # a numpy scalar
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value
