"""Rows of a table that belong together: what was measured, and the same by the cost model under any constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hardware_profiles import load as load_hardware
from hardware_profiles.profile import HardwareProfile
from sim.physics.calibration import FOLDS
from sim.physics.efficiency import Efficiency

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]
Goals = tuple[float | None, float | None]
"""Median error to reach with generic and with calibrated constants [%]; None where nothing was promised."""


@dataclass(frozen=True)
class Group:
    """Measured rows of one kind on one chip.

    Attributes
    ----------
    table, hardware, model : labels; `hardware` as the table writes it.
    chip, stack : profile, and whose kernels ran (see `sim.physics.efficiency.STACKS`).
    constant : field of `Efficiency` that these rows say something about; "" for sums of operators.
    goals : see `Goals`.
    seconds : the cost model under given constants, shape (rows,) [s].
    measured_seconds : shape (rows,) [s].
    folds : part of every row, 0 to FOLDS - 1, by its shape; None where calibration never uses such rows.
    """

    table: str
    hardware: str
    model: str
    chip: HardwareProfile
    stack: str
    constant: str
    goals: Goals
    seconds: Callable[[Efficiency], Floats]
    measured_seconds: Floats
    folds: npt.NDArray[np.int64] | None


@dataclass(frozen=True)
class Skipped:
    """Rows that cannot be scored, and why."""

    table: str
    hardware: str
    model: str
    rows: int
    reason: str


Found = list[Group | Skipped]


def stack_of(backend: str) -> str:
    """Return whose kernels a backend runs; what is not TensorRT-LLM is taken for vLLM (or plain PyTorch, its basis)."""
    return "trtllm" if backend.startswith("trtllm") else "vllm"


def folds(rows: pd.DataFrame, columns: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the part each row belongs to: equal shapes in the same part, in whatever table they stand."""
    import pandas as pd

    shapes = rows[list(columns)].astype(np.int64)
    hashed = pd.util.hash_pandas_object(shapes, index=False).to_numpy(dtype=np.uint64)
    return np.asarray(hashed % np.uint64(FOLDS), dtype=np.int64)


def floats(rows: pd.DataFrame, *columns: str) -> tuple[Floats, ...]:
    """Return columns as arrays."""
    return tuple(rows[column].to_numpy(dtype=np.float64) for column in columns)


def by(
    table: str, frame: pd.DataFrame, keys: Sequence[str], build: Callable[[HardwareProfile, pd.DataFrame], Found]
) -> Found:
    """Split a table by hardware and further keys, and build each part; what is unknown is reported, not fatal.

    Parameters
    ----------
    build : (chip, rows) -> groups; a ValueError in it says why the rows cannot be scored.
    """
    found: Found = []
    for values, rows in frame.groupby(["hw", *keys], observed=True, sort=True, dropna=False):
        name, *rest = (str(value) for value in values)
        try:
            found += build(load_hardware(name.rstrip("?")), rows)
        except ValueError as error:
            found.append(Skipped(table, name, " ".join(rest), len(rows), str(error)))
    return found
