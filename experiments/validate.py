"""How far is the cost model from what was measured on real GPUs, and does it reach its goals?"""

from __future__ import annotations

import json as encoder
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from experiments.scoreboard import replays, servers, tables
from experiments.scoreboard.coverage import Coverage
from experiments.scoreboard.coverage import coverage as coverage_of
from experiments.scoreboard.groups import Found, Group
from experiments.scoreboard.score import READERS, Row, rows_of
from experiments.scoreboard.summary import markdown as summary_of
from experiments.scoreboard.summary import missed

GOAL_SOURCE = "median absolute error; calibrated rows are scored by constants that never saw their shape"

NEAR_SATURATION = (
    "near saturation an error e of step times becomes an error of about e / (1 - utilisation) of TTFT; one run within "
    "a few percent is no proof: runs of real servers differ from one another, tails most"
)


def run(
    data: Annotated[
        Path,
        Parameter(
            help="folder of canonical tables, each as .parquet or .csv; recorded runs of servers (e2e_requests with "
            "e2e_runs.json) are replayed [default: measured]"
        ),
    ] = Path("measured"),
    *,
    coverage: Annotated[
        bool,
        Parameter(
            negative="",
            help="instead, how often measurements lie in the 90 % band of an unknown chip, leaving out each in turn",
        ),
    ] = False,
    json: Annotated[bool, Parameter(negative="", help="print a list of rows and nothing else")] = False,
    markdown: Annotated[bool, Parameter(negative="", help="print a short table for a README and nothing else")] = False,
) -> int:
    """Score the cost model against every table of measurements in a folder; see `scoreboard`."""
    if coverage:
        _print_coverage(covered(data), json)
        return 0
    rows = scoreboard(data)
    if json:
        print(encoder.dumps([asdict(row) for row in rows], allow_nan=False))
        for reason, count in _reasons(rows).items():
            print(f"not scored: {count:,} rows: {reason}", file=sys.stderr)
    elif markdown:
        print(summary_of(rows))
    else:
        _show(rows)
    return 0


def scoreboard(data: Path) -> list[Row]:
    """Return a row for each table, chip, kind of measurement and level of evidence, unflattering ones included.

    What is unknown or cannot be read is in it too, as rows of the level ``"skipped"``. Nothing is fitted here.
    Calibrated rows come from the constants that ship with the project: where they were fitted to rows of the same
    shape, from the fold that left this shape out.

    Raises
    ------
    ValueError
        The folder has no table.
    """
    runs = servers.read(data)
    frames, odd = tables.read_what_can_be(data, required=not runs)
    found: list[Found] = [[*odd], *(reader(frames[name]) for name, reader in READERS.items() if name in frames)]
    return [row for part in found for row in rows_of(part)] + replays.rows_of(runs)


def covered(data: Path, samples: int = 200, seed: int = 1) -> list[Coverage]:
    """Return how often measured rows lie in the band that the other chips alone would have given."""
    import numpy as np

    frames, _ = tables.read_what_can_be(data, required=True)
    found = (group for name, reader in READERS.items() if name in frames for group in reader(frames[name]))
    groups = [group for group in found if isinstance(group, Group)]
    return coverage_of(groups, samples, np.random.default_rng(seed))


def _show(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=150, no_color=True)
    table = Table("table", "hardware", "what", "level", box=None, pad_edge=False)
    for name in ("rows", "median", "p90", "bias", "goal"):
        table.add_column(name, justify="right")
    table.add_column("met")
    for row in (row for row in rows if row.level != "skipped"):
        goal = "" if row.goal_pct is None else f"{row.goal_pct:g} %"
        met = {True: "yes", False: "[red]no[/red]", None: ""}[row.met]
        table.add_row(
            *(row.table, row.hardware, row.model, row.level, f"{row.n:,}"),
            *(f"{row.median_abs_pct:.1f} %", f"{row.p90_abs_pct:.0f} %", f"{row.bias_pct:+.1f} %", goal, met),
        )
    console.print(table)
    scored = [row for row in rows if row.met is not None]
    for level in ("generic", "calibrated"):
        mine = [row for row in scored if row.level == level]
        console.print(f"{level}: {sum(bool(row.met) for row in mine)} of {len(mine)} goals met ({GOAL_SOURCE})")
    for kind, reason in missed(rows).items():
        console.print(f"missed in {kind}: {reason}", style="dim")
    for note in dict.fromkeys(row.note for row in rows if row.level != "skipped" and row.note):
        console.print(note, style="dim")
    if any(row.table == servers.TABLE and row.level != "skipped" for row in rows):
        console.print(NEAR_SATURATION, style="dim")
    for reason, count in _reasons(rows).items():
        console.print(f"not scored: {count:,} rows: {reason}", style="dim")


def _reasons(rows: Iterable[Row]) -> dict[str, int]:
    reasons: dict[str, int] = {}
    for row in rows:
        if row.level == "skipped":
            reasons[row.note] = reasons.get(row.note, 0) + row.n
    return reasons


def _print_coverage(rows: list[Coverage], json: bool) -> None:
    if json:
        print(encoder.dumps([asdict(row) for row in rows]))
        return
    for row in rows:
        print(f"{row.hardware:22} {row.constant:24} {row.n:6,} rows  {row.covered_pct:5.1f} % inside the 90 % band")
