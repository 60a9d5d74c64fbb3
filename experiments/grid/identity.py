"""What makes a point of a grid itself: its parameters in one canonical form, and the digest and seed that follow."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("hardware_profiles", "workloads", "sim", "experiments")


def canonical(value: Any) -> Any:
    """Return a value as plain JSON, the same for equal values in every process.

    Parameters
    ----------
    value : a number, text, path, None, a sequence or mapping of these, a dataclass, or a function.

    Raises
    ------
    ValueError
        If it is anything else: what cannot be written down cannot be recognised later.

    >>> canonical({"tp": np.int64(2), "loads": (0.5, float("inf"))})
    {'loads': [0.5, 'inf'], 'tp': 2}
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if np.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.ndarray):
        return canonical(value.tolist())
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): canonical(value[name]) for name in sorted(value, key=str)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        known = {field.name: canonical(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {type(value).__qualname__: known}
    if callable(value):
        return _function(value)
    raise ValueError(
        f"a parameter is {value!r}; allowed: numbers, texts, paths, sequences, mappings, dataclasses and functions"
    )


def _function(function: Callable[..., Any]) -> Any:
    """Return the name of a function and what is written in its file; of a partial or a closure also what it holds."""
    if isinstance(function, functools.partial):
        return [_function(function.func), canonical(function.args), canonical(function.keywords)]
    held = [canonical(cell.cell_contents) for cell in getattr(function, "__closure__", None) or ()]
    return [function.__qualname__, _source(function), held]


def _source(function: Callable[..., Any]) -> str:
    """Return the digest of the file of a function; of its own text where there is none, as in a notebook."""
    try:
        path = Path(inspect.getsourcefile(function) or "")
        text = path.read_text(encoding="utf-8") if path.is_file() else inspect.getsource(function)
    except (OSError, TypeError):
        raise ValueError(f"{function!r} has no source; allowed: a function that is written in a file") from None
    return hashlib.sha256(text.encode()).hexdigest()


def stamp(value: Any) -> str:
    """Return a digest of a value and of every file that it names, for whoever remembers what follows from it."""
    return _digest(canonical(value))


def of_function(function: Callable[..., Any]) -> str:
    """Return the digest of a function and of everything that it holds, for `key`."""
    return _digest([version(), canonical(function)])


def key(function: str, point: Mapping[str, Any], seed: np.random.SeedSequence | None) -> str:
    """Return the digest under which a finished point is kept, of everything that its result depends on.

    These are the function (`of_function`), its parameters and seed, the content of every file that a parameter names,
    and `version`.
    """
    words = [] if seed is None else [int(word) for word in seed.generate_state(4)]
    return _digest([function, canonical(point), words])[:32]


def seed_of(root: int, point: Mapping[str, Any], names: Sequence[str]) -> np.random.SeedSequence:
    """Return the seed of a point, spawned from `root` by the values of the parameters `names`, not by its place.

    So it is the same in every order and on every worker, and points that agree in `names` see the same random numbers.

    >>> point = {"policy": "orca", "replication": 3}
    >>> same = seed_of(0, {**point, "policy": "gang"}, ["replication"])
    >>> bool((same.generate_state(2) == seed_of(0, point, ["replication"]).generate_state(2)).all())
    True
    """
    text = _json({name: canonical(point[name]) for name in names})
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.SeedSequence(root, spawn_key=np.frombuffer(digest[:16], dtype="<u4").tolist())


@functools.cache
def version() -> str:
    """Return a digest of this program and of what it computes with: results of other code are never taken for its own.

    Raises
    ------
    ValueError
        If the program cannot be read.
    """
    import platform

    import scipy

    digest = hashlib.sha256(f"{platform.python_version()} {np.__version__} {scipy.__version__}".encode())
    root = Path(__file__).parents[2]
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.suffix in (".py", ".toml"):
                digest.update(str(path.relative_to(root)).encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def _digest(value: Any) -> str:
    """Return a digest of plain JSON and of the content of every file that it names."""
    files = {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in _files(value)}
    return hashlib.sha256(_json([value, files]).encode()).hexdigest()


def _files(value: Any) -> Iterator[str]:
    """Yield the texts that name files."""
    if isinstance(value, str):
        if "\0" not in value and os.path.isfile(value):
            yield value
    elif isinstance(value, dict):
        yield from (name for inner in value.values() for name in _files(inner))
    elif isinstance(value, list):
        yield from (name for inner in value for name in _files(inner))


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
