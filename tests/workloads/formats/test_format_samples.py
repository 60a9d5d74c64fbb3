"""Every public sample reads to what its bytes say."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest

from workloads import formats
from workloads.trace import Trace


def totals(trace: Trace) -> tuple[int, int, int]:
    return len(trace), int(trace.prompt_tokens.sum()), int(trace.output_tokens.sum())


def row(trace: Trace, at: int) -> tuple[float, int, int]:
    return float(trace.arrival_seconds[at]), int(trace.prompt_tokens[at]), int(trace.output_tokens[at])


@pytest.mark.parametrize(
    ("file", "expected", "last"),
    [
        # From 18:15:46.6805900 to 19:14:08.4025270, and from 18:17:03.9799600 to 19:14:19.9280160.
        ("AzureLLMInferenceTrace_conv.csv", (19366, 22361870, 4088665), (3501.721937, 197, 183)),
        ("AzureLLMInferenceTrace_code.csv", (8819, 18059974, 245896), (3435.948056, 549, 173)),
    ],
)
def test_azure_traces_are_read_to_the_last_decimal(
    shared: Path, file: str, expected: tuple[int, int, int], last: tuple[float, int, int]
) -> None:
    trace = formats.read(shared / "traces" / file)
    assert totals(trace) == expected
    assert trace.arrival_seconds[0] == 0
    assert row(trace, -1) == last
    assert trace.segments is None
    assert [note for note in trace.notes if "max_tokens" not in note] == []


def test_azure_first_rows_differ_by_their_written_stamps(shared: Path) -> None:
    trace = formats.read(shared / "traces" / "AzureLLMInferenceTrace_code.csv", max_tokens=2000)
    # 18:17:03.9799600, 18:17:04.0319600, 18:17:04.0781490
    assert trace.arrival_seconds[:3].tolist() == [0.0, 0.052, 0.098189]
    assert trace.prompt_tokens[:3].tolist() == [4808, 3180, 110]
    assert set(trace.max_tokens.tolist()) == {2000}


@pytest.mark.parametrize(
    ("kind", "expected", "blocks", "last"),
    [
        ("conversation", (12031, 144793823, 4122048), 288500, (3536.999, 20774, 508)),
        ("synthetic", (3993, 61194628, 595432), 121877, (1022.025, 18440, 83)),
    ],
)
def test_mooncake_traces_have_one_segment_a_block(
    shared: Path, kind: str, expected: tuple[int, int, int], blocks: int, last: tuple[float, int, int]
) -> None:
    trace = formats.read(shared / "traces" / f"mooncake_{kind}_trace.jsonl", spread_ties=False)
    assert totals(trace) == expected
    assert row(trace, -1) == pytest.approx(last, abs=1e-9)
    segments = trace.segments
    assert segments is not None
    assert len(segments.key) == blocks
    assert int(segments.length.sum()) == trace.prompt_tokens.sum()
    assert segments.length.max() == 512
    assert set(segments.start.tolist()) == {0}


def test_mooncake_first_request_has_thirteen_full_blocks_and_a_rest(shared: Path) -> None:
    trace = formats.read(shared / "traces" / "mooncake_conversation_trace.jsonl")
    assert trace.segments is not None
    assert trace.segments.row(0) == [(key, 0, 512) for key in range(13)] + [(13, 0, 102)]


def test_mooncake_bins_of_three_seconds_are_spread_and_said(shared: Path) -> None:
    path = shared / "traces" / "mooncake_conversation_trace.jsonl"
    spread, listed = formats.read(path), formats.read(path, spread_ties=False)
    assert len(np.unique(listed.arrival_seconds)) == 1180
    assert len(np.unique(spread.arrival_seconds)) == 12031
    late = spread.arrival_seconds - listed.arrival_seconds
    assert late.min() >= 0
    assert 2.9 < late.max() <= 3.0
    assert "bins of 3 s (1,180 distinct for 12,031 requests); requests are spread" in spread.notes[0]
    assert "arrive at once" in listed.notes[0]
    assert np.array_equal(spread.prompt_tokens, listed.prompt_tokens)


def test_mooncake_requests_that_coincide_by_chance_are_not_spread(shared: Path) -> None:
    path = shared / "traces" / "mooncake_synthetic_trace.jsonl"
    trace = formats.read(path)
    assert trace.arrival_seconds[:4].tolist() == [0.0, 0.0, 0.04, 0.277]
    assert not any("bins" in note for note in trace.notes)


@pytest.mark.parametrize(
    ("file", "expected", "first", "last"),
    [
        ("vidur_splitwise_code.head300.csv", (300, 627529, 7126), (0.0, 4808, 10), (216.838239, 176, 88)),
        ("vidur_splitwise_conv.head300.csv", (300, 270000, 76870), (0.0, 374, 44), (84.029102, 212, 183)),
        ("vidur_arxiv.head300.csv", (300, 759573, 84604), (0.0, 3772, 54), (0.0, 3373, 240)),
        ("splitwise_test_trace.csv", (3, 8192, 56), (1.0, 4096, 32), (4.0, 2048, 16)),
    ],
)
def test_vidur_and_splitwise_samples(
    shared: Path,
    file: str,
    expected: tuple[int, int, int],
    first: tuple[float, int, int],
    last: tuple[float, int, int],
) -> None:
    trace = formats.read(shared / "formats" / file)
    assert (totals(trace), row(trace, 0), row(trace, -1)) == (expected, first, last)


def test_a_file_without_arrivals_says_so(shared: Path) -> None:
    trace = formats.read(shared / "formats" / "vidur_arxiv.head300.csv")
    assert "no arrival times" in trace.notes[0]


def test_burstgpt_seconds_count_from_the_first_row_and_are_spread_over_a_second(shared: Path) -> None:
    path = shared / "formats" / "made_burstgpt_v1.csv"
    assert formats.read(path, spread_ties=False).arrival_seconds.tolist() == [0.0, 40.0, 113.0]
    trace = formats.read(path)
    assert np.floor(trace.arrival_seconds).tolist() == [0.0, 40.0, 113.0]
    assert totals(trace) == (3, 472 + 1087 + 417, 18 + 230 + 276)
    assert "bins of 1 s" in trace.notes[0]


def test_burstgpt_failed_requests_are_left_out_and_counted(shared: Path) -> None:
    trace = formats.read(shared / "formats" / "made_burstgpt_v3.csv")
    assert totals(trace) == (1, 472, 18)
    assert "1 of 2 rows are left out" in trace.notes[0]
    assert "1 without a reply" in trace.notes[0]


def test_llmservingsim_wall_clock_counts_from_the_first_request(shared: Path) -> None:
    trace = formats.read(shared / "formats" / "llmservingsim_vllm_requests.head60.jsonl")
    assert totals(trace) == (60, 57580, 42298)
    assert row(trace, 0) == (0.0, 2361, 532)
    # 1777142990.172109 - 1777142984.5786855
    assert row(trace, -1) == (pytest.approx(5.593423, abs=1e-6), 1171, 779)
    assert trace.previous is None


def test_sharegpt_lengths_are_estimated_from_characters(shared: Path) -> None:
    trace = formats.read(shared / "formats" / "made_sharegpt.json")
    # "What is a roofline model?" has 25 characters, the reply 73.
    assert totals(trace) == (1, 7, 19)
    assert "estimated" in trace.notes[0]
    assert "0 of 1 conversations are left out" in trace.notes[1]


def test_gzip_is_recognised_by_content(shared: Path, tmp_path: Path) -> None:
    source = shared / "formats" / "vidur_splitwise_code.head300.csv"
    packed = tmp_path / "no_suffix"
    with source.open("rb") as plain, gzip.open(packed, "wb") as target:
        shutil.copyfileobj(plain, target)
    assert row(formats.read(packed), -1) == row(formats.read(source), -1)


@pytest.mark.parametrize(
    "file", ["hf_qwen3-8b.config.json", "made_vllm_bench.json", "llmservingsim_vllm_timeseries.head40.csv"]
)
def test_other_files_are_refused_with_their_first_line_and_what_is_known(shared: Path, file: str) -> None:
    path = shared / "formats" / file
    with pytest.raises(ValueError, match="unknown format; the first line is") as caught:
        formats.read(path)
    message = str(caught.value)
    assert path.read_text().split("\n")[0][:40] in message
    assert message.count("\n  ") == len(formats.FORMATS)
