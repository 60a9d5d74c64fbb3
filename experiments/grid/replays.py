"""A run as a row of a sweep: everything that cannot be computed again from trace and machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from experiments.grid.stored import Row
from sim.engine.clock import AnyClock
from sim.engine.log import Iterations
from sim.engine.replay import Replay
from sim.results.result import Result

_LOG, _SIZES = "log.", "sizes."
_WIDTHS = {"gaps": 2, "chunks": 5, "pauses": 3, "idle": 2, "sights": 2}
"""Columns of the tables among the columns of a log."""


def row_of(result: Result) -> Row:
    """Return a run as a row of arrays and numbers; the logs of several replicas one behind the other."""
    logs = result.replay.logs
    columns: Row = {}
    for each in fields(Iterations):
        parts = [getattr(log, each.name).ravel() for log in logs]
        columns[_LOG + each.name] = np.concatenate(parts)
        columns[_SIZES + each.name] = np.array([len(part) for part in parts])
    for each in fields(Replay):
        if each.name not in ("logs", "clocks", "timings"):
            columns[each.name] = getattr(result.replay, each.name)
    return columns


def replay_of(row: Row, clocks: Sequence[AnyClock]) -> Replay:
    """Return what `row_of` wrote, of replicas with these clocks."""
    logs: list[dict[str, Any]] = [{} for _ in clocks]
    for each in fields(Iterations):
        ends = np.cumsum(row[_SIZES + each.name])
        parts = np.split(row[_LOG + each.name], ends[:-1])
        for log, part in zip(logs, parts, strict=True):
            log[each.name] = part.reshape(-1, _WIDTHS[each.name]) if each.name in _WIDTHS else part
    rest = {name: value for name, value in row.items() if not name.startswith((_LOG, _SIZES))}
    costs = tuple(clock.accounting for clock in clocks)
    return Replay(logs=tuple(Iterations(**log) for log in logs), clocks=costs, timings=tuple(clocks), **rest)
