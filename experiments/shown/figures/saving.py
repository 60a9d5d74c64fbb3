"""How figures become files."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.shown.files import written
from sim.figures.style import DOTS_PER_INCH

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save(figure: Figure, path_without_suffix: Path | str) -> list[Path]:
    """Write the figure as PNG and as SVG, each whole or not at all, equal bytes for equal figures.

    Returns
    -------
    The two paths, PNG first.
    """
    from matplotlib import rc_context

    base = Path(path_without_suffix)
    base.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
    # Glyphs as paths: text would be set in whatever font the reader has, and run into its neighbours.
    with rc_context({"svg.hashsalt": "roofserve", "svg.fonttype": "path"}):
        return [
            written(
                base.with_name(f"{base.name}.{kind}"),
                partial(figure.savefig, format=kind, dpi=DOTS_PER_INCH, metadata=meta, transparent=kind == "svg"),
            )
            for kind, meta in metadata.items()
        ]
