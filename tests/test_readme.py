"""What the README tells a newcomer to type works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.strip().removeprefix("python ").split("#")[0].split()
    for line in README.splitlines()
    if line.startswith("    python -m experiments.run")
]


def test_the_readme_names_the_two_commands_and_make_knows_them():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("run", "test"):
        assert f"    make {target}" in README
        assert f"\n{target}:" in makefile


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, flags=re.S))
def test_python_blocks_run(block):
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "prefill_first" in done.stdout


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_run(command, tmp_path, shared):
    if command[2] == "sched_compare":
        command = [*command, *([] if "--quick" in command else ["--quick"]), "--out", str(tmp_path / "results")]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert done.stdout.strip()
