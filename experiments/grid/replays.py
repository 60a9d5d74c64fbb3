"""A run as a row of a sweep: everything that cannot be computed again from trace and machine."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from experiments.grid.stored import Row
from sim.engine.log import Iterations
from sim.engine.replay import Replay
from sim.results.result import Result

_LOG = "log."
_WIDTHS = {"gaps": 2, "chunks": 5, "pauses": 3, "idle": 2}
"""Columns of the tables among the columns of a log."""


def row_of(result: Result) -> Row:
    """Return a run of one replica as a row of arrays and numbers (ValueError if there are several replicas)."""
    log = result.iterations
    columns: Row = {_LOG + each.name: getattr(log, each.name).ravel() for each in fields(log)}
    for each in fields(Replay):
        if each.name not in ("logs", "clocks"):
            columns[each.name] = getattr(result.replay, each.name)
    return columns


def replay_of(row: Row, clock: Any) -> Replay:
    """Return what `row_of` wrote, of a machine with that clock."""
    names = [each.name for each in fields(Iterations)]
    columns = {name: row[_LOG + name] for name in names}
    columns |= {name: columns[name].reshape(-1, width) for name, width in _WIDTHS.items()}
    rest = {name: value for name, value in row.items() if not name.startswith(_LOG)}
    return Replay(logs=(Iterations(**columns),), clocks=(clock,), **rest)
