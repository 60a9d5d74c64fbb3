"""Latency against TP, against arithmetic that is not the experiment's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.tp_scaling import best_splits, beyond, headline, plot, run, slower_with_more, tp_scaling

TABLE = run(("llama-2-13b",), ("l20", "h20-96", "l40s", "a30", "enflame-ss2"))


def seconds(chip: str, tensor: int, phase: str = "prefill", batch: int = 1, column: str = "seconds") -> float:
    rows = TABLE[(TABLE["chip"] == chip) & (TABLE["tensor"] == tensor) & (TABLE["pipeline"] == 1)]
    rows = rows[(rows["phase"] == phase) & (rows["batch"] == batch)]
    assert len(rows) == 1
    return float(rows[column].iloc[0])


def test_one_card_has_nothing_to_communicate() -> None:
    alone = TABLE[(TABLE["tensor"] == 1) & (TABLE["pipeline"] == 1)]
    assert (alone["communication_seconds"] == 0).all()
    assert (TABLE[TABLE["cards"] > 1]["communication_seconds"] > 0).all()


def test_40_heads_are_cut_by_8_and_not_by_16() -> None:
    assert set(TABLE.loc[TABLE["pipeline"] == 1, "tensor"]) == {1, 2, 4, 8}
    assert "TP 8 x PP 2" in set(TABLE["split"])


def test_the_links_move_at_least_the_bytes_of_a_ring() -> None:
    # 2 all-reduces in each of 40 layers, of 1,024 tokens x 5,120 numbers x 2 bytes; H20 sends 450 GB/s each way.
    for tensor in (2, 4, 8):
        ring_bytes = 2 * (tensor - 1) / tensor * 1024 * 5120 * 2
        least = 80 * ring_bytes / 450e9
        assert seconds("h20-96", tensor, column="communication_seconds") >= least
        assert seconds("l20", tensor, column="communication_seconds") >= 80 * ring_bytes / 32e9


def test_a_decoding_iteration_is_never_faster_than_its_share_of_the_weights() -> None:
    # 13,015,864,320 parameters of Llama-2-13B without the input table (32,000 x 5,120), two bytes each, 864 GB/s.
    for tensor in (1, 2, 4, 8):
        floor = 2 * (13_015_864_320 - 32_000 * 5_120) / tensor / 864e9
        assert floor <= seconds("l20", tensor, "decode") <= 1.5 * floor + 5e-3


def test_pcie_takes_more_than_nvlink_and_more_cards_are_not_always_faster() -> None:
    for tensor in (2, 4, 8):
        shares = [seconds(chip, tensor, column="communication_share") for chip in ("l20", "h20-96")]
        assert shares[0] > 2 * shares[1]
    # L40S computes three times as fast as L20 behind the same PCIe: a second card is next to useless there.
    assert seconds("l40s", 2) > 0.95 * seconds("l40s", 1)
    assert seconds("l20", 2) < 0.75 * seconds("l20", 1)
    # Four DTU2 and two A30 share fast links, twice as many do not.
    assert seconds("enflame-ss2", 8) > seconds("enflame-ss2", 4)
    slower, every = slower_with_more(TABLE)
    assert {chip for _, chip, _, _ in slower} == {"a30", "enflame-ss2"}
    assert len(every) == 5 * 5


def test_the_best_holds_and_nothing_that_holds_is_faster() -> None:
    best = best_splits(TABLE)
    assert best["holds"].all()
    assert not (best[best["chip"] == "a30"]["tensor"] == 1).any()  # 26 GB of weights in 24
    for _, row in best.iterrows():
        same = TABLE[(TABLE["chip"] == row["chip"]) & (TABLE["phase"] == row["phase"])]
        same = same[(same["batch"] == row["batch"]) & same["holds"] & same["one_server"]]
        assert row["seconds"] == same["seconds"].min()


def test_quick_leaves_tables_and_the_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tp_scaling(model=("llama-2-13b",), chip=("l20", "h20-96"), quick=True, out=tmp_path / "new") == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"tp_scaling.csv", "best.csv", "summary.json"}
    assert "communication takes up to" in " ".join(capsys.readouterr().out.split())


def test_the_title_of_the_figure_compares_the_links() -> None:
    title = next(text.get_text() for text in plot(TABLE).texts if text.get_gid() == "title").replace("\n", " ")
    ratio = seconds("l20", 1) / seconds("l20", 8)
    assert f"{ratio:.1f} times as fast on l20" in title
    assert "cases" in headline(TABLE)


@pytest.mark.parametrize(("asked", "message"), [({"context": 0}, "--context is 0"), ({"chip": ("l21",)}, "l21")])
def test_what_cannot_be_asked_is_refused(asked: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tp_scaling(**asked)  # type: ignore[arg-type]


def test_beyond_a_server_every_sum_crosses_the_network_and_stages_cross_it_once() -> None:
    table = run(("llama-2-70b",), ("h800-sxm",), batches=(1,))
    rows = table[(table["cards"] == 16) & (table["phase"] == "decode")].set_index("split")
    # 80 layers add up twice: 10.87 us each to scatter and to collect inside, 20 us each way between two servers.
    sums = 160 * (2 * 10.87e-6 + 2 * 20e-6)
    assert sums < rows.loc["TP 16", "communication_seconds"] < 1.05 * sums
    within = table[(table["split"] == "TP 8") & (table["phase"] == "decode")]["communication_seconds"].iloc[0]
    # A hop of 1/8 of 16 KB, and 10.87 us to collect it.
    assert rows.loc["TP 8 x PP 2", "communication_seconds"] - within == pytest.approx(30.87e-6, rel=0.05)
    assert rows.loc["TP 8 x PP 2", "seconds"] < rows.loc["TP 16", "seconds"]
    assert list(beyond(table)["split"]) == ["TP 16", "TP 8 x PP 2"]
