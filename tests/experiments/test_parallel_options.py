"""Splits of a replica asked for on the command line."""

from __future__ import annotations

import json

import pytest

from experiments import roofline
from experiments.asked.options import Options, completed
from experiments.asked.scenario import scenario_of
from experiments.run import main

HOPS, EXCHANGE = "to the next stage", "tokens to experts and back"


def parts(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, float]:
    with pytest.raises(SystemExit, match="0"):
        main(["roofline", "--json", *options])
    return {row["operator"]: row["seconds"] for row in json.loads(capsys.readouterr().out)}


def test_stages_pass_the_batch_on(capsys):
    one, four = parts(capsys, "--tp", "2"), parts(capsys, "--tp", "2", "--pp", "4")
    assert HOPS not in one
    assert four[HOPS] > 0
    assert four["host"] == pytest.approx(4 * one["host"])
    assert four["decode attention"] == one["decode attention"]


def test_ranks_bring_their_tokens_to_the_experts(capsys):
    base = ("--model", "mixtral-8x7b", "--hardware", "h100-sxm", "--decode", "4")
    alone, shared = parts(capsys, *base, "--tp", "1"), parts(capsys, *base, "--tp", "1", "--dp", "4", "--ep", "4")
    assert EXCHANGE not in alone
    assert shared[EXCHANGE] > 0
    # Four devices with two experts each, which sixteen tokens surely meet, against one that reads most of eight.
    assert shared["experts"] < 0.4 * alone["experts"]
    assert shared["decode attention"] == alone["decode attention"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--pp", "99"), "allowed are 1 to 40"),
        (("--dp", "2"), "share no experts"),
        (("--ep", "3"), "allowed are 1, 2"),
        (("--pp", "0"), "allowed are 1 and more"),
    ],
)
def test_impossible_splits_end_with_what_is_possible(options, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["roofline", *options])
    assert said in capsys.readouterr().err


def test_a_comparison_takes_every_split():
    options = completed(Options(model="mixtral-8x7b", hardware="h100-sxm", tp=2, ep=4, dp=2))
    assert options.devices == 4
    split = scenario_of(options, None).parallelism
    assert (split.tensor, split.pipeline, split.expert, split.data) == (2, 1, 4, 2)
    with pytest.raises(ValueError, match="--pp is 0; allowed: a whole number, at least 1"):
        completed(Options(pp=0))


def test_the_table_names_the_split():
    question = roofline.Question("llama-2-13b", "l20", 2, "w16a16", 0, 32, 1024, "generic", pp=2)
    assert "TP 2 x PP 2" in roofline.table(question).attrs["what"]
