"""The figures of some runs as one row, and the log of one run as a table: plain names, SI units in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sim.engine.clock import seconds
from sim.scheduling.batch import Refusal

if TYPE_CHECKING:
    import pandas as pd

    from sim.results.result import Result
    from sim.results.runs import Runs

SHOWN_LEVELS = (0.5, 0.99)
RATES = ("output_tokens_per_second", "busy_share", "kv_occupancy", "prefix_hit_share")


def figures(runs: Runs) -> dict[str, Any]:
    """Return the verdict, p50 and p99 of every latency with 95 % intervals [s], rates, and counts.

    A latency that has no steady state (overloaded), or too few samples, is NaN, and so are bounds that cannot be told.
    """
    from sim.results.runs import LATENCIES, LEVELS

    found: dict[str, Any] = {
        "verdict": "stable" if runs.verdict.stable else "overloaded",
        "requests": sum(len(result.trace) for result in runs.results),
        "served": sum(result.outcomes["finished"] for result in runs.results),
    }
    for metric in LATENCIES:
        for level in SHOWN_LEVELS:
            interval = runs.percentiles[metric][LEVELS.index(level)]
            name = f"{metric.lower()}_p{100 * level:g}"
            found[f"{name}_seconds"] = interval.estimate
            found[f"{name}_low_seconds"], found[f"{name}_high_seconds"] = interval.low, interval.high
    if np.isfinite(list(vars(runs.objectives).values())).any():
        goodput = runs.quantity("goodput_share")
        found |= {"goodput_share": goodput.estimate, "goodput_low": goodput.low, "goodput_high": goodput.high}
    found |= {name: runs.quantity(name).estimate for name in RATES}
    return found | runs.counts


def iterations_table(result: Result) -> pd.DataFrame:
    """Return a row for each stretch of equal iterations."""
    import pandas as pd

    if result.replicas > 1:
        tables = [iterations_table(part) for part in result.parts]
        return pd.concat([table.assign(replica=number) for number, table in enumerate(tables)], ignore_index=True)
    log = result.iterations
    words = np.array([reason.name.lower() for reason in Refusal])
    return pd.DataFrame(
        {
            "start_seconds": seconds(log.start),
            "end_seconds": seconds(log.end),
            "iterations": log.iterations,
            "first_seconds": seconds(log.first),
            "growth_seconds": seconds(log.growth),
            "decoding": log.decodes,
            "decode_context_tokens": log.context,
            "prompts": log.prompts,
            "prompt_tokens": log.new_tokens,
            "cached_tokens": log.cached_context,
            "waiting": log.waiting,
            "kv_blocks_used": result.limits.blocks - log.free_blocks,
            "preempted": log.preempted,
            "refused_for": pd.Categorical(words[log.refusal], categories=list(words)),
        }
    )
