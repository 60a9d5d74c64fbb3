"""A report that anyone can open: one HTML file with its figures inside, and nothing from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from sim.figures.words import three_digits

if TYPE_CHECKING:
    import pandas as pd

_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_DECIMALS = re.compile(r"(\d\.\d\d)\d+")
_NUMBER = re.compile(r"[+\-−]?\d")
_BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:%|s|ms|req/s|requests/s)(?!\w))")
_LONG = 40  # characters, from which a cell may be broken into lines


def render(
    headline: str,
    scenario: list[tuple[str, str]],
    figures: list[tuple[str, str, str]],
    tables: list[tuple[str, pd.DataFrame]],
    notes: list[str],
    repeat: str,
    versions: dict[str, str],
) -> str:
    """Return the report as HTML.

    Parameters
    ----------
    headline : the finding, in a sentence.
    scenario : (what, value) pairs: chip, model, precision, ...
    figures : (SVG document, alternative text, sentence beneath) of each figure.
    tables : (caption, table) pairs. The first column names the row; the index is not shown. Numbers are given three
        significant digits, missing values a dash, text stays as it is.
    notes : what the simulator leaves out, and how wrong it has been.
    repeat : command and configuration that give the same numbers again.
    versions : versions and seeds, by name.

    Raises
    ------
    ValueError
        If a figure is not an SVG document.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = _unbroken
    return environment.get_template("report.html.j2").render(
        headline=headline,
        scenario=scenario,
        figures=[(inline(svg, f"f{i}-"), alt, sentence) for i, (svg, alt, sentence) in enumerate(figures, 1)],
        tables=[(caption, *_cells(table)) for caption, table in tables],
        notes=notes,
        repeat=repeat,
        versions=versions,
    )


def inline(svg: str, prefix: str) -> Any:
    """Return an SVG document as an element for HTML, with `prefix` before every id so that figures do not share any.

    What an HTML page does not need is left out: prolog, metadata, style sheets, the size in points, and decimals of
    coordinates beyond a hundredth of a point.

    Raises
    ------
    ValueError
        If the text is not an SVG document.
    """
    from markupsafe import Markup

    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError as error:
        raise ValueError(
            f"report: a figure is not an SVG document ({error}); allowed: SVG as matplotlib saves it"
        ) from None
    if _local(root.tag) != "svg":
        raise ValueError(f"report: a figure is a <{_local(root.tag)}> document; allowed: SVG as matplotlib saves it")
    for parent in list(root.iter()):
        for child in [child for child in parent if _local(child.tag) in ("metadata", "style", "script")]:
            parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(name): _attribute(_local(name), value, prefix) for name, value in element.items()}
        element.tail = None
        if element.tag not in ("text", "tspan"):
            element.text = None
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"aria-hidden": "true", "focusable": "false"}
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # parsed and written anew, so well formed


def _attribute(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return prefix + value
    if name == "href" and value.startswith("#"):
        return f"#{prefix}{value[1:]}"
    if name in ("d", "x", "y"):
        return _DECIMALS.sub(r"\1", value)
    return _REFERENCE.sub(rf"url(#{prefix}\1)", value)


def _local(name: str) -> str:
    """Return a name without its namespace, which HTML knows by itself."""
    return name.rpartition("}")[2]


def _cells(table: pd.DataFrame) -> tuple[list[tuple[str, str]], list[list[tuple[str, str]]]]:
    """Return the header and the rows as (text, class): columns are numbers if most of their cells begin with one."""
    rows = [[_text(value) for value in row] for row in table.itertuples(index=False, name=None)]
    classes = []
    for place, column in enumerate(zip(*rows, strict=True) if rows else [()] * len(table.columns)):
        told = [bool(_NUMBER.match(text)) for text in column if text not in ("", "–", "-")]
        classes.append("number" if place and 2 * sum(told) > len(told) else "")
    header = list(zip(map(str, table.columns), classes, strict=True))
    return header, [
        [
            (text, "long" if len(text) > _LONG and place else kind)
            for place, (text, kind) in enumerate(zip(row, classes, strict=True))
        ]
        for row in rows
    ]


def _unbroken(prose: str) -> str:
    """Return a text in which no line ends between a number and its unit.

    >>> _unbroken("5 % in 3 s").count(chr(0xA0))
    2
    """
    return _BEFORE_UNIT.sub("\u00a0", prose)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "–" if value != value else three_digits(value)
    return str(value)
