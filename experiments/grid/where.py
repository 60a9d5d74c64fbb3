"""Where the points of a grid are computed and kept: processes, a cluster, and a folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


@dataclass(frozen=True)
class Where:
    """Who computes, and where what is finished is kept; no result depends on it.

    Raises
    ------
    ValueError
        If a value is not allowed.
    """

    workers: Annotated[
        int | None,
        Parameter(help="processes that share the work [default: one a core, or none if it is done in seconds]"),
    ] = None
    cluster: Annotated[
        str | None,
        Parameter(
            help="tcp://HOST:PORT: scheduler of a Dask cluster that does the work instead (needs roofserve[cluster])"
        ),
    ] = None
    resume: Annotated[
        Path | None,
        Parameter(
            help="folder that keeps every finished point, for this and for later runs [default: under results, until "
            "the command has ended]"
        ),
    ] = None

    def __post_init__(self) -> None:
        """Check the values."""
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"--workers is {self.workers}; allowed: a whole number, at least 1")
        if self.cluster is not None and "://" not in self.cluster:
            raise ValueError(f"--cluster is {self.cluster}; allowed: the address of a Dask scheduler, tcp://HOST:PORT")
        if self.cluster is not None and self.workers is not None:
            raise ValueError(
                f"--workers is {self.workers} beside --cluster; allowed: one of them, a cluster has its own"
            )
        if self.resume is not None and self.resume.exists() and not self.resume.is_dir():
            raise ValueError(f"--resume is {self.resume}, a file; allowed: a folder")


HERE = Where()


def points_folder(name: str, out: Path | None) -> Path:
    """Return where a command keeps finished points while it lasts: beside its results."""
    folder = out or Path("results") / name
    return folder.with_name(f".{folder.name}.points")


def keeping(where: Where, folder: Path) -> Where:
    """Return the same with finished points kept in `folder`, unless the user named one.

    So whoever is interrupted or killed and asks the same again continues; `forget` ends it.
    """
    return where if where.resume is not None else replace(where, resume=folder)


def forget(where: Where, kept: Where) -> None:
    """Remove what `keeping` made, so that nothing piles up; what the user named (in `where`) stays."""
    if where.resume is None and kept.resume is not None:
        shutil.rmtree(kept.resume, ignore_errors=True)
