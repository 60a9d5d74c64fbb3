"""The files of a comparison: tables, configuration, figures, report, and samples for other tools."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.article.scheduler_claims import claims, signed
from experiments.asked.options import Options, as_table
from experiments.shown import files, words
from experiments.shown.pictures import Picture, pictures
from experiments.shown.vllm_bench import bench
from experiments.tried import bands
from experiments.tried.comparison import CACHED, POLICIES, Comparison
from sim.figures.words import three_digits
from sim.results.warmup import steady

if TYPE_CHECKING:
    import pandas as pd

PACKAGES = ("roofserve", "numpy", "scipy", "simpy", "pandas", "pyarrow", "matplotlib")
ROOT = Path("results") / "sched_compare"


def new_folder(out: Path | None, options: Options) -> Path:
    """Return a folder that is not there yet or empty: `out`, or one named after what is asked.

    Raises
    ------
    ValueError
        If `out` holds something already, is a file, or cannot be made.
    """
    if out is not None:
        return unused(out)
    digest = hashlib.sha256(configuration(options).encode()).hexdigest()[:8]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(str(options.trace)).name)
    return first_free(ROOT / f"{name}-{digest}")


def unused(out: Path) -> Path:
    """Return `out` if it can become a new folder; see `new_folder`."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out is {out}, which exists already and is not overwritten; allowed: a new folder")
    parent = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise ValueError(f"--out is {out}, but {parent} cannot be written to; allowed: a new folder elsewhere")
    return out


def first_free(folder: Path) -> Path:
    """Return `folder`, or the first of `folder-2`, `folder-3`, ... that is not there yet."""
    repeats = (folder.with_name(f"{folder.name}-{number}") for number in range(2, 10_000))
    return next(path for path in (folder, *repeats) if not path.exists())


def configuration(options: Options) -> str:
    """Return the options as TOML."""
    import tomli_w

    table = {name: list(value) if isinstance(value, tuple) else value for name, value in as_table(options).items()}
    return tomli_w.dumps(table)


def write(comparison: Comparison, folder: Path, advance: Callable[[float], None]) -> list[Path]:
    """Write everything into `folder` and return the paths; figures and report only if nothing was interrupted."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [
        files.text(folder / "config.toml", configuration(comparison.options)),
        files.text(folder / "summary.csv", comparison.summary.to_csv(index=False, lineterminator="\n")),
        files.text(folder / "differences.csv", comparison.differences.to_csv(index=False, lineterminator="\n")),
        files.text(folder / "summary.json", files.json_text(as_json(comparison)) + "\n"),
        files.written(folder / "requests.parquet", lambda part: requests(comparison).to_parquet(part, index=False)),
    ]
    if comparison.bands:
        text = bands.table(comparison.bands).to_csv(index=False, lineterminator="\n")
        paths.append(files.text(folder / "band.csv", text))
    advance(0.3)
    if comparison.interrupted:
        return paths
    paths += [_bench(comparison, arm, folder) for arm in comparison.arms]
    advance(0.45)
    drawn = []
    for picture in pictures(comparison):
        from experiments.shown import figures

        saved = figures.save(picture.figure, folder / picture.name)
        drawn.append((picture, next(path for path in saved if path.suffix == ".svg")))
        paths += saved
        advance(min(0.95, 0.45 + 0.1 * len(drawn)))
    return [files.text(folder / "report.html", _report(comparison, drawn, folder)), *paths]


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as one object: what was asked, what came out, and what it means."""
    systems = {"systems": {arm: words.as_run(comparison, arm) for arm in comparison.systems}}
    return {
        "experiment": "sched_compare",
        **(systems if comparison.systems else {}),
        "options": as_table(comparison.options),
        "interrupted": comparison.interrupted,
        "machine": words.machine(comparison),
        "evidence": words.evidence(comparison),
        "sampling": words.sampling(comparison),
        "capacity_requests_per_second": {arm: values.tolist() for arm, values in comparison.capacities.items()},
        "shown_load_requests_per_second": comparison.shown.requests_per_second,
        "claims": [vars(claim) for claim in claims(comparison)],
        "notes": words.notes(comparison),
        "versions": versions(),
        "summary": comparison.summary.to_dict(orient="records"),
        "differences": comparison.differences.to_dict(orient="records"),
        **({"band": bands.table(comparison.bands).to_dict(orient="records")} if comparison.bands else {}),
    }


def print_json(comparison: Comparison, paths: list[Path]) -> None:
    """Print `as_json` and where the files are, and nothing else."""
    print(files.json_text(as_json(comparison) | {"files": [str(path) for path in paths]}))


def requests(comparison: Comparison) -> pd.DataFrame:
    """Return one row for every request of every run; `counted` ones lie inside the trimmed window."""
    import pandas as pd

    tables = []
    for cell in comparison.cells.values():
        for seed, result in enumerate(cell.results, start=1):
            table = result.requests
            named = table.assign(arm=cell.arm, load=cell.load.requests_per_second, seed=seed)
            tables.append(named[["arm", "load", "seed", *table.columns]].assign(counted=steady(result.arrival_seconds)))
    whole = pd.concat(tables, ignore_index=True)
    return whole.astype({"arm": pd.CategoricalDtype(list(comparison.arms))})


def versions() -> dict[str, str]:
    """Return the versions of what computed the results."""
    import platform

    return {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}


def _bench(comparison: Comparison, arm: str, folder: Path) -> Path:
    cell = comparison.cell(arm, comparison.shown)
    model = comparison.machine.model
    content = bench(cell, model.model.name, f"{comparison.devices} x {model.hardware.name}")
    name = f"vllm_bench_{arm.replace(CACHED, '_cached')}.json"
    return files.text(folder / name, json.dumps(content, allow_nan=False) + "\n")


def _report(comparison: Comparison, drawn: list[tuple[Picture, Path]], folder: Path) -> str:
    from experiments.shown import report
    from experiments.shown.tables import all_tables

    config = configuration(comparison.options)
    command = f"roofserve sched_compare --config {folder / 'config.toml'}"
    return report.render(
        headline(comparison),
        [
            ("machine", words.machine(comparison)),
            ("workload", words.workload(comparison)),
            _compared(comparison),
            ("evidence", words.evidence(comparison)),
            ("sampling", words.sampling(comparison)),
            ("KV cache", _pool(comparison)),
        ],
        [(svg.read_text(encoding="utf-8"), picture.alt, picture.sentence) for picture, svg in drawn],
        all_tables(comparison),
        words.notes(comparison),
        f"{command}\n\n{config}",
        versions(),
    )


def _compared(comparison: Comparison) -> tuple[str, str]:
    if comparison.systems:
        return "systems", ", ".join(words.label(comparison, arm) for arm in comparison.arms)
    return "policies", " and ".join(POLICIES) + ", each with and without prefix cache"


def _pool(comparison: Comparison) -> str:
    limits = comparison.machine.limits
    if comparison.systems:
        return "each system's own, see the table of systems"
    return f"{limits.blocks:,} blocks of {limits.block_tokens} tokens"


def headline(comparison: Comparison) -> str:
    """Return the finding in a sentence: what in-flight batching does to first and last token at the load shown.

    Of systems, what each does against the first.
    """
    if comparison.systems:
        return _headline_of_systems(comparison)
    table, load = comparison.differences, comparison.shown
    pair = table[(table.effect == "policy") & (table.within == "no cache") & (table.load == load.requests_per_second)]
    first, last = (pair[pair.metric == metric].iloc[0] for metric in ("mean_ttft_seconds", "mean_end_to_end_seconds"))
    where = f"at {three_digits(load.requests_per_second)} requests/s ({100 * load.share_of_capacity:.0f} % load)"
    if np.isnan(first.low):
        return f"Prefill first against in-flight batching: no load was low enough to compare them, tried {where}"
    return (
        f"In-flight batching gives the first token {_change(first)} and the last token {_change(last)} "
        f"than prefill first, on average {where}"
    )


def _headline_of_systems(comparison: Comparison) -> str:
    table, load = comparison.differences, comparison.shown
    where = f"at {three_digits(load.requests_per_second)} requests/s ({100 * load.share_of_capacity:.0f} % load)"
    parts = []
    for arm in comparison.arms[1:]:
        pair = table[(table.second == arm) & (table.load == load.requests_per_second)]
        first, last = (
            pair[pair.metric == metric].iloc[0] for metric in ("mean_ttft_seconds", "mean_end_to_end_seconds")
        )
        if np.isnan(first.low):
            parts.append(f"{arm} cannot be compared there")
        else:
            parts.append(f"{arm} gives the first token {_change(first)} and the last {_change(last)}")
    return f"Against {comparison.arms[0]}, on average {where}: {'; '.join(parts)}"


def _change(row: Any) -> str:
    if row.low <= 0 <= row.high:
        return "no differently"
    return f"{signed(abs(row.percent)).lstrip('+')} {'sooner' if row.percent < 0 else 'later'}"
