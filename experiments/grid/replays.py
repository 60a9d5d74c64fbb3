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

_LOG, _SHAPE = "log.", "shape."


def row_of(result: Result) -> Row:
    """Return a run as a row of arrays and numbers; the logs of several replicas one behind the other."""
    logs = result.replay.logs
    columns: Row = {}
    for each in fields(Iterations):
        parts = [getattr(log, each.name) for log in logs]
        columns[_LOG + each.name] = np.concatenate([part.ravel() for part in parts])
        # How many rows each log has, and in the end the width of a table, 0 for a column.
        columns[_SHAPE + each.name] = np.array([*map(len, parts), *parts[0].shape[1:], 0][: len(parts) + 1])
    for each in fields(Replay):
        if each.name not in ("logs", "clocks", "timings"):
            columns[each.name] = getattr(result.replay, each.name)
    return columns


def replay_of(row: Row, clocks: Sequence[AnyClock]) -> Replay:
    """Return what `row_of` wrote, of replicas with these clocks."""
    logs: list[dict[str, Any]] = [{} for _ in clocks]
    for each in fields(Iterations):
        *rows, width = row[_SHAPE + each.name].tolist()
        parts = np.split(row[_LOG + each.name], np.cumsum(rows)[:-1] * max(1, width))
        for log, part in zip(logs, parts, strict=True):
            log[each.name] = part.reshape(-1, width) if width else part
    rest = {name: value for name, value in row.items() if not name.startswith((_LOG, _SHAPE))}
    rest["remarks"] = tuple(map(str, rest["remarks"]))
    costs = tuple(clock.accounting for clock in clocks)
    return Replay(logs=tuple(Iterations(**log) for log in logs), clocks=costs, timings=tuple(clocks), **rest)
