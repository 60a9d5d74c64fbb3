"""Options: a file and the command line mean the same, and what is left open depends on the trace."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.asked.options import Options, completed, merged, read
from experiments.shown.output import configuration

positive = st.floats(1e-3, 1e3)
options = st.builds(
    Options,
    trace=st.none() | st.just("chat"),
    hardware=st.none() | st.sampled_from(["l20", "own chip.toml", 'quoted " name']),
    tp=st.none() | st.integers(1, 8),
    load=st.none() | st.lists(positive, min_size=1, max_size=4).map(tuple),
    requests=st.none() | st.integers(20, 10_000),
    seeds=st.none() | st.integers(1, 9),
    slo_ttft=st.none() | positive,
    max_tokens=st.none() | st.sampled_from(["auto", "512", "x1.5", "oracle"]),
    quick=st.none() | st.booleans(),
)


@given(options)
def test_a_file_gives_back_what_was_written(tmp_path_factory: pytest.TempPathFactory, chosen: Options) -> None:
    path = tmp_path_factory.getbasetemp() / "round.toml"
    path.write_text(configuration(chosen), encoding="utf-8")
    assert read(path) == chosen


@given(options)
def test_completing_twice_changes_nothing(chosen: Options) -> None:
    full = completed(chosen)
    assert completed(full) == full
    assert merged(full, Options()) == full


def test_the_default_is_the_examples_of_the_article() -> None:
    full = completed(Options())
    assert (full.hardware, full.model, full.tp, full.precision) == ("l20", "llama-2-13b", 2, "w16a16")
    assert (full.slo_ttft, full.requests, full.seeds, full.system_prompt) == (2.0, 3000, 5, 512)


def test_recorded_traces_bring_a_machine_that_holds_their_prompts_and_what_is_given_counts_more() -> None:
    full = completed(Options(trace="mooncake-conversation", tp=4))
    assert (full.hardware, full.model, full.tp) == ("h200-sxm", "llama-3.1-70b", 4)
    assert (full.seeds, full.speed, full.load, full.system_prompt) == (1, (1.0,), None, 0)


def test_loads_are_sorted_and_taken_once() -> None:
    assert completed(Options(load=(2.0, 1.0, 2.0))).load == (1.0, 2.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("requests = 200\nbogus = 3\n", "line 2: unknown option 'bogus'; allowed: trace, hardware"),
        ("\n[machine]\ntp = 2\n", "line 2: unknown option 'machine'"),
        ("requests = 'many'\n", "line 1: requests is 'many'; allowed: a whole number"),
        ("requests = true\n", "allowed: a whole number"),
        ("seeds = 2\nload = ['fast']\n", "line 2: load is ['fast']; allowed: a list of numbers"),
        ("quick = 1\n", "allowed: true or false"),
        ("hardware = 3.5\n", "allowed: a text"),
        ("slo_ttft = 'two'\n", "allowed: a number"),
        ("tp = \n", "is not TOML"),
    ],
)
def test_wrong_files_are_refused_by_line_and_field(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"config\.toml") as refused:
        read(path)
    assert says in str(refused.value)


def test_whole_numbers_are_taken_for_numbers_and_rules(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("slo_ttft = 3\nload = [1, 2.5]\nmax_tokens = 512\n")
    assert read(path) == Options(slo_ttft=3.0, load=(1.0, 2.5), max_tokens="512")
