"""Promise every block, or pause somebody when they run out: two capacity policies of TensorRT-LLM under KV pressure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.shown.table_experiment import Answer, Flag, check_counts, check_folder, deliver
from sim.engine.clock import seconds
from sim.machine import Machine
from sim.results.percentiles import percentile
from sim.results.result import Result
from sim.scenario import Scenario, simulate
from workloads.trace import Trace

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from experiments.shown.pictures import Picture

POLICIES = ("inflight_batching", "max_utilization")
"""GUARANTEED_NO_EVICT and MAX_UTILIZATION."""

SOURCE = "github.com/NVIDIA/TensorRT-LLM/issues/16827 (July 2026, TensorRT-LLM 1.2.1, PyTorch backend)"
MEASURED = {
    "tokens_per_second": (161.0, 95.7),
    "tpot_p99_seconds": (0.122, 1.111),
    "e2e_p99_seconds": (150.0, 563.0),
    "ttft_p50_seconds": (35.8, 27.1),
}
"""What the report measured under KV pressure, in the order of `POLICIES`."""
REPORTED_TOKENS = 128 * 512
"""Output tokens of its run."""

NAMES = {
    "tokens_per_second": "output tokens/s",
    "tpot_p99_seconds": "TPOT p99 [s]",
    "e2e_p99_seconds": "E2E p99 [s]",
    "ttft_p50_seconds": "TTFT p50 [s]",
}
SHORT_PROMPT = 1024
LOADS, QUICK_LOADS = (4, 8, 16, 20, 24, 28, 32, 48, 64), (8, 32)
POOLS, QUICK_POOLS = tuple(round(0.80 + 0.01 * i, 2) for i in range(17)), (0.85, 0.9)
MIXES, QUICK_MIXES = ((16384, 512), (12288, 1024), (8192, 2048), (4096, 4096), (2048, 6144)), ((16384, 512),)


@dataclass(frozen=True)
class Loop:
    """A closed loop: `concurrency` clients, each with its next request when the last is answered, `requests` in all."""

    requests: int
    concurrency: int
    prompt_tokens: int
    output_tokens: int

    def of_lengths(self, prompt_tokens: int, output_tokens: int) -> Loop:
        """Return a loop of other requests that asks for about as much memory, and as often."""
        longer = (self.prompt_tokens + self.output_tokens) / (prompt_tokens + output_tokens)
        concurrency = max(1, round(longer * self.concurrency))
        return Loop(self.requests * concurrency // self.concurrency, concurrency, prompt_tokens, output_tokens)

    @property
    def trace(self) -> Trace:
        """The requests; the client's declared longest reply is the real one."""
        n = self.requests
        before = np.arange(n) - self.concurrency
        replies = np.full(n, self.output_tokens)
        return Trace(
            arrival_seconds=np.zeros(n),
            prompt_tokens=np.full(n, self.prompt_tokens),
            output_tokens=replies,
            max_tokens=replies,
            previous=np.maximum(before, -1),
            think_seconds=np.zeros(n),
            name=f"closed loop of {self.concurrency}",
        )


def eviction(
    *,
    hardware: str = "h200-sxm",
    model: str = "llama-3.3-70b",
    precision: str = "fp8-kv8",
    tp: int = 1,
    utilisation: float = 0.9,
    requests: int = 128,
    concurrency: int = 32,
    prompt: int = 16384,
    output: int = 512,
    quick: Flag = False,
    out: Path | None = None,
    json: Flag = False,
) -> int:
    """Compare GUARANTEED_NO_EVICT with MAX_UTILIZATION on long prompts in a closed loop, on and off KV pressure.

    Parameters
    ----------
    hardware
        chip, or path of a .toml [default: h200-sxm]
    model
        model, or path of a .toml or config.json [default: llama-3.3-70b]
    precision
        number format; -kv8 is an 8-bit KV cache [default: fp8-kv8]
    tp
        devices that share the model [default: 1]
    utilisation
        part of the memory that the server may use [0 to 1; default: 0.9]
    requests
        requests in all [default: 128]
    concurrency
        clients, each of whom waits for a reply before asking again [default: 32]
    prompt
        tokens of each prompt [default: 16384]
    output
        tokens of each reply [default: 512]
    quick
        fewer points; tables only, neither figure nor report
    out
        new folder for the results [default: under results/eviction]
    json
        print one JSON object and nothing else
    """
    check_folder(out)
    loop = Loop(requests, concurrency, prompt, output)
    check_counts(requests=requests, concurrency=concurrency, prompt=prompt, output=output)
    most = prompt + max(output, 1024)
    scenario = Scenario(
        loop.trace, hardware, model, precision, tp, utilisation=utilisation, block_tokens=32, context=most, tokens=most
    )
    table = run(scenario, loop, quick=quick)
    answer = Answer(
        name="eviction",
        question=f"Promise every KV block, or pause somebody when they run out? {model} in {precision} on {tp} x "
        f"{hardware}, {prompt:,} tokens in, {output:,} out, {requests:,} requests, {concurrency} at a time.",
        finding=finding(table),
        options={
            "hardware": hardware,
            "model": model,
            "precision": precision,
            "tp": tp,
            "utilisation": utilisation,
            "requests": requests,
            "concurrency": concurrency,
            "prompt": prompt,
            "output": output,
            "quick": quick,
        },
        tables={"eviction": table},
        shown=[
            ("The report's case: what was measured, and what the published rules give on our clock", against(table)),
            ("MAX_UTILIZATION against GUARANTEED_NO_EVICT, everywhere", changes(table)),
        ],
        notes=notes(table, scenario),
        draw=lambda: _pictures(table),
        quick=quick,
    )
    return deliver(answer, out, json)


def run(scenario: Scenario, loop: Loop, *, quick: bool = False) -> pd.DataFrame:
    """Return a row for each case and policy; times in seconds.

    Columns: `sweep` (what is varied: case, load, memory, mix), `at` (where), the policy, what came out, `pauses`,
    `most_pauses` of one request, `recomputed_tokens` and `recompute_seconds` (if each pause computed what it gave up
    alone), and `pool_tokens`.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for sweep, at, case, one in _cases(scenario, loop, quick):
        machine = case.machine if case.utilisation != scenario.utilisation else scenario.machine
        for policy in POLICIES:
            result = simulate(replace(case, policy=policy, trace=one.trace), machine)
            rows.append({"sweep": sweep, "at": at, "policy": policy, **_row(result, machine, one)})
    return pd.DataFrame(rows)


def _cases(scenario: Scenario, loop: Loop, quick: bool) -> Iterator[tuple[str, str, Scenario, Loop]]:
    yield "case", "pressure", scenario, loop
    yield "case", "off pressure", scenario, replace(loop, prompt_tokens=min(SHORT_PROMPT, loop.prompt_tokens))
    yield "case", "pressure, block reuse", replace(scenario, prefix_cache="tensorrt-llm"), loop
    for concurrency in QUICK_LOADS if quick else LOADS:
        yield "load", f"{concurrency}", scenario, replace(loop, concurrency=concurrency)
    for share in QUICK_POOLS if quick else POOLS:
        yield "memory", f"{share:g}", replace(scenario, utilisation=share), loop
    for prompt, output in QUICK_MIXES if quick else MIXES:
        if prompt + output <= (scenario.context or 0):
            yield "mix", f"{prompt} + {output}", scenario, loop.of_lengths(prompt, output)


def _row(result: Result, machine: Machine, loop: Loop) -> dict[str, Any]:
    limits = machine.limits
    served = int((~np.isnan(result.end_to_end_seconds)).sum())
    if not served:
        raise ValueError(
            f"{limits.blocks * limits.block_tokens:,} tokens of KV cache hold no request of {loop.prompt_tokens:,} + "
            f"{loop.output_tokens:,}; allowed: more --tp, more --utilisation, or shorter requests"
        )
    recomputed = int(result.iterations.new_tokens.sum()) - served * loop.prompt_tokens
    tokens = loop.prompt_tokens + loop.output_tokens // 2
    alone = float(seconds(machine.clock.accounting.iteration(1, tokens, tokens * (tokens + 1) // 2, 0, 0, 0)))
    return {
        "concurrency": loop.concurrency,
        "prompt_tokens": loop.prompt_tokens,
        "output_tokens": loop.output_tokens,
        "served": served,
        "tokens_per_second": result.output_tokens_per_second,
        "ttft_p50_seconds": percentile(result.ttft_seconds, 0.5),
        "tpot_p50_seconds": percentile(result.tpot_seconds, 0.5),
        "tpot_p99_seconds": percentile(result.tpot_seconds, 0.99),
        "e2e_p99_seconds": percentile(result.end_to_end_seconds, 0.99),
        "pauses": int(result.replay.preemptions.sum()),
        "most_pauses": int(result.replay.preemptions.max()),
        "recomputed_tokens": recomputed,
        "recompute_seconds": recomputed / tokens * alone,
        "makespan_seconds": result.makespan_seconds,
        "pool_tokens": limits.blocks * limits.block_tokens,
    }


def pairs(table: pd.DataFrame, sweep: str | None = None) -> Iterator[tuple[Any, Any]]:
    """Yield the rows of both policies, in the order of `POLICIES`, for each case of a sweep or of all."""
    rows = table if sweep is None else table[table["sweep"] == sweep]
    first, second = (list(rows[rows["policy"] == policy].itertuples()) for policy in POLICIES)
    yield from zip(first, second, strict=True)


def against(table: pd.DataFrame) -> pd.DataFrame:
    """Return the report's case, measured and simulated, a row for each number."""
    import pandas as pd

    ours = next(pairs(table, "case"))
    rows = []
    for name, measured in MEASURED.items():
        row: dict[str, Any] = {"number": NAMES[name]}
        for whose, (before, after) in (("measured", measured), ("ours", [getattr(one, name) for one in ours])):
            row |= {f"{whose}: no evict": before, f"{whose}: max util": after, f"{whose}: ratio": after / before}
        rows.append(row)
    return pd.DataFrame(rows)


def changes(table: pd.DataFrame) -> pd.DataFrame:
    """Return what MAX_UTILIZATION changes in every case, for people."""
    import pandas as pd

    return pd.DataFrame(
        {
            "varied": before.sweep,
            "at": before.at,
            "fit the pool": before.pool_tokens / (before.prompt_tokens + before.output_tokens),
            "throughput": f"{_percent(before, after):+.1f} %",
            "TPOT p99": f"x {after.tpot_p99_seconds / before.tpot_p99_seconds:.2f}",
            "E2E p99 [s]": f"{before.e2e_p99_seconds:.0f} to {after.e2e_p99_seconds:.0f}",
            "TTFT p50 [s]": f"{before.ttft_p50_seconds:.1f} to {after.ttft_p50_seconds:.1f}",
            "pauses": after.pauses,
            "most of one": after.most_pauses,
        }
        for before, after in pairs(table)
    )


def finding(table: pd.DataFrame) -> str:
    """Return what pausing does on and off pressure, in a sentence computed from the table."""
    (before, after), (calm, calm_after) = list(pairs(table, "case"))[:2]
    (fast, slow), (short, long), (soon, late) = (
        MEASURED[name] for name in ("tokens_per_second", "tpot_p99_seconds", "e2e_p99_seconds")
    )
    return (
        f"Under KV pressure MAX_UTILIZATION changes throughput by {_percent(before, after):+.1f} %, TPOT p99 "
        f"{after.tpot_p99_seconds / before.tpot_p99_seconds:.2f} times, E2E p99 from {before.e2e_p99_seconds:.0f} to "
        f"{after.e2e_p99_seconds:.0f} s, with {after.pauses} pauses; off pressure throughput by "
        f"{_percent(calm, calm_after):+.1f} % (measured: {100 * (slow / fast - 1):+.1f} %, {long / short:.1f} times, "
        f"{soon:.0f} to {late:.0f} s; off pressure +0.2 %)"
    )


def notes(table: pd.DataFrame, scenario: Scenario) -> list[str]:
    """Return what a reader must know: what was assumed, and where the measured and the simulated part ways."""
    before, after = next(pairs(table, "case"))
    fast, slow = MEASURED["tokens_per_second"]
    length = before.prompt_tokens + before.output_tokens
    worst = min(_percent(a, b) for a, b in pairs(table, "memory"))
    mixes = list(pairs(table, "mix")) or [(before, after)]
    slowest = max(mixes, key=lambda pair: pair[1].tpot_p99_seconds / pair[0].tpot_p99_seconds)
    least, most = min(_percent(a, b) for a, b in mixes), max(_percent(a, b) for a, b in mixes)
    said = [
        f"Measured: {SOURCE}. Its cards and the size of its pool are not known here. TP={scenario.tensor} with "
        f"{scenario.precision} gives a pool of {before.pool_tokens:,} tokens, {before.pool_tokens / length:.1f} "
        f"requests to their end, and {before.tokens_per_second:.0f} tokens/s without eviction where {fast:.0f} were "
        f"measured. Off pressure prompts are of {SHORT_PROMPT:,} tokens here; the report's are unknown.",
        "Both policies follow the published sources and equal 47 recorded runs of them (`conformance --oracle "
        "trtllm-py`). Prompts run whole.",
        f"How much is lost depends on what the pool leaves over: a reply of {before.output_tokens:,} tokens is "
        f"{100 * before.output_tokens / length:.0f} % of its request, so few more prompts are admitted than can be "
        f"finished; over the memory shares tried the worst is {worst:+.1f} % throughput. Over mixes of lengths "
        f"that ask for as much memory it changes by {least:+.1f} to {most:+.1f} %, and TPOT p99 by up to "
        f"{slowest[1].tpot_p99_seconds / slowest[0].tpot_p99_seconds:.2f} times ({slowest[0].at} tokens, "
        f"{slowest[1].pauses} pauses, up to {slowest[1].most_pauses} of one request).",
    ]
    if after.pauses and _percent(before, after) > 100 * (slow / fast - 1):
        per_pause = after.recompute_seconds / after.pauses
        lost = REPORTED_TOKENS * (1 / slow - 1 / fast)
        said.append(
            f"Why ours is milder: a paused request keeps its place and needs more blocks than it gave up, so it mostly "
            f"comes back when another ends: {after.pauses} pauses for {after.served} requests, none more often than "
            f"{after.most_pauses}, each worth about {per_pause:.1f} s of recomputation. The measured run lost "
            f"{lost:.0f} s, that is {lost / per_pause:.0f} such recomputations. Under the published rules that would "
            "take requests paused over and over; the report does not name the mechanism either, and saw replies end "
            "early, so it may be a fault of that version rather than of the policy."
        )
    return said


def plot(table: pd.DataFrame) -> Figure:
    """Return what MAX_UTILIZATION does to throughput and to TPOT p99, over the load and over the memory."""
    from sim.figures.style import INK, MEDIUM, QUIET, RULE, new_figure, plain_axes, top_of_axes

    before, after = next(pairs(table, "case"))
    title = (
        f"Pausing instead of promising changes throughput by {_percent(before, after):+.1f} % and multiplies "
        f"TPOT p99 by {after.tpot_p99_seconds / before.tpot_p99_seconds:.2f} in the case that somebody measured"
    )
    figure = new_figure(title, f"measured: -40.6 % and 9.1; prompts of {before.prompt_tokens:,} tokens; 1 is no change")
    height = (top_of_axes(figure) - 0.26) / 2
    for column, (sweep, name) in enumerate((("load", "requests at a time"), ("memory", "share of memory used"))):
        found = list(pairs(table, sweep))
        x = [float(one.at) for one, _ in found]
        for row, (label, y) in enumerate(
            (
                ("throughput [% more]", [_percent(a, b) for a, b in found]),
                ("TPOT p99 [factor]", [b.tpot_p99_seconds / a.tpot_p99_seconds for a, b in found]),
            )
        ):
            axes = plain_axes(figure, 0.09 + 0.48 * column, 0.12 + (1 - row) * (height + 0.06), 0.4, height)
            axes.axhline(float(row), color=RULE, lw=1.2)
            axes.plot(x, y, color="#D55E00", marker="o", ms=3.5, lw=1.4)
            if not column:
                axes.set_ylabel(label, color=QUIET, size=MEDIUM)
            if row:
                axes.set_xlabel(name, color=INK, size=MEDIUM)
    return figure


def _pictures(table: pd.DataFrame) -> list[Picture]:
    from experiments.shown.pictures import Picture

    said = "; ".join(
        f"{before.sweep} {before.at}: throughput {_percent(before, after):+.1f} %"
        for before, after in (*pairs(table, "load"), *pairs(table, "memory"))
    )
    sentence = "What MAX_UTILIZATION changes against GUARANTEED_NO_EVICT, over the load and over the memory it has."
    return [Picture("eviction", plot(table), f"Line charts of the change by MAX_UTILIZATION. {said}.", sentence)]


def _percent(before: Any, after: Any) -> float:
    return 100 * (float(after.tokens_per_second) / float(before.tokens_per_second) - 1)
