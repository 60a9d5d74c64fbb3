"""A function at every point of a grid: on the cores of this machine or a cluster, resumable, always the same bytes."""

from experiments.grid.sweep import Interrupted, Outcome, sweep, table
from experiments.grid.where import HERE, Where, kept

__all__ = ["HERE", "Interrupted", "Outcome", "Where", "kept", "sweep", "table"]
