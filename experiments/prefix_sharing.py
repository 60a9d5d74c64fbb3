"""What a prefix cache saves: GPU time, waiting and cards, by how much of the prompts is shared, load and memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
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
from experiments.tried import cache_bounds
from experiments.tried.saturation import capacity
from sim.machine import Machine
from sim.results.goodput import Objectives
from sim.results.intervals import Interval, paired, replicated
from sim.results.result import Result
from sim.results.runs import Runs
from sim.scenario import Scenario, simulate
from workloads import datasets
from workloads.trace import Trace

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

POLICY = "inflight_batching"
RECORDED = "mooncake-conversation"
SHARED_TOKENS = (0, 128, 512, 1024, 2048, 4096)
QUICK_TOKENS = (0, 512, 2048)
LOADS = (0.5, 0.8)
"""Loads at which the first token is timed, in shares of the capacity without cache."""
UTILISATIONS = (0.6, 0.9)
"""Parts of the memory that the server may use: what is left beside weights is the cache."""
HUES = ("#D55E00", "#0072B2")
NOTES = (
    "Saved: GPU-seconds per request when all requests arrive at once, against the same requests without cache, which "
    "is also the share of cards that a service at capacity can do without. Intervals: 95 %, paired over replications.",
    "One text in front of all prompts is the best case for a cache: one copy serves everybody, whatever its size.",
    "At a load both arms see the same arrivals; it is given in shares of the capacity without cache.",
)


@dataclass(frozen=True)
class Service:
    """Requests of some kind on a machine, asked again and again.

    Attributes
    ----------
    options, scenario, machine : what is served and how.
    workload : where the requests come from.
    """

    options: Options
    scenario: Scenario
    machine: Machine
    workload: Workload

    @property
    def seeds(self) -> range:
        """The replications."""
        return range(1, int(self.options.seeds or 1) + 1)

    def serve(self, trace: Trace, cache: bool) -> Result:
        """Return what happens to a trace with the cache on or off."""
        return simulate(replace(self.scenario, trace=trace, policy=POLICY, prefix_cache=cache), self.machine)


def prefix_sharing(
    *,
    trace: str | None = None,
    hardware: str = "l20",
    model: str = "llama-3.1-8b",
    tp: int = 1,
    context: int = 16384,
    quick: Flag = False,
    out: Path | None = None,
    json: Flag = False,
    where: Annotated[grid.Where, Parameter(name="*")] = grid.HERE,
) -> int:
    """Show what a prefix cache saves by the share of the prompts that is shared, by load, by cache size, and by cache.

    Parameters
    ----------
    trace
        also a recorded trace with prefixes, e.g. mooncake-conversation, on the machine that serves it by
        default [default: mooncake-conversation if there is a copy]
    hardware
        chip that serves the generated chat [default: l20]
    model
        model [default: llama-3.1-8b]
    tp
        devices that share the model [default: 1]
    context
        longest prompt and reply together [default: 16384]
    quick
        fewer shares, requests and replications; neither figure nor report
    out
        new folder for the results [default: under results/prefix_sharing]
    json
        print one JSON object and nothing else
    """
    from experiments.shown import console

    check_folder(out)
    base = Options(hardware=hardware, model=model, tp=tp, context=context, quick=quick)
    kept = grid.keeping(where, grid.points_folder("prefix_sharing", out))
    with console.progress("simulating") as advance:
        table = run(base, trace, lambda share: advance(share / 2), kept)
        caches = compare_caches(base, trace, lambda share: advance(0.5 + share / 2))
    answer = Answer(
        name="prefix_sharing",
        question=f"What does a prefix cache save? Chat on {tp} x {hardware}, {model}, {POLICY}.",
        finding=headline(table),
        options={"trace": trace, "hardware": hardware, "model": model, "tp": tp, "context": context, "quick": quick},
        tables={"prefix_sharing": table, "caches": caches},
        shown=[
            ("By shared text and memory", shown(table)),
            (f"By cache: {cache_bounds.headline(caches)}", cache_bounds.shown(caches)),
        ],
        notes=(*NOTES, *cache_bounds.NOTES),
        draw=lambda: [*_pictures(table), *_cache_pictures(caches)],
        quick=quick,
    )
    status = deliver(answer, out, json)
    grid.forget(where, kept)
    return status


def run(
    base: Options,
    recorded: str | None = None,
    advance: Callable[[float], None] = lambda _: None,
    where: grid.Where = grid.HERE,
) -> pd.DataFrame:
    """Return a row for each shared text, memory and number: estimate and 95 % interval.

    Metrics: `saved_share` of the GPU-seconds per request, `hit_share` of the prompt tokens, and at each load
    `mean_ttft_seconds` without and with cache.

    Raises
    ------
    ValueError
        If the model does not fit, or the recorded trace cannot be found.
    """
    import pandas as pd

    tokens = QUICK_TOKENS if base.quick else SHARED_TOKENS
    cases = [{"utilisation": utilisation, "shared": shared} for utilisation in UTILISATIONS for shared in tokens]
    part = len(cases) / (len(cases) + bool(recorded))
    rows = grid.rows(grid.sweep(partial(_case, base), cases, where, advance=lambda share: advance(part * share)))
    if recorded:
        rows += _rows(_service(Options(trace=recorded, quick=base.quick)), ())
    return pd.DataFrame(rows)


def compare_caches(
    base: Options, recorded: str | None = None, advance: Callable[[float], None] = lambda _: None
) -> pd.DataFrame:
    """Return a row for each workload, cache and number of `cache_bounds.METRICS`: estimate and 95 % interval.

    Workloads: the generated chat at 80 % of the capacity without cache, conversations, and at its natural pace a
    recorded trace; if none is asked for, that of Mooncake where there is a copy.
    """
    import pandas as pd

    if recorded is None and datasets.is_at_hand(RECORDED):
        recorded = RECORDED
    rows: list[dict[str, Any]] = []
    service = _service(replace(base, utilisation=max(UTILISATIONS), system_prompt=cache_bounds.SHARED_TOKENS))
    scenario, machine, seeds = replace(service.scenario, policy=POLICY), service.machine, service.seeds
    at_once = [capacity(service.serve(service.workload.trace(np.inf, seed), False)) for seed in seeds]
    rate = max(LOADS) * float(np.mean(at_once))
    chats = [service.workload.trace(rate, seed) for seed in seeds]
    rows += cache_bounds.rows("chat", scenario, machine, chats)
    advance(0.3)
    requests = int(service.options.requests or 0)
    talks = [cache_bounds.conversations(requests, machine.limits.context, seed) for seed in seeds]
    rows += cache_bounds.rows("conversations", scenario, machine, talks)
    advance(0.6)
    if recorded:
        service = _service(Options(trace=recorded, quick=base.quick))
        scenario = replace(service.scenario, policy=POLICY)
        rows += cache_bounds.rows(recorded, scenario, service.machine, [service.workload.recorded])
    advance(1.0)
    return pd.DataFrame(rows)


def headline(table: pd.DataFrame) -> str:
    """Return what the largest sharing saves, in a sentence."""
    whole = table[(table["trace"] == "chat") & (table["utilisation"] == max(UTILISATIONS))]
    saved = records(whole[whole["metric"] == "saved_share"])
    hits = {row["shared_tokens"]: row["estimate"] for row in records(whole[whole["metric"] == "hit_share"])}
    texts = [
        f"finds {100 * hits[row['shared_tokens']]:.0f} % of the prompt tokens saves {_percent(row)} of the GPU time"
        for row in (saved[len(saved) // 2], saved[-1])
    ]
    return f"A prefix cache that {texts[0]}, one that {texts[1].removesuffix(' of the GPU time')}"


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table for people."""
    import pandas as pd

    keys = ["trace", "utilisation", "shared_tokens"]
    rows = []
    for (trace, utilisation, shared), group in table.groupby(keys, sort=False):
        numbers = {(row["metric"], row["load"], row["cache"]): row for row in records(group)}
        saved, hit = numbers["saved_share", np.inf, True], numbers["hit_share", np.inf, True]
        line = {
            "trace": trace,
            "memory used": f"{utilisation:g}",
            "shared tokens": shared,
            "found": f"{100 * hit['estimate']:.0f} %",
            "GPU-seconds and cards saved": _percent(saved),
        }
        for load in LOADS:
            pair = [numbers.get(("mean_ttft_seconds", load, cache)) for cache in (False, True)]
            texts = [
                f"{1e3 * row['estimate']:.0f}" if row and row["estimate"] == row["estimate"] else "-" for row in pair
            ]
            line[f"mean TTFT at {100 * load:.0f} % load, without, with [ms]"] = ", ".join(texts)
        rows.append(line)
    return pd.DataFrame(rows)


def plot(table: pd.DataFrame) -> Figure:
    """Return the GPU time saved over the share of the prompt tokens found, by memory, with the recorded trace."""
    from sim.figures.style import INK, MEDIUM, QUIET, SMALL, new_figure, plain_axes, top_of_axes

    figure = new_figure(headline(table), "saturated, 95 % intervals; dotted: what is found would be saved in full")
    axes = plain_axes(figure, 0.1, 0.13, 0.78, top_of_axes(figure) - 0.17)
    axes.plot([0, 100], [0, 100], color=QUIET, lw=0.8, ls=":")
    chat = table[table["trace"] == "chat"]
    for place, (utilisation, group) in enumerate(chat.groupby("utilisation")):
        hue = HUES[place]
        x, y = (group[group["metric"] == metric] for metric in ("hit_share", "saved_share"))
        across = 100 * x["estimate"].to_numpy()
        axes.fill_between(across, 100 * y["low"], 100 * y["high"], color=hue, alpha=0.2, lw=0)
        axes.plot(across, 100 * y["estimate"].to_numpy(), color=hue, marker="o", lw=1.6)
        end = across[-1], 100 * float(y["estimate"].iloc[-1])
        label = f"memory {100 * float(str(utilisation)):.0f} %"
        axes.annotate(
            label, end, (6, -4 - 12 * place), textcoords="offset points", size=SMALL, weight="bold", color=hue
        )
    for name, group in table[table["trace"] != "chat"].groupby("trace"):
        found = dict(zip(group["metric"], 100 * group["estimate"], strict=True))
        point = (found["hit_share"], found["saved_share"])
        axes.scatter(*point, marker="D", color=INK, s=36)
        axes.annotate(str(name), point, (6, 4), textcoords="offset points", size=SMALL, weight="bold", color=INK)
    axes.set(xlim=(0, 100), ylim=(min(0.0, axes.get_ylim()[0]), 100))
    axes.set_xlabel("prompt tokens found in the cache [%]", color=QUIET, size=MEDIUM)
    axes.set_ylabel("GPU-seconds saved [%]", color=QUIET, size=MEDIUM)
    return figure


def _case(base: Options, utilisation: float, shared: int) -> list[dict[str, Any]]:
    return list(_rows(_service(replace(base, utilisation=utilisation, system_prompt=shared)), LOADS))


def _service(options: Options) -> Service:
    full = completed(options)
    scenario = scenario_of(full, None)
    machine = scenario.machine
    return Service(full, scenario, machine, Workload(full, machine.limits.context))


def _rows(service: Service, loads: Sequence[float]) -> Iterator[dict[str, Any]]:
    options, limits = service.options, service.machine.limits
    head = {
        "trace": options.trace,
        "utilisation": options.utilisation,
        "kv_tokens": limits.blocks * limits.block_tokens,
        "shared_tokens": options.system_prompt,
    }
    bursts = [service.workload.trace(np.inf, seed) for seed in service.seeds]
    without, cached = ([service.serve(burst, cache) for burst in bursts] for cache in (False, True))
    seconds = [np.array([1 / capacity(result) for result in results]) for results in (without, cached)]
    percent = paired(seconds[0], seconds[1]).percent
    saved = replace(percent, estimate=-percent.estimate / 100, low=-percent.high / 100, high=-percent.low / 100)
    hits = [float(r.replay.cached_tokens.sum()) / float(r.trace.prompt_tokens.sum()) for r in cached]
    at_once = {"load": np.inf, "cache": True}
    yield {**head, **at_once, "metric": "saved_share", **_numbers(saved)}
    yield {**head, **at_once, "metric": "hit_share", **_numbers(replicated(np.array(hits)))}
    for load in loads:
        rate = load / float(seconds[0].mean())
        traces = [service.workload.trace(rate, seed) for seed in service.seeds]
        for cache in (False, True):
            results = tuple(service.serve(trace, cache) for trace in traces)
            objectives = Objectives(float(options.slo_ttft or 0), float(options.slo_tpot or 0))
            runs = Runs(results, False, objectives, options.devices)
            found = _numbers(runs.quantity("mean_ttft_seconds"))
            yield {**head, "load": load, "cache": cache, "metric": "mean_ttft_seconds", **found}


def _numbers(found: Interval) -> dict[str, Any]:
    return {"estimate": found.estimate, "low": found.low, "high": found.high, "method": found.method}


_BOUNDS = ("estimate", "low", "high")


def _percent(row: dict[str, Any]) -> str:
    estimate, low, high = (round(100 * row[name]) if row[name] == row[name] else None for name in _BOUNDS)
    return f"{estimate} %" + ("" if low is None else f" [{low}, {high}]")


def _pictures(table: pd.DataFrame) -> list[Any]:
    from experiments.shown.pictures import Picture

    sentence = "GPU time that the cache saves against the share of prompt tokens that it finds, at two sizes of memory."
    return [Picture("prefix_sharing", plot(table), headline(table), sentence)]


def _cache_pictures(caches: pd.DataFrame) -> list[Any]:
    from experiments.shown.pictures import Picture

    title = cache_bounds.headline(caches)
    sentence = "Prompt tokens found by the caches of real systems, by one that knows the future and one without bounds."
    return [Picture("caches", cache_bounds.plot(caches), title, sentence)]
