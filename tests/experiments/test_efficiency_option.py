"""Constants of the cost model can be chosen, and every output names them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.asked.options import Options
from experiments.asked.scenario import scenario_of
from experiments.sched_compare import run
from experiments.shown import words
from sim.physics import calibration

SMALL = Options(
    hardware="h100-sxm", model="llama-3.1-8b", tp=1, context=2048, requests=20, seeds=1, load=(1.0,), system_prompt=0
)


@pytest.mark.parametrize(
    ("level", "says"),
    [
        (None, "generic constants"),
        ("datasheet", "no prediction"),
        ("calibrated", "calibrated: gemm"),
    ],
)
def test_the_evidence_line_names_the_constants_that_were_used(level: str | None, says: str) -> None:
    comparison = run(replace(SMALL, efficiency=level))
    assert comparison.machine.model.efficiency == calibration.load(level or "generic", "h100-sxm")
    assert says in words.evidence(comparison)


def test_systems_run_on_the_same_constants() -> None:
    comparison = run(replace(SMALL, efficiency="datasheet", systems=("vllm-0.33", "sglang")))
    assert {arm.machine.model.efficiency.level for arm in comparison.by_name.values()} == {"datasheet"}


@pytest.mark.parametrize(
    ("level", "says"),
    [
        ("calibrated", "--efficiency is calibrated: nobody calibrated 'l20'; calibrated are a100-sxm-80-pytorch"),
        ("perfect", "--efficiency is perfect: .*allowed are datasheet, generic, calibrated"),
        ("nowhere.toml", r"--efficiency is nowhere\.toml: nowhere\.toml: not a calibration"),
    ],
)
def test_constants_that_nobody_has_are_refused(level: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        run(replace(SMALL, hardware="l20", efficiency=level))


def test_a_calibration_of_ones_own_is_taken_from_its_file(tmp_path: Path) -> None:
    text = calibration.CALIBRATED.joinpath("rtx-4090-vllm.toml").read_text(encoding="utf-8")
    own = tmp_path / "own.toml"
    own.write_text(text.replace("NVIDIA GeForce RTX 4090 24GB", "my own card"), encoding="utf-8")
    scenario = scenario_of(replace(SMALL, efficiency=str(own)), None)
    assert scenario.efficiency is not None
    assert "my own card" in scenario.efficiency.level
