"""The tables of the report, as text with units and intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.article.scheduler_claims import NAMES, claims, signed
from experiments.shown import words
from experiments.tried.cell import Cell
from experiments.tried.comparison import Comparison
from sim.figures.words import three_digits
from sim.results.intervals import replicated
from sim.results.runs import CACHE_COUNTS, COUNTS, LATENCIES, LEVELS

if TYPE_CHECKING:
    import pandas as pd

UNITS = {"TTFT": ("s", 1.0), "TPOT": ("ms", 1e3), "ITL": ("ms", 1e3), "E2E": ("s", 1.0)}


def all_tables(comparison: Comparison) -> list[tuple[str, pd.DataFrame]]:
    """Return every table of the report with its caption: the answers first."""
    first = _systems(comparison) if comparison.systems else _claims(comparison)
    return [first, saturated(comparison), differences_shown(comparison), *by_load(comparison)]


def _systems(comparison: Comparison) -> tuple[str, pd.DataFrame]:
    import pandas as pd

    rows = [{"system": name, **words.as_run(comparison, name)} for name in comparison.arms]
    return "The systems as run: products, not policies, each with its own limits", pd.DataFrame(rows)


def _claims(comparison: Comparison) -> tuple[str, pd.DataFrame]:
    import pandas as pd

    rows = [{"claim": claim.says, "within": claim.scope, "here": claim.answer} for claim in claims(comparison)]
    return "What the article claims, and what came out here", pd.DataFrame(rows)


def by_load(comparison: Comparison) -> list[tuple[str, pd.DataFrame]]:
    """Return two tables a load: latencies, and what else was measured."""
    import pandas as pd

    found = []
    for load in comparison.loads:
        cells = [comparison.cell(arm, load) for arm in comparison.arms]
        latencies = [
            {"arm": cell.arm, "metric": metric, **_percentiles(cell, metric)} for metric in LATENCIES for cell in cells
        ]
        others = [{"arm": cell.arm, **_quantities(cell)} for cell in cells]
        found.append((f"Latencies at {load}, with 95 % intervals", pd.DataFrame(latencies)))
        found.append((f"Throughput, goodput, cache and machine at {load}, with 95 % intervals", pd.DataFrame(others)))
    return found


def _percentiles(cell: Cell, metric: str) -> dict[str, str]:
    unit, scale = UNITS[metric]
    names = [f"p{100 * level:g}" for level in LEVELS]
    if not cell.verdict.stable:
        return dict.fromkeys(names, "") | {"verdict": words.overload(cell)}
    shown = [words.with_bounds(interval, unit, scale) for interval in cell.percentiles[metric]]
    return dict(zip(names, shown, strict=True)) | {"verdict": words.verdict(cell)}


def _quantities(cell: Cell) -> dict[str, Any]:
    columns = {
        "output tokens/s": ("output_tokens_per_second", "", 1.0),
        "goodput": ("goodput_share", "%", 100.0),
        "goodput [req/s]": ("goodput_per_second", "", 1.0),
        "prefix hits": ("prefix_hit_share", "%", 100.0),
        "computed for nobody": ("padding_share", "%", 100.0),
        "KV occupancy": ("kv_occupancy", "%", 100.0),
        "GPU busy": ("busy_share", "%", 100.0),
        "GPU-seconds per request": ("gpu_seconds_per_request", "", 1.0),
    }
    shown = {
        title: words.with_bounds(cell.quantity(name), unit, scale) for title, (name, unit, scale) in columns.items()
    }
    verdict = words.verdict(cell) if cell.verdict.stable else words.overload(cell)
    counts = {name.replace("_", " "): f"{cell.counts[name]:,}" for name in (*COUNTS, *CACHE_COUNTS)}
    return {**shown, **counts, "verdict": verdict}


def differences_shown(comparison: Comparison) -> tuple[str, pd.DataFrame]:
    """Return the paired differences at the load shown, one row each."""
    import pandas as pd

    table, load = comparison.differences, comparison.shown
    rows = []
    for row in table[table.load == load.requests_per_second].itertuples():
        found: Any = row
        level = "" if np.isnan(found.level) else f" p{100 * found.level:g}"
        refused = np.isnan(found.percent_low)
        change = found.method if refused else signed(found.percent, found.percent_low, found.percent_high)
        gain = "" if np.isnan(found.variance_reduction) else three_digits(found.variance_reduction)
        rows.append(
            {
                "metric": f"{NAMES.get(found.metric, found.metric)}{level}",
                "second arm": found.second,
                "against": found.first,
                "change [95 % CI]": change,
                "variance reduction": gain,
            }
        )
    caption = f"Paired differences at {load}, same requests in both arms (all loads: differences.csv)"
    return caption, pd.DataFrame(rows)


def saturated(comparison: Comparison) -> tuple[str, pd.DataFrame]:
    """Return what every arm serves with all requests at once."""
    import pandas as pd

    rows = [
        {
            "arm": arm,
            "requests/s": words.with_bounds(replicated(rates), ""),
            "GPU-seconds per request": words.with_bounds(replicated(comparison.devices / rates), ""),
        }
        for arm, rates in comparison.capacities.items()
    ]
    return "Served when all requests arrive at once (middle half of the run)", pd.DataFrame(rows)
