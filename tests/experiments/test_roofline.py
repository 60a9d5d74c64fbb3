"""The table and the figures of one iteration."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from experiments.roofline import Question, run, table, totals
from experiments.shown import roofline_compared, tornado
from experiments.shown.roofline_answer import plot, waterfall
from experiments.tried import roofline_memory, roofline_switches
from sim.figures.words import three_digits

DECODE = Question("llama-2-13b", "l20", 2, "w16a16", 0, 32, 1024, "generic")


def test_shares_add_up_and_the_datasheet_is_the_floor() -> None:
    frame = table(DECODE)
    assert frame["share"].sum() == pytest.approx(1.0)
    assert frame["seconds"].sum() == pytest.approx(frame.attrs["seconds"])
    bare = table(Question(**{**vars(DECODE), "efficiency": "datasheet"}))
    assert bare.attrs["seconds"] < frame.attrs["seconds"]
    bound = dict(zip(frame["operator"], frame["bound_by"], strict=True))
    assert bound["gate and up"] == bound["decode attention"] == "memory"
    assert bound["all-reduce"] == "link"


def test_two_chips_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(compare="a100-sxm-80", prefill=512) == 0
    text = capsys.readouterr().out
    assert "NVIDIA L20" in text
    assert "NVIDIA A100" in text
    assert "times as long as l20" in text
    assert run(compare="a100-sxm-80", json=True) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["hardware"] for row in rows} == {"l20", "a100-sxm-80"}
    assert {"operator", "flops", "bytes", "intensity", "bound_by", "seconds", "share"} <= set(rows[0])


def test_every_figure_is_drawn(tmp_path: Path) -> None:
    assert run(prefill=256, compare="l40s", out=tmp_path) == 0
    kinds = [f"{kind}-{chip}" for kind in ("roofline", "waterfall", "tornado") for chip in ("l20", "l40s")]
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"{kind}.{suffix}" for kind in (*kinds, "compared-l20-l40s") for suffix in ("png", "svg")}


def test_the_band_and_what_matters_most_stand_beside_the_time(capsys: pytest.CaptureFixture[str]) -> None:
    frame = table(DECODE)
    assert frame.attrs["band"].low < frame.attrs["seconds"] < frame.attrs["band"].high
    assert "band" not in table(Question(**{**vars(DECODE), "efficiency": "datasheet"})).attrs
    swings = tornado.table(frame.attrs["swings"], frame.attrs["seconds"])
    assert swings["constant"].iloc[0] == "decode attention"  # 47 % of the iteration
    assert not set(swings["constant"]) & {"experts", "NVLink"}
    assert (swings["slow_percent"] > 0).all()
    assert run() == 0
    text = capsys.readouterr().out
    assert f"{three_digits(1e3 * frame.attrs['seconds'])} ms [" in text
    assert f"decode attention {swings['fast_percent'].iloc[0]:+.0f} to {swings['slow_percent'].iloc[0]:+.0f} %" in text


def test_operators_of_two_chips_are_paired() -> None:
    mixed = Question(**{**vars(DECODE), "prefill": 64})
    both = roofline_compared.paired(table(DECODE), table(mixed))
    assert both["seconds_1"].sum() == pytest.approx(table(DECODE).attrs["seconds"])
    assert both["seconds_2"].sum() == pytest.approx(table(mixed).attrs["seconds"])
    alone = both[both["operator"] == "prefill attention"].iloc[0]
    assert (alone["seconds_1"], alone["bound_by_1"]) == (0.0, "")


def test_figures_say_what_was_found() -> None:
    frame = table(DECODE)
    titles = [
        next(text.get_text() for text in draw(frame).texts if text.get_gid() == "title") for draw in (plot, waterfall)
    ]
    assert "bound by memory" in titles[0]
    assert "% of the iteration" in titles[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hardware": "nobody"}, "no hardware profile"),
        ({"decode": 0}, "at least one of them above 0"),
        ({"prefill": -1}, "--prefill is -1"),
        ({"context": 0}, "--context is 0"),
        ({"efficiency": "calibrated"}, "nobody calibrated 'l20'"),
    ],
)
def test_what_cannot_be_asked_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        table(Question(**{**vars(DECODE), **change}))  # type: ignore[arg-type]


def test_switches_stand_beside_the_iteration(capsys: pytest.CaptureFixture[str]) -> None:
    mixed = Question("llama-3.1-8b", "rtx-4090", 1, "w16a16", 512, 8, 1024, "generic")
    frame = table(mixed)
    built = frame.attrs["built"]
    rows = roofline_switches.table(built, totals(mixed)).set_index("switch")
    assert (rows["times"] >= 1).all()
    off = rows.filter(like="FlashAttention", axis=0)["seconds"].iloc[0]
    # Every head writes and reads 512 x 513 scores of the prompt, and 8 x 1,024 of the decodes, four times in 16 bits.
    moved = 32 * 4 * 2 * 32 * (512 * 513 + 8 * 1024)
    assert off - frame.attrs["seconds"] >= 0.9 * moved / 1008e9
    host = rows.filter(like="on the host", axis=0)["seconds"].iloc[0]
    assert host >= 2 * 6.98e9 / (32e9 * 0.8)
    eager = roofline_switches.table(table(DECODE).attrs["built"], totals(DECODE)).set_index("switch")
    assert eager.filter(like="CUDA graphs", axis=0)["seconds"].iloc[0] >= 40 * 45e-3 / 80
    assert run(model="llama-3.1-8b", hardware="rtx-4090", tp=1, prefill=512, decode=8) == 0
    assert "prompt and decodes in one attention kernel" in capsys.readouterr().out


def test_windows_can_be_switched_off() -> None:
    asked = Question("gemma-3-27b", "h200-sxm", 1, "w16a16", 0, 32, 8192, "generic")
    frame = table(asked)
    built = frame.attrs["built"]
    rows = roofline_switches.table(built, totals(asked, built.window)).set_index("switch")
    more = rows.filter(like="sliding windows", axis=0)["seconds"].iloc[0] - frame.attrs["seconds"]
    # 52 layers read 8,192 keys instead of 1,024, each 2 x 16 heads x 128 numbers of 2 bytes, at 0.83 of 4.8 TB/s.
    assert more == pytest.approx(52 * 32 * (8192 - 1024) * 2 * 16 * 128 * 2 / (0.83 * 4.8e12), rel=0.01)


def test_the_memory_of_a_card_adds_up_and_shows_what_no_term_explains(capsys: pytest.CaptureFixture[str]) -> None:
    frame = table(Question("llama-3.1-8b", "rtx-4090", 1, "w16a16", 0, 8, 1024, "generic"))
    memory = roofline_memory.table(frame.attrs["built"], 1024)
    assert memory["bytes"].sum() == pytest.approx(25_250_627_584)
    assert (memory["bytes"] >= 0).all()
    assert memory["bytes"].iloc[0] == 2 * 8_030_261_248
    assert memory.attrs["blocks"] == pytest.approx(2588, rel=0.10)
    assert any("a real server had 2,588" in note for note in memory.attrs["notes"])
    assert run(model="gpt3-175b", decode=1) == 0
    assert "does not fit" in capsys.readouterr().out


def test_names_of_operators_lie_within_the_figure_and_apart() -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    figure = plot(table(Question("gpt-oss-120b", "h100-sxm", 1, "w16a16", 512, 32, 4096, "generic")))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # which places the names
    (axes,) = figure.axes
    boxes = [Text.get_window_extent(text, canvas.get_renderer()) for text in axes.texts]  # without their arrows
    assert any("in a window" in text.get_text().replace("\n", " ") for text in axes.texts)
    assert all(box.x1 <= figure.bbox.x1 for box in boxes)
    heights = sorted((box.y0, box.y1) for box in boxes)
    assert all(lower[1] <= upper[0] for lower, upper in itertools.pairwise(heights))
