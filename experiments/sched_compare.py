"""Prefill first or in-flight batching, with and without a prefix cache: which answers sooner, on the same requests?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from cyclopts import Parameter

from experiments import grid
from experiments.asked.options import NOTHING, Options, completed, merged, read
from experiments.asked.scenario import scenario_of
from experiments.asked.workload import Workload
from experiments.tried import bands
from experiments.tried.cell import Cell, Load
from experiments.tried.comparison import ARMS, Arm, Comparison
from experiments.tried.saturation import capacity
from sim import systems
from sim.results.goodput import Objectives
from sim.results.percentiles import Floats
from sim.results.result import Result
from sim.scenario import arms, result_of, simulate
from workloads.trace import Trace


class Asked(NamedTuple):
    """Options, every default filled in, and the digest of the files that they name."""

    options: Options
    stamp: str


def sched_compare(
    *,
    options: Annotated[Options, Parameter(name="*")] = NOTHING,
    config: Annotated[Path | None, Parameter(help="read options from a TOML file; those given here count more")] = None,
    out: Annotated[
        Path | None, Parameter(help="new folder for the results [default: results/sched_compare/TRACE-DIGEST]")
    ] = None,
    json: Annotated[bool, Parameter(negative="", help="print one JSON object and nothing else")] = False,
    where: Annotated[grid.Where, Parameter(name="*")] = grid.HERE,
) -> int:
    """Compare prefill-first and in-flight batching, with and without prefix cache, on the same requests.

    Or products, each with its own limits and overheads: --systems vllm-0.2.7,vllm-0.33. Of policies, says what the data
    say about the article's three claims. Leaves a report, figures, tables and a config.toml that repeats the run.
    """
    from experiments.shown import console, output

    chosen = completed(merged(read(config), options) if config else options)
    folder = output.new_folder(out, chosen)
    kept = grid.keeping(where, folder.with_name(f".{folder.name}.points"))
    with console.progress("simulating") as advance:
        comparison = run(chosen, advance, kept)
    if not comparison.cells:
        console.say("interrupted before any load was finished; nothing was written")
        return 130
    with console.progress("writing") as advance:
        written = output.write(comparison, folder, advance)
    if json:
        output.print_json(comparison, written)
    else:
        console.show(comparison, written)
    if comparison.interrupted:
        console.say(
            f"interrupted: {folder} holds the loads that were finished, without figures and report; what was simulated "
            f"is kept in {kept.resume} for the same question"
        )
    else:
        grid.forget(where, kept)
    return 130 if comparison.interrupted else 0


def run(
    options: Options, advance: Callable[[float], None] = lambda _: None, where: grid.Where = grid.HERE
) -> Comparison:
    """Simulate every arm at every load; all arms see the same traces, and policies share one machine.

    Parameters
    ----------
    options : may leave everything open.
    advance : called with the share of the work that is done, 0 to 1.
    where : who simulates, and where finished runs are kept.

    Raises
    ------
    ValueError
        If an option is not allowed, or nothing of the trace can be served.
    """
    begin = time.perf_counter()
    options = completed(options)
    asked = Asked(options, grid.stamp(options))
    by_name, workload = _prepared(*asked)
    cells: dict[tuple[str, float], Cell] = {}
    capacities: dict[str, Floats] = {}
    notes: tuple[str, ...] = ()
    loads: list[Load] = []
    interrupted = False
    try:
        notes = (*_trace(asked, np.inf, 1).notes, workload.prefix_note)
        bursts = _simulated(asked, [np.inf], where, lambda share: advance(share / (1 + len(options.shares))))
        capacities = {arm: np.array(list(map(capacity, bursts[arm, np.inf]))) for arm in by_name}
        loads = _loads(options, workload, float(next(iter(capacities.values())).mean()))
        first = 1 / (1 + len(loads))
        rates = [load.requests_per_second for load in loads]
        results = _simulated(asked, rates, where, lambda share: advance(first + (1 - first) * share))
        cells = _cells(asked, loads, results)
    except grid.Interrupted as stopped:
        cells, interrupted = _cells(asked, loads, _results(asked, stopped.outcomes)), True
    except KeyboardInterrupt:
        interrupted = True
    if loads and not options.is_recorded:
        options = merged(options, Options(load=tuple(load.requests_per_second for load in loads)))
    elapsed = time.perf_counter() - begin
    comparison = Comparison(options, by_name, cells, capacities, notes, elapsed, interrupted)
    if not options.band or interrupted:
        return comparison
    shown = bands.of(by_name, _trace(asked, comparison.shown.requests_per_second, 1), options.band)
    return replace(comparison, bands=shown, elapsed_seconds=time.perf_counter() - begin)


@lru_cache(maxsize=2)
def _prepared(options: Options, stamp: str) -> tuple[Mapping[str, Arm], Workload]:
    """Return the arms and what they serve; points of a sweep share them, for machines take long to make.

    Files may change while a process lives: `stamp` is that of `Asked`.
    """
    by_name = _arms(options)
    return by_name, Workload(options, min(arm.machine.limits.context for arm in by_name.values()))


@lru_cache(maxsize=2)
def _trace(asked: Asked, rate: float, seed: int) -> Trace:
    return _prepared(*asked)[1].trace(rate, seed)


def _simulated(
    asked: Asked, rates: Sequence[float], where: grid.Where, advance: Callable[[float], None]
) -> dict[tuple[str, float], tuple[Result, ...]]:
    """Return the runs of every arm at every rate, one for each seed."""
    names = _prepared(*asked)[0]
    seeds = range(1, int(asked.options.seeds or 1) + 1)
    points = [{"rate": rate, "seed": seed, "arm": arm} for rate in rates for seed in seeds for arm in names]
    outcomes = grid.sweep(partial(_run, asked), points, where, together=("rate", "seed"), advance=advance)
    return _results(asked, outcomes)


def _run(asked: Asked, rate: float, seed: int, arm: str) -> grid.Row:
    """Simulate one arm on one trace; infinity lets everybody arrive at once."""
    chosen = _prepared(*asked)[0][arm]
    return grid.row_of(simulate(chosen.of(_trace(asked, rate, seed)), chosen.machine))


def _results(asked: Asked, outcomes: Iterable[grid.Outcome]) -> dict[tuple[str, float], tuple[Result, ...]]:
    """Return the runs by arm and rate, in order of seed."""
    found: dict[tuple[str, float], tuple[Result, ...]] = {}
    for outcome in outcomes:
        arm, rate, seed = (outcome.point[name] for name in ("arm", "rate", "seed"))
        chosen = _prepared(*asked)[0][arm]
        replay = grid.replay_of(outcome.row, [chosen.machine.clock])
        result = result_of(chosen.of(_trace(asked, rate, seed)), chosen.machine, replay)
        found[arm, rate] = (*found.get((arm, rate), ()), result)
    return found


def _arms(options: Options) -> dict[str, Arm]:
    """Return what is compared, without a trace."""
    template = scenario_of(options, None)
    if not options.systems:
        machine, scenarios = template.machine, arms(template)
        return {name: Arm(scenarios[name], machine) for name in ARMS}
    found = {}
    for system in map(systems.load, options.systems):
        scenario = systems.scenario(
            system,
            template.trace,
            hardware=template.hardware,
            model=template.model,
            precision=template.precision,
            tensor=template.tensor,
            context=options.context,
            utilisation=options.utilisation,
        )
        split = {name: getattr(template, name) for name in ("pipeline", "expert", "data")}
        scenario = replace(scenario, efficiency=template.efficiency, **split)
        found[system.name] = Arm(scenario, scenario.machine, system)
    if len(found) < len(options.systems):
        raise ValueError(f"--systems is {','.join(options.systems)}; allowed: systems of different names")
    return found


def _loads(options: Options, workload: Workload, capacity: float) -> list[Load]:
    """Return the loads asked for, or shares of the capacity, rounded to three digits so that they can be typed."""
    if options.is_recorded:
        rates = [(speed * workload.natural_rate, speed) for speed in options.speed or (1.0,)]
        return [Load(rate, rate / capacity, speed) for rate, speed in rates]
    chosen = options.load or tuple(float(f"{share * capacity:.3g}") for share in options.shares)
    return [Load(rate, rate / capacity) for rate in chosen]


def _cells(
    asked: Asked, loads: Sequence[Load], results: Mapping[tuple[str, float], tuple[Result, ...]]
) -> dict[tuple[str, float], Cell]:
    """Return a cell for every arm at every load that was finished."""
    options = asked.options
    objectives = Objectives(float(options.slo_ttft or 0), float(options.slo_tpot or 0))
    names, runs = list(_prepared(*asked)[0]), int(options.seeds or 1)
    return {
        (arm, load.requests_per_second): Cell(
            results[arm, load.requests_per_second], options.is_recorded, objectives, options.devices, arm, load
        )
        for load in loads
        if all(len(results.get((name, load.requests_per_second), ())) == runs for name in names)
        for arm in names
    }
