"""What readers do with orders, sessions, zeros and zones that the samples do not show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads import formats
from workloads.formats import sharegpt, source, table
from workloads.formats.table import Field

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
BURSTGPT = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "trace"
    path.write_text(text, encoding="utf-8")
    return path


def write_lines(folder: Path, rows: list[dict[str, Any]]) -> Path:
    return write(folder, "".join(json.dumps(row) + "\n" for row in rows))


def test_azure_2024_stamps_with_a_zone_and_with_or_without_a_fraction(tmp_path: Path) -> None:
    path = write(tmp_path, AZURE + "2024-05-10 00:00:00.009930+00:00,5,6\n2024-05-10 00:00:01+00:00,7,8\n\n")
    assert formats.read(path).arrival_seconds.tolist() == [0.0, 0.99007]


def test_azure_2025_counts_images_among_the_prompt_and_says_so(tmp_path: Path) -> None:
    path = write(tmp_path, "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n2024-10-15 00:00:00.0000000,2,900,120\n")
    trace = formats.read(path)
    assert trace.prompt_tokens.tolist() == [900]
    assert "images" in trace.notes[0]


def test_rows_without_tokens_are_left_out_and_late_rows_sorted_with_notes(tmp_path: Path) -> None:
    rows = ["00:00:09,4,4", "00:00:01,1,1", "00:00:05,0,2", "00:00:05,3,0", "00:00:05,2,2"]
    path = write(tmp_path, AZURE + "".join(f"2024-05-10 {row}\n" for row in rows))
    trace = formats.read(path)
    assert trace.arrival_seconds.tolist() == [0.0, 4.0, 8.0]
    assert trace.prompt_tokens.tolist() == [1, 2, 4]
    assert "2 of 5 rows are left out" in trace.notes[0]
    assert "sorted" in trace.notes[1]


def test_segments_follow_their_request_when_rows_are_sorted_or_left_out(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path,
        [
            {"timestamp": 9, "input_length": 600, "output_length": 1, "hash_ids": [7, 8]},
            {"timestamp": 3, "input_length": 512, "output_length": 0, "hash_ids": [9]},
            {"timestamp": 1, "input_length": 0, "output_length": 5, "hash_ids": []},
            {"timestamp": 2, "input_length": 512, "output_length": 2, "hash_ids": [7]},
        ],
    )
    trace = formats.read(path)
    assert trace.segments is not None
    assert [trace.segments.row(at) for at in range(len(trace))] == [[(7, 0, 512)], [(7, 0, 512), (8, 0, 88)]]


def test_bailian_has_blocks_of_16_tokens_seconds_and_conversations(tmp_path: Path) -> None:
    rows = [
        {"chat_id": 55, "parent_chat_id": -1, "timestamp": 1.5, "input_length": 20, "output_length": 3, "turn": 1},
        {"chat_id": 60, "parent_chat_id": -1, "timestamp": 2.0, "input_length": 16, "output_length": 4, "turn": 1},
        {"chat_id": 70, "parent_chat_id": 55, "timestamp": 61.114, "input_length": 40, "output_length": 5, "turn": 2},
    ]
    hashes = [[1, 2], [3], [1, 4, 5]]
    path = write_lines(tmp_path, [{**row, "hash_ids": ids} for row, ids in zip(rows, hashes, strict=True)])
    trace = formats.read(path)
    assert trace.arrival_seconds.tolist() == [1.5, 2.0, 61.114]
    assert trace.session is not None
    assert trace.session.tolist() == [0, 1, 0]
    assert trace.segments is not None
    assert trace.segments.row(2) == [(1, 0, 16), (4, 0, 16), (5, 0, 8)]


def test_burstgpt_sessions_are_numbered_and_calls_of_the_api_are_alone(tmp_path: Path) -> None:
    rows = [
        "19440110.0,1722ac82,43,GPT-4,906,446,1352,Conversation log",
        "19440161.0,,2,ChatGPT,36,29,65,API log",
        "19440192.0,1722ac82,8,GPT-4,1779,123,1902,Conversation log",
        "19440193.0,,8,GPT-4,17,12,29,API log",
    ]
    trace = formats.read(write(tmp_path, BURSTGPT + "\n".join(rows)), spread_ties=False)
    assert trace.arrival_seconds.tolist() == [0.0, 51.0, 82.0, 83.0]
    assert trace.session is not None
    assert trace.session.tolist() == [0, 1, 0, 2]


def test_splitwise_requests_of_another_type_are_left_out_with_a_note(tmp_path: Path) -> None:
    header = "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n"
    trace = formats.read(write(tmp_path, header + "0,2,0,1.5,1,10,3\n1,0,0,2,1,11,4\n"))
    assert trace.arrival_seconds.tolist() == [1.5]
    assert "1 of 2 rows are left out" in trace.notes[0]


def test_llmservingsim_sessions_wait_for_the_request_before_and_its_tool(tmp_path: Path) -> None:
    part = {"input_toks": 10, "output_toks": 2}
    path = write_lines(
        tmp_path,
        [
            {
                "session_id": "b",
                "arrival_time_ns": 4_000_000_000,
                "sub_requests": [{**part, "tool_duration_ns": 1_500_000_000}, {**part, "input_toks": 20}],
            },
            {"input_toks": 30, "output_toks": 4, "arrival_time_ns": 1_000_000_000},
            {"session_id": "a", "arrival_time_ns": 0, "sub_requests": [{**part, "tool_duration_ns": 7}, part]},
        ],
    )
    trace = formats.read(path)
    assert trace.arrival_seconds.tolist() == [0.0, 0.0, 1.0, 4.0, 4.0]
    assert trace.prompt_tokens.tolist() == [10, 10, 30, 10, 20]
    assert trace.previous is not None
    assert trace.previous.tolist() == [-1, 0, -1, -1, 3]
    assert trace.think_seconds is not None
    assert trace.think_seconds.tolist() == [0.0, 7e-9, 0.0, 0.0, 1.5]
    assert trace.session is not None
    assert trace.session.tolist() == [1, 1, 2, 0, 0]


def conversation(*lengths: int) -> dict[str, Any]:
    return {"conversations": [{"from": "human", "value": "x" * length} for length in lengths]}


def test_sharegpt_is_filtered_as_vllm_filters_and_only_the_first_two_turns_count(tmp_path: Path) -> None:
    kept = [conversation(16, 16), conversation(4096, 4096, 9), conversation(13, 2000)]
    dropped = [
        conversation(400),
        conversation(12, 400),
        conversation(400, 12),
        conversation(4097, 40),
        conversation(4096, 4097),
    ]
    trace = formats.read(write(tmp_path, json.dumps(kept + dropped)))
    assert trace.prompt_tokens.tolist() == [4, 1024, 4]
    assert trace.output_tokens.tolist() == [4, 1024, 500]
    assert "5 of 8 conversations are left out" in trace.notes[1]


@pytest.mark.parametrize("size", [1, 7, 64])
def test_sharegpt_reads_alike_whatever_the_size_of_its_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    path = write(tmp_path, json.dumps([conversation(20, 40), conversation(80, 160)], indent=1))
    whole = formats.read(path)
    monkeypatch.setattr(sharegpt, "BLOCK_BYTES", size)
    parts = formats.read(path)
    assert parts.prompt_tokens.tolist() == whole.prompt_tokens.tolist() == [5, 20]


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 10**9), st.sampled_from(["", "a", "b c"])), min_size=1),
    st.integers(1, 40),
)
def test_blocks_and_lines_parse_alike(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, int, str]], size: int
) -> None:
    """Reading by line is only the slow way round, for blocks in which something is wrong."""
    path = write(tmp_path_factory.mktemp("csv"), "t,n,s\n" + "".join(f"{t!r},{n},{s}\n" for t, n, s in rows))
    fields = [Field("t", "number", 0), Field("n", "whole", 0), Field("s", "label")]
    fast = table.read_columns(path, ("t", "n", "s"), fields)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "BLOCK_BYTES", size)
        patch.setattr(table, "_parse_block", lambda *_: None)
        slow = table.read_columns(path, ("t", "n", "s"), fields)
    assert fast["t"].tolist() == [t for t, _, _ in rows]
    assert fast["n"].tolist() == [n for _, n, _ in rows]
    for name in ("t", "n", "s"):
        assert np.array_equal(fast[name], slow[name])
        assert fast[name].dtype == slow[name].dtype


@given(st.lists(st.integers(0, 2**61), min_size=1, max_size=5))
def test_stamps_parse_alike_by_block_and_by_line(tmp_path_factory: pytest.TempPathFactory, stamps: list[int]) -> None:
    texts = [str(np.datetime64(stamp, "ns")).replace("T", " ") for stamp in stamps]
    path = write(tmp_path_factory.mktemp("csv"), "when,n\n" + "".join(f"{text},1\n" for text in texts))
    fast = table.read_columns(path, ("when", "n"), [Field("when", "stamp")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "_parse_block", lambda *_: None)
        slow = table.read_columns(path, ("when", "n"), [Field("when", "stamp")])
    assert fast["when"].tolist() == slow["when"].tolist() == stamps
