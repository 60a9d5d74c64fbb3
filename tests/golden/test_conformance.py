"""Our batches against recorded runs of the real schedulers, iteration for iteration, stepping and coasting."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.conformance import RECORDED, compare, run
from experiments.tried.recordings import read

RECORDINGS = list(read(RECORDED))


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda r: f"{r['oracle']['name']}/{r['scenario']}")
def test_batches_are_identical(recording):
    verdict = compare(recording)
    assert verdict.identical, verdict.difference


def test_a_changed_recording_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recording = json.loads((RECORDED / "vllm-v0-0.2.7" / "light_load.json").read_text())
    recording["iterations"][3]["t_start"] += 1
    (tmp_path / "vllm-v0-0.2.7").mkdir()
    (tmp_path / "vllm-v0-0.2.7" / "light_load.json").write_text(json.dumps(recording))
    assert not run(golden=tmp_path)
    printed = capsys.readouterr().out
    assert "light_load differs: iteration 3, t_start" in printed
    assert printed.splitlines()[-1] == "0 of 1 identical"


def test_a_folder_without_recordings_and_a_broken_file_are_named(tmp_path: Path):
    with pytest.raises(ValueError, match="no recordings"):
        list(read(tmp_path))
    (tmp_path / "vllm-v0-0.2.7").mkdir()
    (tmp_path / "vllm-v0-0.2.7" / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken\.json"):
        list(read(tmp_path))
    with pytest.raises(ValueError, match=r"there are: vllm-v0-0\.2\.7"):
        list(read(tmp_path, "vllm"))
