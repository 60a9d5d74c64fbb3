"""Which transformers there are: shipped architectures by name, and a user's own from a TOML or a ``config.json``."""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

from workloads.models.architecture import SHIPPED, from_toml, read_toml
from workloads.models.huggingface import from_config
from workloads.models.transformer import LatentAttention, Mixture, Transformer

__all__ = ["LatentAttention", "Mixture", "Transformer", "available", "load"]

# Words of a name that say how a model was trained or packed, not what shape it has.
_WORDS_WITHOUT_SHAPE = {"hf", "base", "chat", "instruct", "it", "pt", "meta"}


def available() -> tuple[str, ...]:
    """Return the names of the shipped architectures, sorted.

    >>> "mixtral-8x7b" in available()
    True
    """
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.toml")))


def load(name_or_path: str | Path) -> Transformer:
    """Return the transformer of that name, or the one a file describes.

    Parameters
    ----------
    name_or_path : a shipped name or alias, in any case and with or without owner and words like ``-hf``, ``-chat``,
        ``-Instruct``; or the path of a ``.toml`` (as in ``workloads/models/architectures``), of a Hugging Face
        ``config.json``, or of a folder that holds one. An existing folder wins over a name with an owner.

    Raises
    ------
    ValueError
        for an unknown name (with the closest ones), and for a file that cannot be understood or is not modelled.

    Examples
    --------
    >>> load("meta-llama/Llama-2-13b-hf").name
    'llama-2-13b'
    """
    name, path = str(name_or_path), Path(name_or_path).expanduser()
    if path.suffix == ".toml":
        return from_toml(path)
    if path.suffix == ".json":
        return from_config(path)
    is_path = isinstance(name_or_path, Path) or name.startswith(("/", ".", "~")) or name.count("/") > 1
    if is_path or ("/" in name and path.is_dir()):
        return from_config(path / "config.json")
    if "/" not in name and (shipped := SHIPPED / f"{name}.toml").is_file():
        return from_toml(shipped)
    return from_toml(SHIPPED / f"{_shipped_name(name)}.toml")


def _shipped_name(name: str) -> str:
    """Return which architecture a name means; ValueError with the closest names if none."""
    key = _key(name)
    names = _names()
    if key in names:
        return names[key]
    close = dict.fromkeys(names[match] for match in get_close_matches(key, names, n=5, cutoff=0.5))
    hint = f"closest: {', '.join(close)}" if close else f"shipped: {', '.join(available())}"
    raise ValueError(
        f"unknown model {name!r}; {hint}; "
        "allowed too: the path of a .toml, of a Hugging Face config.json, or of its folder"
    )


def _key(name: str) -> str:
    """Reduce a name to what tells shapes apart: no owner, no words without shape, no dash before a number.

    >>> _key("meta-llama/Meta-Llama-3.1-8B-Instruct"), _key("llama3.1-8b")
    ('llama3.1-8b', 'llama3.1-8b')
    """
    words = re.split(r"[-_ ]+", name.lower().rpartition("/")[2])
    key = "-".join(word for word in words if word not in _WORDS_WITHOUT_SHAPE)
    return re.sub(r"(?<=[a-z])-(?=[0-9])", "", key)


@lru_cache(maxsize=1)
def _names() -> dict[str, str]:
    """Return key -> shipped name, over names and aliases."""
    names = {_key(name): name for name in available()}
    for name in available():
        names |= {_key(alias): name for alias in read_toml(SHIPPED / f"{name}.toml").get("aliases", [])}
    return names
