"""A function at every point of a grid: on the cores of this machine or a cluster, resumable, always the same bytes."""

from experiments.grid.identity import stamp
from experiments.grid.replays import replay_of, row_of
from experiments.grid.stored import Row
from experiments.grid.sweep import Interrupted, Outcome, sweep, table
from experiments.grid.where import HERE, Where, forget, keeping

__all__ = [
    "HERE",
    "Interrupted",
    "Outcome",
    "Row",
    "Where",
    "forget",
    "keeping",
    "replay_of",
    "row_of",
    "stamp",
    "sweep",
    "table",
]
