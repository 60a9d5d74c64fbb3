"""Recorded traces: what is put in front of prompts, how speed is load, and where intervals come from."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from experiments.article.scheduler_claims import claims
from experiments.asked.options import Options, completed
from experiments.asked.workload import Workload, behind_system_prompt
from experiments.sched_compare import run
from experiments.shown import console
from experiments.shown.words import hints
from experiments.tried.comparison import ARMS, Comparison
from workloads.trace import Segments, Trace


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(3)
    n = 400
    arrival = np.sort(rng.uniform(0, 800, n))
    prompt, output = rng.integers(50, 900, n), rng.integers(20, 120, n)
    prompt[7] = 5000  # beyond the context of Llama 2
    lines = [f"{a:.6f},{p},{o}" for a, p, o in zip(arrival, prompt, output, strict=True)]
    path = tmp_path_factory.mktemp("traces") / "own.csv"
    path.write_text("\n".join(["arrival_seconds,prompt_tokens,output_tokens", *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def compared(path: Path) -> Comparison:
    return run(Options(trace=str(path), speed=(1.0, 2.0)))


def test_speed_is_load_at_the_pace_of_the_trace(compared: Comparison) -> None:
    slow, fast = compared.loads
    assert (slow.speed, fast.speed) == (1.0, 2.0)
    assert fast.requests_per_second == pytest.approx(2 * slow.requests_per_second)
    trace = compared.cell(ARMS[0], slow).results[0].trace
    assert slow.requests_per_second == pytest.approx(len(trace) / trace.duration_seconds)
    double = compared.cell(ARMS[0], fast).results[0].trace
    assert double.arrival_seconds == pytest.approx(trace.arrival_seconds / 2)


def test_sections_are_five_blocks_of_time_that_count_every_trimmed_request_once(compared: Comparison) -> None:
    cell = compared.cell(ARMS[0], compared.loads[0])
    counted = np.concatenate([section.counted for section in cell.sections])
    arrival = cell.results[0].arrival_seconds
    first, last = arrival[0], arrival[-1]
    inside = (arrival >= first + 0.10 * (last - first)) & (arrival <= last - 0.05 * (last - first))
    assert len(cell.sections) == 5
    assert counted.tolist() == np.flatnonzero(inside).tolist()
    assert np.ptp([len(section.counted) for section in cell.sections]) <= 1


def test_intervals_say_that_they_hold_within_the_trace(compared: Comparison) -> None:
    shown = compared.summary[compared.summary.low.notna()]
    assert len(shown) > 20
    assert shown.method.str.endswith("within this trace").all()


def test_without_prefix_information_the_cache_changes_nothing_and_that_is_said(compared: Comparison) -> None:
    assert all(cell.counts["preemptions"] == 0 for cell in compared.cells.values())
    table = compared.differences
    cache = table[(table.effect == "cache") & np.isfinite(table.load) & table.difference.notna()]
    assert len(cache) > 20
    assert (cache.difference == 0).all()
    assert any("no prefix information" in note for note in compared.notes)
    assert any("share nothing" in claim.answer for claim in claims(compared))


def test_requests_beyond_the_context_are_counted_as_rejected(compared: Comparison) -> None:
    assert all(cell.counts["rejected"] == 1 for cell in compared.cells.values())
    assert any("rejected" in hint for hint in hints(compared))


def test_a_system_prompt_is_found_by_the_cache(path: Path) -> None:
    compared = run(Options(trace=str(path), system_prompt=256, requests=100))
    load = compared.loads[0]
    hits = {arm: compared.cell(arm, load).quantity("prefix_hit_share").estimate for arm in ARMS}
    assert hits["prefill_first"] == 0
    assert 0 < hits["prefill_first + prefix cache"] < 1
    assert {claim.scope for claim in claims(compared)} >= {"prefix cache", "prefill_first", "inflight_batching"}


def test_an_empty_answer_of_the_machine_says_what_to_change(path: Path) -> None:
    with pytest.raises(ValueError, match="0 of 400 requests can be served with a context of 40 tokens"):
        run(Options(trace=str(path), context=40))


def test_a_system_prompt_moves_shared_and_own_text_alike() -> None:
    # Request 1 repeats all of request 0, whose own text begins behind 4 shared tokens.
    segments = Segments.from_lists([[(3, 0, 4)], [(3, 0, 4), (-1, 4, 6)]])
    trace = Trace(np.zeros(2), np.array([10, 12]), np.array([2, 2]), np.array([2, 2]), segments)
    moved = behind_system_prompt(trace, 5)
    assert moved.prompt_tokens.tolist() == [15, 17]
    assert moved.segments is not None
    assert moved.segments.row(0) == [(4, 0, 5), (3, 0, 4)]
    assert moved.segments.row(1) == [(4, 0, 5), (3, 0, 4), (-1, 9, 6)]


def test_replications_differ_and_a_seed_at_another_load_is_the_same_requests_stretched() -> None:
    workload = Workload(completed(Options(requests=50)), 4096)
    slow, fast, other = workload.trace(1.0, 1), workload.trace(4.0, 1), workload.trace(1.0, 2)
    assert slow.prompt_tokens.tolist() == fast.prompt_tokens.tolist() != other.prompt_tokens.tolist()
    assert fast.arrival_seconds == pytest.approx(slow.arrival_seconds / 4)
    assert (workload.trace(np.inf, 1).arrival_seconds == 0).all()


@pytest.mark.parametrize("width", [100, 140])
def test_what_is_printed_fits_the_terminal(
    compared: Comparison, width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = StringIO()
    monkeypatch.setattr(console, "new_console", lambda: Console(file=printed, width=width, markup=False, no_color=True))
    console.show(compared, [tmp_path / "summary.csv"])
    lines = printed.getvalue().splitlines()
    assert [line for line in lines if len(line) > width] == []
    assert "n too small" in printed.getvalue()
    assert "nan" not in printed.getvalue().lower().split()


def test_few_requests_are_said_to_leave_the_verdict_open(path: Path) -> None:
    assert any("unclear" in hint for hint in hints(run(Options(trace=str(path), requests=30))))
