"""The same cards as many small engines or as few large ones: what each way of sharing them costs and gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from cyclopts import Parameter

from experiments import grid
from experiments.shown.table_experiment import Answer, Flag, check_counts, check_folder, deliver
from experiments.tried.cluster_load import P99, Measured, Setup, Study, measure, shown_numbers
from sim.engine.routers import ROUTERS
from sim.figures.words import percent, three_digits
from sim.physics.parallelism import allowed_tensor_sizes
from sim.results.intervals import paired
from workloads import models

if TYPE_CHECKING:
    import pandas as pd

SHARES = (0.3, 0.5, 0.7, 0.85, 0.95)
QUICK_SHARES = (0.3, 0.85)
ENOUGH = 0.99
"""Share of the requests that must be answered in time for a load to count as borne."""
NOTES = (
    "Loads are shares of what the best way of sharing the cards can serve; all ways see the same requests. Intervals: "
    "95 % over replications.",
    "More cards to a replica read weights and compute together, and talk after every layer; more replicas read the "
    "weights once each, and leave less memory for KV cache on each card.",
    "The router is in front of the replicas and costs nothing; links between cards are those of the profile.",
)


def replicas_vs_tp(
    *,
    hardware: str = "a800-sxm",
    model: str = "llama-2-13b",
    precision: str = "w16a16",
    cards: int = 8,
    context: int | None = None,
    policy: str = "inflight_batching",
    router: str = "least_requests",
    slo_ttft: float = 2.0,
    slo_tpot: float = 0.05,
    requests: int | None = None,
    seeds: int | None = None,
    quick: Flag = False,
    out: Path | None = None,
    json: Flag = False,
    where: Annotated[grid.Where, Parameter(name="*")] = grid.HERE,
) -> int:
    """Compare many replicas of few cards with few replicas of many: latency over load, goodput and capacity.

    Parameters
    ----------
    hardware
        chip, or path of a .toml [default: a800-sxm]
    model
        model, or path of a .toml or config.json [default: llama-2-13b]
    precision
        w16a16, fp8, w8a8, w8a16 or w4a16 [default: w16a16]
    cards
        cards in all; every number of cards that can share the model and divides them is tried [default: 8]
    context
        longest prompt and reply together [tokens; default: the model's]
    policy
        scheduler of every replica [default: inflight_batching]
    router
        who gets a request: round_robin, random, least_requests, least_tokens, power_of_two, prefix_hash or
        prefix_affinity [default: least_requests]
    slo_ttft
        objective for the first token [s; default: 2]
    slo_tpot
        objective for each further token [s; default: 0.05]
    requests
        requests of each run [default: 4000, quick: 800]
    seeds
        replications [default: 5, quick: 2]
    quick
        fewer loads, requests and replications; neither figure nor report
    out
        new folder for the results [default: under results/replicas_vs_tp]
    json
        print one JSON object and nothing else
    """
    from experiments.shown import console

    check_folder(out)
    check_counts(requests=requests, seeds=seeds)
    requests, seeds = requests or (800 if quick else 4000), seeds or (2 if quick else 5)
    if router not in ROUTERS:
        raise ValueError(f"--router is {router}; allowed: {', '.join(ROUTERS)}")
    study = Study(
        hardware,
        model,
        precision,
        policy,
        context,
        ways(model, cards, router),
        conversations=False,
        requests=requests,
        seeds=seeds,
        slo_ttft=slo_ttft,
        slo_tpot=slo_tpot,
    )
    study, left_out = study.possible()
    kept = grid.keeping(where, grid.points_folder("replicas_vs_tp", out))
    with console.progress("simulating") as advance:
        measured = run(study, QUICK_SHARES if quick else SHARES, kept, advance)
    table = measured.table()
    finding = headline(measured)
    given = {"hardware": hardware, "model": model, "precision": precision, "cards": cards, "context": context}
    given |= {"policy": policy, "router": router, "slo_ttft": slo_ttft, "slo_tpot": slo_tpot}
    answer = Answer(
        name="replicas_vs_tp",
        question=f"{cards} x {hardware} for {model}: many small replicas or few large ones? Chat, {policy}, {router}.",
        finding=finding,
        options={**given, "requests": requests, "seeds": seeds, "quick": quick},
        tables={"replicas_vs_tp": table},
        shown=[("What each way serves", shown_capacity(measured)), ("At each load", shown_numbers(measured))],
        notes=(*NOTES, *left_out),
        draw=lambda: _pictures(measured, finding),
        quick=quick,
    )
    status = deliver(answer, out, json)
    grid.forget(where, kept)
    return status


def run(
    study: Study,
    shares: Sequence[float] = SHARES,
    where: grid.Where = grid.HERE,
    advance: Callable[[float], None] = lambda _: None,
) -> Measured:
    """Serve the same requests in every way of a study; see `experiments.tried.cluster_load.measure`."""
    return measure(study, shares, where, advance)


def ways(model: str, cards: int, router: str = "least_requests") -> tuple[Setup, ...]:
    """Return every way to share so many cards among equal replicas.

    Raises
    ------
    ValueError
        If there are none.

    >>> [way.name for way in ways("llama-2-13b", 8)]
    ['8 x TP 1', '4 x TP 2', '2 x TP 4', '1 x TP 8']
    """
    sizes = [size for size in allowed_tensor_sizes(models.load(model)) if size <= cards and cards % size == 0]
    if cards < 2 or not sizes:
        raise ValueError(f"--cards is {cards}; allowed: 2 and more, so that there are several ways to share them")
    return tuple(Setup(f"{cards // size} x TP {size}", cards // size, size, router) for size in sizes)


def headline(measured: Measured) -> str:
    """Return which way serves most, and which answers soonest at the lowest load, in a sentence."""
    capacities = measured.capacities
    most = max(capacities, key=lambda name: float(capacities[name].mean()))
    least = min(capacities, key=lambda name: float(capacities[name].mean()))
    gain = paired(capacities[least], capacities[most]).percent
    sure = gain.low > 0
    said = f"{most} serves most, {three_digits(measured.capacity)} requests/s"
    if most != least:
        more = f"{percent(gain.estimate / 100)} more than {least}"
        said += f", {more}" if sure else f", though not surely more than {least}"
    low = measured.rates[0]
    soonest = _soonest(measured, low)
    if soonest:
        share = 100 * low / measured.capacity
        said += f"; at {share:.0f} % load {soonest[0]} gives the last token soonest, {soonest[1]}"
    return said


def _soonest(measured: Measured, rate: float) -> tuple[str, str] | None:
    """Return the way with the least mean end-to-end time at a load, and its distance to the next one in words."""
    means = {
        setup.name: measured.runs[setup.name, rate].per_section("mean_end_to_end_seconds")
        for setup in measured.study.setups
        if measured.runs[setup.name, rate].verdict.stable
    }
    order = sorted(means, key=lambda name: float(means[name].mean()))
    if len(order) < 2:
        return None
    change = paired(means[order[1]], means[order[0]]).percent
    if not change.high < 0:
        return order[0], f"no different from {order[1]}"
    return order[0], f"{percent(-change.estimate / 100)} sooner than {order[1]}"


def shown_capacity(measured: Measured) -> pd.DataFrame:
    """Return what each way serves, for people."""
    import pandas as pd

    rows: list[Mapping[str, Any]] = []
    for setup in measured.study.setups:
        machine = measured.machine(setup)
        tokens = machine.limits.blocks * machine.limits.block_tokens
        within = [
            rate
            for rate in measured.rates
            if measured.runs[setup.name, rate].quantity("goodput_share").estimate >= ENOUGH
        ]
        rows.append(
            {
                "way": setup.name,
                "saturated [requests/s]": float(measured.capacities[setup.name].mean()),
                "KV cache of all replicas [tokens]": f"{setup.replicas * tokens:,}",
                f"highest load tried with {100 * ENOUGH:.0f} % in time [requests/s]": max(within, default=np.nan),
            }
        )
    return pd.DataFrame(rows)


def _pictures(measured: Measured, finding: str) -> list[Any]:
    from experiments.shown.figures.load_curves import load_latency, load_latency_alt
    from experiments.shown.pictures import Picture

    table = measured.table().rename(columns={"setup": "arm"})
    steady = table[np.isfinite(table["load"])]
    pictures = []
    for metric, what in (("TTFT", "first token"), ("TPOT", "time per further token"), ("E2E", "last token")):
        figure = load_latency(steady, metric, 0.99, _sentence(measured, metric))
        sentence = f"99th percentile of the {what} over the load, for every way to share the cards. {finding}."
        alt = load_latency_alt(steady, metric, 0.99)
        pictures.append(Picture(f"load_{metric.lower()}", figure, alt, sentence))
    return pictures


def _sentence(measured: Measured, metric: str) -> str:
    """Return which way is best at the lowest load and at the highest that most bear, for the title of a figure."""
    best: list[str] = []
    for rate in (measured.rates[0], measured.rates[-1]):
        found = {
            setup.name: measured.runs[setup.name, rate].percentiles[metric][P99].estimate
            for setup in measured.study.setups
        }
        known = {name: value for name, value in found.items() if np.isfinite(value)}
        if known:
            winner = min(known, key=known.__getitem__)
            best.append(f"{winner} at {100 * rate / measured.capacity:.0f} % load")
    return f"Lowest p99 {metric}: {', '.join(best)}" if best else f"No way of sharing keeps up ({metric})"
