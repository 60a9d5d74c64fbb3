"""One small comparison for all tests of its files, run as a user does."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Finished:
    """A run of the command line that has ended."""

    folder: Path
    printed: str


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("comparison") / "results"
    command = [sys.executable, "-m", "experiments.run", "sched_compare", "--quick", "--json", "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stderr == ""
    return Finished(folder, done.stdout)
