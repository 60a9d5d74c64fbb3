"""A recorded trace by what a user calls it: the name of a public one, or the path of a file."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from workloads import datasets, formats
from workloads.trace import Trace


def recorded(name_or_path: str | Path, requests: int | None = None, **settings: Any) -> Trace:
    """Return a recorded trace at its natural pace; asking again for an unchanged one is free.

    Parameters
    ----------
    name_or_path : one of `workloads.datasets.available()`, or a path.
    requests : how many of it, None for all.
    settings : those of `workloads.formats.read`.

    Raises
    ------
    ValueError
        If there is no such trace, it cannot be read, or all its requests arrive at one instant.
    """
    path, name = Path(name_or_path).expanduser(), str(name_or_path)
    if name in datasets.available():
        trace = _public(name, **settings)
    elif path.is_file():
        state = path.stat()
        trace = _file(path, (state.st_mtime_ns, state.st_size), **settings)
    else:
        known = ", ".join(datasets.available())
        raise ValueError(f"trace is {name!r}: no such file, and no such trace; allowed: a path, or chat, {known}")
    trace = trace.head(requests) if requests else trace
    if not trace.duration_seconds:
        raise ValueError(
            f"trace {name}: all {len(trace)} requests arrive at one instant, which is no load; allowed: a trace with "
            "arrival times"
        )
    return trace


@lru_cache(maxsize=4)
def _public(name: str, **settings: Any) -> Trace:
    return datasets.load(name, **settings)


@lru_cache(maxsize=4)
def _file(path: Path, state: tuple[int, int], **settings: Any) -> Trace:
    return formats.read(path, **settings)
