"""How far the cost model is from measured rows, at every level of evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from experiments.scoreboard.attention import attention_grid
from experiments.scoreboard.groups import Floats, Found, Group, Skipped
from experiments.scoreboard.kernels import gemm_grid, moe_grid
from experiments.scoreboard.layers import iteration, layer_ops
from experiments.scoreboard.links import comm
from experiments.scoreboard.mixed import attention_mixed
from sim.physics import calibration
from sim.physics.efficiency import Efficiency, datasheet, generic

if TYPE_CHECKING:
    import pandas as pd

READERS: dict[str, Callable[[pd.DataFrame], Found]] = {
    "gemm_grid": gemm_grid,
    "attention_grid": attention_grid,
    "attention_mixed": attention_mixed,
    "moe_grid": moe_grid,
    "comm": comm,
    "layer_ops": layer_ops,
    "iteration": iteration,
}
"""What makes groups of each table."""


@dataclass(frozen=True)
class Row:
    """One line of the scoreboard.

    Attributes
    ----------
    table, hardware, model : which measurements.
    level : ``"datasheet"``, ``"generic"``, ``"calibrated"``; ``"skipped"`` where nothing could be scored.
    n : measured rows.
    median_abs_pct, p90_abs_pct, bias_pct : median and 90th percentile of the absolute error, median of the signed one
        (positive: the model is too slow) [% of the measurement].
    goal_pct, met : median to reach, and whether it was; None without a goal.
    note : why rows were skipped, or what the level rests on.
    """

    table: str
    hardware: str
    model: str
    level: str
    n: int
    median_abs_pct: float | None = None
    p90_abs_pct: float | None = None
    bias_pct: float | None = None
    goal_pct: float | None = None
    met: bool | None = None
    note: str = ""


def rows_of(found: Found) -> list[Row]:
    """Score groups, in their order, at every level there is; see `Row`."""
    rows: list[Row] = []
    for group in found:
        if isinstance(group, Skipped):
            rows.append(Row(group.table, group.hardware, group.model, "skipped", group.rows, note=group.reason))
            continue
        try:
            rows += _levels(group)
        except ValueError as error:  # what the cost model refuses: a model that cannot be cut, a unit that is missing
            n = len(group.measured_seconds)
            rows.append(Row(group.table, group.hardware, group.model, "skipped", n, note=str(error)))
    return rows


def _levels(group: Group) -> list[Row]:
    rows = [
        _row(group, "datasheet", group.seconds(datasheet()), None),
        _row(group, "generic", group.seconds(generic(group.chip, group.stack)), group.goals[0]),
    ]
    calibrated = held_out_seconds(group)
    return rows if calibrated is None else [*rows, _row(group, "calibrated", calibrated, group.goals[1])]


def held_out_seconds(group: Group) -> Floats | None:
    """Return what the shipped constants of that chip say, for each row those that were fitted without its shape [s].

    None where nobody calibrated the chip for these operators.
    """
    path = calibration.find(group.chip.name, group.stack)
    sums = group.table in ("iteration", "attention_mixed")
    if path is None or (not sums and group.constant not in _names(path)):
        return None
    whole, *parts = _constants(path)
    if group.folds is None:
        return group.seconds(whole)
    return folded_seconds(group, parts)


# What ships does not change while a command runs, and every group asks for it.
_constants = cache(calibration.read)
_names = cache(calibration.calibrated)


def folded_seconds(group: Group, parts: list[Efficiency]) -> Floats:
    """Return the times under the constants of each row's own part, shape (rows,) [s]."""
    assert group.folds is not None
    times = np.empty_like(group.measured_seconds)
    for part, constants in enumerate(parts):
        mine = group.folds == part
        if mine.any():
            times[mine] = group.seconds(constants)[mine]
    return times


def errors_pct(seconds: Floats, measured_seconds: Floats) -> tuple[float, float, float]:
    """Return median and 90th percentile of the absolute error, and the median of the signed one [%]."""
    error = 100 * (seconds / measured_seconds - 1)
    size = np.abs(error)
    return float(np.median(size)), float(np.percentile(size, 90)), float(np.median(error))


def _row(group: Group, level: str, seconds: Floats, goal: float | None) -> Row:
    median, p90, bias = errors_pct(seconds, group.measured_seconds)
    met = None if goal is None else median <= goal
    place = group.table, group.hardware, group.model, level, len(seconds)
    return Row(*place, round(median, 2), round(p90, 2), round(bias, 2), goal, met)
