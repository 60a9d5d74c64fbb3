"""The notebooks are in step with their texts, run without a warning, and show figures that move with their sliders."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from experiments.notebooks.pairs import TEXTS, notebook
from workloads import datasets

ROOT = Path(__file__).parents[2]
PICTURE = re.compile(r'<img alt="[^"]{40,}"[^>]* src="data:image/png;base64,')


@pytest.fixture(autouse=True)
def jupyter():
    """Skip where the packages are missing, unless a complete machine is promised."""
    missing = [name for name in ("jupytext", "nbclient", "ipywidgets", "ipykernel") if find_spec(name) is None]
    if missing and os.environ.get("ROOFSERVE_REQUIRE_SHARED") == "1":
        pytest.fail(f"ROOFSERVE_REQUIRE_SHARED=1, but {', '.join(missing)} is missing: pip install -e '.[dev]'")
    if missing:
        pytest.skip(f"{', '.join(missing)} is missing: pip install -e '.[dev]'")


def executed(text: Path, folder: Path) -> dict[str, Any]:
    """Return the notebook as it is after a run of all cells under the quick setting."""
    done = subprocess.run(
        [sys.executable, "tests/run_notebook.py", text.with_suffix(".ipynb"), folder / "executed.ipynb"],
        cwd=ROOT,
        env=os.environ | {"ROOFSERVE_QUICK": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "executed.ipynb").read_text(encoding="utf-8"))


def test_there_are_six_notebooks():
    assert [text.stem[:2] for text in TEXTS] == ["01", "02", "03", "04", "05", "06"]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem)
def test_a_notebook_is_its_text_and_nothing_else(text):
    assert text.with_suffix(".ipynb").read_text(encoding="utf-8") == notebook(text), (
        "run `python -m experiments.notebooks.pairs`"
    )
    cells = json.loads(notebook(text))["cells"]
    assert "# %%" not in "".join("".join(cell["source"]) for cell in cells)
    assert sum(cell["cell_type"] == "markdown" for cell in cells) >= 4
    assert any("interact(" in "".join(cell["source"]) for cell in cells)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem)
def test_a_notebook_runs_without_a_warning_and_its_figures_are_described(text, tmp_path, shared):
    book = executed(text, tmp_path)
    outputs = [output for cell in book["cells"] for output in cell.get("outputs", [])]
    states = book["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]["state"].values()
    # What a slider shows is not in a cell, and neither are its errors.
    moved = [output for state in states for output in state["state"].get("outputs", [])]
    assert moved
    for output in outputs + moved:
        assert output["output_type"] != "error", output
        assert output.get("name") != "stderr", output["text"]
    shown = ["".join(output["data"].get("text/html", "")) for output in outputs if "data" in output]
    assert sum(bool(PICTURE.match(html)) for html in shown) >= 1
    assert all(PICTURE.match(html) for html in shown if "<img" in html)


def test_without_the_trace_a_generated_workload_stands_in(monkeypatch, capsys):
    def missing(name, **settings):
        raise ValueError(f"{name} cannot be downloaded")

    monkeypatch.setattr(datasets, "load", missing)
    monkeypatch.setenv("ROOFSERVE_QUICK", "1")
    (text,) = [text for text in TEXTS if text.stem == "04_prefix_cache"]
    cells = [cell["source"] for cell in json.loads(notebook(text))["cells"] if cell["cell_type"] == "code"]
    names: dict[str, object] = {}
    for cell in cells[:4]:
        exec("".join(cell), names)
    assert "A generated workload stands in" in capsys.readouterr().out
    assert names["scenario"].workload.segments is not None
    assert names["known"] > 0.2 * names["trace"].prompt_tokens.sum()
