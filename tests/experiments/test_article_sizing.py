"""The sizing table against arithmetic that is not the experiment's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.article.table import COLUMNS, article_chips, cards_by_rule, size_classes
from experiments.sizing import Need, missed, plot, rank, run, sizing
from experiments.tried.instance import Instance, eight_bit, splits
from sim.physics import precision
from workloads import models

CHIPS = article_chips()
WHOLE = run()
RECOMMENDED = WHOLE[WHOLE["article_cards"].notna()]


def test_the_table_has_81_recommendations_of_11_chips() -> None:
    counts = [len(size_class.cards) for size_class in size_classes()]
    assert sum(counts) == len(RECOMMENDED) == 81
    # Classes from top to bottom, both columns together, counted in the article.
    assert counts == [13, 11, 11, 11, 10, 9, 8, 8]
    assert {chip for size_class in size_classes() for _, chip in size_class.cards} == set(CHIPS)


def test_labels_in_the_rows_of_the_article_are_those_the_rule_uses() -> None:
    labels = {name: chip.article["memory_gb"] for name, chip in CHIPS.items() if "memory_gb" in chip.article}
    assert set(CHIPS) - set(labels) == {"L40S"}  # recommended, but without a row of its own
    assert {name: CHIPS[name].memory.capacity_bytes / 2**30 for name in labels} == labels


@pytest.mark.parametrize(("fill", "expected"), [(0.785, 77), (0.80, 81), (0.90, 81), (0.94, 81), (0.95, 79)])
def test_the_rule_reproduces_all_counts_from_a_fill_of_four_fifths_to_0_94(
    fill: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.article.table.FILL", fill)
    reproduced = [
        cards_by_rule(size_class.upper_billion, COLUMNS[column], CHIPS[chip].memory.capacity_bytes) == cards
        for size_class in size_classes()
        for (column, chip), cards in size_class.cards.items()
    ]
    assert sum(reproduced) == expected


def test_weights_alone_bound_the_time_of_a_token_from_below() -> None:
    # 72B parameters in two bytes on four L20 cards of 864 GB/s; 53B on four XPU2 of 512 GB/s.
    floors = WHOLE.set_index(["class", "column", "article_chip"])["rule_floor_seconds"]
    assert floors["65B-72B", "fp16", "L20"] == pytest.approx(41.67e-3, abs=5e-6)
    assert floors["45B-53B", "fp16", "XPU2"] == pytest.approx(51.76e-3, abs=5e-6)


@pytest.mark.parametrize("row", WHOLE[WHOLE["cards"] > 0].to_dict(orient="records")[::7], ids=lambda row: row["class"])
def test_ours_is_the_smallest_count_that_holds_and_answers_in_time(row: dict[str, object]) -> None:
    need, model, chip = Need(), models.load(str(row["model"])), CHIPS[str(row["article_chip"])]
    cards = int(str(row["cards"]))
    weights = model.parameters * precision.load(str(row["precision"])).weight_bytes
    cache = model.kv_bytes_per_token() * need.context
    assert weights + cache <= 0.9 * cards * chip.memory.usable_bytes  # a lower bound: the runtime needs more
    for fewer in (count for count in (1, 2, 4, 8, 16, 32) if count < cards):
        for instance in splits(model, chip, str(row["precision"]), fewer):
            assert instance.room(need.context) < 1 or missed(instance, need)


def test_more_context_or_sequences_never_need_fewer_cards() -> None:
    # Twice the context, then sixteen sequences: of the chips that still can.
    cards = [run(need, "l20").set_index(["class", "column"])["cards"] for need in (Need(), Need(8192), Need(4096, 16))]
    for larger in cards[1:]:
        both = (cards[0] > 0) & (larger > 0)
        assert (larger[both] >= cards[0][both]).all()
        assert (larger[cards[0] == 0] == 0).all()


def test_stages_share_the_layers_and_cost_a_hop_and_a_host_each() -> None:
    model, chip = models.load("mt-nlg-530b"), CHIPS["H800"]
    whole, halves = (Instance(model, chip, precision.load("w16a16"), 8, stages) for stages in (1, 2))
    assert whole.room(4096) == 0  # 1,060 GB of weights in 640 GiB
    assert halves.room(4096) >= 1
    slower = halves.tpot_seconds(4096) - whole.tpot_seconds(4096)
    # A part of the stream over 200 Gbit/s, the whole in 7 steps over 200 GB/s, and 300 us to prepare the second batch.
    collect = 5.34e-6 + 7 * 0.79e-6 + 7 / 8 * model.hidden * 2 / (0.325 * 200e9)
    hop = 20e-6 + model.hidden * 2 / 8 / (0.7 * 25e9) + collect
    assert slower == pytest.approx(300e-6 + hop, rel=1e-6)


def test_eight_bits_mean_what_the_chip_has() -> None:
    assert {name for name, chip in CHIPS.items() if eight_bit(chip) == "fp8"} == {"L20", "L40S", "H20", "H800"}
    assert eight_bit(CHIPS["V100"]) == "w8a16"


def test_ranks_put_those_in_time_first_and_then_the_cheap() -> None:
    table = rank(Need(4096, 8), "llama-2-13b")
    assert table["meets"].is_monotonic_decreasing
    fast = table[table["meets"] & table["usd_per_hour"].notna()]
    assert fast["usd_per_hour_mean"].is_monotonic_increasing
    assert (table.loc[table["meets"], "room_sequences"] >= 8).all()


def test_the_last_line_counts_what_the_rule_reproduces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sizing(quick=True, out=tmp_path / "new") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "81 of 81 recommendations reproduced"
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"sizing.csv", "summary.json"}


def test_a_report_and_a_figure_come_with_one_chip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sizing(chip="L40S", out=tmp_path / "new", json=True) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["last"] == ["8 of 8 recommendations reproduced"]
    assert {row["chip"] for row in answer["tables"]["sizing"]} == {"l40s"}
    assert {path.name for path in (tmp_path / "new").iterdir()} >= {"report.html", "sizing.svg", "sizing.png"}


def test_the_title_of_the_figure_is_the_finding() -> None:
    title = next(text.get_text() for text in plot(WHOLE).texts if text.get_gid() == "title")
    agrees = (RECOMMENDED["cards"] == RECOMMENDED["article_cards"]).sum()
    assert f"{agrees} are the smallest" in title.replace("\n", " ")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"context": 0}, "--context is 0"),
        ({"prompt": 5000}, "--prompt is 5000"),
        ({"precision": "fp8"}, "without --model"),
        ({"model": "llama-2-13b", "precision": "fp3"}, "fp3"),
        ({"chip": "l21"}, "l21"),
    ],
)
def test_what_cannot_be_asked_is_refused(asked: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sizing(**asked)  # type: ignore[arg-type]
