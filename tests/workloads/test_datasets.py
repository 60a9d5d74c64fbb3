"""Public traces are found, checked, and fetched from where they are published."""

from __future__ import annotations

import functools
import hashlib
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from workloads import datasets

CONTENT = b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n"
NAME = "azure-code-2023"
FILE = "AzureLLMInferenceTrace_code.csv"


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    """Serve a small stand-in for a public trace from this machine, and return its address."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / FILE).write_bytes(CONTENT)
    server = HTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def nothing_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Leave no copy at hand, and return the empty folder of the cache."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets, "_shared_folders", lambda: [])
    monkeypatch.setattr(datasets, "_cache", lambda: cache)
    return cache


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the checksum of the stand-in for that of the public trace."""
    stand_in = replace(datasets.describe(NAME), sha256=hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(datasets, "DATASETS", (stand_in,))


@pytest.mark.parametrize(
    ("name", "requests", "prompt", "output"),
    [
        # Sizes and means as published, see the Mooncake paper (FAST 2025) and the Splitwise paper (ISCA 2024).
        ("azure-conv-2023", 19366, 1155, 211),
        ("azure-code-2023", 8819, 2048, 28),
        ("mooncake-conversation", 12031, 12035, 343),
        ("mooncake-synthetic", 3993, 15325, 149),
    ],
)
def test_local_copies_are_the_published_traces(
    shared: Path, monkeypatch: pytest.MonkeyPatch, name: str, requests: int, prompt: int, output: int
) -> None:
    monkeypatch.setenv(datasets.SHARED_VARIABLE, str(shared))
    trace = datasets.load(name)
    assert trace.name == name
    assert len(trace) == requests
    assert round(float(trace.prompt_tokens.mean())) == prompt
    assert round(float(trace.output_tokens.mean())) == output


def test_options_reach_the_reader(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(datasets.SHARED_VARIABLE, str(shared))
    trace = datasets.load("mooncake-synthetic", max_tokens="oracle")
    assert (trace.max_tokens == trace.output_tokens).all()


def test_the_named_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stand_in: None) -> None:
    (tmp_path / "traces").mkdir()
    (tmp_path / "traces" / FILE).write_bytes(CONTENT)
    monkeypatch.setenv(datasets.SHARED_VARIABLE, str(tmp_path))
    assert datasets.find(NAME) == tmp_path / "traces" / FILE


def test_a_download_is_checked_kept_and_announced_with_its_licence(
    mirror: str, nothing_local: Path, stand_in: None, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = datasets.load(NAME, base_url=mirror)
    assert trace.prompt_tokens.tolist() == [4808]
    assert (nothing_local / FILE).read_bytes() == CONTENT
    announced = capsys.readouterr().err
    assert "CC-BY-4.0" in announced
    assert "Splitwise" in announced
    # The second time nothing is fetched, so an address that nobody serves does no harm.
    assert datasets.find(NAME, base_url="http://127.0.0.1:9") == nothing_local / FILE


def test_a_download_with_another_checksum_is_refused_and_not_kept(mirror: str, nothing_local: Path) -> None:
    with pytest.raises(ValueError, match="cannot be downloaded") as caught:
        datasets.find(NAME, base_url=mirror)
    assert hashlib.sha256(CONTENT).hexdigest() in str(caught.value)
    assert not (nothing_local / FILE).exists()


def test_a_copy_with_another_checksum_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "traces").mkdir()
    (tmp_path / "traces" / FILE).write_bytes(CONTENT)
    monkeypatch.setenv(datasets.SHARED_VARIABLE, str(tmp_path))
    with pytest.raises(ValueError, match="is not the published azure-code-2023: its SHA-256 is"):
        datasets.find(NAME)


@pytest.mark.parametrize("path", ["", "/nowhere"])
def test_without_a_network_the_source_and_the_folder_are_named(mirror: str, nothing_local: Path, path: str) -> None:
    closed = "http://127.0.0.1:9" if not path else mirror + path
    with pytest.raises(ValueError, match="cannot be downloaded") as caught:
        datasets.find(NAME, base_url=closed)
    message = str(caught.value)
    assert datasets.describe(NAME).url in message
    assert f"put it into {nothing_local} as {FILE}" in message


def test_on_a_terminal_a_bar_shows_the_progress(
    mirror: str,
    nothing_local: Path,
    stand_in: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    assert datasets.find(NAME, base_url=mirror) == nothing_local / FILE
    shown = capsys.readouterr()
    assert FILE in shown.err
    assert f"{len(CONTENT)}/{len(CONTENT)} bytes" in shown.err
    assert shown.out == ""


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"no public trace is called 'azure'; known are azure-conv-2023, .*burstgpt-1"):
        datasets.load("azure")


def test_every_entry_is_complete_and_no_two_share_a_name_or_file() -> None:
    assert len({dataset.name for dataset in datasets.DATASETS}) == len(datasets.DATASETS)
    assert len({dataset.file_name for dataset in datasets.DATASETS}) == len(datasets.DATASETS)
    for dataset in datasets.DATASETS:
        assert len(bytes.fromhex(dataset.sha256)) == 32
        assert dataset.url.startswith("https://")
        assert dataset.licence in {"CC-BY-4.0", "Apache-2.0"}
