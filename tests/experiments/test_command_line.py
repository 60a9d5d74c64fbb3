"""The command line: instant help, and one sentence for every mistake."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.run import COMMANDS, main

ROOT = Path(__file__).parents[2]


def fails(tokens: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(tokens)
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def test_help_is_instant_and_imports_nothing_slow() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "experiments.run", "--help"]
    begin = sum(os.times()[2:4])  # of ended children; time on the wall depends on who else computes
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert sum(os.times()[2:4]) - begin < 1.5  # 0.2 s on an idle machine
    imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "cyclopts" in imported
    assert not imported & {"pandas", "scipy", "matplotlib", "pyarrow", "jinja2", "simpy", "numpy"}
    assert all(name in done.stdout for name, _, _ in COMMANDS)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--hardware", "l200"], "no hardware profile is named 'l200'; the closest are l20"),
        (["--model", "lama-2-13b"], "llama-2-13b"),
        (["--model", "llama-3.1-70b"], "does not fit"),
        (["--precision", "w3a3"], "w4a16"),
        (["--precision", "fp8", "--hardware", "a10"], "lacks"),
        (["--tp", "3"], "allowed are 1, 2, 4, 8"),
        (["--load", "1,-2"], "--load is 1,-2; allowed: positive numbers of requests/s"),
        (["--load", "1,x"], "numbers with commas between"),
        (["--slo-ttft", "-1"], "--slo-ttft is -1.0; allowed: a positive number of seconds"),
        (["--seeds", "0"], "--seeds is 0; allowed: a whole number, at least 1"),
        (["--utilisation", "1.2"], "--utilisation is 1.2"),
        (["--max-tokens", "7"], "allowed: at least"),
        (["--max-tokens", "many"], "'oracle'"),
        (["--trace", "missing.csv"], "trace is 'missing.csv': no such file"),
        (["--trace", "README.md"], "README.md: unknown format"),
        (["--trace", "azure-conv-2023", "--load", "3"], "use --speed"),
        (["--trace", "azure-conv-2023", "--seeds", "3"], "cannot be replicated"),
        (["--speed", "2"], "use --load"),
        (["--config", "missing.toml"], "missing.toml: cannot be read"),
        (["--out", "pyproject.toml"], "exists already"),
        (["--bogus", "1"], "Unknown option: --bogus"),
        (["llama"], "llama"),
    ],
)
def test_a_mistake_is_one_sentence_that_says_what_would_work(
    options: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert says in fails(["sched_compare", *options], capsys)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("capacity --efficiency nosuch --quick", "no candidate can serve, first of all"),
        ("pareto --context 0 --quick", "--context is 0; allowed: 1 and more"),
        ("replicas_vs_tp --requests 0 --quick", "--requests is 0; allowed: 1 and more"),
        ("routers --seeds 0 --quick", "--seeds is 0; allowed: 1 and more"),
        ("prefix_sharing --hardware nosuch --quick", "no hardware profile is named 'nosuch'"),
        ("roofline --out tests", "--out is tests, which exists already"),
        ("eviction --out tests", "--out is tests, which exists already"),
        ("calibrate --out pyproject.toml", "--out is pyproject.toml, which exists already"),
    ],
)
def test_other_commands_say_so_too(
    command: str, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert fails(command.split(), capsys).startswith(says)


@pytest.mark.parametrize("command", [name for name, _, _ in COMMANDS])
def test_help_says_what_every_option_does(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    printed = capsys.readouterr().out
    rows = [line.strip("│ \n") for line in printed.splitlines() if line.startswith("│ ")]
    options = [row for row in rows if re.match(r"([A-Z]+ )?--[a-z]", row)]
    bare = [row for row in options if re.fullmatch(r"([A-Z]+ )?--[a-z-]+( [A-Z]+(\.\.\.)?)?", row)]
    assert options
    assert not bare
    assert "--no-quick" not in printed
    assert "--no-json" not in printed


def test_unknown_commands_name_those_that_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert "sched_compare" in fails(["compare"], capsys)


def test_hardware_lists_every_chip_and_gives_sources_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["hardware"])
    overview = capsys.readouterr().out
    assert "l20" in overview
    assert "119.5" in overview
    with pytest.raises(SystemExit, match="0"):
        main(["hardware", "l20"])
    one = capsys.readouterr().out
    assert "864 GB/s" in one
    assert "tomshardware" in one


def test_hardware_says_where_the_article_differs(capsys: pytest.CaptureFixture[str]) -> None:
    # HARDWARE.md: the Ascend 910B2 has 353.9 TFLOPS, the article 376; H800 agrees in every number.
    for name, differs in (("ascend-910b2", True), ("h800-sxm", False)):
        with pytest.raises(SystemExit, match="0"):
            main(["hardware", name])
        assert ("the article says 376 (TFLOPS FP16); this profile 353.9" in capsys.readouterr().out) == differs


def test_hardware_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["hardware", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["l20"]["memory"]["bandwidth_bytes_per_second"] == 864e9
    assert found["l20"]["evidence"]["power_watts"]["grade"]
