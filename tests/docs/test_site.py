"""The documentation: it builds without a warning, opens offline, and what it tells people to type works."""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.run import app

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
UNITS = r"_(seconds|ticks|bytes|tokens|blocks|watts|flops)$|_per_(second|hour)$"
PUBLIC = (
    ("sim.scenario", "Scenario"),
    ("sim.results.result", "Result"),
    ("sim.results.stability", "Verdict"),
    ("sim.scheduling.batch", "Limits"),
    ("sim.engine.clock", "IterationClock"),
    ("sim.physics.iteration", "Totals"),
    ("sim.physics.roofline", "Rate"),
    ("sim.physics.roofline", "Operator"),
    ("sim.physics.precision", "Precision"),
    ("hardware_profiles.profile", "HardwareProfile"),
    ("hardware_profiles.profile", "Memory"),
    ("hardware_profiles.profile", "Link"),
    ("workloads.trace", "Trace"),
)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.S | re.M)


def commands(page: Path) -> list[list[str]]:
    """Return what a page tells to type, without the program."""
    lines = "\n".join(blocks(page, "console")).splitlines()
    return [shlex.split(line.split("experiments.run ")[1]) for line in lines if "-m experiments.run " in line]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="the documentation is built with the extra `docs`")
    out = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False, env=quiet)
    assert done.returncode == 0, done.stderr
    return out


def test_the_site_builds_and_every_page_is_there(site: Path):
    for page in PAGES:
        assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).exists(), page
    for generated in ("cli", "chips", "models", "systems", "scoreboard"):
        assert (site / "reference" / f"{generated}.html").exists()


def test_the_site_is_whole_without_a_network(site: Path):
    for page in site.rglob("*.html"):
        text = page.read_text()
        fetched = re.findall(r"<(?:script|img|iframe)[^>]* src=\"(?:https?:)?//|<link[^>]* href=\"https?://", text)
        assert not fetched, page


def test_equations_need_no_script(site: Path):
    page = (site / "explanation" / "roofline.html").read_text()
    assert page.count("<math") >= 10
    assert "\\[" not in page
    assert "\\text" not in page


def test_the_reference_has_every_command_and_every_option(site: Path):
    page = (site / "reference" / "cli.html").read_text()
    for name in app.resolved_commands():
        if not name.startswith("-"):
            assert f"roofserve {name}" in page, name
    assert "--slo-ttft" in page


def test_docstrings_become_lists(site: Path):
    page = (site / "reference" / "api.html").read_text()
    assert "<code>arrival_seconds</code>: (requests,) since the start of the trace" in page
    assert "----" not in re.sub(r"<(code|style|script)[^>]*>.*?</\1>", "", page, flags=re.S)


PYTHON = [(page, block) for page in PAGES for block in blocks(page, "python")]


@pytest.mark.parametrize(("page", "block"), PYTHON, ids=[str(page.relative_to(ROOT)) for page, _ in PYTHON])
def test_python_blocks_run(page: Path, block: str):
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


TYPED = [(page, tokens) for page in PAGES for tokens in commands(page)]


@pytest.mark.parametrize(("page", "tokens"), TYPED, ids=[" ".join(tokens)[:80] for _, tokens in TYPED])
def test_commands_are_understood(page: Path, tokens: list[str]):
    command, _, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    assert command.__name__


@pytest.mark.parametrize("tokens", commands(ROOT / "docs" / "tutorial.md"), ids=" ".join)
def test_the_tutorial_works_word_for_word(tokens: list[str], tmp_path: Path):
    where = [] if "roofline" in tokens else ["--out", str(tmp_path / "results")]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.run", *tokens, *where],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_every_public_quantity_is_in_the_nomenclature_and_the_other_way_round():
    page = (ROOT / "docs" / "reference" / "nomenclature.md").read_text()
    named = set(re.findall(r"`(\w+)`", page))
    known = set()
    for module, name in PUBLIC:
        kind = getattr(importlib.import_module(module), name)
        known |= {field.name for field in dataclasses.fields(kind)}
        known |= {key for key in vars(kind) if not key.startswith("_")}
    missing = {name for name in known if re.search(UNITS, name)} - named
    assert not missing, f"not in the nomenclature: {sorted(missing)}"
    source = "\n".join(
        path.read_text()
        for package in ("sim", "workloads", "hardware_profiles")
        for path in (ROOT / package).rglob("*.py")
    )
    for name in named:
        assert re.search(rf"\b{name}\b", source), f"{name} is in the nomenclature only"
