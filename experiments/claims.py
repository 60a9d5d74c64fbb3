"""Which of the article's statements hold: each recomputed, with its verdict and the command that shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.article.finding import KINDS, Finding, article
from experiments.asked.options import Options
from experiments.shown.table_experiment import EVIDENCE, Answer, Flag, check_folder, deliver, records

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

HUES = {"holds": "#009E73", "holds if": "#E69F00", "does not hold": "#D55E00", "not decidable": "#57606a"}
NOTES = (
    "Verdicts are computed: holds; holds if (the condition is named); does not hold; not decidable by a performance "
    "simulator. Intervals: 95 % over replications where requests are simulated, else what 90 % of the plausible "
    "constants of the cost model give.",
    "The rows of the framework table are checked against dated presets of both systems (sim/systems/*.toml, each with "
    "its sources); beside them stands what the capability is worth in simulation.",
    "Source of the statements: zhuanlan.zhihu.com/p/678763741, January 2024, in translation.",
)


def article_claims(*, quick: Flag = False, out: Path | None = None, json: Flag = False) -> int:
    """Recompute every statement of the article: latency claims C1 to C8, and each row of its framework table.

    Parameters
    ----------
    quick
        fewer requests and replications, tables only
    out
        new folder for the results [default: under results/claims]
    json
        print one JSON object and nothing else
    """
    from experiments.shown import console

    check_folder(out)
    with console.progress("simulating") as advance:
        found = findings(quick, advance)
    table, numbers = as_table(found), numbers_table(found)
    answer = Answer(
        name="claims",
        question="Which statements of the article hold?",
        finding=headline(table),
        options={"quick": quick},
        tables={"claims": table, "numbers": numbers},
        shown=[],
        prose=_prose(table),
        detail=[
            ("Latency claims, then the framework table of January 2024", _shown(table)),
            ("Numbers behind the verdicts", numbers),
        ],
        notes=NOTES,
        draw=lambda: _pictures(table, numbers),
        evidence=EVIDENCE,
        quick=quick,
    )
    return deliver(answer, out, json)


def findings(quick: bool, advance: Callable[[float], None] = lambda _: None) -> list[Finding]:
    """Return the fate of every statement: claims, then the rows of the framework table."""
    from experiments import sched_compare
    from experiments.article import claim_checks, framework_checks

    comparison = sched_compare.run(Options(quick=quick), lambda share: advance(0.9 * share))
    found = claim_checks.findings(comparison) + framework_checks.findings(comparison)
    advance(1.0)
    return found


def run(quick: bool = False) -> pd.DataFrame:
    """Return one row for each statement: says, ours, verdict, kind, command."""
    return as_table(findings(quick))


def as_table(found: list[Finding]) -> pd.DataFrame:
    """Return one row for each finding."""
    import pandas as pd

    columns = ("name", "says", "ours", "verdict", "kind", "command")
    return pd.DataFrame([{name: getattr(finding, name) for name in columns} for finding in found])


def numbers_table(found: list[Finding]) -> pd.DataFrame:
    """Return one row for each number behind a verdict."""
    import pandas as pd

    return pd.DataFrame([{"name": finding.name, **asdict(number)} for finding in found for number in finding.numbers])


def headline(table: pd.DataFrame) -> str:
    """Return how many statements hold, in a sentence."""
    counts = {kind: int((table["kind"] == kind).sum()) for kind in KINDS}
    return (
        f"Of {len(table)} statements of the article {counts['holds']} hold, {counts['holds if']} on a condition, "
        f"{counts['does not hold']} not; {counts['not decidable']} cannot be decided by simulation"
    )


def plot(table: pd.DataFrame) -> Figure:
    """Return the statements with their verdicts, one line each."""
    from sim.figures.style import INK, SMALL, new_figure, plain_axes, top_of_axes

    figure = new_figure(headline(table), "C1-C8, then the framework table of January 2024; conditions abridged")
    axes = plain_axes(figure, 0.02, 0.02, 0.96, top_of_axes(figure) - 0.05)
    axes.set(xlim=(0, 1), ylim=(len(table), 0))
    axes.set_axis_off()
    for place, row in enumerate(records(table)):
        hue = HUES[row["kind"]]
        axes.scatter([0.012], [place + 0.5], marker="s", s=60, color=hue, linewidths=0)
        title = article()["titles"].get(row["name"])
        name = f"{row['name']}  {title}" if title else row["name"]
        axes.text(0.035, place + 0.5, name, va="center", size=SMALL, color=INK, weight="bold")
        axes.text(0.33, place + 0.5, _short(row["verdict"], 78), va="center", size=SMALL, color=INK)
    return figure


def plot_weight_read(numbers: pd.DataFrame) -> Figure:
    """Return the article's worked example against its own units, strict ones, and whole tokens (C2)."""
    from sim.figures.style import INK, MEDIUM, QUIET, SMALL, new_figure, plain_axes, top_of_axes

    rows = records(numbers[numbers["name"] == "C2"])
    claimed = rows[0]["article"]
    whole = next(row for row in rows if "generic" in row["quantity"])
    title = f"13B on one L20: the article reads its weights in {claimed:g} ms; a token takes {whole['ours']:.1f} ms"
    figure = new_figure(title, "Llama-2-13B FP16, batch 1, 1,024 tokens of context; line: the article's figure")
    axes = plain_axes(figure, 0.42, 0.12, 0.5, top_of_axes(figure) - 0.17)
    for place, row in enumerate(rows):
        low, high = row["low"], row["high"]
        error = [[row["ours"] - low], [high - row["ours"]]] if low == low else None
        axes.barh(place, row["ours"], color="#56B4E9", height=0.7, xerr=error, ecolor=INK)
        axes.plot([row["article"]] * 2, [place - 0.42, place + 0.42], color="#D55E00", lw=2)
        end = high if high == high else row["ours"]
        axes.text(end, place, f"  {row['ours']:.2f} ms", va="center", size=SMALL, color=INK)
    axes.set_yticks(range(len(rows)), [row["quantity"] for row in rows], size=SMALL)
    axes.invert_yaxis()
    axes.set_xlabel("ms", color=QUIET, size=MEDIUM)
    return figure


def _prose(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the verdicts for a terminal, each with what was said, what came out, and the command."""
    styles = {"holds": "bold green", "holds if": "bold yellow", "does not hold": "bold red"}
    lines = []
    for row in records(table):
        lines += [
            (styles.get(row["kind"], "bold"), f"{row['name']}: {row['verdict']}"),
            ("", f"article {row['says']}"),
            ("", f"ours    {row['ours']}"),
            ("dim", f"see     {row['command']}"),
        ]
    return lines


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    named = {"name": "statement", "says": "the article"}
    return table[["name", "says", "ours", "verdict", "command"]].rename(columns=named)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}\N{HORIZONTAL ELLIPSIS}"


def _pictures(table: pd.DataFrame, numbers: pd.DataFrame) -> list[Any]:
    from experiments.shown.pictures import Picture

    verdicts = "; ".join(f"{row['name']}: {row['verdict']}" for row in records(table))
    return [
        Picture("claims", plot(table), f"{headline(table)}. {verdicts}.", "Every statement and its verdict."),
        Picture(
            "weight_read",
            plot_weight_read(numbers),
            "Bars of the time to read the weights of a 13B model on L20, in several readings.",
            "C2 in the article's mixed units, in strict ones, and as whole tokens; whiskers: plausible constants.",
        ),
    ]
