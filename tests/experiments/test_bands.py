"""Bands of a comparison: every arm at the same draws, so that leads can be trusted or called open."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.asked.options import Options
from experiments.sched_compare import run
from experiments.shown.output import as_json
from experiments.tried import bands
from sim.uncertainty import Estimate

QUICK = Options(requests=60, seeds=2, load=(0.5,), band=4)


def estimate(*values: float) -> Estimate:
    return Estimate(float(np.mean(values)), np.array(values), min(values), max(values))


def test_a_comparison_carries_a_band_for_every_arm_at_the_load_shown() -> None:
    comparison = run(QUICK)
    assert list(comparison.bands) == list(comparison.arms)
    rows = as_json(comparison)["band"]
    assert len(rows) == len(comparison.arms) * 9
    assert all(row["low"] < row["point"] < row["high"] and row["draws"] == 4 for row in rows)
    said = bands.lines(comparison.bands)
    assert said[0].startswith("- prefill_first: TTFT p50 ")
    assert said[-1].startswith("- which arm is ahead in E2E p99: ")
    assert "band" not in as_json(run(Options(requests=60, seeds=2, load=(0.5,))))


def test_a_lead_is_sure_if_the_same_arm_leads_at_nine_of_ten_draws() -> None:
    numbers = dict.fromkeys((*bands.SHOWN, "TTFT p99"), estimate(1.0, 2.0))
    found = {
        "a": numbers,
        "b": numbers | {"TTFT p99": estimate(1.5, 2.5)},
        "c": numbers | {"TTFT p99": estimate(0.5, 2.1)},
    }
    assert bands.ahead(found, "TTFT p99") == {("a", "b"): 1.0, ("a", "c"): 0.5, ("b", "c"): 0.0}
    assert bands.ahead(found, "E2E p99") == dict.fromkeys(bands.ahead(found, "TTFT p99"), 0.5)
    first, end = bands.lines(found)[3:]
    assert first == "- which arm is ahead in TTFT p99: open for a against c (50 %)"
    assert "a against b (50 %); a against c (50 %); b against c (50 %)" in end


def test_one_draw_is_no_band() -> None:
    with pytest.raises(ValueError, match="--band is 1; allowed: 0, or 2 and more"):
        run(Options(band=1))
