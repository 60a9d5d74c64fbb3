"""How a transformer is written down: one TOML file with its shape, its published size and their sources."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from workloads.models.transformer import LatentAttention, Mixture, Transformer

SHIPPED = Path(__file__).parent / "architectures"
_TOP = {
    "title": "str",
    "aliases": "list",
    "source": "str",
    "source_kind": "str",
    "notes": "str",
    "transformer": "table",
    "mixture": "table",
    "latent": "table",
    "published": "table",
}
_PUBLISHED = {"parameters": "int", "active": "int", "source": "str", "other_parameters": "int"}
_TYPES = {"int": int, "bool": bool, "str": str, "list": list, "table": dict}
_CHOICES = {"norm": ("rms", "layer"), "query_key_norm": ("head", "projection")}


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file; ValueError names the file and the line that is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not TOML: {error}") from error


def from_toml(path: Path) -> Transformer:
    """Read an architecture; the files in ``workloads/models/architectures`` show the shape.

    Returns
    -------
    Transformer
        named after the file.

    Raises
    ------
    ValueError
        for a key that is unknown, missing, of another type or outside what is possible, naming file, key and value.

    Examples
    --------
    >>> from_toml(SHIPPED / "qwen3-8b.toml").title
    'Qwen3-8B'
    """
    values = read_toml(path)
    where = str(path)
    _check(values, _TOP, {"title", "transformer"}, where)
    tables = {"transformer": Transformer, "mixture": Mixture, "latent": LatentAttention}
    for name, shape in tables.items():
        if name in values:
            _check(values[name], _types(shape), _required(shape), f"{where} [{name}]")
    published = values.get("published", {})
    _check(published, _PUBLISHED, set(), f"{where} [published]")
    try:
        return Transformer(
            name=path.stem,
            mixture=Mixture(**values["mixture"]) if "mixture" in values else None,
            latent=LatentAttention(**{"query_rank": None, **values["latent"]}) if "latent" in values else None,
            published_parameters=published.get("parameters"),
            published_active=published.get("active"),
            published_source=published.get("source", ""),
            other_parameters=published.get("other_parameters", 0),
            **{key: values[key] for key in ("title", "source", "source_kind", "notes") if key in values},
            **values["transformer"],
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _types(shape: type) -> dict[str, str]:
    """Return the keys of a table and their types: the fields that are neither tables nor written elsewhere."""
    elsewhere = {"name", "other_parameters", *_TOP}
    return {
        field.name: "str" if str(field.type).startswith("Literal") else str(field.type).removesuffix(" | None")
        for field in fields(shape)
        if field.name not in elsewhere and not field.name.startswith("published_")
    }


def _required(shape: type) -> set[str]:
    known = _types(shape)
    return {field.name for field in fields(shape) if field.name in known and field.default is MISSING} - {"query_rank"}


def _check(table: Mapping[str, Any], types: Mapping[str, str], required: set[str], where: str) -> None:
    """Refuse unknown, missing and mistyped keys (ValueError)."""
    for key, value in table.items():
        if key not in types:
            close = get_close_matches(key, types, n=3) or sorted(types)
            raise ValueError(f"{where}: unknown key {key!r}; allowed: {', '.join(close)}")
        # TOML tells true from 1, Python's isinstance does not.
        if type(value) is not _TYPES[types[key]]:
            raise ValueError(f"{where}: {key} = {value!r}: allowed is a value of type {types[key]}")
        if key in _CHOICES and value not in _CHOICES[key]:
            raise ValueError(f"{where}: {key} = {value!r}: allowed: {', '.join(_CHOICES[key])}")
    if missing := sorted(required - table.keys()):
        raise ValueError(f"{where}: missing {', '.join(missing)}")
