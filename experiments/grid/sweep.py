"""Run a function at every point of a grid: read what is finished, compute what is left, record what fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.grid import identity, stored
from experiments.grid.batches import Batches, Done, Task
from experiments.grid.pools import on_cluster, on_cores
from experiments.grid.stored import Row
from experiments.grid.where import HERE, Where
from experiments.shown.console import progress

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Outcome:
    """What came out at one point: rows, or the text of an error."""

    point: Mapping[str, Any]
    rows: Sequence[Row]
    error: str | None = None

    @property
    def row(self) -> Row:
        """The only row.

        Raises
        ------
        ValueError
            If the point failed, with its error, or has not one row.
        """
        self.check()
        (only,) = self.rows
        return only

    def check(self) -> None:
        """Raise the error of a point that failed, as a ValueError."""
        if self.error is not None:
            raise ValueError(f"{self.error.removeprefix('ValueError: ')} (at {_words(self.point)})")


class Interrupted(KeyboardInterrupt):
    """Somebody stopped a sweep; `outcomes` has what was finished, in the order of the points."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        """Keep what was finished."""
        super().__init__()
        self.outcomes = outcomes


def sweep(
    function: Callable[..., Any],
    points: Sequence[Mapping[str, Any]],
    where: Where = HERE,
    *,
    seed: int | None = None,
    seeded_by: Sequence[str] | None = None,
    together: Sequence[str] = (),
    advance: Callable[[float], None] | None = None,
    title: str = "simulating",
) -> list[Outcome]:
    """Call ``function(**point)`` at every point and return what came out, in the order of the points.

    The bytes are the same whoever computes, in whatever order, and however often it was killed in between.

    Parameters
    ----------
    function : at the top of a module, or a `functools.partial` of such a one. It returns a row or a list of rows, each
        a mapping from names to numbers, texts, None or one-dimensional arrays, and depends on nothing but its
        parameters. What it raises is recorded as the result of the point. When its file or this program changes,
        nothing that was kept counts any longer; other modules of your own that it calls are not looked at.
    points : parameters; numbers, texts, paths, sequences, mappings and dataclasses.
    where : who computes, and which folder keeps what is finished. Points found there are not computed again unless
        they had failed.
    seed : the root of all random numbers; `function` then takes a `seed`, a `numpy.random.SeedSequence` of the point.
    seeded_by : parameters that the random numbers depend on; None for all. Points that agree in these see the same.
    together : parameters that what is expensive to make depends on, if `function` remembers it (`functools.lru_cache`):
        points that agree in them are computed one after another by the same worker.
    advance : called with the share of the points that are done; None for a bar on the terminal.
    title : of the bar.

    Raises
    ------
    ValueError
        If a parameter cannot be written down, or the cluster does not answer or runs other code.
    Interrupted
        On Ctrl-C, with what is finished.
    """
    tasks = [_task(place, point, seed, seeded_by, together) for place, point in enumerate(points)]
    paths = _paths(function, tasks, where.resume)
    found = {place: stored.read(path) for place, path in paths.items()}
    contents = {place: content for place, content in found.items() if content is not None}
    left = _side_by_side([task for task in tasks if task.place not in contents])
    try:
        with progress(title) if advance is None else nullcontext(advance) as moved:
            moved(len(contents) / max(1, len(tasks)))
            for done in _computed(function, left, where):
                if done.place in paths:
                    stored.write(paths[done.place], done.content)
                contents[done.place] = done.content
                moved(len(contents) / len(tasks))
    except KeyboardInterrupt:
        raise Interrupted(_outcomes(points, contents)) from None
    return _outcomes(points, contents)


def rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """Return the rows of all points, where none may fail.

    Raises
    ------
    ValueError
        If one has, with its error.
    """
    found: list[Row] = []
    for outcome in outcomes:
        outcome.check()
        found += outcome.rows
    return found


def table(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Return one row for each row of each point: its parameters, what came out, and in the end `error`.

    A point that failed has one row with nothing but parameters and the text of its error.
    """
    import pandas as pd

    rows = [
        {**_scalars(outcome.point), **row, "error": outcome.error}
        for outcome in outcomes
        for row in (outcome.rows or ([{}] if outcome.error is not None else []))
    ]
    names = dict.fromkeys(name for row in rows for name in row if name != "error")
    return pd.DataFrame(rows, columns=[*names, "error"])


def _task(
    place: int, point: Mapping[str, Any], seed: int | None, seeded_by: Sequence[str] | None, together: Sequence[str]
) -> Task:
    names = tuple(point) if seeded_by is None else seeded_by
    spawned = None if seed is None else identity.seed_of(seed, point, names)
    return Task(place, dict(point), spawned, repr([identity.canonical(point.get(name)) for name in together]))


def _paths(function: Callable[..., Any], tasks: Sequence[Task], folder: Path | None) -> dict[int, Path]:
    """Return where each point is kept, by its place; nothing without a folder."""
    if folder is None:
        return {}
    called = identity.of_function(function)
    return {task.place: folder / f"{identity.key(called, task.point, task.seed)}.parquet" for task in tasks}


def _side_by_side(tasks: Sequence[Task]) -> list[Task]:
    """Return the tasks with those of one machine together, machines in order of appearance."""
    order = {machine: place for place, machine in enumerate(dict.fromkeys(task.machine for task in tasks))}
    return sorted(tasks, key=lambda task: order[task.machine])


def _computed(function: Callable[..., Any], left: list[Task], where: Where) -> Iterator[Done]:
    if not left:
        return iter(())
    run = on_cores if where.cluster is None else partial(on_cluster, address=where.cluster)
    return run(function, Batches(left, where.workers or 1), where.workers)


def _outcomes(points: Sequence[Mapping[str, Any]], contents: Mapping[int, bytes]) -> list[Outcome]:
    known = ((points[place], stored.decode(contents[place])) for place in sorted(contents))
    return [Outcome(point, rows, error) for point, (rows, error) in known]


def _scalars(point: Mapping[str, Any]) -> Row:
    """Return parameters for a table: what is no number or text as its canonical form."""
    return {
        name: value if value is None or isinstance(value, bool | int | float | str) else str(identity.canonical(value))
        for name, value in point.items()
    }


def _words(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in _scalars(point).items())
