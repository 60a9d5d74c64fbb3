"""Products against each other, from the command line: each with its own limits, and the output says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from experiments import sched_compare
from experiments.asked.options import Options, completed, read
from experiments.run import main
from experiments.shown.output import headline
from sim import systems

NAMES = ("vllm-0.2.7", "vllm-0.33", "tensorrt-llm-2024-01")
SMALL = ["--requests", "80", "--seeds", "2", "--load", "0.5,0.9"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("systems") / "results"


@pytest.fixture(scope="module")
def printed(folder: Path) -> str:
    from contextlib import redirect_stdout
    from io import StringIO

    with redirect_stdout(StringIO()) as out, pytest.raises(SystemExit) as ended:
        main(["sched_compare", "--systems", ",".join(NAMES), *SMALL, "--out", str(folder)])
    assert ended.value.code == 0
    return out.getvalue()


@pytest.fixture(scope="module")
def summary(printed: str, folder: Path) -> dict[str, Any]:
    assert printed
    return json.loads((folder / "summary.json").read_text())  # type: ignore[no-any-return]


def test_each_arm_has_its_evidence_beside_it_and_says_how_it_ran(printed: str) -> None:
    assert "vllm-0.2.7 [executed]" in printed
    assert "tensorrt-llm-2024-01 [reconstructed]" in printed
    assert "products" in printed
    assert "What the article says" not in printed
    assert "no iteration of vllm-0.2.7 is shorter" in printed
    assert "vllm-0.33 against vllm-0.2.7" in printed
    assert "tensorrt-llm-2024-01 against vllm-0.2.7" in printed


def test_limits_differ_and_are_written_down(summary: dict[str, Any]) -> None:
    ran = summary["systems"]
    assert list(ran) == list(NAMES)
    assert ran["vllm-0.2.7"]["prefix cache"] == "none"
    assert ran["vllm-0.33"]["prefix cache"] == "on"
    assert ran["tensorrt-llm-2024-01"]["prefix cache"] == "off"
    assert ran["vllm-0.2.7"]["tokens"] == "4,096"  # the context of Llama-2
    assert ran["vllm-0.33"]["tokens"] == "2,048"
    assert {facts["evidence"] for facts in ran.values()} == {"executed", "reconstructed"}
    remarks = [remark for name in NAMES for remark in systems.load(name).remarks]
    assert all(any(remark in note for note in summary["notes"]) for remark in remarks)
    assert summary["claims"] == []


def test_every_file_is_there(summary: dict[str, Any], folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert summary
    assert {f"vllm_bench_{name}.json" for name in NAMES} <= names
    assert {"report.html", "config.toml", "summary.csv", "differences.csv", "requests.parquet"} <= names
    assert {"survival_ttft.svg", "load_ttft.svg", "timeline.png"} <= names
    report = (folder / "report.html").read_text()
    assert all(name in report for name in NAMES)
    assert "policies, not products" not in report


def test_all_systems_have_the_same_requests(summary: dict[str, Any], folder: Path) -> None:
    requests = pd.read_parquet(folder / "requests.parquet")
    assert summary
    assert list(requests.arm.cat.categories) == list(NAMES)
    alike = requests.groupby(["load", "seed", "request_id"])[["arrival_seconds", "prompt_tokens", "output_tokens"]]
    assert (alike.nunique() == 1).all(axis=None)
    cached = pd.read_csv(folder / "summary.csv").groupby("arm").prefix_cache.first()
    assert cached.to_dict() == {"vllm-0.2.7": False, "vllm-0.33": True, "tensorrt-llm-2024-01": False}


def test_the_configuration_repeats_it(summary: dict[str, Any], folder: Path) -> None:
    options = read(folder / "config.toml")
    assert summary
    assert options.systems == NAMES
    assert options.utilisation is None
    again = sched_compare.run(options)
    assert again.differences.to_csv(index=False, lineterminator="\n") == (folder / "differences.csv").read_text()
    assert headline(again).startswith("Against vllm-0.2.7, on average at 0.900 requests/s")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"systems": ("vllm-0.33",)}, "--systems is vllm-0.33; allowed: 2 to 7 different ones"),
        ({"systems": ("orca", "orca")}, "--systems is orca,orca; allowed: 2 to 7"),
        ({"systems": ("orca", "vllm-0.3")}, "system 'vllm-0.3' is unknown; did you mean vllm-0.33"),
        ({"systems": ("vllm-0.2.7", "vllm-0.33"), "precision": "fp8"}, "vLLM 0.2.7 has no FP8"),
        ({"systems": ("vllm-0.2.7", "vllm-0.33"), "utilisation": 1.5}, "--utilisation is 1.5"),
    ],
)
def test_what_cannot_be_compared_is_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint.replace("(", r"\(")):
        sched_compare.run(Options(**options))


def test_a_list_in_a_file_has_to_be_of_texts(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("quick = true\nsystems = [1, 2]\n")
    with pytest.raises(ValueError, match=r"line 2: systems is \[1, 2\]; allowed: a list of texts"):
        read(path)


def test_policies_keep_their_utilisation() -> None:
    assert completed(Options()).utilisation == 0.9


def test_the_list_of_systems_names_all_and_marks_where_the_article_errs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["systems"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in systems.available())
    marked = [line for line in shown.splitlines() if "-!" in line]
    assert [line.split()[0] for line in marked] == ["W4A8", "W4A4"]


def test_one_system_is_shown_with_the_articles_words_remarks_and_sources(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["systems", "tensorrt-llm-2024-01"])
    shown = capsys.readouterr().out
    assert "announced for v0.8" in shown
    assert "beware: Reconstructed" in shown
    assert "source:" in shown


def test_json_of_systems_is_all_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["systems", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert set(found) == set(systems.available())
    assert found["vllm-0.2.7"]["limits"]["paddings"] == 256
    assert found["vllm-0.2.7"]["capabilities"]["w4a8"]["article_says"] == "yes"
