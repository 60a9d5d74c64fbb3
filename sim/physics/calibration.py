"""Constants measured on one chip: where they are kept, how they are read, and which rows each of them never saw."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from hardware_profiles import available as available_hardware
from hardware_profiles import load as load_hardware
from hardware_profiles.profile import HardwareProfile
from sim.physics.efficiency import RATES, STACKS, Efficiency, datasheet, generic
from sim.physics.links import Links, Nccl, nccl_alone
from sim.physics.roofline import Rate

LEVELS = ("datasheet", "generic", "calibrated")
FOLDS = 5
"""Parts into which measured rows are divided; the constants of fold i were fitted without part i."""

CALIBRATED = Path(__file__).with_name("calibrated")

SERVER = "server"
"""What a calibration file tells of the server that was replayed for it: for the reader alone."""

TILES = "mixed_tile_tokens"

_NCCL_FIELDS = tuple(field.name for field in fields(Nccl) if field.name != "source")
_LINK_FIELDS = tuple(field.name for field in fields(Links))


def load(level: str, hardware: str | HardwareProfile, stack: str | None = None) -> Efficiency:
    """Return the constants of that level for a chip.

    Parameters
    ----------
    level : one of `LEVELS`, or the path of a TOML file that `python -m experiments.run calibrate` wrote.
    stack : one of `STACKS`, whose kernels run. What was calibrated with other kernels alone is taken as it is, and so
        is what comes first for None; operators without calibration keep the generic constants.

    Raises
    ------
    ValueError
        For an unknown level, and for a chip that nobody calibrated, naming those that were.

    >>> load("generic", "l20").level
    'generic'
    """
    if level.endswith(".toml"):
        return read(Path(level))[0]
    if level not in LEVELS:
        raise ValueError(
            f"efficiency {level!r} is unknown; allowed are {', '.join(LEVELS)}, or a calibrated .toml file"
        )
    if level != "calibrated":
        return datasheet() if level == "datasheet" else generic(_profile(hardware), stack)
    name = _profile(hardware).name
    path = find(name, stack)
    if path is None:
        known = ", ".join(available())
        raise ValueError(
            f"nobody calibrated {name!r}; calibrated are {known}; allowed: generic, or the .toml that `calibrate` makes"
        )
    return read(path)[0]


def _profile(hardware: str | HardwareProfile) -> HardwareProfile:
    return load_hardware(hardware) if isinstance(hardware, str) else hardware


def find(hardware: str, stack: str | None = None) -> Path | None:
    """Return the shipped file for a chip, of that stack or else of the first there is; None where there is none."""
    paths = (CALIBRATED / f"{hardware}-{name}.toml" for name in (*((stack,) if stack else ()), *STACKS))
    return next((path for path in paths if path.is_file()), None)


def available() -> tuple[str, ...]:
    """Return the shipped calibrations as ``chip-stack``, sorted."""
    return tuple(sorted(path.stem for path in CALIBRATED.glob("*.toml")))


def read(path: Path) -> tuple[Efficiency, ...]:
    """Return the constants of a calibration file, then those of every fold, `1 + FOLDS` in all.

    What the file lacks is generic, or comes from the shipped file that it names as its `rest`, fold by fold.

    Raises
    ------
    ValueError
        The file cannot be read, or has unknown or impossible entries.
    """
    table = _table(path)
    constants = {name: value for name, value in table.items() if isinstance(value, dict) and name != SERVER}
    measured = f"calibrated: {', '.join(constants)} on {table.get('title', path.stem)}"
    try:
        bases = _bases(table)
        return tuple(
            _with(replace(base, level=measured, fitted=base.fitted | frozenset(constants)), constants, fold)
            for base, fold in zip(bases, (None, *range(FOLDS)), strict=True)
        )
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def _bases(table: Mapping[str, Any]) -> tuple[Efficiency, ...]:
    name = table.get("rest")
    if name is None:
        hardware = table.get("hardware")
        chip = load_hardware(hardware) if hardware in available_hardware() else None
        return (generic(chip, table.get("stack")),) * (1 + FOLDS)
    if name not in available():
        raise ValueError(f"rest {name!r} is no shipped calibration; allowed are {', '.join(available())}")
    bases = read(CALIBRATED / f"{name}.toml")
    if math.isfinite(generic(stack=table.get("stack")).links.one_shot_seconds):
        return bases
    return tuple(replace(base, links=nccl_alone(base.links)) for base in bases)


def calibrated(path: Path) -> tuple[str, ...]:
    """Return the names of the constants that a calibration file has."""
    return tuple(name for name, value in _table(path).items() if isinstance(value, dict) and name != SERVER)


def _table(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a calibration: {error}") from None
    allowed = (*RATES, TILES, "links", "nccl", "host", SERVER)
    if unknown := sorted(name for name, value in table.items() if isinstance(value, dict) and name not in allowed):
        raise ValueError(f"{path}: unknown constants {', '.join(unknown)}; allowed are {', '.join(allowed)}")
    return table


def _with(base: Efficiency, constants: Mapping[str, Mapping[str, Any]], fold: int | None) -> Efficiency:
    values: dict[str, Any] = {}
    for name, entry in constants.items():
        numbers = entry if fold is None else {**entry, **entry["folds"][fold]}
        if name == TILES:
            values[name] = int(numbers["tokens"])
        elif name == "links":
            given = {key: numbers[key] for key in _LINK_FIELDS if key in numbers}
            values[name] = replace(base.links, **given)
        elif name == "host":
            values["host_seconds"] = float(numbers["seconds"])
        elif name == "nccl":
            given = {key: numbers[key] for key in _NCCL_FIELDS if key in numbers}
            values[name] = replace(base.nccl, **given, source=str(entry["source"]))
        else:
            rate: Rate = getattr(base, name)
            given = {key: numbers[key] for key in rate.numbers if key in numbers}
            values[name] = type(rate)(**given, source=str(entry["source"]))
    return replace(base, **values)
