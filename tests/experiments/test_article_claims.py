"""The verdicts on the article's statements, against arithmetic that is not the experiment's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments import claims
from experiments.article import claim_checks, framework_checks
from experiments.article.finding import DOES_NOT_HOLD, HOLDS, KINDS, NOT_DECIDABLE, Finding, article
from experiments.run import COMMANDS

FOUND = claims.findings(quick=True)
TABLE = claims.as_table(FOUND)
NUMBERS = claims.numbers_table(FOUND)


def finding(name: str) -> Finding:
    return next(one for one in FOUND if one.name == name)


def number(name: str, beginning: str) -> float:
    rows = NUMBERS[(NUMBERS["name"] == name) & NUMBERS["quantity"].str.startswith(beginning)]
    assert len(rows) == 1
    return float(rows["ours"].iloc[0])


def test_every_claim_and_every_row_has_a_verdict_and_a_command_that_exists() -> None:
    assert list(TABLE["name"])[:8] == [f"C{number}" for number in range(1, 9)]
    assert list(TABLE["name"])[8:] == [row["title"] for row in article()["rows"]]
    assert set(TABLE["kind"]) <= set(KINDS)
    commands = {name for name, _, _ in COMMANDS}
    assert {command.split()[1] for command in TABLE["command"]} <= commands


def test_the_weight_read_comes_in_both_units() -> None:
    # 26e9 bytes; the article divides 24.21 (GiB) by 864 (GB/s).
    assert number("C2", "weights read, GiB by GB/s, TP 1") == pytest.approx(24.21 / 864 * 1e3, abs=0.005)
    assert number("C2", "weights read, GiB by GB/s, TP 1") == pytest.approx(28.02, abs=0.005)
    assert number("C2", "weights read, GiB by GB/s, TP 2") == pytest.approx(14.01, abs=0.005)
    assert number("C2", "weights read, bytes by bytes/s, TP 1") == pytest.approx(30.09, abs=0.005)
    assert number("C2", "weights read, bytes by bytes/s, TP 2") == pytest.approx(15.05, abs=0.005)
    assert finding("C2").verdict.startswith("holds if")


def test_a_whole_token_takes_the_weights_the_cache_and_no_less() -> None:
    # Llama-2-13B without its input table, and 1,024 tokens of 2 x 40 layers x 5,120 numbers, all in two bytes.
    floor = (2 * (13_015_864_320 - 32_000 * 5_120) + 1024 * 2 * 40 * 5120 * 2) / 864e9
    bare = number("C2", "whole token, datasheet roofline, TP 1")
    assert floor * 1e3 <= bare <= 1.03 * floor * 1e3
    rows = NUMBERS[NUMBERS["quantity"].str.startswith("whole token, generic")]
    assert ((rows["low"] < rows["ours"]) & (rows["ours"] < rows["high"])).all()
    assert (rows["ours"] > rows["article"]).all()


def test_streaming_weights_takes_as_long_as_the_host_link_needs() -> None:
    # 530B parameters in two bytes over eight cards, PCIe Gen5 x16 one way, four fifths of it.
    expected = 529.6e9 * 2 / 8 / (64e9 * 0.8)
    assert number("C4", "streamed") == pytest.approx(expected, rel=0.01)
    assert "latency does not matter" in finding("C4").verdict


def test_eight_bits_halve_the_weights_and_help_prompts_where_there_is_a_unit() -> None:
    # Both vocabulary tables of 32,000 x 5,120 stay in two bytes.
    tables = 2 * 32_000 * 5_120
    assert number("C5", "weights") == pytest.approx((13_015_864_320 + tables) / 2 / 13_015_864_320, rel=1e-3)
    assert number("C5", "prompt, with 8-bit") < 1 < number("C5", "prompt, without")


def test_quality_is_left_open() -> None:
    assert finding("C7").verdict == NOT_DECIDABLE
    assert number("C7", "FP8 against INT8, prompt") == pytest.approx(0, abs=0.05)


def test_a_wrong_statement_about_a_system_is_found_and_a_right_one_is_not() -> None:
    # Public release notes: vLLM shipped no W4A8 or W4A4 kernels in January 2024, and FlashAttention was there.
    assert finding("INT8 and below").verdict.startswith("holds if these are left out")
    assert "W4A8" in finding("INT8 and below").verdict
    assert "W4A4" in finding("INT8 and below").verdict
    assert finding("FlashAttention").verdict == HOLDS
    verdict, _ = framework_checks.capabilities_verdict(["w4a4"])
    assert verdict.startswith(DOES_NOT_HOLD)
    assert framework_checks.capabilities_verdict(["kv8"])[0] == NOT_DECIDABLE  # the article says nothing of it


def test_verdicts_follow_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    # With ten seconds for a token streamed weights would do; had the article said 20 ms, C2 would not hold.
    monkeypatch.setattr(claim_checks, "TPOT_OBJECTIVE", 10.0)
    assert claim_checks.too_large_for_a_server().verdict == HOLDS
    monkeypatch.setitem(article()["example"], "milliseconds", {"1": 20.0})
    assert claim_checks.weight_read().verdict.startswith(DOES_NOT_HOLD)


def test_the_row_on_first_tokens_names_the_loads_at_which_all_of_it_holds() -> None:
    verdict = finding("first token").verdict
    assert verdict.startswith("holds if the load is 50 %") or verdict == HOLDS
    assert finding("first token").ours.count("holds at") == 3


def test_intervals_enclose_what_was_sampled() -> None:
    sampled = NUMBERS[NUMBERS["low"].notna()]
    assert len(sampled) >= 8
    assert ((sampled["low"] <= sampled["ours"]) & (sampled["ours"] <= sampled["high"])).all()


def test_figures_have_the_finding_as_title() -> None:
    drawn = claims.plot(TABLE), claims.plot_weight_read(NUMBERS)
    titles = [next(t.get_text() for t in f.texts if t.get_gid() == "title").replace("\n", " ") for f in drawn]
    assert titles[0] == claims.headline(TABLE)
    assert "28.02 ms" in titles[1]


def test_the_command_writes_and_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "findings", lambda *_: FOUND)
    assert claims.article_claims(quick=True, out=tmp_path / "new", json=True) == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["tables"]["claims"]) == len(FOUND)
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"claims.csv", "numbers.csv", "summary.json"}
