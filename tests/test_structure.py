"""The house: who may import whom, what a user's machine gets, and that nothing names the place where it was built."""

from __future__ import annotations

import ast
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("hardware_profiles", "workloads", "sim", "experiments")
SHARED = ("experiments.grid", "experiments.shown")
ALLOWED = {
    "hardware_profiles": set(),
    "workloads": set(),
    "sim.physics": {"hardware_profiles", "workloads", "sim.physics"},
    "sim.scheduling": {"sim.scheduling"},
    "sim.engine": {"workloads", "sim.engine", "sim.scheduling", "sim.physics"},
    "sim.results": {"workloads", "sim.results", "sim.engine", "sim.scheduling", "sim.figures"},  # a result draws itself
    "sim": {"hardware_profiles", "workloads", "sim"},
    # What questions share knows no question.
    "experiments.asked": {"hardware_profiles", "workloads", "sim"},
    "experiments.tried": {"hardware_profiles", "workloads", "sim", "experiments.asked", *SHARED},
    "experiments.grid": {"hardware_profiles", "workloads", "sim", *SHARED},
    "experiments.scoreboard": {"hardware_profiles", "workloads", "sim"},
    "experiments": set(PACKAGES),
}


def modules() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def house(module: str) -> str:
    return next(name for name in sorted(ALLOWED, key=len, reverse=True) if f"{module}.".startswith(f"{name}."))


def imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = node.module not in ("sim", "experiments")
            found |= {node.module} if whole else {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_dependencies_run_one_way(path):
    here = house(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for name in imported(path):
        if name.split(".")[0] not in PACKAGES:
            continue
        allowed = ALLOWED[here] | {here}
        assert any(f"{name}.".startswith(f"{house}.") for house in allowed), f"{path.relative_to(ROOT)} imports {name}"


def test_names_in_prose_lead_somewhere():
    pattern = re.compile(r"`((?:hardware_profiles|workloads|sim|experiments)(?:\.\w+)+)`")
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    named = {(name, path) for path in (*modules(), *documents) for name in pattern.findall(path.read_text())}
    assert len(named) > 30
    for name, path in sorted(named):
        assert pkgutil.resolve_name(name) is not None, f"{path.relative_to(ROOT)} names {name}"


def test_only_the_engine_knows_simpy():
    for path in modules():
        if "simpy" in {name.split(".")[0] for name in imported(path)}:
            inside = path.relative_to(ROOT)
            # The benchmark times a bare SimPy program beside ours.
            assert inside.parts[:2] == ("sim", "engine") or inside == Path("experiments/benchmark.py"), path


def test_scheduling_and_physics_do_not_know_each_other_or_the_clock():
    for path in modules():
        parts = path.relative_to(ROOT).parts[:2]
        names = imported(path)
        if parts == ("sim", "scheduling"):
            assert not any(name.startswith(("sim.physics", "sim.engine", "simpy", "workloads")) for name in names), path
        if parts == ("sim", "physics"):
            assert not any(name.startswith(("sim.scheduling", "sim.engine", "simpy")) for name in names), path


def test_importing_the_simulator_needs_nothing_slow():
    code = (
        "import sys, sim\n"
        "slow = {'pandas', 'matplotlib', 'scipy.stats', 'pyarrow', 'rich', 'pooch'} & set(sys.modules)\n"
        "sys.exit(str(slow) if slow else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_wheel_has_the_four_packages_and_no_tests():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == [
        "sim",
        "hardware_profiles",
        "workloads",
        "experiments",
    ]
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").exists()


def test_the_project_speaks_of_itself_alone():
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=False)
    words = [str(ROOT.parent) + "/", str(Path.home()) + "/"]
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".j2", "") and path.is_file() and path.name != "LICENSE":
            text = path.read_text(errors="ignore")
            for word in words:
                assert word not in text, f"{name} names {word}"
