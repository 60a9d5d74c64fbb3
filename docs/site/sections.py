"""How docstrings of this project become pages: their underlined sections as bold titles, their entries as lists."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension

_SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}\n", re.M)
_ENTRY = re.compile(r"^(?=\S)(.+?) : ", re.M)


class Sections(Extension):
    """Rewrite every docstring before it is rendered."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = rewritten(obj.docstring.value)


def rewritten(text: str) -> str:
    """Return a docstring as Markdown.

    >>> print(rewritten("Do.\\n\\nParameters\\n----------\\nx, y : sides [m]\\n    of a box."))
    Do.
    <BLANKLINE>
    **Parameters**
    <BLANKLINE>
    - `x, y`: sides [m]
        of a box.
    """
    head, *rest = _SECTION.split(text)
    pages = [_code(head)]
    for title, body in zip(rest[::2], rest[1::2], strict=True):
        if title in ("Parameters", "Attributes"):
            body = _ENTRY.sub(lambda entry: f"- `{entry[1]}`: ", body)
        pages.append(f"**{title}**\n\n{_code(body)}")
    return "\n".join(pages).rstrip()


def _code(text: str) -> str:
    """Fence doctests, so that what they print is not read as Markdown."""
    return re.sub(r"(^>>> .*(?:\n(?!\s*$).*)*)", lambda found: f"```pycon\n{found[1]}\n```", text, flags=re.M)
