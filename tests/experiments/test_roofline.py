"""The table and the figures of one iteration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments import roofline_compared, tornado
from experiments.roofline import Question, plot, run, table, waterfall

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
    assert f"{1e3 * frame.attrs['seconds']:.4g} ms [" in text
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
