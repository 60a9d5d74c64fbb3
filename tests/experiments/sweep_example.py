"""A small sweep as a program of its own, for tests that kill it: FOLDER WORKERS OUT."""

from __future__ import annotations

import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from experiments import grid

POINTS = [{"chip": chip, "load": load} for load in range(20) for chip in ("a", "b")]


@lru_cache(maxsize=2)
def machine(chip: str) -> int:
    time.sleep(0.02)
    return ord(chip)


def waits(chip: str, load: int, seed: np.random.SeedSequence) -> list[dict[str, Any]]:
    time.sleep(0.01)
    if load == 7 and chip == "b":
        raise ValueError("chip b does not like 7")
    draws = np.random.default_rng(seed).exponential(1 / (1 + load), 50)
    rows = {"seen": load * machine(chip), "mean": draws.mean(), "sample": draws, "name": f"{chip}{load}"}
    return [{**rows, "part": part, "odd": None if load % 2 else load} for part in range(2)]


def answer(where: grid.Where) -> bytes:
    outcomes = grid.sweep(waits, POINTS, where, seed=5, together=["chip"], advance=lambda _: None)
    return grid.table(outcomes).to_json(orient="records", double_precision=15).encode()


def main() -> None:
    folder, workers, out = sys.argv[1:]
    Path(out).write_bytes(answer(grid.Where(workers=int(workers), resume=Path(folder))))
