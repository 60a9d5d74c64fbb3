"""What a prefix cache saves, against arithmetic that is not the experiment's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.asked.options import Options
from experiments.prefix_sharing import compare_caches, headline, plot, prefix_sharing, run, shown
from experiments.tried import cache_bounds
from sim.scheduling.caches import BOUNDS, EVIDENCE_OF_CACHES
from workloads import datasets

BASE = Options(hardware="l20", model="llama-3.1-8b", tp=1, context=16384, quick=True, requests=300)
TABLE = run(BASE)


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


def test_figure_and_files_say_what_was_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "is_at_hand", lambda name: False)
    title = next(text.get_text() for text in plot(TABLE).texts if text.get_gid() == "title")
    assert title.replace("\n", " ") == headline(TABLE)
    assert len(shown(TABLE)) == 6
    assert prefix_sharing(quick=True, out=tmp_path / "new") == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"prefix_sharing.csv", "caches.csv", "summary.json"}
    assert "of the GPU time" in " ".join(capsys.readouterr().out.split())


@pytest.fixture(scope="module")
def caches() -> pd.DataFrame:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "is_at_hand", lambda name: False)
        return compare_caches(BASE)


def of_caches(table: pd.DataFrame, trace: str, metric: str) -> dict[str, float]:
    here = table[(table["trace"] == trace) & (table["metric"] == metric)]
    return dict(zip(here["cache"], here["estimate"], strict=True))


def test_no_real_cache_finds_more_than_the_bounds_and_somebody_loses_something(caches: pd.DataFrame) -> None:
    found = of_caches(caches, "conversations", "hit_share")
    real = [found[cache] for cache in found if cache not in BOUNDS]
    assert max(real) <= found["belady"] <= found["infinite"]
    assert max(real) < found["infinite"]
    evicted = of_caches(caches, "conversations", "evicted_tokens")
    assert evicted["infinite"] == 0 < evicted["belady"] < evicted["vllm-1"]


def test_with_everything_kept_each_turn_finds_all_that_was_said_before(caches: pd.DataFrame) -> None:
    whole = to_the_token = 0.0
    for seed in (1, 2, 3):
        trace = cache_bounds.conversations(300, 16384, seed)
        follows = trace.previous >= 0
        said = (trace.prompt_tokens + trace.output_tokens - 1)[trace.previous[follows]]
        whole += ((said // 16 * 16).sum() + 512 * (~follows).sum()) / 3
        to_the_token += (said.sum() + 512 * (~follows).sum()) / 3
    saved = of_caches(caches, "conversations", "saved_tokens")
    assert saved["infinite"] == pytest.approx(whole, rel=0.01)  # but for the first few system prompts
    assert saved["infinite"] <= whole
    assert saved["sglang"] <= to_the_token


def test_what_is_saved_is_what_is_found(caches: pd.DataFrame) -> None:
    for trace in ("chat", "conversations"):
        found, saved = (of_caches(caches, trace, metric) for metric in ("hit_share", "saved_tokens"))
        asked = float(caches.loc[caches["trace"] == trace, "prompt_tokens"].iloc[0])
        for cache, share in found.items():
            assert saved[cache] == pytest.approx(share * asked, rel=0.01)  # a mean of ratios
        seconds = of_caches(caches, trace, "gpu_seconds_per_request")
        # No law: what is found, and how large blocks are, also decides who is batched with whom.
        assert seconds["infinite"] <= 1.005 * min(seconds.values())


def test_caches_are_shown_with_how_they_are_known(caches: pd.DataFrame) -> None:
    table = cache_bounds.shown(caches)
    assert len(table) == 2 * len(cache_bounds.COMPARED)
    assert set(cache_bounds.COMPARED) <= {*EVIDENCE_OF_CACHES, *BOUNDS}
    known = dict(zip(table["cache"], table["known"], strict=True))
    assert known["SGLang"] == known["TensorRT-LLM"] == "described"
    assert known["vLLM V1 (0.33)"] == "executed"
    assert known["keeps everything"] == "bound"
    figure = cache_bounds.plot(caches)
    title = next(text.get_text() for text in figure.texts if text.get_gid() == "title")
    assert title.replace("\n", " ") == cache_bounds.headline(caches)
    assert "conversations" in title
