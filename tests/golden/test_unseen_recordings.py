"""Recordings that nobody has seen: the rules are followed, not the files, and what differs is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from experiments.conformance import RECORDED, compare, conformance
from experiments.tried.recordings import Recording, read

SAMPLE = list(read(RECORDED))[::9]
TIMES = ("t_start", "t_end", "t_scheduled", "arrival", "first_token_time", "ttft", "finish_time")
NEEDED = {"t_scheduled", "t_start", "t_end", "scheduled", "emitted", "preempted", "finished", "step"}


def with_times(value: Any, change: Callable[[str, int], int]) -> Any:
    """Return a recording with every time changed."""
    if isinstance(value, dict):
        return {
            key: change(key, inner) if key in TIMES and inner is not None else with_times(inner, change)
            for key, inner in value.items()
        }
    return [with_times(inner, change) for inner in value] if isinstance(value, list) else value


def slower(recording: Recording) -> Recording:
    """Everything takes three times as long."""
    changed = with_times(recording, lambda _, ticks: 3 * ticks)
    changed["clock"] |= {"step_base": 3000, "step_per_token": 3}
    return changed


def later(recording: Recording) -> Recording:
    """Everything happens a while later."""
    return with_times(recording, lambda key, ticks: ticks + 12_345 * (key != "ttft"))


def renamed(recording: Recording) -> Recording:
    """Requests have other names, in another order of the alphabet."""
    names = {request["id"]: f"q{1000 - place}" for place, request in enumerate(recording["requests"])}

    def rename(value: Any) -> Any:
        if isinstance(value, dict):
            return {names.get(key, key): rename(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [rename(inner) for inner in value]
        return names.get(value, value) if isinstance(value, str) else value

    return rename(recording)


def bare(recording: Recording) -> Recording:
    """Nothing is recorded beyond what the schema wants, and keys come in another order."""
    rows = [{key: row[key] for key in sorted(row, reverse=True) if key in NEEDED} for row in recording["iterations"]]
    recording["iterations"] = rows
    recording["config"] = dict(reversed(recording["config"].items()))
    return recording


@pytest.mark.parametrize("change", [slower, later, renamed, bare], ids=lambda change: change.__name__)
def test_scenarios_that_come_to_the_same_are_identical(change: Callable[[Recording], Recording]) -> None:
    for recording in SAMPLE:
        changed = deepcopy(recording)
        if recording["config"].get("max_iters") and recording["status"] == "max_iters" and change is bare:
            del changed["config"]["max_iters"]  # how many iterations were recorded says the same
        verdict = compare(change(changed))
        assert verdict.identical, f"{verdict.oracle}/{verdict.scenario}: {verdict.difference}"


def shorter_reply(recording: Recording) -> None:
    recording["requests"][0]["output_len"] += 1


def smaller_pool(recording: Recording) -> None:
    key = next(key for key in ("num_gpu_blocks", "num_blocks") if key in recording["config"])
    recording["config"][key] = 1


def missing_iterations(recording: Recording) -> None:
    recording["iterations"] = [row for row in recording["iterations"] if row["scheduled"]][:-1]


def earlier_token(recording: Recording) -> None:
    next(iter(recording["per_request"].values()))["first_token_time"] -= 1


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (shorter_reply, ["real", "ours", "waiting", "blocks free", "scheduled"]),
        (smaller_pool, ["differs"]),
        (missing_iterations, ["iterations, really", "blocks free"]),
        (earlier_token, ["first token", "really"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_scenario_with_another_outcome_is_told_apart_and_the_command_fails(
    change: Callable[[Recording], None], shown: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = []
    for oracle in sorted(path for path in RECORDED.iterdir() if path.is_dir()):
        recording = json.loads(sorted(oracle.glob("*.json"))[0].read_text())
        change(recording)
        (tmp_path / oracle.name).mkdir()
        (tmp_path / oracle.name / "changed.json").write_text(json.dumps(recording))
        changed.append(oracle.name)
    assert conformance(golden=tmp_path) == 1
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == f"0 of {len(changed)} identical"
    assert all(f"{name}/" in printed for name in changed)
    assert all(word in printed for word in shown)


def test_what_cannot_be_served_is_a_difference_and_not_a_traceback() -> None:
    recording = deepcopy(SAMPLE[0])
    del recording["config"]["block_size" if "block_size" in recording["config"] else "tokens_per_block"]
    assert "it cannot be served: KeyError 'block_size'" in compare(recording).difference
    recording["oracle"]["name"] = "vllm-v2"
    assert "no policy stands for 'vllm-v2'" in compare(recording).difference
