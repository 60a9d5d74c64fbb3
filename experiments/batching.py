"""What each step in the history of batching was worth: one workload, one machine, the same latency asked of all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.shown.table_experiment import Answer, Flag, check_folder, deliver, records
from experiments.tried.kept_memory import stranded_share
from experiments.tried.load_search import QUICK_STEPS, STEPS, Service, highest_load, normalised_latency
from sim.results.intervals import replicated
from sim.results.result import Result
from sim.scenario import Scenario
from workloads.synthetic.chat import chat

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from experiments.shown.pictures import Picture
    from workloads.trace import Trace

SLO = 0.1
"""Mean end-to-end time by tokens of the reply [s]: 10 tokens a second, twice what one reads."""

REPLICATIONS, REQUESTS = 5, 600
QUICK_REPLICATIONS, QUICK_REQUESTS = 2, 250


@dataclass(frozen=True)
class Stage:
    """A way to batch.

    Attributes
    ----------
    name : as a reader calls it.
    policy : in `sim.scheduling.schedulers.SCHEDULERS`.
    paged : whether the KV cache is paged.
    tokens : of an iteration, None for what whole prompts need.
    keeps : what a running request keeps, see `stranded_share`.
    """

    name: str
    policy: str
    paged: bool = True
    tokens: int | None = None
    keeps: str = "blocks"


STAGES = (
    Stage("static, padded", "static_padded_to_end", keeps="context"),
    Stage("static, packed", "static_to_end", keeps="context"),
    Stage("Orca", "orca", keeps="context"),
    Stage("prefill first, not paged", "prefill_first", paged=False, keeps="context"),
    Stage("prefill first, paged", "prefill_first"),
    Stage("in-flight", "inflight_batching", keeps="reply"),
    Stage("Dynamic SplitFuse", "dynamic_splitfuse", tokens=768),
    Stage("chunked prefill", "chunked_prefill", tokens=2048),
)
"""From FasterTransformer to vLLM V1; the token budgets are the defaults of DeepSpeed-FastGen and of vLLM."""

NOTES = (
    "All stages have the same kernels, host overhead and chips, so that only batching and memory differ; only those "
    "that cut prompts have another token budget. What products of the time lacked beside that is in `frameworks`.",
    "Asked of all: a mean normalised latency (end-to-end time by tokens of the reply, as in the papers on Orca and "
    "vLLM) within the objective; each replication is searched by bisection with its own requests, the same for all.",
    "Static batches return replies when the batch ends, and compute rows that are complete until then. Orca, static "
    "batches and memory that is not paged keep room for the longest context; in-flight batching promises the "
    "longest reply that the client declares; the others take blocks as they fill them.",
    "Idle work: tokens computed for nobody, of all computed. Stranded memory: room kept for running requests that "
    "holds no token of theirs, of all room kept; both at the load found.",
)


def batching(
    *,
    hardware: str = "l20",
    model: str = "llama-2-13b",
    tp: int = 2,
    precision: str = "w16a16",
    slo: float = SLO,
    quick: Flag = False,
    out: Path | None = None,
    json: Flag = False,
) -> int:
    """Show the history of batching as what it serves at equal latency, the work it wastes and the memory it strands.

    Parameters
    ----------
    hardware
        chip that serves the generated chat [default: l20]
    model
        model [default: llama-2-13b]
    tp
        devices that share the model [default: 2]
    precision
        number format [default: w16a16]
    slo
        mean end-to-end time by tokens of the reply that everybody has to keep [s; default: 0.1]
    quick
        fewer requests and replications; neither figure nor report
    out
        new folder for the results [default: under results/batching]
    json
        print one JSON object and nothing else
    """
    from experiments.shown import console

    check_folder(out)
    scenario = Scenario(_chat(1, 1, 4096), hardware=hardware, model=model, precision=precision, tensor=tp)
    with console.progress("simulating") as advance:
        table = run(scenario, slo, quick=quick, advance=advance)
    answer = Answer(
        name="batching",
        question=f"What was each step of batching worth? Chat on {tp} x {hardware}, {model}, {slo:g} s a token.",
        finding=headline(table),
        options={
            "hardware": hardware,
            "model": model,
            "tp": tp,
            "precision": precision,
            "slo": slo,
            "quick": quick,
        },
        tables={"batching": table},
        shown=[("The highest load that keeps the latency, and what is wasted there", shown(table))],
        notes=NOTES,
        draw=lambda: _pictures(table),
        quick=quick,
    )
    return deliver(answer, out, json)


def run(
    scenario: Scenario, slo: float = SLO, *, quick: bool = False, advance: Callable[[float], None] = lambda _: None
) -> pd.DataFrame:
    """Return a row for each stage: loads [requests/s] with 95 % intervals, and what it does there.

    Raises
    ------
    ValueError
        If the objective is not above 0, or the model does not fit.
    """
    import pandas as pd

    if not slo > 0:
        raise ValueError(f"--slo is {slo}; allowed: seconds a token above 0, e.g. {SLO}")
    count, requests = (QUICK_REPLICATIONS, QUICK_REQUESTS) if quick else (REPLICATIONS, REQUESTS)
    context = scenario.machine.limits.context
    traces = [_chat(seed, requests, context) for seed in range(1, count + 1)]
    rows = []
    for done, stage in enumerate(STAGES, start=1):
        rows.append(_row(stage, scenario, traces, slo, QUICK_STEPS if quick else STEPS))
        advance(done / len(STAGES))
    return pd.DataFrame(rows)


def _chat(seed: int, requests: int, context: int) -> Trace:
    return chat(np.random.default_rng(seed), requests, 1.0, system_prompt_tokens=0, context_tokens=context)


def _row(stage: Stage, scenario: Scenario, traces: list[Trace], slo: float, steps: int) -> dict[str, Any]:
    asked = replace(scenario, policy=stage.policy, paged_attention=stage.paged, tokens=stage.tokens)
    service = Service.of(asked)
    loads = np.array([highest_load(service, trace, normalised_latency, slo, steps) for trace in traces])
    load = replicated(loads)
    row: dict[str, Any] = {
        "stage": stage.name,
        "policy": stage.policy,
        "requests_per_second": load.estimate,
        "low": load.low,
        "high": load.high,
    }
    if not loads.all():
        return row | dict.fromkeys(("tokens_per_second", "ttft_p50_seconds", "batch", "idle_share", "stranded_share"))
    found = [service.serve(trace.sped_up(at)) for trace, at in zip(traces, loads.tolist(), strict=True)]
    return row | {
        "tokens_per_second": _mean(found, lambda result: result.output_tokens_per_second),
        "ttft_p50_seconds": _mean(found, lambda result: float(np.median(result.ttft_seconds))),
        "batch": _mean(found, mean_batch),
        "idle_share": _mean(found, lambda result: result.padding_share),
        "stranded_share": _mean(found, lambda result: stranded_share(result, stage.keeps)),
    }


def _mean(results: list[Result], measure: Callable[[Result], float]) -> float:
    return float(np.mean([measure(result) for result in results]))


def mean_batch(result: Result) -> float:
    """Return the sequences that get a token in an iteration that decodes, averaged over these iterations."""
    log = result.iterations
    decoding = log.decodes > 0
    return float(np.average(log.decodes[decoding], weights=log.iterations[decoding])) if decoding.any() else 0.0


def headline(table: pd.DataFrame) -> str:
    """Return what the whole history, and its largest step, were worth."""
    served = {row["stage"]: float(row["requests_per_second"]) for row in records(table)}
    names = [stage.name for stage in STAGES if served[stage.name] > 0]
    if len(names) < 2:
        return "No two ways to batch keep this latency at any load"
    first, best = names[0], max(names, key=lambda name: served[name])
    steps = {(a, b): served[b] / served[a] for a, b in pairwise(names)}
    (_, after), worth = max(steps.items(), key=lambda item: item[1])
    return (
        f"{best[0].upper()}{best[1:]} serves {served[best] / served[first]:.1f} times the requests of {first} batches "
        f"at equal latency; {after} alone brought {worth:.1f} times"
    )


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table for people."""
    import pandas as pd

    from sim.figures.words import three_digits

    first = float(table["requests_per_second"].iloc[0])
    rows = []
    for row in records(table):
        load, low, high = (float(row[name]) for name in ("requests_per_second", "low", "high"))
        never = "not at any load"
        rows.append(
            {
                "batching": row["stage"],
                "requests/s [95 % CI]": f"{three_digits(load)} [{three_digits(low)}, {three_digits(high)}]"
                if load
                else never,
                "times": load / first if first else None,
                "tokens/s": row["tokens_per_second"],
                "p50 TTFT [s]": row["ttft_p50_seconds"],
                "batch": row["batch"],
                "idle work [%]": _percent(row["idle_share"]),
                "stranded memory [%]": _percent(row["stranded_share"]),
            }
        )
    return pd.DataFrame(rows)


def _percent(share: Any) -> float | None:
    return None if share is None or share != share else 100.0 * float(share)


def plot(table: pd.DataFrame) -> Figure:
    """Return the history from top to bottom: requests served at equal latency, idle work and stranded memory."""
    from sim.figures.style import INK, MEDIUM, QUIET, SMALL, name_rows, new_figure, plain_axes, top_of_axes
    from sim.figures.words import three_digits

    figure = new_figure(headline(table), "from top to bottom as it came; whiskers: 95 % intervals")
    height, bottom = top_of_axes(figure) - 0.17, 0.1
    rows = records(table)
    places = np.arange(len(rows))
    panels = (
        (0.2, 0.31, "requests/s at equal latency", "requests_per_second", 1.0, "#0072B2"),
        (0.56, 0.14, "idle work [%]", "idle_share", 100.0, "#D55E00"),
        (0.75, 0.2, "stranded KV memory [%]", "stranded_share", 100.0, "#CC79A7"),
    )
    for left, width, label, column, scale, hue in panels:
        axes = plain_axes(figure, left, bottom, width, height)
        values = [scale * float(row[column] or 0.0) for row in rows]
        axes.barh(places, values, height=0.64, color=hue, gid=column)
        if column == "requests_per_second":
            spans = [[v - float(r["low"]) for v, r in zip(values, rows, strict=True)]]
            spans.append([float(r["high"]) - v for v, r in zip(values, rows, strict=True)])
            axes.errorbar(values, places, xerr=spans, fmt="none", ecolor=INK, elinewidth=0.9, capsize=2)
            axes.set_xlim(0, 1.22 * max(float(row["high"]) for row in rows) or 1.0)
        else:
            axes.set_xlim(0, 100)
        for place, (value, row) in enumerate(zip(values, rows, strict=True)):
            edge = float(row["high"]) if column == "requests_per_second" else value
            axes.annotate(
                three_digits(value), (edge, place), (4, 0), textcoords="offset points", size=SMALL, va="center"
            )
        name_rows(axes, [str(row["stage"]) for row in rows] if left < 0.3 else [""] * len(rows))
        axes.set_title(label, size=MEDIUM, color=QUIET, loc="left")
    return figure


def _pictures(table: pd.DataFrame) -> list[Picture]:
    from experiments.shown.pictures import Picture

    said = "; ".join(f"{row['stage']}: {float(row['requests_per_second']):.2f} requests/s" for row in records(table))
    sentence = "Each row is a step in the history of batching, at the highest load at which it keeps the latency."
    return [Picture("batching", plot(table), f"Bars by way of batching. {said}.", sentence)]
