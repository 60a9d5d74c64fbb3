"""What a comparison looks like in a terminal: the question first, numbers between, the answer last."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.article.scheduler_claims import Claim, claims, signed
from experiments.shown import words
from experiments.tried import bands
from experiments.tried.cell import Cell, Load
from experiments.tried.comparison import CACHED, Comparison
from sim.figures.words import three_digits
from sim.results.intervals import replicated
from sim.results.runs import COUNTS, LEVELS
from sim.results.separation import separation

if TYPE_CHECKING:
    from rich.console import Console

PIPED_WIDTH = 140
WIDE = 134
P50, P99 = LEVELS.index(0.5), LEVELS.index(0.99)


def say(message: str) -> None:
    """Print a sentence to the error stream."""
    print(message, file=sys.stderr)


@contextmanager
def progress(title: str) -> Iterator[Callable[[float], None]]:
    """Show a bar on the error stream while something takes long; give a function that takes the share done."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=1.0)
        yield lambda share: bar.update(task, completed=share)


def show(comparison: Comparison, written: list[Path]) -> None:
    """Print a comparison."""
    console = new_console()
    _head(console, comparison)
    for load in comparison.loads:
        _load(console, comparison, load)
    _saturated(console, comparison)
    for note in words.brief(comparison):
        paragraph(console, note, 2, style="dim")
    _differences(console, comparison)
    _claims(console, comparison)
    _bands(console, comparison)
    _written(console, written)


def new_console() -> Console:
    """Return a console for results: as wide as the terminal, plain and of fixed width when piped."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console(highlight=False, markup=False)
    return Console(highlight=False, markup=False, no_color=True, width=PIPED_WIDTH)


def paragraph(console: Console, text: str, indent: int = 0, style: str | None = None) -> None:
    """Print a paragraph; its further lines are indented."""
    lines = textwrap.wrap(
        text, console.width - 1, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False
    )
    console.print("\n".join(lines), style=style, soft_wrap=True)


def _head(console: Console, comparison: Comparison) -> None:
    simulated = sum(result.makespan_seconds for cell in comparison.cells.values() for result in cell.results)
    took = f"{three_digits(simulated / 3600)} h simulated in {comparison.elapsed_seconds:.1f} s"
    paragraph(console, f"{words.TITLE} · {words.machine(comparison)} · {words.workload(comparison)}", 2, "bold")
    paragraph(console, f"evidence: {words.evidence(comparison)} · {words.sampling(comparison)} · {took}", 2)
    for name in comparison.systems:
        facts = words.as_run(comparison, name)
        paragraph(console, f"- {name}: {' · '.join(f'{what} {value}' for what, value in facts.items())}", 4)
    if comparison.interrupted:
        console.print("INTERRUPTED: only the loads that were finished are shown.", style="bold yellow")


def _load(console: Console, comparison: Comparison, load: Load) -> None:
    wide = console.width >= WIDE
    title = f"load {load.short}"
    names = [words.label(comparison, arm) if comparison.systems else _name(arm, wide) for arm in comparison.arms]
    width = max(len(name) for name in names)
    # A narrow terminal has no room for the bounds of E2E, nor for a verdict that is "stable" in every row of numbers.
    widths = (8, 22, 22, 20, 7, 7) if wide else (8, 22, 20, 7, 7)
    bounds = "p99 [95 % CI]"
    heads = ("TTFT p50", f"TTFT {bounds}", f"ITL {bounds}", f"E2E {bounds if wide else 'p99'}", "goodput", "verdict")
    console.print()
    if len(title) > width:
        console.print(title, style="bold")
        title = ""
    console.print(_columns(title, width, heads[: len(widths)], widths), style="bold", soft_wrap=True)
    for arm, name in zip(comparison.arms, names, strict=True):
        cell = comparison.cell(arm, load)
        if cell.verdict.stable:
            console.print(_columns(name, width, _numbers(cell, wide)[: len(widths)], widths), soft_wrap=True)
        else:
            console.print(f"{name:<{width}}  {words.overload(cell)}", style="yellow", soft_wrap=True)
    for count in COUNTS:
        found = [comparison.cell(arm, load).counts[count] for arm in comparison.arms]
        if any(found):
            console.print(f"{count}, in the order of the arms: {', '.join(f'{n:,}' for n in found)}", style="dim")


def _columns(name: str, width: int, cells: Sequence[str], widths: Sequence[int]) -> str:
    return f"{name:<{width}}  {'  '.join(f'{text:<{w}}' for text, w in zip(cells, widths, strict=True))}".rstrip()


def _name(arm: str, wide: bool) -> str:
    return arm if wide else arm.replace(CACHED, " + cache")


def _numbers(cell: Cell, wide: bool) -> list[str]:
    ttft, itl, end = (cell.percentiles[metric] for metric in ("TTFT", "ITL", "E2E"))
    last = words.with_bounds(end[P99], "s")
    return [
        words.with_bounds(ttft[P50], "s").split(" [")[0],
        words.with_bounds(ttft[P99], "s"),
        words.with_bounds(itl[P99], "ms", 1e3),
        last if wide else last.split(" [")[0].replace("n too small", "n small"),
        words.share(cell.quantity("goodput_share").estimate),
        words.verdict(cell),
    ]


def _saturated(console: Console, comparison: Comparison) -> None:
    parts = [
        f"{_name(arm, False)} {words.with_bounds(replicated(rates), '')}"
        for arm, rates in comparison.capacities.items()
    ]
    console.print()
    paragraph(console, f"served when saturated, req/s: {' · '.join(parts)}", 2)
    console.print()


def _differences(console: Console, comparison: Comparison) -> None:
    table, load = comparison.differences, comparison.shown
    table = table[table.load == load.requests_per_second]
    title = f"Paired differences at {load}, the second arm against the first, same requests"
    console.print()
    paragraph(console, title, 2, "bold")
    shown = (("TTFT", 0.99, "TTFT p99"), ("ITL", 0.99, "ITL p99"), ("E2E", 0.99, "E2E p99"))
    means = (("mean_ttft_seconds", "mean TTFT"), ("mean_end_to_end_seconds", "mean E2E"))
    for (first, second), pair in table.groupby(["first", "second"], sort=False):
        rows = [(name, pair[(pair.metric == metric) & (pair.level == level)]) for metric, level, name in shown]
        rows += [(name, pair[pair.metric == metric]) for metric, name in means]
        numbers = [(name, next(row.itertuples())) for name, row in rows]
        a, b = _name(str(first), False), _name(str(second), False)
        paragraph(console, f"- {b} against {a}: {_changes(numbers)}", 4)
        if enough := _separated(comparison.cell(str(first), load), comparison.cell(str(second), load), a, b):
            paragraph(console, f"    {enough}", 4, style="dim")


def _separated(first: Cell, second: Cell, a: str, b: str) -> str:
    """Say how many replications tell two arms apart; nothing where there are none to compare."""
    if first.within_one or len(first.results) < 2 or not (first.verdict.stable and second.verdict.stable):
        return ""
    quantity = "mean_end_to_end_seconds"
    return separation(second.per_section(quantity) - first.per_section(quantity)).sentence(a, b, "mean E2E")


def _changes(numbers: list[tuple[str, Any]]) -> str:
    """Return paired differences in percent, and in the end those that cannot be told, by reason."""
    parts = [f"{name} {signed(row.percent, row.percent_low, row.percent_high)}" for name, row in numbers if _known(row)]
    refused: dict[str, list[str]] = {}
    for name, row in numbers:
        if not _known(row):
            refused.setdefault("overloaded" if "overloaded" in str(row.method) else "n too small", []).append(name)
    parts += [f"{reason}: {', '.join(names)}" for reason, names in refused.items()]
    gain = numbers[-1][1].variance_reduction
    saved = f" (pairing is worth {three_digits(gain)} x the replications)" if np.isfinite(gain) else ""
    return " · ".join(parts) + saved


def _known(row: Any) -> bool:
    return bool(np.isfinite(row.percent_low))


def _claims(console: Console, comparison: Comparison) -> None:
    answers: dict[str, list[Claim]] = {}
    for claim in claims(comparison):
        answers.setdefault(claim.says, []).append(claim)
    if answers:
        console.print("\nWhat the article says, and what came out here", style="bold")
    for says, found in answers.items():
        console.print(f"- {says}:")
        width = max(len(claim.scope) for claim in found)
        for claim in found:
            paragraph(
                console, f"    {claim.scope:<{width}}  {claim.answer}", 6 + width, "green" if claim.held else "yellow"
            )


def _bands(console: Console, comparison: Comparison) -> None:
    if comparison.bands:
        draws = f"{comparison.options.band} draws of the constants"
        title = f"Band at {comparison.shown}, first replication: 90 % of {draws}, the same for every arm"
        console.print()
        paragraph(console, title, 2, "bold")
        for line in bands.lines(comparison.bands):
            paragraph(console, line, 4)


def _written(console: Console, written: list[Path]) -> None:
    folder = written[0].parent
    figures = sum(path.suffix == ".svg" for path in written)
    benches = sum("vllm_bench" in path.name for path in written)
    names = [path.name for path in written if path.suffix not in (".svg", ".png") and "vllm_bench" not in path.name]
    more = (f"{figures} figures (png, svg)", f"{benches} vllm_bench_*.json") if figures else ()
    console.print()
    paragraph(console, f"wrote {folder}: {', '.join((*names, *more))}", 2)
    if figures:
        paragraph(console, "report.html says how everything was measured, and what is left out", 2)
    paragraph(console, f"repeat: roofserve sched_compare --config {folder / 'config.toml'}", 2)
