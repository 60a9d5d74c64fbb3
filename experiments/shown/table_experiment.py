"""An experiment whose answer is tables: how it is shown, and which files it leaves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from experiments.shown import files

if TYPE_CHECKING:
    import pandas as pd

    from experiments.shown.pictures import Picture

Flag = Annotated[bool, Parameter(negative="")]
"""A switch of a command that is off unless given."""

Names = Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")]
"""One or more names behind one option."""

EVIDENCE = "generic constants, 9-12 % off per iteration on dense models; links over PCIe unmeasured, 3 to 10 times"


@dataclass(frozen=True)
class Answer:
    """What an experiment found.

    Attributes
    ----------
    name : of the command.
    question : what was asked, in a line.
    finding : the answer, in a sentence.
    options : as run, every default filled in: what the command line repeats.
    tables : tidy tables by the name of their file.
    shown : (caption, table of texts and numbers) pairs for people.
    prose : (style, text) pairs in front of them, for a terminal alone.
    detail : more of them, for the report alone.
    notes : what a reader must know.
    draw : draws the figures.
    last : lines that end the output.
    evidence : how good the numbers are.
    quick : whether figures and report are left out.
    """

    name: str
    question: str
    finding: str
    options: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]
    shown: Sequence[tuple[str, pd.DataFrame]]
    notes: Sequence[str]
    draw: Callable[[], Sequence[Picture]]
    prose: Sequence[tuple[str, str]] = ()
    detail: Sequence[tuple[str, pd.DataFrame]] = ()
    last: Sequence[str] = ()
    evidence: str = EVIDENCE
    quick: bool = False

    @property
    def command(self) -> str:
        """The command that gives the same answer again."""
        given = (
            f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
            for name, value in self.options.items()
            if value is not None and value is not False
        )
        return " ".join(["roofserve", self.name, *given])


def check_folder(out: Path | None) -> None:
    """Refuse a folder that `deliver` would refuse (ValueError), before anything is simulated."""
    from experiments.shown import output

    if out is not None:
        output.unused(out)


def check_counts(**counts: int | None) -> None:
    """Refuse an option that counts something and is below 1 (ValueError); None is its default."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; allowed: 1 and more")


def deliver(answer: Answer, out: Path | None, json: bool) -> int:
    """Write the files of an answer and show it; return the exit status.

    Parameters
    ----------
    out : new folder; None for one under `results`, named after what was asked.
    json : print one object and nothing else.

    Raises
    ------
    ValueError
        If `out` is in use or cannot be made.
    """
    from experiments.shown import output

    digest = hashlib.sha256(answer.command.encode()).hexdigest()[:8]
    folder = output.unused(out) if out else output.first_free(Path("results") / answer.name / digest)
    written = write(answer, folder)
    if json:
        print(files.json_text(as_json(answer) | {"files": [str(path) for path in written]}))
    else:
        show(answer, written)
    return 0


def as_json(answer: Answer) -> dict[str, Any]:
    """Return the answer as one object."""
    from experiments.shown import output

    return {
        "experiment": answer.name,
        "options": dict(answer.options),
        "finding": answer.finding,
        "evidence": answer.evidence,
        "tables": {name: table.to_dict(orient="records") for name, table in answer.tables.items()},
        "notes": list(answer.notes),
        "last": list(answer.last),
        "versions": output.versions(),
    }


def write(answer: Answer, folder: Path) -> list[Path]:
    """Write tables, and unless it is quick figures and a report, into a new folder; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [
        files.text(folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))
        for name, table in answer.tables.items()
    ]
    paths.append(files.text(folder / "summary.json", files.json_text(as_json(answer)) + "\n"))
    if answer.quick:
        return paths
    from experiments.shown import figures, output, report

    drawn = []
    for picture in answer.draw():
        saved = figures.save(picture.figure, folder / picture.name)
        svg = next(path for path in saved if path.suffix == ".svg").read_text(encoding="utf-8")
        drawn.append((svg, picture.alt, picture.sentence))
        paths += saved
    scenario = [("question", answer.question), ("evidence", answer.evidence)]
    tables = [*answer.shown, *answer.detail]
    page = report.render(answer.finding, scenario, drawn, tables, list(answer.notes), answer.command, output.versions())
    return [files.text(folder / "report.html", page), *paths]


def show(answer: Answer, written: Sequence[Path]) -> None:
    """Print the question, the tables, the finding, and where the files are."""
    from experiments.shown.console import new_console, paragraph

    console = new_console()
    paragraph(console, answer.question, 2, "bold")
    paragraph(console, f"evidence: {answer.evidence}", 2)
    for style, text in answer.prose:
        paragraph(console, text, 8, style)
    for caption, table in answer.shown:
        console.print()
        paragraph(console, caption, 2, "bold")
        console.print(_table(table))
    console.print()
    for note in answer.notes:
        paragraph(console, note, 2, "dim")
    console.print()
    paragraph(console, answer.finding, 2, "bold")
    names = [path.name for path in written if path.suffix != ".png"]
    paragraph(console, f"wrote {written[0].parent}: {', '.join(names)}", 2)
    paragraph(console, f"repeat: {answer.command}", 2)
    for line in answer.last:
        console.print(line)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as dictionaries."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict(orient="records")]


def _table(table: pd.DataFrame) -> Any:
    """Return a table for the console: numbers to the right with three digits."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False)
    columns = [list(table[name]) for name in table.columns]
    numeric = [any(map(_is_number, column)) and all(v == "-" or _is_number(v) for v in column) for column in columns]
    for name, is_number in zip(table.columns, numeric, strict=True):
        shown.add_column(str(name), justify="right" if is_number else "left", overflow="fold")
    for row in zip(*columns, strict=True):
        shown.add_row(*map(_text, row))
    return shown


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> str:
    from sim.figures.words import three_digits

    if value is None or value != value:
        return "-"
    return three_digits(value) if isinstance(value, float) else str(value)
