"""The token budget against arithmetic that is not the experiment's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.asked.options import Options
from experiments.chunk_size import chunk_size, headline, knee, plot, run, shown

TABLE = run(Options(quick=True))
WIDE = TABLE.pivot(index="budget", columns="metric", values="estimate")


def test_large_budgets_pause_running_replies() -> None:
    # A chunk of c tokens takes at least its matrix products at the peak: 2 x 12.7e9 flops a token on two L20.
    for budget in (1024, 4096):
        floor = 2 * 12.7e9 * min(budget, 1024) / (2 * 119.5e12)
        assert WIDE.loc[budget, "itl_p99_seconds"] > floor
    assert WIDE["itl_p99_seconds"].is_monotonic_increasing


def test_small_budgets_make_first_tokens_wait() -> None:
    # A prompt of 2,000 tokens needs eight iterations of 256, each with the weights to read: 13 GB a card at 864 GB/s.
    assert WIDE["mean_ttft_seconds"].is_monotonic_decreasing
    assert WIDE.loc[256, "ttft_p99_seconds"] > 8 * 13e9 / 864e9


def test_the_knee_is_one_of_the_budgets_and_marked() -> None:
    best = knee(TABLE)
    assert best in WIDE.index
    assert set(TABLE.loc[TABLE["knee"], "budget"]) == {best}
    assert (shown(TABLE)["knee"] == "here").sum() == 1


def test_without_a_stable_budget_there_is_no_knee() -> None:
    refused = TABLE.assign(estimate=float("nan"))
    assert knee(refused) == 0
    assert headline(refused).startswith("No budget")


def test_figure_and_files_say_what_was_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    title = next(text.get_text() for text in plot(TABLE).texts if text.get_gid() == "title")
    assert title.replace("\n", " ") == headline(TABLE)
    assert chunk_size(quick=True, out=tmp_path / "new") == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"chunk_size.csv", "summary.json"}
    assert headline(TABLE) in " ".join(capsys.readouterr().out.split())


def test_a_load_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="--load is 0"):
        chunk_size(load=0)
