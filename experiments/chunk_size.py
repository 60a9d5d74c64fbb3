"""How many tokens an iteration should have: first tokens against pauses between tokens, and where the knee is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from cyclopts import Parameter

from experiments import grid
from experiments.asked.options import Options, completed
from experiments.asked.scenario import scenario_of
from experiments.asked.workload import Workload
from experiments.shown.table_experiment import Answer, Flag, check_folder, deliver, records
from experiments.tried.saturation import capacity
from sim.results.goodput import Objectives
from sim.results.intervals import Interval, replicated
from sim.results.runs import LEVELS, Runs
from sim.scenario import simulate

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

POLICY = "chunked_prefill"
BUDGETS = (128, 256, 512, 1024, 2048, 4096, 8192)
QUICK_BUDGETS = (256, 1024, 4096)
REFERENCE = 2048
"""Budget whose capacity the load is a share of (the default of vLLM for chunked prefill on most chips)."""
LEVEL = 0.99
NOTES = (
    f"All budgets see the same requests under {POLICY} (vLLM V1), without prefix cache; the load is a share of what a "
    f"budget of {REFERENCE:,} tokens serves when all requests arrive at once.",
    "Knee: of the stable budgets the one nearest to having both, p99 TTFT and p99 ITL each scaled from its least (0) "
    "to its largest (1) on a logarithmic axis. It weighs both alike; objectives of your own may prefer another.",
    "A larger budget sets aside more memory for activations, so that its KV cache is smaller.",
)


def chunk_size(
    *,
    hardware: str = "l20",
    model: str = "llama-2-13b",
    tp: int = 2,
    load: float = 0.7,
    quick: Flag = False,
    out: Path | None = None,
    json: Flag = False,
    where: Annotated[grid.Where, Parameter(name="*")] = grid.HERE,
) -> int:
    """Show first-token latency and pauses between tokens against the tokens of an iteration, and find the knee.

    Parameters
    ----------
    hardware
        chip that serves the generated chat [default: l20]
    model
        model [default: llama-2-13b]
    tp
        devices that share the model [default: 2]
    load
        share of the capacity [default: 0.7]
    quick
        fewer budgets, requests and replications; neither figure nor report
    out
        new folder for the results [default: under results/chunk_size]
    json
        print one JSON object and nothing else
    """
    from experiments.shown import console

    check_folder(out)
    kept = grid.keeping(where, grid.points_folder("chunk_size", out))
    with console.progress("simulating") as advance:
        table = run(Options(hardware=hardware, model=model, tp=tp, quick=quick), load, advance, kept)
    answer = Answer(
        name="chunk_size",
        question=f"How many tokens an iteration? Chat on {tp} x {hardware}, {model}, at {100 * load:.0f} % load.",
        finding=headline(table),
        options={"hardware": hardware, "model": model, "tp": tp, "load": load, "quick": quick},
        tables={"chunk_size": table},
        shown=[("By token budget", shown(table))],
        notes=NOTES,
        draw=lambda: _pictures(table),
        quick=quick,
    )
    status = deliver(answer, out, json)
    grid.forget(where, kept)
    return status


def run(
    base: Options,
    load: float = 0.7,
    advance: Callable[[float], None] = lambda _: None,
    where: grid.Where = grid.HERE,
) -> pd.DataFrame:
    """Return a row for each budget and metric: estimate [s, requests/s] and 95 % interval; `knee` marks one budget.

    Raises
    ------
    ValueError
        If the load is not above 0, or the model does not fit.
    """
    import pandas as pd

    if not load > 0:
        raise ValueError(f"--load is {load}; allowed: shares of the capacity above 0, e.g. 0.7")
    options = completed(base)
    budgets = QUICK_BUDGETS if options.quick else BUDGETS
    rate = load * float(_capacities(options, REFERENCE).mean())
    points = [{"budget": budget} for budget in budgets]
    at_load = partial(_budget, options, rate, load)
    table = pd.DataFrame(grid.rows(grid.sweep(at_load, points, where, advance=advance)))
    table["knee"] = table["budget"] == knee(table)
    return table


def _budget(options: Options, rate: float, load: float, budget: int) -> list[dict[str, Any]]:
    return list(_rows(options, budget, rate, load))


def knee(table: pd.DataFrame) -> int:
    """Return the stable budget nearest to the best of both; 0 if none is stable.

    >>> import pandas as pd
    >>> times = {"ttft_p99_seconds": [8.0, 2.0, 1.0], "itl_p99_seconds": [0.1, 0.12, 0.8]}
    >>> rows = [(b, m, t[i]) for m, t in times.items() for i, b in enumerate((128, 512, 8192))]
    >>> knee(pd.DataFrame(rows, columns=["budget", "metric", "estimate"]))
    512
    """
    wide = table.pivot(index="budget", columns="metric", values="estimate")
    known = wide[["ttft_p99_seconds", "itl_p99_seconds"]].dropna()
    if known.empty:
        return 0
    logs = np.log(known.to_numpy(dtype=float))
    span = logs.max(axis=0) - logs.min(axis=0)
    scaled = (logs - logs.min(axis=0)) / np.where(span > 0, span, 1.0)
    return int(known.index[int(np.argmin(np.hypot(*scaled.T)))])


def headline(table: pd.DataFrame) -> str:
    """Return where the knee is and what the ends cost, in a sentence."""
    from sim.figures.words import duration

    best = knee(table)
    if not best:
        return "No budget keeps up with this load"
    known = table.dropna(subset=["estimate"])
    found = {(row["metric"], row["budget"]): row["estimate"] for row in records(known)}
    largest = max(budget for metric, budget in found if metric == "itl_p99_seconds")
    first, pause, longest = (
        duration(found[key])
        for key in (("ttft_p99_seconds", best), ("itl_p99_seconds", best), ("itl_p99_seconds", largest))
    )
    return (
        f"{best:,} tokens an iteration are the knee: p99 TTFT {first}, p99 ITL {pause}; {largest:,} let replies pause "
        f"for {longest}"
    )


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table for people."""
    import pandas as pd

    rows = []
    for budget, group in table.groupby("budget", sort=True):
        found = {row["metric"]: row for row in records(group)}
        rows.append(
            {
                "tokens": budget,
                "p99 TTFT [s]": _text(found["ttft_p99_seconds"], 1.0),
                "p99 ITL [ms]": _text(found["itl_p99_seconds"], 1e3),
                "mean TTFT [s]": _text(found["mean_ttft_seconds"], 1.0),
                "served when saturated [req/s]": _text(found["capacity_requests_per_second"], 1.0),
                "knee": "here" if bool(group["knee"].any()) else "",
            }
        )
    return pd.DataFrame(rows)


def plot(table: pd.DataFrame) -> Figure:
    """Return p99 TTFT and p99 ITL over the budget, with intervals, and the knee marked."""
    from sim.figures.style import INK, MEDIUM, QUIET, SMALL, new_figure, plain_axes, time_scale, top_of_axes

    figure = new_figure(headline(table), f"{POLICY}, bands: 95 % intervals; both axes logarithmic")
    axes = plain_axes(figure, 0.11, 0.13, 0.78, top_of_axes(figure) - 0.17)
    drawn = table[table["metric"].isin(["ttft_p99_seconds", "itl_p99_seconds"])].dropna(subset=["estimate"])
    if drawn.empty:
        return figure
    bounds = drawn[["estimate", "low", "high"]]
    time_scale(axes, "y", float(bounds.min().min()) / 1.3, float(bounds.max().max()) * 1.3)
    axes.set_xscale("log", base=2)
    for metric, name, hue in (("ttft_p99_seconds", "p99 TTFT", "#0072B2"), ("itl_p99_seconds", "p99 ITL", "#D55E00")):
        rows = drawn[drawn["metric"] == metric].sort_values("budget")
        across = rows["budget"].to_numpy()
        axes.fill_between(across, rows["low"], rows["high"], color=hue, alpha=0.2, lw=0)
        axes.plot(across, rows["estimate"].to_numpy(), color=hue, marker="o", lw=1.6)
        end = float(across[-1]), float(rows["estimate"].iloc[-1])
        axes.annotate(name, end, (6, -3), textcoords="offset points", size=SMALL, weight="bold", color=hue)
    best = knee(table)
    axes.axvline(best, color=QUIET, lw=0.8, ls=":")
    axes.text(best, axes.get_ylim()[1], " knee", size=SMALL, color=INK, va="top")
    ticks = sorted(set(table["budget"]))
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xlabel("tokens of an iteration at most", color=QUIET, size=MEDIUM)
    return figure


def _capacities(options: Options, budget: int) -> np.ndarray[Any, Any]:
    """Return what a budget serves when all requests arrive at once, one number a replication [requests/s]."""
    scenario = replace(scenario_of(options, None), tokens=budget, policy=POLICY)
    machine = scenario.machine
    workload = Workload(options, machine.limits.context)
    bursts = (workload.trace(np.inf, seed) for seed in range(1, int(options.seeds or 1) + 1))
    return np.array([capacity(simulate(replace(scenario, trace=burst), machine)) for burst in bursts])


def _rows(options: Options, budget: int, rate: float, load: float) -> Iterator[dict[str, Any]]:
    scenario = replace(scenario_of(options, None), tokens=budget, policy=POLICY)
    machine = scenario.machine
    workload = Workload(options, machine.limits.context)
    traces = [workload.trace(rate, seed) for seed in range(1, int(options.seeds or 1) + 1)]
    results = tuple(simulate(replace(scenario, trace=trace), machine) for trace in traces)
    objectives = Objectives(float(options.slo_ttft or 0), float(options.slo_tpot or 0))
    runs = Runs(results, False, objectives, options.devices)
    p99 = LEVELS.index(LEVEL)
    found = {
        "ttft_p99_seconds": runs.percentiles["TTFT"][p99],
        "itl_p99_seconds": runs.percentiles["ITL"][p99],
        "mean_ttft_seconds": runs.quantity("mean_ttft_seconds"),
        "capacity_requests_per_second": replicated(_capacities(options, budget)),
    }
    for metric, interval in found.items():
        yield {"budget": budget, "load": rate, "metric": metric, **_numbers(interval)}


def _numbers(found: Interval) -> dict[str, Any]:
    return {"estimate": found.estimate, "low": found.low, "high": found.high, "method": found.method}


def _text(row: dict[str, Any], scale: float) -> str:
    from sim.figures.words import three_digits

    if row["estimate"] != row["estimate"]:
        return "overloaded" if "overloaded" in str(row["method"]) else "n too small"
    estimate, low, high = (three_digits(scale * row[name]) for name in ("estimate", "low", "high"))
    return f"{estimate} [{low}, {high}]"


def _pictures(table: pd.DataFrame) -> list[Any]:
    from experiments.shown.pictures import Picture

    sentence = "Small budgets make first tokens wait, large ones make running replies pause."
    return [Picture("chunk_size", plot(table), headline(table), sentence)]
