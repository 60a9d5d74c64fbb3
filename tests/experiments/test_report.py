from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from experiments.shown import figures, report

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """The elements of a page in order, and whether they nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append((self.open[-1] if self.open else "", data.strip()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def drawing(points: int = 3) -> str:
    import io

    figure = Figure(figsize=(7, 4.3))
    axes = figure.add_subplot()
    axes.plot(range(points), [i % 7 for i in range(points)], "o-")
    text = io.StringIO()
    figure.savefig(text, format="svg")
    return text.getvalue()


TABLE = pd.DataFrame(
    {"arm": ["a & b", "c"], "p99 [s]": [0.123456, float("nan")], "interval": ["1.2 s [1.1, 1.3]", "n too small"]}
)


def page(**change: object) -> str:
    arguments: dict[str, object] = {
        "headline": "In-flight batching cuts p99 ITL by 38 % <at> 72 % load",
        "scenario": [("chip", "2 x L20"), ("model", "Llama-2-13B")],
        "figures": [(drawing(), 'a "curve" that rises', "It rises."), (drawing(), "another", "It falls.")],
        "tables": [("Latencies", TABLE), ("Empty", TABLE.iloc[:0])],
        "notes": ["No tokeniser.", "Off by 12 %."],
        "repeat": "roofserve sched_compare\n\nseeds = [1, 2]",
        "versions": {"roofserve": "0.1.0", "seeds": "1-5"},
    } | change
    return report.render(**arguments)  # type: ignore[arg-type]


def test_the_page_is_well_formed_and_says_everything() -> None:
    text = page()
    parsed = Page(text)
    assert parsed.open == []
    for word in (
        "2 x L20",
        "Llama-2-13B",
        "No tokeniser.",
        "It rises.",
        "n too small",
        "0.123",
        "seeds = [1, 2]",
        "1-5",
    ):
        assert word in text


def test_nothing_is_fetched_and_nothing_runs() -> None:
    text = page()
    parsed = Page(text)
    assert not parsed.all("script")
    for _, attributes in parsed.elements:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
        assert not [name for name in attributes if name.startswith("on")]
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_ids_are_unique_and_every_reference_arrives() -> None:
    text = page()
    ids = [attributes["id"] for _, attributes in Page(text).elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"|aria-labelledby="([^"]+)"', text)
    assert wanted
    assert {name for names in wanted for name in names if name} <= set(ids)


def test_what_readers_of_screens_need_is_there() -> None:
    parsed = Page(page())
    assert parsed.all("html") == [{"lang": "en"}]
    assert [tag for tag, _ in parsed.elements if tag in ("header", "main", "footer")] == ["header", "main", "footer"]
    levels = [int(tag[1]) for tag, _ in parsed.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert set(levels[1:]) == {2}
    images = [a for tag, a in parsed.elements if a.get("role") == "img"]
    assert [a["aria-label"] for a in images] == ['a "curve" that rises', "another"]
    assert all(a.get("aria-hidden") == "true" for a in parsed.all("svg"))
    assert len(parsed.all("caption")) == len(parsed.all("table")) == 4
    assert all(a["scope"] in ("row", "col") for a in parsed.all("th"))
    assert parsed.all("meta")[1]["name"] == "viewport"


def test_text_is_escaped() -> None:
    text = page(notes=["<script>alert(1)</script>"])
    assert "<at>" not in text
    assert "<script" not in text
    assert "a &amp; b" in text


def test_numbers_have_three_digits_units_stay_and_gaps_are_dashes() -> None:
    text = page()
    assert '<td class="number">0.123</td>' in text
    assert '<td class="number">–</td>' in text
    assert "38\u00a0%" in text


def test_narrow_screens_paper_and_dark_rooms_are_provided_for() -> None:
    text = page()
    assert "@media print" in text
    assert "prefers-color-scheme: dark" in text
    scrolling = [a for _, a in Page(text).elements if "scroll" in (a.get("class") or "")]
    assert len(scrolling) == 2
    assert all(a["tabindex"] == "0" and a["role"] == "region" for a in scrolling)


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_colours_have_the_contrast_that_wcag_asks_for() -> None:
    schemes = re.findall(r":root \{([^}]*--page[^}]*)\}", page())
    assert len(schemes) == 3
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+): (#\w{6})", scheme))
        for ink in ("ink", "quiet", "accent"):
            for ground in ("page", "soft"):
                assert contrast(colours[ink], colours[ground]) >= 4.5


def test_inlined_figures_lose_weight_but_no_shape() -> None:
    svg = drawing(points=2000)
    inlined = str(report.inline(svg, "f1-"))
    assert len(inlined) < 0.95 * len(svg)
    assert len(re.findall("<use", inlined)) == len(re.findall("<use", svg))
    assert len(re.findall("<path", inlined)) == len(re.findall("<path", svg))
    assert "<metadata" not in inlined
    assert 'viewBox="0 0 504 309.6"' in inlined
    assert not re.search(r' (width|height)="[^"]*pt"', inlined)


@pytest.mark.parametrize("text", ["", "no drawing", "<html></html>", "<svg"])
def test_what_is_no_drawing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="report: a figure is"):
        page(figures=[(text, "alt", "sentence")])


def test_a_report_with_real_figures_stays_small(tmp_path: Path) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    arms = ("prefill_first", "inflight_batching")
    curves = {arm: (rng.lognormal(-2, 1, 20_000), None) for arm in arms}
    _, svg = figures.save(figures.survival(curves, "TTFT", "at 70 % load"), tmp_path / "survival")
    text = page(figures=[(svg.read_text(encoding="utf-8"), "alt", "sentence")] * 4)
    assert len(text.encode()) < 500_000
    assert "\nIn-flight" not in text
