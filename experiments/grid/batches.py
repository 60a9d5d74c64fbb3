"""Points of a grid in batches that take about a second each, so that sending them costs little."""

from __future__ import annotations

import math
import time
from bisect import insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.grid import stored

SECONDS = 1.2
"""What a batch should take [s]."""

ENOUGH = 3
"""Points that tell how long the others take."""


@dataclass(frozen=True)
class Task:
    """One point to compute.

    Attributes
    ----------
    place : in the grid.
    point : parameters of the function.
    seed : for its parameter `seed`; None if it takes none.
    machine : points of which share something that is expensive to make.
    """

    place: int
    point: Mapping[str, Any]
    seed: np.random.SeedSequence | None
    machine: Any = None


@dataclass(frozen=True)
class Done:
    """One point computed: its Parquet file, whether it failed, and how long it took [s]."""

    place: int
    content: bytes
    failed: bool
    seconds: float


def compute(function: Callable[..., Any], tasks: Sequence[Task]) -> list[Done]:
    """Compute points; whatever a function raises becomes the result of that point."""
    return [_compute(function, task) for task in tasks]


def _compute(function: Callable[..., Any], task: Task) -> Done:
    begin = time.perf_counter()
    given = {} if task.seed is None else {"seed": task.seed}
    failed = False
    try:
        rows = function(**task.point, **given)
        content = stored.encode([rows] if isinstance(rows, Mapping) else list(rows))
    except Exception as error:
        content, failed = failure(f"{type(error).__name__}: {error}"), True
    return Done(task.place, content, failed, time.perf_counter() - begin)


def failure(text: str) -> bytes:
    """Return what is kept of a point that failed."""
    return stored.encode([], text)


@dataclass
class Batches:
    """Hands out the tasks that are left, as many at once as take about `SECONDS`, never across machines.

    Towards the end they become smaller, so that all workers end together.
    """

    left: list[Task]
    workers: int
    times: list[float] = field(default_factory=list)
    out: dict[int, Task] = field(default_factory=dict)

    def note(self, done: Done) -> None:
        """Learn from a finished point how long the others may take."""
        insort(self.times, done.seconds)
        self.out.pop(done.place, None)

    @property
    def seconds(self) -> float:
        """What a point takes [s]: the median, for the first ones also import and make things; 0 while unknown."""
        return self.times[len(self.times) // 2] if len(self.times) >= ENOUGH else 0.0

    @property
    def seconds_left(self) -> float:
        """What all tasks that are left would take one after another [s]."""
        return len(self.left) * self.seconds

    def __iter__(self) -> Iterator[list[Task]]:
        """Yield batches until nothing is left."""
        while self.left:
            yield self.take(self._size())

    def take(self, size: int) -> list[Task]:
        """Return the next batch of at most `size` tasks."""
        machine = self.left[0].machine
        same = next((place for place, task in enumerate(self.left) if task.machine != machine), len(self.left))
        batch, self.left = self.left[: min(size, same)], self.left[min(size, same) :]
        self.out |= {task.place: task for task in batch}
        return batch

    def _size(self) -> int:
        if not self.seconds:
            return 1
        fair = math.ceil(len(self.left) / (2 * self.workers))
        return max(1, min(fair, math.ceil(SECONDS / self.seconds)))
