"""How fast is the simulator? Median of whole runs, beside a bare SimPy program timed in the same minutes."""

from __future__ import annotations

import gc
import json as json_format
import statistics
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter
from simpy import Environment

from sim import Machine, Result, Scenario, simulate
from sim.scheduling.schedulers import SCHEDULERS
from workloads import datasets
from workloads.synthetic.chat import chat

RUNS = 5
CHAT_RATE = 2.5  # requests/s, about 70 % of what the default machine serves


@dataclass(frozen=True)
class Case:
    """A workload to time, the speed it should reach, and how often at most it is run."""

    name: str
    scenario: Callable[[], Scenario]
    goal_requests_per_second: float
    runs: int = RUNS


def _azure() -> Scenario:
    trace = datasets.load("azure-conv-2023")
    # The longest prompts exceed the context of Llama 2; here every request shall be served.
    return Scenario(trace, hardware="a800-sxm", model="llama-2-70b", tensor=8, context=16384)


def _mooncake() -> Scenario:
    trace = datasets.load("mooncake-conversation")
    return Scenario(trace, hardware="h200-sxm", model="llama-3.1-70b", tensor=8, prefix_cache=True)


def _chat(requests: int) -> Scenario:
    trace = chat(np.random.default_rng(1), requests, CHAT_RATE, context_tokens=4096)
    return Scenario(trace, policy="inflight_batching")


def _cluster(requests: int, replicas: int) -> Scenario:
    trace = chat(np.random.default_rng(1), requests, replicas * CHAT_RATE, context_tokens=4096)
    return Scenario(trace, policy="inflight_batching", replicas=replicas, router="least_requests")


CASES = (
    Case("azure-conv-2023, prefill_first", _azure, 60_000),
    Case("azure-conv-2023, inflight_batching", lambda: replace(_azure(), policy="inflight_batching"), 60_000),
    Case("mooncake-conversation, prefill_first + prefix cache", _mooncake, 20_000),
    Case("chat 20,000, inflight_batching", lambda: _chat(20_000), 0),
    Case("chat 1,000,000, inflight_batching", lambda: _chat(1_000_000), 0, runs=3),
    Case("chat 1,000,000, 100 replicas, least_requests", lambda: _cluster(1_000_000, 100), 0, runs=1),
)
QUICK_CASES = (*CASES[:4], Case("chat 20,000, 100 replicas, least_requests", lambda: _cluster(20_000, 100), 0))

SCHEDULER_CASES = tuple(
    Case(f"chat 1,000, {name}", lambda name=name: replace(_chat(1_000), policy=name), 0)  # type: ignore[misc]
    for name in SCHEDULERS
)
"""A small row for each scheduler: enough to see one that has become slow."""


def run(
    *,
    json: Annotated[bool, Parameter(negative="", help="print one JSON object and nothing else")] = False,
    quick: Annotated[bool, Parameter(negative="", help="once each, without the millions of requests")] = False,
    schedulers: Annotated[bool, Parameter(negative="", help="the small rows of every scheduler alone")] = False,
) -> None:
    """Time the simulation core on public traces and generated ones, beside a bare SimPy program."""
    runs = 1 if quick else RUNS
    cases = SCHEDULER_CASES if schedulers else (*SCHEDULER_CASES, *(QUICK_CASES if quick else CASES))
    rows = {case.name: _measure(case, min(runs, case.runs)) for case in cases}
    sweep = {} if schedulers else _measure_sweep(20 if quick else 200)
    if json:
        print(json_format.dumps(rows | ({sweep["name"]: sweep} if sweep else {}), indent=2))
        return
    _print_table(rows, runs)
    if sweep:
        print(
            f"{sweep['name']}: {sweep['seconds_alone']:.1f} s alone, {sweep['seconds']:.1f} s on {sweep['workers']} "
            f"cores, {sweep['speedup']:.2f} times as fast"
        )


def _measure_sweep(points: int) -> dict[str, Any]:
    """Time a sweep in this process and on all cores, processes started before; every point is a simulation."""
    from joblib import cpu_count

    from experiments import grid

    workers = int(cpu_count())
    grid_points = [{"seed": seed, "requests": 2000} for seed in range(points)]
    seconds = []
    for count in (1, workers):
        where = grid.Where(workers=count)
        grid.sweep(_point, grid_points[: 2 * count], where)  # starts processes, imports, makes machines
        begin = time.perf_counter()
        grid.sweep(_point, grid_points, where)
        seconds.append(time.perf_counter() - begin)
    alone, together = seconds
    return {
        "name": f"sweep of {points} points",
        "workers": workers,
        "seconds_alone": alone,
        "seconds": together,
        "speedup": alone / together,
    }


@lru_cache(maxsize=1)
def _machine() -> Machine:
    return Scenario(policy="inflight_batching").machine


def _point(seed: int, requests: int) -> dict[str, float]:
    trace = chat(np.random.default_rng(seed), requests, CHAT_RATE, context_tokens=4096)
    return {"mean_seconds": float(np.nanmean(simulate(Scenario(trace), _machine()).end_to_end_seconds))}


def _measure(case: Case, runs: int) -> dict[str, float]:
    scenario = case.scenario()
    machine = scenario.machine
    result = simulate(scenario, machine)  # also warms what a trace computes only once
    times, bare = [], []
    for _ in range(runs):
        bare.append(bare_simpy_seconds(20_000) / 20_000)
        gc.collect()
        begin = time.perf_counter()
        simulate(scenario, machine)
        times.append(time.perf_counter() - begin)
    seconds = statistics.median(times)
    requests = len(scenario.workload)
    return {
        "requests": requests,
        "requests_per_second": requests / seconds,
        "goal_requests_per_second": case.goal_requests_per_second,
        "slowest_requests_per_second": requests / max(times),
        "iterations_per_second": sum(int(log.iterations.sum()) for log, _ in result.logs) / seconds,
        "output_tokens_per_second": _served_tokens(result) / seconds,
        "microseconds_per_request": 1e6 * seconds / requests,
        "peak_bytes": (peak := _peak_bytes(scenario, machine)),
        "peak_bytes_per_request": peak / requests,
        "ratio_to_bare_simpy": seconds / requests / statistics.median(bare),
    }


def _served_tokens(result: Result) -> int:
    return int(result.trace.output_tokens[result.replay.finish >= 0].sum())


def _peak_bytes(scenario: Scenario, machine: Machine) -> int:
    """Return the most memory that a run needs above the trace itself [bytes]."""
    gc.collect()
    tracemalloc.start()
    simulate(scenario, machine)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def bare_simpy_seconds(requests: int) -> float:
    """Time a SimPy program that only waits twice for each request, for its arrival and for its service [s]."""
    env = Environment()

    def server() -> object:
        for _ in range(requests):
            yield env.timeout(1)
            yield env.timeout(1)

    env.process(server())  # type: ignore[arg-type]
    begin = time.perf_counter()
    env.run()
    return time.perf_counter() - begin


def _print_table(rows: dict[str, dict[str, float]], runs: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"simulation core, median of up to {runs} runs; traces and machines are made before")
    heads = ("requests/s", "goal", "slowest", "iterations/s", "tokens/s", "B/request", "x SimPy")
    table.add_column("workload", no_wrap=True)
    for heading in heads:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in rows.items():
        goal = row["goal_requests_per_second"]
        table.add_row(
            name,
            f"{row['requests_per_second']:,.0f}",
            f"{goal:,.0f}" if goal else "",
            f"{row['slowest_requests_per_second']:,.0f}",
            f"{row['iterations_per_second']:,.0f}",
            f"{row['output_tokens_per_second']:,.0f}",
            f"{row['peak_bytes_per_request']:,.0f}",
            f"{row['ratio_to_bare_simpy']:.1f}",
        )
    Console(width=150).print(table)
    if CASES[-1].name in rows:
        small, large = (rows[case.name]["microseconds_per_request"] for case in CASES[3:5])
        print(f"cost per request at 1,000,000 requests: {large / small:.2f} times that at 20,000")
