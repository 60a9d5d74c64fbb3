"""What a prefix cache saves, against arithmetic that is not the experiment's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.options import Options
from experiments.prefix_sharing import headline, plot, prefix_sharing, run, shown

TABLE = run(Options(hardware="l20", model="llama-3.1-8b", tp=1, context=16384, quick=True, requests=300))


def numbers(metric: str, column: str = "estimate", **where: object) -> np.ndarray:
    rows = TABLE[TABLE["metric"] == metric]
    for name, value in where.items():
        rows = rows[rows[name] == value]
    return rows[column].to_numpy(dtype=float)


def test_nothing_shared_saves_nothing() -> None:
    assert numbers("saved_share", shared_tokens=0) == pytest.approx(0, abs=1e-12)
    assert numbers("hit_share", shared_tokens=0) == pytest.approx(0)


def test_whole_blocks_of_the_shared_text_are_found_by_all_but_the_first_few() -> None:
    # The mean prompt of the Azure conversation trace of 2023 is 1,155 tokens (public); ours add the shared text.
    for shared in (512, 2048):
        most = shared / (1155 + shared)
        found = numbers("hit_share", shared_tokens=shared)
        assert (found < 1.15 * most).all()
        assert (found > 0.75 * most).all()


def test_more_sharing_saves_more_and_never_more_than_all_of_the_prompts() -> None:
    for utilisation in (0.6, 0.9):
        saved = numbers("saved_share", utilisation=utilisation)
        found = numbers("hit_share", utilisation=utilisation)
        assert (np.diff(saved) > 0).all()
        assert (saved <= found + 0.01).all()  # decoding is not saved


def test_with_sharing_the_first_token_comes_sooner_at_every_load() -> None:
    for load in (0.5, 0.8):
        without, cached = (numbers("mean_ttft_seconds", load=load, cache=cache) for cache in (False, True))
        assert (cached[1:3] < without[1:3]).all()
        assert cached[0] == without[0]  # nothing shared: the same run


def test_intervals_enclose_the_estimate() -> None:
    known = TABLE[TABLE["low"].notna()]
    assert (known["low"] <= known["estimate"]).all()
    assert (known["estimate"] <= known["high"]).all()


def test_figure_and_files_say_what_was_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    title = next(text.get_text() for text in plot(TABLE).texts if text.get_gid() == "title")
    assert title.replace("\n", " ") == headline(TABLE)
    assert len(shown(TABLE)) == 6
    assert prefix_sharing(quick=True, out=tmp_path / "new") == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"prefix_sharing.csv", "summary.json"}
    assert "of the GPU time" in " ".join(capsys.readouterr().out.split())
