"""Are our batches those of the real schedulers? Every recorded run, iteration for iteration."""

from __future__ import annotations

import json as json_format
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from experiments.tried.recordings import SUBJECTS, Recording, Run, read, serve

RECORDED = Path(__file__).parent.parent / "tests" / "golden"
STATE = (
    ("began", "t_start", "t_start"),
    ("scheduled", "scheduled", "scheduled"),
    ("emitted", "emitted", "emitted"),
    ("preempted", "preempted", "preempted"),
    ("finished", "finished", "finished"),
    ("waiting", "waiting", "queue"),
    ("blocks free", "free_blocks_after_schedule", "free_blocks"),
)
"""What is shown of an iteration that differs: its name here, in a recording, and in a `Run`."""

WIDEST = 70

COMPARED = ("t_scheduled", "t_start", "scheduled", "emitted", "preempted", "finished")


@dataclass(frozen=True)
class Verdict:
    """How one scenario compares: identical, or where it first differs."""

    oracle: str
    scenario: str
    evidence: str
    identical: bool
    difference: str = ""


def compare(recording: Recording) -> Verdict:
    """Serve a recording and compare every iteration, and every request, stepping and coasting."""
    oracle = recording["oracle"]["name"]
    evidence = "transcribed" if "transcribed" in recording["oracle"]["how"] else "executed"
    if oracle not in SUBJECTS:
        return Verdict(oracle, recording["scenario"], evidence, False, f"no policy stands for {oracle!r}")
    try:
        difference = _differs(recording, SUBJECTS[oracle].unordered)
    except (LookupError, ValueError) as error:
        difference = f"it cannot be served: {type(error).__name__} {error}"
    return Verdict(oracle, recording["scenario"], evidence, not difference, difference)


def _differs(recording: Recording, unordered: bool) -> str:
    stepped = serve(recording)
    difference = _first_difference(recording, stepped, unordered) or _requests(recording, stepped)
    if not difference:
        difference = _requests(recording, serve(recording, coast=True))
        difference = difference and f"coasting only: {difference}"
    return difference


def _first_difference(recording: Recording, run: Run, unordered: bool) -> str:
    ours = [i for i in run.iterations if i["scheduled"] or i["preempted"] or i["finished"]]
    real = [i for i in recording["iterations"] if i["scheduled"] or i["preempted"] or i["finished"]]
    for number, (mine, theirs) in enumerate(zip(ours, real, strict=False)):
        for key in COMPARED:
            a, b = mine[key], theirs.get(key, mine[key])
            if unordered and isinstance(a, list):
                a, b = sorted(a), sorted(b)
            if a != b:
                return f"iteration {number}, {key}\n{_side_by_side(theirs, mine)}"
    if len(ours) != len(real):
        number = min(len(ours), len(real))
        theirs, mine = (rows[number] if number < len(rows) else {} for rows in (real, ours))
        return f"{len(ours)} iterations, really {len(real)}; iteration {number}\n{_side_by_side(theirs, mine)}"
    return ""


def _side_by_side(theirs: Recording, mine: Recording) -> str:
    """Return what the real scheduler and ours did in an iteration, with their queues and blocks, line by line."""
    rows = [("", "real", "ours")]
    for label, real, ours in STATE:
        pair = (theirs.get(real, "not recorded" if theirs else "-"), mine.get(ours, "-"))
        rows.append((label, str(pair[0]), str(pair[1])))
    widths = [min(WIDEST, max(len(row[column]) for row in rows)) for column in (0, 1)]
    return "\n".join(f"  {a:<{widths[0]}}  {b:<{widths[1]}}  {c}".rstrip() for a, b, c in rows)


def _requests(recording: Recording, run: Run) -> str:
    for name, real in recording["per_request"].items():
        finish = real["finish_time"] if real["outcome"] == "finished" else None
        if run.first_token.get(name) != real["first_token_time"] or run.finish.get(name) != finish:
            return (
                f"request {name}: first token {run.first_token.get(name)}, end {run.finish.get(name)}; "
                f"really {real['first_token_time']}, {finish} ({real['outcome']})"
            )
        if (name in run.given_up) != (real["outcome"] in ("ignored", "rejected")):
            return f"request {name}: given up {name in run.given_up}, really {real['outcome']}"
    return ""


def conformance(
    *,
    golden: Annotated[Path, Parameter(help="folder of recordings [default: those of the project]")] = RECORDED,
    oracle: Annotated[str | None, Parameter(help="one scheduler only, by the name of its folder")] = None,
    json: Annotated[bool, Parameter(negative="", help="print one JSON object and nothing else")] = False,
) -> int:
    """Compare our schedulers with recordings of the real ones, iteration for iteration; exit 1 if any differs."""
    return 0 if run(golden=golden, oracle=oracle, json=json) else 1


def run(*, golden: Path = RECORDED, oracle: str | None = None, json: bool = False) -> bool:
    """Compare all recordings under a folder; print a table and the first difference of each that fails.

    Returns whether all are identical.
    """
    verdicts = [compare(recording) for recording in read(golden, oracle)]
    identical = sum(verdict.identical for verdict in verdicts)
    if json:
        table = [vars(verdict) for verdict in verdicts]
        print(json_format.dumps({"recordings": len(verdicts), "identical": identical, "scenarios": table}, indent=2))
        return identical == len(verdicts)
    for verdict in verdicts:
        if not verdict.identical:
            print(f"{verdict.oracle}/{verdict.scenario} differs: {verdict.difference}\n")
    _print_table(verdicts)
    print(f"{identical} of {len(verdicts)} identical")
    return identical == len(verdicts)


def _print_table(verdicts: list[Verdict]) -> None:
    from rich.console import Console
    from rich.table import Table

    rows: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for verdict in verdicts:
        rows[verdict.oracle, verdict.evidence].append(verdict.identical)
    table: Any = Table(title="recorded scheduler against ours, iteration for iteration")
    for heading in ("scheduler", "evidence", "recordings", "identical"):
        table.add_column(heading, justify="left" if heading in ("scheduler", "evidence") else "right")
    for (oracle, evidence), results in rows.items():
        table.add_row(oracle, evidence, str(len(results)), str(sum(results)))
    Console().print(table)
