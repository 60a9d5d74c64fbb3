"""Number formats against arithmetic that is not the experiment's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.precision import headline, plot, precision, run

TABLE, CURVES = run(chips=("l20", "v100-sxm2-32"))
L20 = TABLE[TABLE["chip"] == "l20"].set_index("precision")


def test_chips_are_offered_what_they_can_compute() -> None:
    assert set(L20.index) == {"w16a16", "fp8", "fp8_block", "w8a8", "w8a16", "w4a16", "w4a8"}
    assert set(TABLE.loc[TABLE["chip"] == "v100-sxm2-32", "precision"]) == {"w16a16", "w8a16", "w4a16"}


def test_weights_weigh_their_bits_but_for_the_vocabulary() -> None:
    # Llama-2-13B: 13,015,864,320 parameters, two tables of 32,000 x 5,120 and 81 norms of 5,120 in two bytes.
    tables, norms = 2 * 32_000 * 5_120, 81 * 5_120
    matrices = 13_015_864_320 - tables - norms
    for name, width in (("w16a16", 2.0), ("fp8", 1.0), ("w8a16", 1.0), ("w4a16", 0.5 + 2.5 / 128)):
        expected = (matrices * width + 2 * tables) / 2 + 2 * norms  # on each of two cards; norms on both
        assert L20.loc[name, "weight_bytes"] == pytest.approx(expected, rel=1e-9)


def test_narrow_weights_leave_room_and_decode_faster_at_batch_1() -> None:
    assert (L20.drop("w16a16")["room_sequences"] > L20.loc["w16a16", "room_sequences"]).all()
    assert (L20.drop("w16a16")["tpot_1_seconds"] < L20.loc["w16a16", "tpot_1_seconds"]).all()


def test_only_8_bit_arithmetic_brings_the_first_token_sooner() -> None:
    base = L20.loc["w16a16", "ttft_seconds"]
    assert (L20.loc[["fp8", "w8a8", "w4a8"], "ttft_seconds"] < base).all()
    assert (L20.loc[["w8a16", "w4a16"], "ttft_seconds"] >= base).all()


def test_weight_only_stops_paying_where_its_curve_crosses_one() -> None:
    for name in ("w8a16", "w4a16"):
        curve = CURVES[(CURVES["chip"] == "l20") & (CURVES["precision"] == name)].set_index("batch")["speedup"]
        stop = L20.loc[name, "stops_paying"]
        # Reading is hidden behind arithmetic from about peak / bandwidth on: 119.5e12 / 864e9 = 138 sequences.
        assert 138 / 2 < stop < 138 * 4
        assert (curve[curve.index >= stop] <= 1).all()
        assert curve[stop - 1] > 1
    assert np.isnan(L20.loc["fp8", "stops_paying"])


def test_the_finding_is_the_title(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    title = headline(TABLE)
    figure = plot(CURVES[CURVES["chip"] == "l20"], title)
    drawn = next(text.get_text() for text in figure.texts if text.get_gid() == "title")
    assert drawn.replace("\n", " ") == title
    assert precision(chip=("l20",), quick=True, out=tmp_path / "new") == 0
    assert title in " ".join(capsys.readouterr().out.split())
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"precision.csv", "speedup.csv", "summary.json"}


@pytest.mark.parametrize(("asked", "message"), [({"prompt": 0}, "--prompt is 0"), ({"tp": 3}, "tensor=3")])
def test_what_cannot_be_asked_is_refused(asked: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        precision(**asked)  # type: ignore[arg-type]
