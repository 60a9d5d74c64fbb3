"""A ServeGen client becomes one realisation of its rates, gaps and lengths."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from workloads import formats

LENGTHS = {
    "0": {"input_tokens": "{100: 0.25, 300: 0.75}", "output_tokens": "{7: 1.0}"},
    "600": {"input_tokens": "{}", "output_tokens": "{}"},
    "21600": {"input_tokens": "{50: 1.0}", "output_tokens": "{0: 0.5, 9: 0.5}"},
}


@pytest.fixture
def client(shared: Path, tmp_path: Path) -> Path:
    path = tmp_path / "chunk-0-trace.csv"
    shutil.copy(shared / "formats" / "servegen_chunk0_trace.csv", path)
    (tmp_path / "chunk-0-dataset.json").write_text(json.dumps(LENGTHS))
    return path


def test_idle_windows_stay_empty_and_lengths_come_from_the_window_in_force(client: Path) -> None:
    trace = formats.read(client)
    windows = [line.split(",") for line in client.read_text().splitlines()]
    idle = {int(window[0]) for window in windows if not window[3]}
    window_of = (trace.arrival_seconds // 600 * 600).astype(int)
    assert not idle & set(window_of.tolist())
    early = trace.arrival_seconds < 21600
    assert set(trace.prompt_tokens[early].tolist()) == {100, 300}
    assert set(trace.output_tokens[early].tolist()) == {7}
    assert set(trace.prompt_tokens[~early].tolist()) == {50}
    assert set(trace.output_tokens[~early].tolist()) == {9}
    assert any("are left out" in note for note in trace.notes)


def test_a_seed_is_one_realisation(client: Path) -> None:
    first, again, other = (formats.read(client, seed=seed).arrival_seconds for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert len(first) != len(other) or not np.array_equal(first, other)


@pytest.mark.parametrize("pattern", ["Weibull", "Gamma"])
def test_the_measured_rate_is_met_whatever_the_fitted_scale(tmp_path: Path, pattern: str) -> None:
    path = tmp_path / "a-trace.csv"
    windows = [f"{start},5.0,0.7,{pattern},1.5,99.0\n" for start in range(0, 60_000, 600)]
    path.write_text("".join(windows))
    (tmp_path / "a-dataset.json").write_text(json.dumps({"0": {"input_tokens": "{1: 1}", "output_tokens": "{1: 1}"}}))
    trace = formats.read(path)
    # 300,000 expected; a renewal count has a deviation of about cv * sqrt(count), less than 450.
    assert abs(len(trace) - 300_000) < 4 * 450
    gaps = np.diff(trace.arrival_seconds)
    shape_cv = {"Weibull": 0.6790, "Gamma": 0.8165}[pattern]  # of shape 1.5
    assert gaps.std() / gaps.mean() == pytest.approx(shape_cv, rel=0.02)


def test_a_trace_without_its_lengths_names_the_missing_file(shared: Path) -> None:
    with pytest.raises(ValueError, match=r"no lengths by itself; expected a file 'servegen_chunk0_dataset\.json'"):
        formats.read(shared / "formats" / "servegen_chunk0_trace.csv")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[1]", "not a ServeGen dataset"),
        ("{", "not a ServeGen dataset"),
        ('{"0": {"input_tokens": "{1: 1}"}}', "not a ServeGen dataset"),
        ('{"0": {"input_tokens": "{1: 1}", "output_tokens": "{1:"}}', "window 0 has '{1:'"),
        ('{"0": {"input_tokens": "{1: 1}", "output_tokens": "{-1: 1}"}}', "window 0 has '{-1: 1}'"),
        ('{"600": {"input_tokens": "{1: 1}", "output_tokens": "{1: 1}"}}', "no distribution begins by 0 s"),
    ],
)
def test_wrong_lengths_are_refused_by_file(client: Path, content: str, complaint: str) -> None:
    lengths = client.parent / "chunk-0-dataset.json"
    lengths.write_text(content)
    with pytest.raises(ValueError, match="dataset") as caught:
        formats.read(client)
    assert str(caught.value).startswith(str(lengths))
    assert complaint in str(caught.value)
