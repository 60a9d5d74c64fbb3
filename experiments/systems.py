"""Which serving systems there are, at which date, and what they can and cannot do."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from sim.scheduling.caches import CACHE_EVIDENCE, EVIDENCE_OF_CACHES
from sim.systems import CAPABILITIES, EVIDENCE, System, available, load

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH = 160


def systems(
    name: Annotated[str | None, Parameter(help="a system, or the path of a .toml; all of them if left out")] = None,
    *,
    json: Annotated[bool, Parameter(negative="", help="print JSON and nothing else")] = False,
) -> None:
    """List the systems with their defaults and capabilities, or show one with remarks and sources.

    An exclamation mark stands where the article of January 2024 says otherwise; `systems NAME` shows its words.
    """
    from experiments.shown import files

    found = [load(one) for one in (available() if name is None else (name,))]
    if json:
        tables = {system.name: as_table(system) for system in found}
        print(files.json_text(tables if name is None else tables[found[0].name]))
        return
    from rich.console import Console

    terminal = sys.stdout.isatty()
    console = Console(highlight=False) if terminal else Console(highlight=False, no_color=True, width=WIDTH)
    if name is not None:
        _one(console, found[0])
        return
    console.print(_defaults(found))
    console.print(_capabilities(found))
    console.print("! the article of January 2024 says otherwise; `roofserve systems NAME` shows why", style="dim")
    for level, meaning in EVIDENCE.items():
        console.print(f"{level}: {meaning}", style="dim")


def as_table(system: System) -> dict[str, Any]:
    """Return a system as plain dictionaries."""

    def plain(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [plain(inner) for inner in value]
        return {key: plain(inner) for key, inner in value.items()} if hasattr(value, "items") else value

    capabilities = {key: asdict(value) for key, value in system.capabilities.items()}
    rules = {
        key: value and {"policy": value.policy, "parameters": dict(value.parameters)}
        for key, value in (("whole_prompts", system.whole_prompts), ("chunked_prompts", system.chunked_prompts))
    }
    rest = {key: value for key, value in vars(system).items() if key not in (*rules, "capabilities")}
    whole = {key: asdict(value) if hasattr(value, "__dataclass_fields__") else value for key, value in rest.items()}
    return dict(plain(whole | rules | {"capabilities": capabilities}))


def _new_table() -> Table:
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))


def _defaults(found: list[System]) -> Table:
    table = _new_table()
    for heading in ("name", "date", "schedule is", "policy"):
        table.add_column(heading, no_wrap=True)
    for heading in ("seats", "tokens", "block", "memory", "prefix\ncache", "host", "front\nend"):
        table.add_column(heading)
    for system in found:
        table.add_row(system.name, system.date, system.evidence, *defaults(system).values())
    return table


def defaults(system: System) -> dict[str, str]:
    """Return what a system does unless told otherwise, in words."""
    limits, overheads, cache = system.limits, system.overheads, system.prefix_cache
    least = overheads.least_seconds_per_layer
    host = f">= {1e3 * least:.2g} ms/layer" if least else f"+ {1e3 * overheads.host_seconds:g} ms"
    tokens = _range([budget.tokens for budget in limits.budgets])
    return {
        "policy": system.rules.policy,
        "seats": _range([budget.sequences for budget in limits.budgets]),
        "tokens": f">= {tokens}, context" if limits.tokens_cover_context else tokens,
        "block": str(limits.block_tokens),
        "memory": f"{limits.utilisation:g} of {'the free' if limits.of_free else 'all'}",
        "prefix cache": "none" if cache is None else "on" if cache.default else "off",
        "host": host,
        "front end": f"{1e3 * overheads.front_end_seconds:g} ms",
    }


def _range(values: list[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _capabilities(found: list[System]) -> Table:
    table = _new_table()
    table.add_column("what it can do", no_wrap=True)
    for system in found:
        table.add_column(system.name.replace("-", "-\n"), justify="center", no_wrap=True)
    for key, words in CAPABILITIES.items():
        answers = (system.capabilities[key] for system in found)
        table.add_row(words, *(("yes" if a.has else "-") + ("!" if a.article_errs else "") for a in answers))
    return table


def _one(console: Console, system: System) -> None:
    console.print(f"{system.title} · version {system.version} · {system.date}", style="bold")
    console.print(f"schedule {system.evidence}: {EVIDENCE[system.evidence]}")
    console.print(" · ".join(f"{what} {value}" for what, value in defaults(system).items()))
    if cache := system.prefix_cache:
        known = EVIDENCE_OF_CACHES[cache.cache]
        console.print(f"cache: {cache.kind}; simulated by {cache.cache!r}, {known}: {CACHE_EVIDENCE[known]}")
    table = _new_table()
    for heading in ("what it can do", "", "the article says", "checked"):
        table.add_column(heading, overflow="fold")
    for key, words in CAPABILITIES.items():
        answer = system.capabilities[key]
        style = "yellow" if answer.article_errs else None
        table.add_row(words, "yes" if answer.has else "no", answer.article_says, answer.checked, style=style)
    console.print(table)
    for remark in system.remarks:
        console.print(f"beware: {remark}", style="yellow")
    for source in system.sources:
        console.print(f"source: {source}", style="dim")
