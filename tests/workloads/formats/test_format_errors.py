"""Wrong lines are reported by file and number, and nothing is dropped silently."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads import formats

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n"
BURSTGPT = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,API log\n"
VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,4808,10\n"
SPLITWISE = (
    "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n0,2,0,1,1,4096,32\n"
)
PLAIN = "arrival_seconds,prompt_tokens,output_tokens,max_tokens\n0.0,8,8,8\n"
MOONCAKE = '{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}\n'
BAILIAN = (
    '{"chat_id": 1, "parent_chat_id": -1, "timestamp": 0.1, "input_length": 6, "output_length": 5, "hash_ids": [0]}\n'
)
FLAT = '{"input_toks": 5, "output_toks": 6, "arrival_time_ns": 7}\n'
SHAREGPT = '[{"conversations": [{"value": "what is this?"}, {"value": "an example, no more"}]},\n'
SERVEGEN = "0,1.5,1.0,Gamma,1.0,0.66\n"


@pytest.mark.parametrize(
    ("text", "line", "complaint"),
    [
        (AZURE + "2023-11-16 18:17:04.03,abc,8\n", 3, "ContextTokens is 'abc'; allowed: a whole number of at least 0"),
        (AZURE + "2023-11-16 18:17:04.03,12.5,8\n", 3, "ContextTokens is '12.5'"),
        (AZURE + "2023-11-16 18:17:04.03,,8\n", 3, "ContextTokens is ''"),
        (AZURE + "2023-11-16 18:17:04.03,8\n", 3, "has 2 columns, expected 3"),
        (AZURE + "\n2023-11-16 18:17:04.03,8,-1\n", 4, "GeneratedTokens is '-1'"),
        (AZURE + "16/11/2023 18:17,8,1\n", 3, "TIMESTAMP is '16/11/2023 18:17'; allowed: YYYY-MM-DD hh:mm:ss"),
        (AZURE + "2023-13-16 18:17:00,8,1\n", 3, "TIMESTAMP is '2023-13-16 18:17:00'"),
        (AZURE + "9999-01-16 18:17:00,8,1\n", 3, "TIMESTAMP is '9999-01-16 18:17:00'"),
        (AZURE + "2023-11-16 18:17:04,99999999999999999999,1\n", 3, "at most 1000000000"),
        (BURSTGPT + "six,ChatGPT,1,1,2,API log\n", 3, "Timestamp is 'six'; allowed: a number"),
        (BURSTGPT + "6,ChatGPT,1,-1,2,API log\n", 3, "Response tokens is '-1'"),
        (BURSTGPT + "6,ChatGPT,1,1\n", 3, "has 4 columns, expected 6"),
        (VIDUR + "nan,1,1\n", 3, "arrived_at is 'nan'; allowed: a number of at least 0"),
        (VIDUR + "-0.5,1,1\n", 3, "arrived_at is '-0.5'"),
        (VIDUR + "1,1,0\n", 3, "num_decode_tokens is '0'; allowed: a whole number of at least 1"),
        (VIDUR + "1,1_0,2\n", 3, "num_prefill_tokens is '1_0'"),
        (SPLITWISE + "\n1,2,0,3,4,2048,8\n", 4, "batch_size is 4; allowed: 1"),
        (SPLITWISE + "1,2,0,x,1,2048,8\n", 3, "arrival_timestamp is 'x'"),
        (PLAIN + "1.0,8,9,8\n", 3, "max_tokens is 8; allowed: at least output_tokens, 9"),
        (PLAIN + "inf,8,9,9\n", 3, "arrival_seconds is 'inf'"),
        (MOONCAKE + '{"timestamp": 0, "input_len\n', 2, "not JSON"),
        (MOONCAKE + "[1]\n", 2, "not a JSON object"),
        (MOONCAKE + '{"timestamp": 0, "input_length": 5, "output_length": 5}\n', 2, "hash_ids is 'None'"),
        (MOONCAKE + MOONCAKE.replace("600", "1025"), 2, "hash_ids has 2 blocks; allowed: 3, as input_length is 1025"),
        (MOONCAKE + MOONCAKE.replace("600", '"600"'), 2, "input_length is '600'; allowed: a whole number"),
        (MOONCAKE + MOONCAKE.replace("600", "-1"), 2, "input_length is '-1'"),
        (MOONCAKE + MOONCAKE.replace(": 0,", ": NaN,"), 2, "timestamp is 'nan'"),
        (MOONCAKE + MOONCAKE.replace("[0, 1]", "[0, 1.5]"), 2, "hash_ids is '[0, 1.5]'"),
        (MOONCAKE + '{"delay": 50, "input_length": 5, "output_length": 5}\n', 2, "timestamp is missing"),
        (BAILIAN + BAILIAN.replace('"chat_id": 1', '"chat_id": "a"'), 2, "chat_id is 'a'"),
        (FLAT + '{"input_toks": 5, "arrival_time_ns": 7}\n', 2, "output_toks is missing"),
        (FLAT + FLAT.replace("5", "0"), 2, "input_toks is '0'; allowed: a whole number from 1"),
        (FLAT + '{"sub_requests": 5, "arrival_time_ns": 7}\n', 2, "sub_requests is '5'"),
        (FLAT + '{"sub_requests": [{"input_toks": 1}], "arrival_time_ns": 7}\n', 2, "output_toks is missing"),
        (SHAREGPT + '{"conversations": [{"value": "trunc', 2, "not JSON"),
        (SHAREGPT + '{"conversations": [{"value": 5}, {}]}]', 2, "no text under value"),
        (SHAREGPT + '{"turns": []}]', 2, "no list of conversations"),
        (SHAREGPT, 2, "not JSON"),
        (SERVEGEN + "600,1.5,1.0,Pareto,1.0,0.66\n", 2, "600,1.5,1.0,Pareto"),
        (SERVEGEN + "600,0,1.0,Gamma,1.0,0.66\n", 2, "rate is 0"),
        (SERVEGEN + "0,1.5,1.0,Gamma,1.0,0.66\n", 2, "window starts at 0 s; allowed: after 0 s"),
    ],
)
def test_a_wrong_line_is_named_with_its_value(tmp_path: Path, text: str, line: int, complaint: str) -> None:
    path = tmp_path / "wrong.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match="wrong line") as caught:
        formats.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: 1 wrong line(s)\n  line {line}: ")
    assert complaint in message


def test_the_first_ten_wrong_lines_are_listed_and_the_rest_counted(tmp_path: Path) -> None:
    path = tmp_path / "wrong.csv"
    path.write_text(VIDUR + "x,1,1\n" * 13 + "5,1,1\n")
    with pytest.raises(ValueError, match="wrong line") as caught:
        formats.read(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}: 13 wrong line(s)"
    assert [line.split(":")[0].strip() for line in lines[1:11]] == [f"line {n}" for n in range(3, 13)]
    assert lines[11].strip() == "and 3 more"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "the file is empty"),
        (b" \n\n", "the file is empty"),
        (b"a,b\n1,2\n", "unknown format; the first line is 'a,b'; known are"),
        (b"version https://git-lfs.github.com/spec/v1\n", "unknown format; the first line is 'version https://git-lfs"),
        (VIDUR.split("\n")[0].encode(), "the file holds no request"),
        (b"arrived_at,arrived_at,num_prefill_tokens,num_decode_tokens\n0,0,1,1\n", "names a column twice"),
        (b"arrival_seconds,prompt_tokens,output_tokens,tenant\n0,1,1,a\n", "allowed columns, each once"),
        (gzip.compress(AZURE.encode() * 99)[:-20], "cannot be read"),
        ((FLAT + FLAT.replace("_ns", "")).encode(), "some requests have arrival_time"),
    ],
)
def test_a_file_that_cannot_be_a_trace_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="file") as caught:
        formats.read(path)
    assert str(caught.value).startswith(str(path))
    assert complaint in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing\.csv: no such file"):
        formats.read(tmp_path / "nothing.csv")


def test_keys_and_not_the_name_make_the_format(tmp_path: Path) -> None:
    path = tmp_path / "mooncake_trace.csv"
    path.write_text(json.dumps({"input_toks": 1, "output_toks": 2, "arrival_time_ns": 0}))
    assert formats.read(path).output_tokens.tolist() == [2]


@given(
    st.sampled_from([AZURE, BURSTGPT, VIDUR, SPLITWISE, PLAIN, MOONCAKE, BAILIAN, FLAT, SHAREGPT, SERVEGEN]),
    st.sampled_from(["", ",", "\n", "\r", "\0", '"', "-", "9" * 30, "1e400", "null", "[", "{}", "NaN", "\ufeff", " "]),
    st.floats(0, 1),
    st.integers(0, 20),
)
def test_a_damaged_file_is_read_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, text: str, damage: str, where: float, missing: int
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "chunk-0-trace.csv"
    at = int(where * len(text))
    path.write_text(text[:at] + damage + text[at + missing :], encoding="utf-8")
    refusal = str(path.parent)
    try:
        formats.read(path)
    except ValueError as error:
        refusal = str(error)
    assert str(path.parent) in refusal
