"""`timeline`: the file it leaves opens as a Chrome trace, and mistakes are one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.run import main
from tests.chrome_format import check_format

COMMAND = ["timeline", "--requests", "80", "--seeds", "1", "--load", "1.1"]


def test_it_leaves_a_valid_trace_of_both_policies_and_a_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*COMMAND, "--seconds", "10", "--json", "--out", str(tmp_path / "out")])
    assert ended.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    trace = json.loads((tmp_path / "out" / "timeline.chrome.json").read_text())
    check_format(trace)
    names = {event["args"]["name"] for event in trace["traceEvents"] if event["name"] == "process_name"}
    assert names == {"prefill_first", "inflight_batching"}
    times = [event["ts"] for event in trace["traceEvents"] if "ts" in event]
    assert min(times) >= 1e6 * printed["from_seconds"] - 1
    assert max(times) <= 1e6 * printed["until_seconds"] + 1
    assert printed["until_seconds"] == pytest.approx(printed["from_seconds"] + 10)
    assert printed["iterations"] == sum(event["ph"] == "X" for event in trace["traceEvents"])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "timeline.chrome.json",
        "timeline.png",
        "timeline.svg",
    }


def test_a_window_behind_the_end_is_refused_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*COMMAND, "--start", "1e7"])
    assert ended.value.code == 2
    assert "--start is 1e+07; allowed: 0 to" in capsys.readouterr().err
