"""The products of January 2024 and of today on one workload, as engines and as services, beside the article's table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.article.framework_checks import SYSTEMS
from experiments.article.framework_rows import TODAY, article_rows
from experiments.shown.table_experiment import Answer, Flag, Names, check_folder, deliver, records
from experiments.tried.load_search import QUICK_STEPS, STEPS, Service, highest_load
from sim import systems
from sim.results.goodput import Objectives, met
from sim.results.intervals import replicated
from sim.results.result import Result
from sim.systems import System
from workloads import models
from workloads.synthetic.chat import chat

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from experiments.shown.pictures import Picture
    from workloads.trace import Trace

COMPARED = (*SYSTEMS.values(), *TODAY)
HOP_SECONDS = 10e-3
"""What a server in front of the engine adds to a request over HTTP, as in the presets: an estimate."""

HOPS = {"tensorrt-llm-2024-01": 2}
"""Servers in front of an engine where it is not one: Triton, and FastAPI before it, since Triton did not stream."""

MISSED = 0.1
"""Share of the requests that may miss the objectives."""

REPLICATIONS, REQUESTS = 5, 400
QUICK_REPLICATIONS, QUICK_REQUESTS = 2, 150
HUES = {"engine": "#0072B2", "service": "#56B4E9"}

NOTES = (
    "Each product has its own scheduler, limits, cache and host overhead by default (`roofserve systems NAME`); what "
    "is reconstructed says so there. All see the same requests, with one system prompt, at every load.",
    "Engine: requests reach the scheduler at once. Service: each server in front adds 10 ms to the first token and to "
    "the last, an estimate: one for vLLM, SGLang and TensorRT-LLM of today, which are complete; Triton and FastAPI, "
    "two, for TensorRT-LLM of January 2024. Servers in front are never the bottleneck here.",
    "Highest load: bisection for the load at which 90 % of the requests keep both objectives; latencies: everybody at "
    "the same load, of which the slowest product as a service can bear a little more.",
)


def frameworks(
    *,
    system: Names = COMPARED,
    hardware: str = "l20",
    model: str = "llama-2-13b",
    tp: int = 2,
    precision: str = "w16a16",
    slo_ttft: float = 2.0,
    slo_tpot: float = 0.1,
    quick: Flag = False,
    out: Path | None = None,
    json: Flag = False,
) -> int:
    """Compare products of January 2024 and of today as engines and as services, and check the article's table.

    Parameters
    ----------
    system
        products, two or more [default: tensorrt-llm-2024-01 vllm-0.2.7 vllm-0.33 tensorrt-llm sglang]
    hardware
        chip that serves the generated chat [default: l20]
    model
        model [default: llama-2-13b]
    tp
        devices that share the model [default: 2]
    precision
        number format; a product without it is refused [default: w16a16]
    slo_ttft
        objective for the first token, which 9 of 10 requests have to keep [s; default: 2]
    slo_tpot
        objective for each further token, which 9 of 10 requests have to keep [s; default: 0.1]
    quick
        fewer requests and replications; neither figure nor report
    out
        new folder for the results [default: under results/frameworks]
    json
        print one JSON object and nothing else
    """
    from experiments.shown import console

    check_folder(out)
    objectives = Objectives(slo_ttft, slo_tpot)
    with console.progress("simulating") as advance:
        table = run(
            system, objectives, hardware=hardware, model=model, tp=tp, precision=precision, quick=quick, advance=advance
        )
    checked = article_rows(table)
    answer = Answer(
        name="frameworks",
        question=f"Which product serves more, then and today? Chat on {tp} x {hardware}, {model} in {precision}; TTFT "
        f"{slo_ttft:g} s, TPOT {slo_tpot:g} s.",
        finding=headline(table),
        options={
            "system": " ".join(system),
            "hardware": hardware,
            "model": model,
            "tp": tp,
            "precision": precision,
            "slo_ttft": slo_ttft,
            "slo_tpot": slo_tpot,
            "quick": quick,
        },
        tables={"frameworks": table, "article": checked},
        shown=[
            (f"By product, latencies at {table['load'].iloc[0]:.3g} requests/s", shown(table)),
            ("The article's table of January 2024, row by row", checked),
        ],
        notes=NOTES,
        draw=lambda: _pictures(table),
        quick=quick,
    )
    return deliver(answer, out, json)


def run(
    names: Sequence[str] = COMPARED,
    objectives: Objectives | None = None,
    *,
    hardware: str = "l20",
    model: str = "llama-2-13b",
    tp: int = 2,
    precision: str = "w16a16",
    quick: bool = False,
    advance: Callable[[float], None] = lambda _: None,
) -> pd.DataFrame:
    """Return two rows for each product, as "engine" and as "service"; times in seconds, loads in requests/s.

    Raises
    ------
    ValueError
        If there are fewer than two, or a product cannot do what is asked.
    """
    import pandas as pd

    if len(set(names)) < 2:
        raise ValueError(f"--system is {' '.join(names) or 'nothing'}; allowed: two and more of {', '.join(COMPARED)}")
    bounds = objectives or Objectives(2.0, 0.1)
    count, requests = (QUICK_REPLICATIONS, QUICK_REQUESTS) if quick else (REPLICATIONS, REQUESTS)
    context = models.load(model).context
    traces = [chat(np.random.default_rng(seed), requests, 1.0, context_tokens=context) for seed in range(1, count + 1)]
    made = {"hardware": hardware, "model": model, "tensor": tp, "precision": precision}
    services = {
        (system.name, way): _service(system, way, traces[0], made)
        for system in map(systems.load, dict.fromkeys(names))
        for way in HUES
    }
    loads = {}
    for done, (key, service) in enumerate(services.items(), start=1):
        steps = QUICK_STEPS if quick else STEPS
        found = (highest_load(service, one, lambda r: missed(r, bounds), MISSED, steps) for one in traces)
        loads[key] = np.array(list(found))
        advance(0.9 * done / len(services))
    able = [pace.mean() for pace in loads.values() if pace.all()]
    common = 0.9 * min(able) if able else min(service.saturated(traces[0]) for service in services.values()) / 2
    rows = [_row(key, services[key], loads[key], traces, float(common)) for key in services]
    advance(1.0)
    return pd.DataFrame(rows)


def missed(result: Result, objectives: Objectives) -> float:
    """Return the share of requests that miss an objective, or are not served."""
    return 1.0 - float(met(objectives, result.ttft_seconds, result.tpot_seconds, result.end_to_end_seconds).mean())


def hops(system: System) -> int:
    """Return how many servers stand in front of the engine when it is offered as a service."""
    return HOPS.get(system.name, 1)


def _service(system: System, way: str, trace: Trace, made: dict[str, Any]) -> Service:
    scenario = systems.scenario(system, trace, **made)
    in_front = HOP_SECONDS * hops(system) if way == "service" else 0.0
    return Service.of(replace(scenario, front_end_seconds=in_front))


def _row(
    key: tuple[str, str], service: Service, loads: np.ndarray[Any, Any], traces: Sequence[Trace], common: float
) -> dict[str, Any]:
    name, way = key
    highest = replicated(loads)
    found = [service.serve(trace.sped_up(common)) for trace in traces]
    return {
        "system": name,
        "date": systems.load(name).date,
        "as": way,
        "hops": hops(systems.load(name)) if way == "service" else 0,
        "highest_load": highest.estimate,
        "low": highest.low,
        "high": highest.high,
        "load": common,
        "mean_ttft_seconds": _mean(found, lambda r: float(np.nanmean(r.ttft_seconds))),
        "p50_ttft_seconds": _mean(found, lambda r: float(np.nanmedian(r.ttft_seconds))),
        "p50_tpot_seconds": _mean(found, lambda r: float(np.nanmedian(r.tpot_seconds))),
        "mean_end_to_end_seconds": _mean(found, lambda r: float(np.nanmean(r.end_to_end_seconds))),
        "prefix_hit_share": _mean(found, lambda r: r.prefix_hit_share),
    }


def _mean(results: Sequence[Result], measure: Callable[[Result], float]) -> float:
    return float(np.mean([measure(result) for result in results]))


def headline(table: pd.DataFrame) -> str:
    """Return what two years brought, and what a front end costs."""
    found = [row for row in records(table) if row["highest_load"] > 0]
    services = {row["system"]: row for row in found if row["as"] == "service"}
    if len(services) < 2:
        return "No two products keep the objectives at any load"
    best = max(services.values(), key=lambda row: row["highest_load"])
    least = min(services.values(), key=lambda row: row["highest_load"])
    engines = {row["system"]: row["p50_ttft_seconds"] for row in found if row["as"] == "engine"}
    later = {round(1e3 * (row["p50_ttft_seconds"] - engines[name])) for name, row in services.items()}
    titles = {name: systems.load(name).title for name in (best["system"], least["system"])}
    return (
        f"{titles[best['system']]} serves {best['highest_load'] / least['highest_load']:.2g} times what "
        f"{titles[least['system']]} does on the same cards; servers in front add "
        f"{' to '.join(map(str, sorted({min(later), max(later)})))} ms to the first token (assumed)"
    )


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table for people."""
    import pandas as pd

    from sim.figures.words import three_digits

    rows = []
    for row in records(table):
        load, low, high = (three_digits(float(row[name])) for name in ("highest_load", "low", "high"))
        rows.append(
            {
                "product": systems.load(row["system"]).title,
                "date": row["date"],
                "as": row["as"] if row["as"] == "engine" else f"service ({row['hops']} in front)",
                "highest load [req/s]": f"{load} [{low}, {high}]" if row["highest_load"] else "none",
                "p50 TTFT [s]": row["p50_ttft_seconds"],
                "p50 TPOT [ms]": 1e3 * row["p50_tpot_seconds"],
                "mean last token [s]": row["mean_end_to_end_seconds"],
                "prompt tokens cached [%]": 100 * row["prefix_hit_share"],
            }
        )
    return pd.DataFrame(rows)


def plot(table: pd.DataFrame) -> Figure:
    """Return the highest load, and the latencies at one common load, of each product as engine and as service."""
    from sim.figures.style import INK, MEDIUM, QUIET, SMALL, name_rows, new_figure, plain_axes, top_of_axes
    from sim.figures.words import three_digits

    common = float(table["load"].iloc[0])
    figure = new_figure(
        headline(table),
        f"dark: engine, light: as a service; lines: 95 % intervals; latencies at {common:.3g} requests/s",
    )
    height, bottom = top_of_axes(figure) - 0.17, 0.1
    names = list(dict.fromkeys(table["system"]))
    panels = (
        (0.2, 0.27, "highest load [requests/s]", "highest_load", 1.0),
        (0.52, 0.2, "median TTFT [s]", "p50_ttft_seconds", 1.0),
        (0.77, 0.2, "median TPOT [ms]", "p50_tpot_seconds", 1e3),
    )
    for left, width, label, column, scale in panels:
        axes = plain_axes(figure, left, bottom, width, height)
        for offset, (way, hue) in zip((-0.19, 0.19), HUES.items(), strict=True):
            rows = table[table["as"] == way].set_index("system").loc[names]
            places, values = np.arange(len(names)) + offset, scale * rows[column].to_numpy(dtype=float)
            axes.barh(places, values, height=0.36, color=hue, gid=f"{column} {way}")
            ends = values
            if column == "highest_load":
                low, ends = rows["low"].to_numpy(dtype=float), rows["high"].to_numpy(dtype=float)
                axes.hlines(places, low, ends, color=INK, lw=1.0)
            for place, value, end in zip(places, values, ends, strict=True):
                at = (max(value, end), place)
                axes.annotate(three_digits(value), at, (3, 0), textcoords="offset points", size=SMALL, va="center")
        axes.set_xlim(0, 1.3 * scale * float(table[column].max()) or 1.0)
        name_rows(axes, [systems.load(name).title for name in names] if left < 0.3 else [""] * len(names))
        axes.set_title(label, size=MEDIUM, color=QUIET, loc="left")
    return figure


def _pictures(table: pd.DataFrame) -> list[Picture]:
    from experiments.shown.pictures import Picture

    said = "; ".join(f"{row['system']} as {row['as']}: {row['highest_load']:.2f} requests/s" for row in records(table))
    sentence = "What each product serves in time, and how fast it answers at a load that all of them can bear."
    return [Picture("frameworks", plot(table), f"Bars by product. {said}.", sentence)]
