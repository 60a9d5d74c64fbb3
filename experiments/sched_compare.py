"""Prefill first or in-flight batching, with and without a prefix cache: which answers sooner, on the same requests?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
from cyclopts import Parameter

import hardware_profiles
from experiments.cell import Cell, Load
from experiments.comparison import ARMS, Arm, Comparison
from experiments.options import Options, completed, merged, read
from experiments.workload import Workload
from sim import systems
from sim.physics import calibration
from sim.results.goodput import Objectives
from sim.results.percentiles import Floats
from sim.results.result import Result
from sim.scenario import Scenario, arms, simulate
from workloads.trace import Trace

NOTHING = Options()


def sched_compare(
    *,
    options: Annotated[Options, Parameter(name="*")] = NOTHING,
    config: Annotated[Path | None, Parameter(help="read options from a TOML file; those given here count more")] = None,
    out: Annotated[
        Path | None, Parameter(help="new folder for the results [default: results/sched_compare/TRACE-DIGEST]")
    ] = None,
    json: Annotated[bool, Parameter(negative="", help="print one JSON object and nothing else")] = False,
) -> int:
    """Compare prefill-first and in-flight batching, with and without prefix cache, on the same requests.

    Or products, each with its own limits and overheads: --systems vllm-0.2.7,vllm-0.33. Of policies, says what the data
    say about the article's three claims. Leaves a report, figures, tables and a config.toml that repeats the run.
    """
    from experiments import console, output

    chosen = completed(merged(read(config), options) if config else options)
    folder = output.new_folder(out, chosen)
    with console.progress("simulating") as advance:
        comparison = run(chosen, advance)
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
        console.say(f"interrupted: {folder} holds the loads that were finished, without figures and report")
    return 130 if comparison.interrupted else 0


def run(options: Options, advance: Callable[[float], None] = lambda _: None) -> Comparison:
    """Simulate every arm at every load; all arms see the same traces, and policies share one machine.

    Parameters
    ----------
    options : may leave everything open.
    advance : called with the share of the work that is done, 0 to 1.

    Raises
    ------
    ValueError
        If an option is not allowed, or nothing of the trace can be served.
    """
    begin = time.perf_counter()
    options = completed(options)
    by_name = _arms(options)
    workload = Workload(options, min(arm.machine.limits.context for arm in by_name.values()))
    seeds = range(1, int(options.seeds or 1) + 1)
    cells: dict[tuple[str, float], Cell] = {}
    capacities: dict[str, Floats] = {}
    notes: tuple[str, ...] = ()
    loads: list[Load] = []
    interrupted = False
    try:
        bursts = [workload.trace(np.inf, seed) for seed in seeds]
        notes = (*bursts[0].notes, workload.prefix_note)
        capacities = _capacities(by_name, bursts)
        loads = _loads(options, workload, float(next(iter(capacities.values())).mean()))
        advance(1 / (len(loads) + 1))
        for done, load in enumerate(loads, start=2):
            traces = [workload.trace(load.requests_per_second, seed) for seed in seeds]
            cells |= _cells(options, by_name, load, traces)
            advance(done / (len(loads) + 1))
    except KeyboardInterrupt:
        interrupted = True
    if loads and not options.is_recorded:
        options = merged(options, Options(load=tuple(load.requests_per_second for load in loads)))
    elapsed = time.perf_counter() - begin
    return Comparison(options, by_name, cells, capacities, notes, elapsed, interrupted)


def capacity(result: Result) -> float:
    """Return the requests served per second in the middle of a run in which all arrive at once.

    Between the first and the last quarter of the requests to finish: before that the machine fills, after that it
    runs empty, and in between it is as busy as it can be.

    Raises
    ------
    ValueError
        If fewer than four requests can be served.
    """
    finish = np.sort(result.finish_seconds[~np.isnan(result.finish_seconds)])
    first, last = len(finish) // 4, 3 * len(finish) // 4
    if last <= first or finish[last] <= finish[first]:
        longest = int((result.trace.prompt_tokens + result.trace.output_tokens).max())
        raise ValueError(
            f"trace {result.trace.name!r}: {len(finish)} of {len(result.trace)} requests can be served with a context "
            f"of {result.limits.context} tokens and {result.limits.blocks} KV blocks (the longest has {longest} "
            "tokens); at least 4 are needed: choose another --model, --hardware or --tp"
        )
    return (last - first) / float(finish[last] - finish[first])


def scenario_of(options: Options, trace: Trace | None) -> Scenario:
    """Return the scenario of an arm, its policy aside; without a trace it serves to build the machine.

    Raises
    ------
    ValueError
        If the chip is unknown, or there are no constants of that level for it.
    """
    chip, level = hardware_profiles.load(str(options.hardware)), str(options.efficiency)
    try:
        constants = calibration.load(level, chip)
    except ValueError as error:
        raise ValueError(f"--efficiency is {level}: {error}") from None
    return Scenario(
        trace,
        hardware=str(options.hardware),
        model=str(options.model),
        precision=str(options.precision),
        tensor=int(options.tp or 1),
        utilisation=float(options.utilisation or 0),
        context=options.context,
        efficiency=constants,
    )


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
        scenario = replace(scenario, efficiency=template.efficiency)
        found[system.name] = Arm(scenario, scenario.machine, system)
    if len(found) < len(options.systems):
        raise ValueError(f"--systems is {','.join(options.systems)}; allowed: systems of different names")
    return found


def _serve(by_name: Mapping[str, Arm], trace: Trace) -> list[Result]:
    """Return the result of each arm on the same requests."""
    return [simulate(replace(arm.scenario, trace=trace), arm.machine) for arm in by_name.values()]


def _capacities(by_name: Mapping[str, Arm], bursts: list[Trace]) -> dict[str, Floats]:
    runs = [_serve(by_name, burst) for burst in bursts]
    return dict(zip(by_name, np.array([[capacity(result) for result in run] for run in runs]).T, strict=True))


def _loads(options: Options, workload: Workload, capacity: float) -> list[Load]:
    """Return the loads asked for, or shares of the capacity, rounded to three digits so that they can be typed."""
    if options.is_recorded:
        rates = [(speed * workload.natural_rate, speed) for speed in options.speed or (1.0,)]
        return [Load(rate, rate / capacity, speed) for rate, speed in rates]
    chosen = options.load or tuple(float(f"{share * capacity:.3g}") for share in options.shares)
    return [Load(rate, rate / capacity) for rate in chosen]


def _cells(
    options: Options, by_name: Mapping[str, Arm], load: Load, traces: list[Trace]
) -> dict[tuple[str, float], Cell]:
    runs = zip(*(_serve(by_name, trace) for trace in traces), strict=True)
    objectives = Objectives(float(options.slo_ttft or 0), float(options.slo_tpot or 0))
    return {
        (arm, load.requests_per_second): Cell(results, options.is_recorded, objectives, int(options.tp or 1), arm, load)
        for arm, results in zip(by_name, runs, strict=True)
    }
