"""A figure that a notebook shows by itself, and that says in words what it shows."""

from __future__ import annotations

import base64
import html
import io

from matplotlib.figure import Figure

DOTS_PER_INCH = 144
"""On screens; twice what a browser assumes, so that lines are sharp."""


class Drawing(Figure):
    """A matplotlib figure; its headings are the alternative text unless `alt` says more."""

    alt: str = ""

    def _repr_html_(self) -> str:
        headings = [
            text.get_text().replace("\n", " ") for text in self.texts if text.get_gid() in ("title", "subtitle")
        ]
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=DOTS_PER_INCH)
        picture = base64.b64encode(file.getvalue()).decode()
        width = round(self.get_figwidth() * DOTS_PER_INCH / 2 * 4 / 3)
        alt = html.escape(self.alt or ". ".join(headings).replace("\n", " "))
        return f'<img alt="{alt}" style="max-width:100%" width="{width}" src="data:image/png;base64,{picture}">'
