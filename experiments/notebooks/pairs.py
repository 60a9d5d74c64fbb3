"""Which notebooks there are, and how the text of one becomes the file that Jupyter opens.

``python -m experiments.notebooks.pairs`` writes every .ipynb anew from its .py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TEXTS = tuple(sorted(Path(__file__).parent.glob("[0-9]*.py")))
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


def notebook(text: Path) -> str:
    """Return the notebook of a text in jupytext's percent format: without outputs, equal bytes for equal texts."""
    import jupytext

    cells = [_cell(number, cell.cell_type, cell.source) for number, cell in enumerate(jupytext.read(text).cells)]
    metadata = {"jupytext": {"formats": "ipynb,py:percent"}, "kernelspec": KERNEL}
    whole = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _cell(number: int, kind: str, source: str) -> dict[str, Any]:
    code: dict[str, Any] = {"execution_count": None, "outputs": []} if kind == "code" else {}
    shared = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": source.splitlines(keepends=True)}
    return shared | code


if __name__ == "__main__":
    for text in TEXTS:
        text.with_suffix(".ipynb").write_text(notebook(text), encoding="utf-8")
