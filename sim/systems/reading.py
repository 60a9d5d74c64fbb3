"""From a TOML file to a system: every complaint names the file, the field, the value and what is allowed."""

from __future__ import annotations

import inspect
import re
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hardware_profiles.reading import Table, Unit, read_toml
from sim.physics.efficiency import STACKS
from sim.scheduling.caches import EVIDENCE_OF_CACHES
from sim.scheduling.schedulers import SCHEDULERS
from sim.systems.system import (
    CAPABILITIES,
    EVIDENCE,
    Budget,
    Capability,
    Overheads,
    Rules,
    System,
    SystemCache,
    SystemLimits,
)

SHARE = Unit("the whole, 0 to 1", 0.0, 1.0)
SECONDS = Unit("seconds", 0.0, 10.0, ((float("inf"), "milliseconds", "e-3"),))
GIBIBYTES = Unit("GiB", 0.0, 1e5)
BYTES = Unit("bytes", 0.0, 1e13)

TEXTS = ("name", "title", "version", "date", "evidence")
TABLES = ("scheduler", "limits", "prefix_cache", "overheads", "capabilities")


def from_toml(path: Path) -> System:
    """Read a system; ValueError if anything in the file is missing, unknown, or not possible."""
    table = read_toml(path)
    table.allow((*TEXTS, "kernels", "remarks", "sources", *TABLES))
    name, date = table.text("name"), table.text("date")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name):
        raise table.error("name", f"must be small letters, digits, dots and dashes, got {name!r}")
    if not re.fullmatch(r"\d{4}(-\d\d){0,2}", date):
        raise table.error("date", f"must be a year, a month or a day as in 2024-01-04, got {date!r}")
    sources = table.texts("sources")
    if not sources:
        raise table.error("sources", "must say where the numbers come from: a list of texts, at least one")
    scheduler, capabilities = table.table("scheduler"), _capabilities(table.table("capabilities"))
    scheduler.allow(("chunked", "whole_prompts", "chunked_prompts", "asynchronous", "one_attention_kernel"))
    whole, chunks = (_rules(scheduler, key) for key in ("whole_prompts", "chunked_prompts"))
    chunked = scheduler.truth("chunked")
    if (chunks if chunked else whole) is None:
        key = "chunked_prompts" if chunked else "whole_prompts"
        raise scheduler.error(key, f"is missing, and is what chunked = {str(chunked).lower()} uses")
    cache = _cache(table.table("prefix_cache")) if "prefix_cache" in table.values else None
    _agree(table, "chunked_prefill", capabilities, chunks is not None, "scheduler.chunked_prompts")
    _agree(table, "prefix_sharing", capabilities, cache is not None, "prefix_cache")
    return System(
        name=name,
        title=table.text("title"),
        version=table.text("version"),
        date=date,
        evidence=table.choice("evidence", tuple(EVIDENCE)),
        whole_prompts=whole,
        chunked_prompts=chunks,
        chunked=chunked,
        limits=_limits(table.table("limits")),
        prefix_cache=cache,
        overheads=_overheads(table.table("overheads")),
        asynchronous=scheduler.truth("asynchronous"),
        one_attention_kernel=scheduler.truth("one_attention_kernel"),
        kernels=table.choice("kernels", STACKS) if "kernels" in table.values else None,
        capabilities=MappingProxyType(capabilities),
        remarks=table.texts("remarks"),
        sources=sources,
    )


def _agree(table: Table, name: str, capabilities: dict[str, Capability], there: bool, place: str) -> None:
    if capabilities[name].has != there:
        says = str(capabilities[name].has).lower()
        raise table.error(
            f"capabilities.{name}", f"has = {says}, but [{place}] is {'there' if there else 'missing'}; make them agree"
        )


def _rules(scheduler: Table, key: str) -> Rules | None:
    if key not in scheduler.values:
        return None
    table = scheduler.table(key)
    table.allow(("policy", "parameters"))
    policy = table.choice("policy", tuple(SCHEDULERS))
    parameters: dict[str, Any] = dict(table.table("parameters").values) if "parameters" in table.values else {}
    function = SCHEDULERS[policy].policy
    plain = function.func if isinstance(function, partial) else function
    allowed = [name for name, p in inspect.signature(plain).parameters.items() if p.kind is p.KEYWORD_ONLY]
    for name in parameters:
        if name not in allowed:
            raise table.error(
                "parameters", f"has {name!r}, which {policy} does not take; allowed: {', '.join(allowed) or 'none'}"
            )
    return Rules(policy, MappingProxyType(parameters))


def _limits(table: Table) -> SystemLimits:
    plain = ("sequences", "tokens", "block_tokens", "utilisation")
    optional = ("tokens_cover_context", "most_context", "watermark", "paddings", "of_free", "reserved_bytes", "larger")
    table.allow((*plain, *optional))
    return SystemLimits(
        budgets=(*_larger(table), Budget(0.0, table.whole("sequences"), table.whole("tokens"))),
        tokens_cover_context=table.truth("tokens_cover_context"),
        most_context=table.whole("most_context") if "most_context" in table.values else None,
        block_tokens=table.whole("block_tokens"),
        watermark=table.optional_number("watermark", SHARE) or 0.0,
        paddings=table.whole("paddings") if "paddings" in table.values else None,
        utilisation=table.number("utilisation", SHARE),
        of_free=table.truth("of_free"),
        reserved_bytes=_reserved_bytes(table),
    )


def _reserved_bytes(table: Table) -> float | None:
    if table.values.get("reserved_bytes") == 0:
        return 0.0
    return table.optional_number("reserved_bytes", BYTES)


def _larger(table: Table) -> tuple[Budget, ...]:
    rows = table.values.get("larger", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise table.error("larger", f"must be tables [[{table.field('larger')}]], got {rows!r}")
    budgets = []
    for place, row in enumerate(rows):
        inner = Table(table.file, f"{table.field('larger')}[{place}]", row)
        inner.allow(("memory_gib", "sequences", "tokens", "but_not_on"))
        memory = inner.number("memory_gib", GIBIBYTES)
        budgets.append(Budget(memory, inner.whole("sequences"), inner.whole("tokens"), inner.texts("but_not_on")))
    return tuple(budgets)


def _cache(table: Table) -> SystemCache:
    table.allow(("kind", "cache", "default"))
    return SystemCache(table.text("kind"), table.choice("cache", tuple(EVIDENCE_OF_CACHES)), table.truth("default"))


def _overheads(table: Table) -> Overheads:
    fields = ("host_seconds", "least_seconds_per_layer", "front_end_seconds")
    table.allow(fields)
    return Overheads(*(table.optional_number(field, SECONDS) or 0.0 for field in fields))


def _capabilities(table: Table) -> dict[str, Capability]:
    table.allow(tuple(CAPABILITIES))
    found = {}
    for name in CAPABILITIES:
        row = table.table(name)
        row.allow(("has", "article_says", "checked"))
        row.get("has")
        words = (row.text(key) if key in row.values else "" for key in ("article_says", "checked"))
        found[name] = Capability(row.truth("has"), *words)
    return found
