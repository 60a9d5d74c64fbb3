"""Named public traces: where they come from, under which licence, and how to know that a copy is the right one."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workloads import formats
from workloads.trace import Trace

SHARED_VARIABLE = "ROOFSERVE_SHARED"

AZURE_2023 = "https://raw.githubusercontent.com/Azure/AzurePublicDataset/master/data"
AZURE_2024 = "https://github.com/Azure/AzurePublicDataset/releases/download/dataset-llm-2024"
MOONCAKE = "https://raw.githubusercontent.com/kvcache-ai/Mooncake/main/FAST25-release/traces"
BURSTGPT = "https://github.com/HPMLL/BurstGPT/releases/download/v2.0"
BAILIAN = (
    "https://media.githubusercontent.com/media/alibaba-edu/qwen-bailian-usagetraces-anon/"
    "0b4273a1d8a83935b9d9356e78f95c31f2ac64cf"
)

SPLITWISE_PAPER = "Patel et al., Splitwise: Efficient generative LLM inference using phase splitting, ISCA 2024"
DYNAMOLLM_PAPER = (
    "Stojkovic et al., DynamoLLM: Designing LLM inference clusters for performance and energy efficiency, HPCA 2025"
)
MOONCAKE_PAPER = "Qin et al., Mooncake: A KVCache-centric disaggregated architecture for LLM serving, FAST 2025"
BURSTGPT_PAPER = (
    "Wang et al., BurstGPT: A real-world workload dataset to optimize LLM serving systems, arXiv:2401.17644"
)
BAILIAN_PAPER = (
    "Wang et al., KVCache cache in the wild: Characterizing and optimizing KVCache cache at a large cloud provider, "
    "USENIX ATC 2025"
)


@dataclass(frozen=True)
class Dataset:
    """A public trace.

    Attributes
    ----------
    name, title : for commands, for tables.
    file_name : of a local copy.
    url : of the public source.
    sha256 : of its bytes.
    licence, citation : what its authors ask for.
    """

    name: str
    title: str
    file_name: str
    url: str
    sha256: str
    licence: str
    citation: str


def _azure(year: int, kind: str, file_name: str, sha256: str) -> Dataset:
    title = f"Azure LLM inference {year}, {'conversation' if kind == 'conv' else 'code'}"
    source, paper = (AZURE_2023, SPLITWISE_PAPER) if year == 2023 else (AZURE_2024, DYNAMOLLM_PAPER)
    return Dataset(f"azure-{kind}-{year}", title, file_name, f"{source}/{file_name}", sha256, "CC-BY-4.0", paper)


def _mooncake(kind: str, sha256: str) -> Dataset:
    url = f"{MOONCAKE}/{kind}_trace.jsonl"
    file_name = f"mooncake_{kind}_trace.jsonl"
    return Dataset(f"mooncake-{kind}", f"Mooncake {kind}", file_name, url, sha256, "Apache-2.0", MOONCAKE_PAPER)


def _burstgpt(part: int, sha256: str) -> Dataset:
    file_name = f"BurstGPT_{part}.csv"
    title, url = f"BurstGPT, part {part}", f"{BURSTGPT}/{file_name}"
    return Dataset(f"burstgpt-{part}", title, file_name, url, sha256, "CC-BY-4.0", BURSTGPT_PAPER)


def _bailian(kind: str, sha256: str) -> Dataset:
    file_name = f"qwen_{kind}_blksz_16.jsonl"
    title, url = f"Qwen on Bailian, {kind}", f"{BAILIAN}/{file_name}"
    return Dataset(f"bailian-{kind}", title, file_name, url, sha256, "Apache-2.0", BAILIAN_PAPER)


DATASETS = (
    _azure(
        2023,
        "conv",
        "AzureLLMInferenceTrace_conv.csv",
        "2f1e5b666d4e3055fdbba98598ce2ec307767b9064e03e2fa46676dbcc7d0bf8",
    ),
    _azure(
        2023,
        "code",
        "AzureLLMInferenceTrace_code.csv",
        "54e9a6d2a4bd06ba1e060304b900abbc74cbea53de96506e60fe5bb4f2277fb6",
    ),
    _azure(
        2024,
        "conv",
        "AzureLLMInferenceTrace_conv_1week.csv",
        "a0cc9b969a9bbf0fd811802cbf4323edd3a209ace791e3799ad4f9207f213941",
    ),
    _azure(
        2024,
        "code",
        "AzureLLMInferenceTrace_code_1week.csv",
        "71de5c55cbc35f8f1ed0b6b7806b4cd1e9764b0058469725a6aac98023a1448f",
    ),
    _mooncake("conversation", "b8cbb061a85206d729d91cdc2981f43c9e0d99209dce588d3af5f7934408b9df"),
    _mooncake("synthetic", "bd070915a98fc0ed264d7cfef2ce746002eb3076a695ec31ba2674c0111ec131"),
    _mooncake("toolagent", "48a2db1a13d3bc05e6330140c64f604ba366df20d3c9e128b5c35a01c1fa5f71"),
    _burstgpt(1, "4bb3783693d0a435686fbfc885615d2349bd067239079fa4b749f2e679e12122"),
    _burstgpt(2, "44bf5942b03fca42c01a226a545ad3a750ec62688faecd67b6831c56a8928bf7"),
    _burstgpt(3, "2299986a07388aa303ec2c41d1131e756db650a39ed6ef9dfe7cc3d7f9a43b8f"),
    _bailian("coder", "3d74974cebb7bccb69b1ca6ea210a44d9a3033443c0271ed015327284dea1aff"),
    _bailian("thinking", "41ac36d9d1b54d084eeb6b05e9d142ba9d02f8bf79cfc9fff418d8ab7cdee906"),
)


def available() -> tuple[str, ...]:
    """Return the names of all public traces."""
    return tuple(dataset.name for dataset in DATASETS)


def describe(name: str) -> Dataset:
    """Return what is known of a public trace.

    Raises
    ------
    ValueError
        If there is none of that name; the message lists those that are.

    >>> describe("mooncake-synthetic").licence
    'Apache-2.0'
    """
    for dataset in DATASETS:
        if dataset.name == name:
            return dataset
    raise ValueError(f"no public trace is called {name!r}; known are {', '.join(available())}")


def load(name: str, *, base_url: str | None = None, **options: Any) -> Trace:
    """Return a public trace, downloading it where no copy is at hand.

    Parameters
    ----------
    name : one of `available()`.
    base_url : where to download from instead of the public source (a mirror that holds the file under its file name).
    options : those of `workloads.formats.read`, but for `name`.

    Raises
    ------
    ValueError
        As `find` and `workloads.formats.read` do.
    """
    return formats.read(find(name, base_url=base_url), name=name, **options)


def find(name: str, *, base_url: str | None = None) -> Path:
    """Return the path of a public trace, downloading it where no copy is at hand.

    A copy is looked for in ``$ROOFSERVE_SHARED/traces``, then in ``shared/traces`` beside the project, then in the
    user's cache, which is also where a download goes. Every copy is checked before it is used.

    Raises
    ------
    ValueError
        If the name is unknown, a copy has another checksum, or the download fails; the message then names the source
        and the folder into which the file may be put by hand.
    """
    dataset = describe(name)
    cache = _cache()
    for folder in [*_shared_folders(), cache]:
        path = folder / dataset.file_name
        if path.is_file():
            _check(dataset, path)
            return path
    return _download(dataset, cache, base_url)


def is_at_hand(name: str) -> bool:
    """Return whether there is a copy of a public trace, so that `find` need not download it.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    file_name = describe(name).file_name
    return any((folder / file_name).is_file() for folder in [*_shared_folders(), _cache()])


def _cache() -> Path:
    import pooch

    return Path(pooch.os_cache("roofserve"))


def _shared_folders() -> list[Path]:
    beside_project = Path(__file__).parents[2] / "shared" / "traces"
    named = os.environ.get(SHARED_VARIABLE)
    return [Path(named) / "traces", beside_project] if named else [beside_project]


def _check(dataset: Dataset, path: Path) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != dataset.sha256:
        raise ValueError(
            f"{path} is not the published {dataset.name}: its SHA-256 is {found}, expected {dataset.sha256}; "
            f"delete it to have it downloaded from {dataset.url}, or read it as a file of your own"
        )


def _download(dataset: Dataset, folder: Path, base_url: str | None) -> Path:
    import pooch

    url = f"{base_url.rstrip('/')}/{dataset.file_name}" if base_url else dataset.url
    print(f"{dataset.title}: licence {dataset.licence}; please cite {dataset.citation}", file=sys.stderr)
    progress = _Progress(dataset.file_name) if sys.stderr.isatty() else None
    try:
        downloader = pooch.HTTPDownloader(progressbar=progress or False, chunk_size=1 << 16, timeout=30)
        pooch.retrieve(url, f"sha256:{dataset.sha256}", dataset.file_name, folder, downloader=downloader)
    except (OSError, ValueError) as error:
        # Errors of the network are OSErrors, a wrong checksum is a ValueError. An answer such as 404 is still open.
        if (response := getattr(error, "response", None)) is not None:
            response.close()
        raise ValueError(
            f"{dataset.name} cannot be downloaded from {url} ({error}); get it from {dataset.url} by other means "
            f"and put it into {folder} as {dataset.file_name}"
        ) from error
    finally:
        if progress is not None:
            progress.close()
    return folder / dataset.file_name


@dataclass
class _Progress:
    """A progress bar on the error stream with the four names that pooch calls."""

    title: str
    total: int = 0
    done: int = 0
    bar: Any = field(default=None)

    def update(self, count: int) -> None:
        """Add bytes; the bar appears with the first, when the total is known."""
        if self.bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

            columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=Console(stderr=True))
            self.bar.add_task(self.title, total=self.total or None)
            self.bar.start()
        self.done += count
        self.bar.update(self.bar.task_ids[0], completed=self.done)

    def reset(self) -> None:
        """Begin again from 0."""
        self.done = 0

    def close(self) -> None:
        """Leave the bar as it is and give the terminal back."""
        if self.bar is not None:
            self.bar.stop()
