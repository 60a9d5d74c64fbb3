"""How much the caches of real systems find, beside one that knows the future and one that keeps everything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.shown.table_experiment import records
from sim.machine import Machine
from sim.results.intervals import replicated
from sim.results.result import Result
from sim.scenario import Scenario, simulate
from sim.scheduling.caches import BOUNDS, EVIDENCE_OF_CACHES
from workloads.synthetic.chat import conversation_lengths
from workloads.synthetic.prefixes import system_prompt
from workloads.synthetic.sessions import geometric_turns, multi_turn
from workloads.trace import Trace

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COMPARED = {
    "vllm-1": 16,
    "vllm-0.11": 16,
    "tensorrt-llm": 32,
    "tensorrt-llm-2024": 128,
    "sglang": 1,
    "sglang-lfu": 1,
    "belady": 16,
    "infinite": 16,
}
"""Tokens in a block of each cache, which is its system's own; all have the same memory."""

NAMES = {
    "vllm-1": "vLLM V1 (0.33)",
    "vllm-0.11": "vLLM V1 (0.11)",
    "tensorrt-llm": "TensorRT-LLM",
    "tensorrt-llm-2024": "TensorRT-LLM, 2024",
    "sglang": "SGLang",
    "sglang-lfu": "SGLang, lfu",
    "belady": "knows the future",
    "infinite": "keeps everything",
}
METRICS = ("hit_share", "saved_tokens", "evicted_tokens", "gpu_seconds_per_request", "mean_ttft_seconds")
TURNS, THINK_SECONDS, CONVERSATIONS_PER_SECOND, SHARED_TOKENS = 5.0, 30.0, 0.2, 512
HUES = {True: "#0072B2", False: "#8c959f"}
NOTES = (
    "Caches: every system's own block size, the same memory, one scheduler. Belady's cache gives up what is asked for "
    "last; with everything kept, all is found that was written before. Both are caches that no server can have.",
    f"Conversations: {TURNS:g} turns on average, {THINK_SECONDS:g} s of thought between them, begun at "
    f"{CONVERSATIONS_PER_SECOND:g} per second behind {SHARED_TOKENS} shared tokens; each turn repeats what was said.",
    "Where first tokens take minutes the machine is overloaded: compare what is found and the GPU time, not latencies.",
)


def conversations(requests: int, context_tokens: int, seed: int) -> Trace:
    """Return conversations of so many requests in all, on average, with the lengths of a public chat service."""
    return multi_turn(
        np.random.default_rng(np.random.SeedSequence(seed)),
        max(1, round(requests / TURNS)),
        CONVERSATIONS_PER_SECOND,
        conversation_lengths(),
        turns=geometric_turns(TURNS),
        think_seconds=THINK_SECONDS,
        prefix=system_prompt(SHARED_TOKENS),
        context_tokens=context_tokens,
        name="conversations",
    )


def rows(name: str, scenario: Scenario, machine: Machine, traces: list[Trace]) -> Iterator[dict[str, Any]]:
    """Yield what each cache finds of some traces, replications of one workload: a row for each of `METRICS`."""
    devices = scenario.tensor
    for cache, block_tokens in COMPARED.items():
        limits = machine.limits
        blocks = limits.blocks * limits.block_tokens // block_tokens
        same_memory = replace(machine, limits=replace(limits, blocks=blocks, block_tokens=block_tokens))
        results = [simulate(replace(scenario, trace=trace, prefix_cache=cache), same_memory) for trace in traces]
        head: dict[str, Any] = {"trace": name, "cache": cache, "evidence": EVIDENCE_OF_CACHES.get(cache, "bound")}
        head |= {"block_tokens": block_tokens, "prompt_tokens": float(np.mean([t.prompt_tokens.sum() for t in traces]))}
        values = [_values(result, devices) for result in results]
        for metric in METRICS:
            found = replicated(np.array([value[metric] for value in values]))
            bounds = {"estimate": found.estimate, "low": found.low, "high": found.high, "method": found.method}
            yield {**head, "metric": metric, **bounds}


def headline(table: pd.DataFrame) -> str:
    """Return how far the best real cache is from the bounds where that is furthest, in a sentence."""
    gaps = {}
    for trace in dict.fromkeys(table["trace"]):
        found = _found(table, trace)
        best = max((cache for cache in found if cache not in BOUNDS), key=found.__getitem__)
        gaps[trace] = best, found[best], found["belady"], found["infinite"]
    trace = min(gaps, key=lambda name: gaps[name][1] - gaps[name][2])
    best, real, belady, infinite = gaps[trace]
    return (
        f"Of the prompt tokens of {trace} the best real cache ({NAMES[best]}) finds {100 * real:.0f} %; one that knew "
        f"the future would find {100 * belady:.0f} %, one that kept everything {100 * infinite:.0f} %"
    )


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table for people."""
    import pandas as pd

    from sim.figures.words import three_digits

    lines = []
    for (trace, cache, evidence, block), group in table.groupby(
        ["trace", "cache", "evidence", "block_tokens"], sort=False
    ):
        numbers = {row["metric"]: row for row in records(group)}
        best = _found(table, trace)["infinite"]
        share = numbers["hit_share"]["estimate"]
        lines.append(
            {
                "trace": trace,
                "cache": NAMES[str(cache)],
                "known": evidence,
                "block": block,
                "found": f"{100 * share:.1f} %",
                "of what is shared": f"{100 * share / best:.0f} %" if best else "-",
                "tokens saved [M]": f"{numbers['saved_tokens']['estimate'] / 1e6:.2f}",
                "tokens evicted [M]": f"{numbers['evicted_tokens']['estimate'] / 1e6:.2f}",
                "GPU-seconds per request": three_digits(numbers["gpu_seconds_per_request"]["estimate"]),
                "mean TTFT [s]": three_digits(numbers["mean_ttft_seconds"]["estimate"]),
            }
        )
    return pd.DataFrame(lines)


def plot(table: pd.DataFrame) -> Figure:
    """Return what each cache finds, in bars, a panel for each trace, with both bounds as lines through the others."""
    from sim.figures.style import INK, MEDIUM, QUIET, SMALL, new_figure, plain_axes, top_of_axes

    figure = new_figure(headline(table), "prompt tokens found in the cache; same memory, same requests")
    traces = list(dict.fromkeys(table["trace"]))
    shares = {trace: _found(table, trace) for trace in traces}
    most = max(max(found.values()) for found in shares.values())
    real = [cache for cache in COMPARED if cache not in BOUNDS]
    left, width, top = 0.21, 0.77 / len(traces), top_of_axes(figure) - 0.07
    for place, trace in enumerate(traces):
        axes = plain_axes(figure, left + place * width, 0.12, width - 0.035, top - 0.17)
        found = shares[trace]
        places = np.arange(len(COMPARED))
        bars = axes.barh(
            places, [100 * found[cache] for cache in COMPARED], color=[HUES[cache in real] for cache in COMPARED]
        )
        for bar, cache in zip(bars, COMPARED, strict=True):
            middle = bar.get_y() + bar.get_height() / 2
            axes.annotate(
                f"{100 * found[cache]:.0f} %",
                (bar.get_width(), middle),
                (3, 0),
                textcoords="offset points",
                va="center",
                size=SMALL,
                color=INK,
            )
        axes.invert_yaxis()
        axes.set_yticks(places, [NAMES[cache] for cache in COMPARED] if not place else [""] * len(places), size=SMALL)
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, 122 * most)
        axes.set_title(str(trace), size=MEDIUM, weight="bold", color=INK, loc="left")
        axes.set_xlabel("found [%]", color=QUIET, size=SMALL)
    return figure


def _found(table: pd.DataFrame, trace: object) -> Mapping[str, float]:
    here = table[(table["trace"] == trace) & (table["metric"] == "hit_share")]
    return dict(zip(here["cache"], here["estimate"], strict=True))


def _values(result: Result, devices: int) -> dict[str, float]:
    served = result.outcomes["finished"]
    busy = result.busy_share * result.makespan_seconds
    return {
        "hit_share": result.prefix_hit_share,
        "saved_tokens": float(result.saved_tokens),
        "evicted_tokens": float(result.evicted_tokens),
        "gpu_seconds_per_request": devices * busy / served,
        "mean_ttft_seconds": float(np.nanmean(result.ttft_seconds)),
    }
