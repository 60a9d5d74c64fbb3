"""A function at every point of a grid: on the cores of this machine or a cluster, resumable, always the same bytes."""

from experiments.grid.identity import stamp
from experiments.grid.replays import replay_of, row_of
from experiments.grid.stored import Row
from experiments.grid.sweep import Interrupted, Outcome, rows, sweep, table
from experiments.grid.where import HERE, Where, forget, keeping, points_folder

__all__ = [
    "HERE",
    "Interrupted",
    "Outcome",
    "Row",
    "Where",
    "forget",
    "keeping",
    "points_folder",
    "replay_of",
    "row_of",
    "rows",
    "stamp",
    "sweep",
    "table",
]
