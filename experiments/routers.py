"""Which router shares conversations best among replicas that cache what they have read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from experiments import grid
from experiments.shown.table_experiment import Answer, Flag, Names, check_counts, check_folder, deliver
from experiments.tried.cluster_load import APPLICATIONS, Measured, Setup, Study, measure, shown_numbers
from sim.engine.routers import ROUTERS
from sim.figures.words import percent
from sim.results.intervals import paired

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

SHARES = (0.5, 0.8)
QUICK_SHARES = (0.8,)
BASE = "round_robin"
NOTES = (
    f"Conversations of 4 turns on average begin with a system prompt of {APPLICATIONS.tokens_per_level[0]} tokens and "
    f"the {APPLICATIONS.tokens_per_level[1]:,} tokens of one of {APPLICATIONS.branching} applications, some popular; "
    "every turn repeats what was said before. Each replica caches what it has read (vLLM V1).",
    "Loads are shares of what the best router can serve; all see the same requests. Intervals: 95 % over replications.",
    "Routers know what they sent and what was answered, never what a replica has evicted.",
)


def routers(
    *,
    hardware: str = "a800-sxm",
    model: str = "llama-2-13b",
    precision: str = "w16a16",
    tp: int = 2,
    replicas: int = 4,
    context: int | None = None,
    policy: str = "inflight_batching",
    router: Names = tuple(ROUTERS),
    requests: int | None = None,
    seeds: int | None = None,
    quick: Flag = False,
    out: Path | None = None,
    json: Flag = False,
    where: Annotated[grid.Where, Parameter(name="*")] = grid.HERE,
) -> int:
    """Compare routers in front of caching replicas: what the caches find, and how soon replies come.

    Parameters
    ----------
    hardware
        chip, or path of a .toml [default: a800-sxm]
    model
        model, or path of a .toml or config.json [default: llama-2-13b]
    precision
        w16a16, fp8, w8a8, w8a16 or w4a16 [default: w16a16]
    tp
        cards that share the model in each replica [default: 2]
    replicas
        replicas [default: 4]
    context
        longest prompt and reply together [tokens; default: the model's]
    policy
        scheduler of every replica [default: inflight_batching]
    router
        routers, two or more [default: all]
    requests
        requests of each run, about [default: 4000, quick: 800]
    seeds
        replications [default: 5, quick: 2]
    quick
        fewer loads, requests and replications; neither figure nor report
    out
        new folder for the results [default: under results/routers]
    json
        print one JSON object and nothing else
    """
    from experiments.shown import console

    check_folder(out)
    check_counts(requests=requests, seeds=seeds)
    requests, seeds = requests or (800 if quick else 4000), seeds or (2 if quick else 5)
    unknown = [name for name in router if name not in ROUTERS]
    if unknown or len(set(router)) < 2:
        raise ValueError(f"--router is {' '.join(router)}; allowed: two or more of {', '.join(ROUTERS)}")
    if replicas < 2:
        raise ValueError(f"--replicas is {replicas}; allowed: 2 and more, one needs no router")
    setups = tuple(Setup(name, replicas, tp, name, prefix_cache=True) for name in dict.fromkeys(router))
    study = Study(hardware, model, precision, policy, context, setups, True, requests, seeds, 2.0, 0.05)
    kept = grid.keeping(where, grid.points_folder("routers", out))
    with console.progress("simulating") as advance:
        measured = run(study, quick, kept, advance)
    finding = headline(measured)
    given = {"hardware": hardware, "model": model, "precision": precision, "tp": tp, "replicas": replicas}
    given |= {"context": context, "policy": policy, "router": " ".join(router), "requests": requests, "seeds": seeds}
    answer = Answer(
        name="routers",
        question=f"Who gets a request? {replicas} replicas of {tp} x {hardware}, {model}, conversations, {policy}.",
        finding=finding,
        options={**given, "quick": quick},
        tables={"routers": measured.table()},
        shown=[("At each load", shown_numbers(measured))],
        notes=NOTES,
        draw=lambda: _pictures(measured, finding),
        quick=quick,
    )
    status = deliver(answer, out, json)
    grid.forget(where, kept)
    return status


def run(
    study: Study,
    quick: bool = False,
    where: grid.Where = grid.HERE,
    advance: Callable[[float], None] = lambda _: None,
) -> Measured:
    """Serve the same conversations behind every router; see `experiments.tried.cluster_load.measure`."""
    return measure(study, QUICK_SHARES if quick else SHARES, where, advance)


def headline(measured: Measured) -> str:
    """Return which router finds most in the caches, and what that does to the first token, in a sentence."""
    rate = measured.rates[-1]
    names = [setup.name for setup in measured.study.setups]
    hits = {name: measured.runs[name, rate].quantity("prefix_hit_share").estimate for name in names}
    stable = [name for name in names if measured.runs[name, rate].verdict.stable]
    if not stable:
        return f"No router keeps up at {100 * rate / measured.capacity:.0f} % load"
    base = BASE if BASE in stable else stable[0]
    best = max(stable, key=hits.__getitem__)
    load = f"at {100 * rate / measured.capacity:.0f} % load"
    if best == base:
        return f"No router finds more in the caches than {base} {load}: {percent(hits[base])} of the prompt tokens"
    mean = "mean_ttft_seconds"
    first = [measured.runs[name, rate].per_section(mean) for name in (base, best)]
    change = paired(first[0], first[1]).percent
    said = f"no surely different mean TTFT ({change.estimate:+.0f} %)"
    if change.low > 0 or change.high < 0:
        said = f"a mean TTFT {percent(abs(change.estimate) / 100)} {'shorter' if change.high < 0 else 'longer'}"
    return (
        f"{best} finds {percent(hits[best])} of the prompt tokens in the caches, {base} {percent(hits[base])}: {said} "
        f"{load}"
    )


def plot(table: pd.DataFrame, title: str) -> Figure:
    """Return the p50 and p99 TTFT of each router at the highest load, with the share of prompts found."""
    from sim.figures.style import INK, MEDIUM, QUIET, SMALL, new_figure, plain_axes, time_scale, top_of_axes
    from sim.figures.words import duration

    rate = table.loc[table["load"] < float("inf"), "load"].max()
    rows = table[table["load"] == rate]
    names = list(dict.fromkeys(rows["setup"]))[::-1]
    share = 100 * float(rows["share_of_capacity"].iloc[0])
    figure = new_figure(title, f"TTFT at {share:.0f} % load, 95 % intervals; right: prompt tokens found in the caches")
    axes = plain_axes(figure, 0.17, 0.13, 0.68, top_of_axes(figure) - 0.17)
    known = rows[(rows["metric"] == "TTFT") & rows["level"].isin([0.5, 0.99])].dropna(subset="estimate")
    if len(known):
        time_scale(axes, "x", 0.8 * known["estimate"].min(), 1.25 * known[["estimate", "high"]].max().max())
    for place, name in enumerate(names):
        mine = rows[rows["setup"] == name]
        ends = {}
        for level, hue, marker in ((0.5, "#0072B2", "o"), (0.99, "#D55E00", "D")):
            at = known[(known["setup"] == name) & (known["level"] == level)]
            if at.empty:
                continue
            low, high, value = (float(at[column].iloc[0]) for column in ("low", "high", "estimate"))
            axes.plot([low, high], [place, place], color=hue, lw=3.0, alpha=0.35, solid_capstyle="butt")
            axes.plot(value, place, marker=marker, color=hue, ms=6)
            ends[level] = value
            axes.annotate(
                duration(value), (value, place), (0, 7), textcoords="offset points", size=SMALL, color=hue, ha="center"
            )
        if not ends:
            axes.text(0.5, place, "overloaded", transform=axes.get_yaxis_transform(), color=QUIET, size=SMALL)
        hit = float(mine.loc[mine["metric"] == "prefix_hit_share", "estimate"].iloc[0])
        axes.text(1.03, place, f"{100 * hit:.0f} %", transform=axes.get_yaxis_transform(), color=INK, size=MEDIUM)
    axes.set_yticks(range(len(names)), names, size=MEDIUM)
    axes.set_ylim(-0.6, len(names) - 0.3)
    axes.set_xlabel("time to first token: p50 (blue), p99 (orange), logarithmic", color=QUIET, size=MEDIUM)
    return figure


def _pictures(measured: Measured, finding: str) -> list[Any]:
    from experiments.shown.pictures import Picture

    sentence = "Median and 99th percentile of the first token behind every router, and what the caches found."
    return [Picture("routers", plot(measured.table(), finding), finding, sentence)]
