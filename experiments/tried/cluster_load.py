"""Several ways to set up replicas, on the same requests at several loads: the runs behind experiments on clusters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import grid
from experiments.tried.saturation import capacity
from sim.figures.words import with_bounds
from sim.machine import Machine
from sim.results.goodput import Objectives
from sim.results.intervals import replicated
from sim.results.percentiles import Floats
from sim.results.result import Result
from sim.results.runs import LATENCIES, LEVELS, Runs
from sim.scenario import Scenario, result_of, simulate
from workloads.synthetic.chat import chat, conversation_lengths
from workloads.synthetic.prefixes import PrefixTree
from workloads.synthetic.sessions import geometric_turns, multi_turn
from workloads.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

APPLICATIONS = PrefixTree((128, 1024), branching=32, popularity=0.8)
"""What conversations begin with: one system prompt, then the instructions of one of 32 applications, some popular."""

MEAN_TURNS = 4.0
THINK_SECONDS = 5.0
P99 = LEVELS.index(0.99)
QUANTITIES = ("goodput_share", "prefix_hit_share", "busy_share", "output_tokens_per_second")


@dataclass(frozen=True)
class Setup:
    """One way to use the cards: so many replicas, each shared by `tensor` cards, behind a router."""

    name: str
    replicas: int
    tensor: int
    router: str
    prefix_cache: bool = False


@dataclass(frozen=True)
class Study:
    """What is compared, on what requests.

    Attributes
    ----------
    hardware, model, precision, policy, context : see `Scenario`.
    setups : what is compared.
    conversations : whether requests are turns of conversations that begin with `APPLICATIONS`; else single chat
        requests with a system prompt.
    requests, seeds : of each run, and how many runs.
    slo_ttft, slo_tpot : objectives [s].
    """

    hardware: str
    model: str
    precision: str
    policy: str
    context: int | None
    setups: tuple[Setup, ...]
    conversations: bool
    requests: int
    seeds: int
    slo_ttft: float
    slo_tpot: float

    @property
    def objectives(self) -> Objectives:
        """What counts as answered in time."""
        return Objectives(self.slo_ttft, self.slo_tpot)

    def possible(self) -> tuple[Study, tuple[str, ...]]:
        """Return the study without the setups whose cards cannot hold the model, and why, in sentences.

        Raises
        ------
        ValueError
            If none can.
        """
        reasons: dict[str, str] = {}
        for setup in self.setups:
            try:
                _ = self.scenario(setup).machine
            except ValueError as error:
                reasons[setup.name] = str(error)
        if len(reasons) == len(self.setups):
            raise ValueError(next(iter(reasons.values())))
        able = tuple(setup for setup in self.setups if setup.name not in reasons)
        return replace(self, setups=able), tuple(f"Left out: {name} ({why})." for name, why in reasons.items())

    def scenario(self, setup: Setup, trace: Trace | None = None) -> Scenario:
        """Return the scenario of a setup."""
        return Scenario(
            trace,
            hardware=self.hardware,
            model=self.model,
            precision=self.precision,
            tensor=setup.tensor,
            policy=self.policy,
            prefix_cache=setup.prefix_cache,
            context=self.context,
            replicas=setup.replicas,
            router=setup.router,
        )


@dataclass(frozen=True)
class Measured:
    """What came out.

    Attributes
    ----------
    capacities : by setup, requests served per second with all there at once, one a seed.
    runs : by setup and rate.
    """

    study: Study
    capacities: Mapping[str, Floats]
    rates: tuple[float, ...]
    runs: Mapping[tuple[str, float], Runs]

    @property
    def capacity(self) -> float:
        """Of the setup that serves most [requests/s]: loads are shares of it."""
        return max(float(values.mean()) for values in self.capacities.values())

    def machine(self, setup: Setup) -> Machine:
        """Return the machine of a replica."""
        return _machines(self.study, grid.stamp(self.study))[setup.tensor]

    def table(self) -> pd.DataFrame:
        """Return `rows` as a table."""
        import pandas as pd

        return pd.DataFrame(self.rows())

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row for each setup, load and number, with its 95 % interval; load inf is saturated."""
        for setup in self.study.setups:
            head = {"setup": setup.name, "replicas": setup.replicas, "tensor": setup.tensor, "router": setup.router}
            found = replicated(self.capacities[setup.name])
            yield {**head, "load": np.inf, "metric": "capacity_requests_per_second", **_numbers(found)}
            for rate in self.rates:
                runs = self.runs[setup.name, rate]
                at = {**head, "load": rate, "share_of_capacity": rate / self.capacity}
                at |= {"verdict": "stable" if runs.verdict.stable else "overloaded"}
                for metric in LATENCIES:
                    for level, interval in zip(LEVELS, runs.percentiles[metric], strict=True):
                        yield {**at, "metric": metric, "level": level, **_numbers(interval)}
                for name in QUANTITIES:
                    yield {**at, "metric": name, **_numbers(runs.quantity(name))}


def measure(
    study: Study, shares: Sequence[float], where: grid.Where, advance: Callable[[float], None] = lambda _: None
) -> Measured:
    """Serve all requests at once, then at loads that are shares of what the best setup can serve.

    Raises
    ------
    ValueError
        If a machine cannot be made or serves nothing.
    """
    stamp = grid.stamp(study)
    first = 1 / (1 + len(shares))
    bursts = _simulated(study, stamp, [np.inf], where, lambda share: advance(first * share))
    capacities = {name: np.array(list(map(capacity, results))) for (name, _), results in bursts.items()}
    most = max(float(values.mean()) for values in capacities.values())
    rates = tuple(float(f"{share * most:.3g}") for share in shares)
    results = _simulated(study, stamp, rates, where, lambda share: advance(first + (1 - first) * share))
    devices = {setup.name: setup.tensor for setup in study.setups}
    runs = {key: Runs(found, False, study.objectives, devices[key[0]]) for key, found in results.items()}
    return Measured(study, capacities, rates, runs)


def shown_numbers(measured: Measured) -> pd.DataFrame:
    """Return the main numbers of every setup at every load, for people."""
    import pandas as pd

    rows = []
    for rate in measured.rates:
        for setup in measured.study.setups:
            runs = measured.runs[setup.name, rate]
            row = {"load": f"{rate:.3g} req/s ({100 * rate / measured.capacity:.0f} %)", "setup": setup.name}
            for metric, unit, scale in (("TTFT", "s", 1.0), ("TPOT", "ms", 1e3), ("E2E", "s", 1.0)):
                found = runs.percentiles[metric][P99]
                row[f"p99 {metric} [95 % CI]"] = with_bounds(found, unit, scale)
            row["in time"] = share_of(runs.quantity("goodput_share").estimate)
            if setup.prefix_cache:
                row["found in caches"] = share_of(runs.quantity("prefix_hit_share").estimate)
            row["verdict"] = "stable" if runs.verdict.stable else "overloaded"
            rows.append(row)
    return pd.DataFrame(rows)


def share_of(value: float) -> str:
    """Return a share in percent.

    >>> share_of(0.993)
    '99.3 %'
    """
    return "-" if value != value else f"{100 * value:.1f} %"


def trace_of(study: Study, rate: float, seed: int, context: int) -> Trace:
    """Return the requests of one run; infinity lets all be there at once, also those that follow others."""
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    if not study.conversations:
        return chat(rng, study.requests, rate, context_tokens=context)
    trace = multi_turn(
        rng,
        round(study.requests / MEAN_TURNS),
        1.0 if np.isinf(rate) else rate / MEAN_TURNS,
        conversation_lengths(),
        turns=geometric_turns(MEAN_TURNS),
        think_seconds=THINK_SECONDS,
        prefix=APPLICATIONS,
        context_tokens=context,
        name="conversations",
    )
    if np.isinf(rate):
        return replace(trace.subset(np.arange(len(trace))), arrival_seconds=np.zeros(len(trace)))
    return trace


def _simulated(
    study: Study, stamp: str, rates: Sequence[float], where: grid.Where, advance: Callable[[float], None]
) -> dict[tuple[str, float], tuple[Result, ...]]:
    """Return the runs of every setup at every rate, one for each seed."""
    points = [
        {"rate": rate, "seed": seed, "setup": place}
        for rate in rates
        for seed in range(1, study.seeds + 1)
        for place in range(len(study.setups))
    ]
    outcomes = grid.sweep(partial(_run, study, stamp), points, where, together=("rate", "seed"), advance=advance)
    found: dict[tuple[str, float], tuple[Result, ...]] = {}
    for outcome in outcomes:
        rate, setup = outcome.point["rate"], study.setups[outcome.point["setup"]]
        machine = _machines(study, stamp)[setup.tensor]
        replay = grid.replay_of(outcome.row, [machine.clock] * setup.replicas)
        scenario = study.scenario(setup, _trace(study, stamp, rate, outcome.point["seed"]))
        found[setup.name, rate] = (*found.get((setup.name, rate), ()), result_of(scenario, machine, replay))
    return found


def _run(study: Study, stamp: str, rate: float, seed: int, setup: int) -> grid.Row:
    chosen = study.setups[setup]
    scenario = study.scenario(chosen, _trace(study, stamp, rate, seed))
    return grid.row_of(simulate(scenario, _machines(study, stamp)[chosen.tensor]))


@lru_cache(maxsize=2)
def _machines(study: Study, stamp: str) -> dict[int, Machine]:
    """Return the machine of each number of cards; `stamp` tells files that have changed since from those before."""
    return {setup.tensor: study.scenario(setup).machine for setup in study.setups}


@lru_cache(maxsize=2)
def _trace(study: Study, stamp: str, rate: float, seed: int) -> Trace:
    context = min(machine.limits.context for machine in _machines(study, stamp).values())
    return trace_of(study, rate, seed, context)


def _numbers(found: Any) -> dict[str, Any]:
    return {"estimate": found.estimate, "low": found.low, "high": found.high, "method": found.method}
