"""What speed for each user costs: tokens/s per card against tokens/s per user, and which candidate is best where."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from cyclopts import Parameter

from experiments import grid
from experiments.asked import candidates as reading
from experiments.asked.candidates import Candidate
from experiments.asked.options import Options, completed
from experiments.asked.workload import Workload
from experiments.grid import HERE, Where
from experiments.shown.table_experiment import Flag, check_counts, check_folder, deliver, records
from experiments.tried.saturation import capacity as saturated
from sim.machine import Machine
from sim.physics import band
from sim.results.goodput import Objectives
from sim.results.intervals import Interval, replicated
from sim.results.percentiles import Floats
from sim.results.runs import LEVELS, Runs
from sim.scenario import Scenario, simulate
from sim.uncertainty import at
from workloads import models

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_CANDIDATES = "l20:1,l20:2,l20:4,l20:1:fp8,l20:2:fp8,l20:1:system=vllm-0.33"
SHARES = (0.05, 0.2, 0.4, 0.6, 0.75, 0.9)
QUICK_SHARES = (0.1, 0.4, 0.8)
DRAWS_SEED = 7
P50 = LEVELS.index(0.5)


@dataclass(frozen=True)
class Question:
    """What every candidate is asked.

    Attributes
    ----------
    model, efficiency : what is served, and the constants of the cost model.
    requests, seeds : of each run, and runs.
    draws : sets of plausible constants that each point is simulated with as well.
    shares : loads, as shares of what each candidate serves when all requests arrive at once.
    context : longest prompt and reply together [tokens]; None for the model's own.
    """

    model: str
    efficiency: str
    requests: int
    seeds: int
    draws: int
    shares: tuple[float, ...]
    context: int | None


def pareto(
    *,
    candidates: str = DEFAULT_CANDIDATES,
    model: str = "llama-2-13b",
    requests: int | None = None,
    seeds: int | None = None,
    draws: int | None = None,
    context: int | None = None,
    efficiency: str = "generic",
    where: Annotated[Where, Parameter(name="*")] = HERE,
    quick: Flag = False,
    out: Path | None = None,
    json: Flag = False,
) -> int:
    """Show tokens/s per card against tokens/s per user over candidates and loads, and which candidate is best where.

    Parameters
    ----------
    candidates
        CHIP:TP:PRECISION with commas between, as in `capacity` [default: one, two and four L20, in 16 bits and
        FP8]
    model
        a model, or the path of a .toml or config.json [default: llama-2-13b]
    requests
        generated chat requests of each run [default: 1000, quick: 300]
    seeds
        replications [default: 5, quick: 3]
    draws
        sets of plausible constants for the outer band [default: 8, quick: 4]
    context
        longest prompt and reply together [tokens; default: the model's]
    efficiency
        constants of the cost model: datasheet, generic, calibrated, or the path of a .toml [default: generic]
    quick
        fewer loads, requests and replications; tables only, neither figure nor report
    out
        new folder for the results [default: under results/pareto]
    json
        print one JSON object and nothing else
    """
    from experiments.shown import pareto_answer

    check_folder(out)
    check_counts(requests=requests, seeds=seeds, context=context)
    sizes = {"requests": requests or (300 if quick else 1000), "seeds": seeds or (3 if quick else 5)}
    asked = Question(
        model,
        efficiency,
        **sizes,
        draws=(4 if quick else 8) if draws is None else draws,
        shares=QUICK_SHARES if quick else SHARES,
        context=context,
    )
    kept = grid.keeping(where, grid.points_folder("pareto", out))
    table, failures = run(asked, reading.parse(candidates), kept)
    given = {"candidates": candidates, "model": model, **sizes, "draws": asked.draws, "context": context}
    given |= {"efficiency": efficiency, "quick": quick}
    status = deliver(pareto_answer.answer(table, failures, asked, given, quick), out, json)
    grid.forget(where, kept)
    return status


def run(
    question: Question,
    chosen: Sequence[Candidate],
    where: Where = HERE,
    advance: Callable[[float], None] | None = None,
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return a row for each candidate and load, and for candidates that cannot serve why not.

    Columns: name, share of the saturation, rate [requests/s], stable, per_card and per_user [tokens/s], each with its
    interval over seeds (`_low`, `_high`), its values by seed (`_seeds`) and between which values it lies with other
    plausible constants (`_least`, `_most`); frontier.

    Raises
    ------
    ValueError
        If the question is impossible, or no candidate can serve.
    """
    _check(question)
    points = [{"candidate": one, "question": question, "share": share} for one in chosen for share in question.shares]
    outcomes = grid.sweep(point, points, where, together=["candidate"], advance=advance)
    failures = {
        one.point["candidate"].name: one.error.removeprefix("ValueError: ") for one in outcomes if one.error is not None
    }
    table = grid.table([one for one in outcomes if one.error is None])
    if not len(table):
        raise ValueError(f"no candidate can serve: {next(iter(failures.values()))}")
    table = table.drop(columns=["candidate", "question", "error"])
    table["frontier"] = on_frontier(table)
    return table, failures


def point(candidate: Candidate, question: Question, share: float) -> dict[str, Any]:
    """Return the row of one candidate at one load."""
    scenario, machine, top = _ready(candidate, question)
    rate = float(f"{share * top:.4g}")
    runs = _runs(scenario, machine, question, rate, range(1, question.seeds + 1), candidate.cards)
    per_card, per_user, speeds = _speeds(runs, candidate.cards)
    drawn = list(_drawn(scenario, question, rate, candidate.cards))
    return {
        "name": candidate.name,
        "rate": rate,
        "stable": runs.verdict.stable,
        **_columns("per_card", per_card, [one[0] for one in drawn]),
        **_columns("per_user", per_user, [one[1] for one in drawn]),
        "per_card_seeds": speeds[0],
        "per_user_seeds": speeds[1],
    }


def on_frontier(table: pd.DataFrame) -> list[bool]:
    """Tell which stable points no candidate beats: at least as fast for users, and more a card.

    Between its loads a candidate can be anywhere on the line that joins them, so that lines are compared, not points.

    >>> import pandas as pd
    >>> points = {"per_user": [30.0, 10.0, 20.0, 8.0], "per_card": [1.0, 5.0, 2.9, 6.0]}
    >>> on_frontier(pd.DataFrame({"name": ["a", "a", "b", "b"], "stable": True, **points}))
    [True, False, False, True]
    """
    known = table[table["stable"]]
    lines = {
        str(name): rows.sort_values("per_user")[["per_user", "per_card"]].to_numpy(dtype=float).T
        for name, rows in known.groupby("name", sort=False)
    }

    def beaten(row: dict[str, Any]) -> bool:
        user, card = float(row["per_user"]), float(row["per_card"])
        own = [float(more) for faster, more in lines[row["name"]].T if faster > user]
        others = [
            float(np.interp(user, users, np.maximum.accumulate(cards[::-1])[::-1]))
            for name, (users, cards) in lines.items()
            if name != row["name"] and user <= users[-1]
        ]
        return max([*others, *own], default=0.0) >= card

    return [bool(row["stable"]) and not beaten(row) for row in records(table)]


def _speeds(runs: Runs, cards: int) -> tuple[Interval, Interval, tuple[Floats, Floats]]:
    """Return tokens/s per card and per user with intervals over seeds, and both by seed.

    A user's speed is one by the median time per further token; the interval of a median turns round in its reciprocal.
    """
    tokens = runs.per_section("output_tokens_per_second") / cards
    if runs.verdict.stable:
        median = runs.percentiles["TPOT"][P50]
        own = runs.percentiles_by_section["TPOT"][1][:, P50]
        user = Interval(1 / median.estimate, 1 / median.high, 1 / median.low, median.method, median.samples)
        return replicated(tokens), user, (tokens, 1 / own)
    nothing = Interval(float("nan"), float("nan"), float("nan"), "overloaded", 0)
    return replicated(tokens), nothing, (tokens, np.full(len(tokens), np.nan))


def _drawn(scenario: Scenario, question: Question, rate: float, cards: int) -> Iterator[tuple[float, float]]:
    """Yield both speeds of the first seed under other plausible constants, the same for every candidate."""
    assert scenario.efficiency is not None
    constants = band.draws(scenario.efficiency, question.draws, np.random.default_rng(DRAWS_SEED))
    for efficiency, host in constants:
        drawn = at(scenario, efficiency, host)
        runs = _runs(drawn, drawn.machine, question, rate, (1,), cards)
        section = runs.sections[0]
        yield section.output_tokens_per_second / cards, 1 / float(np.nanmedian(section.latency("TPOT")))


def _columns(name: str, interval: Interval, drawn: Sequence[float]) -> dict[str, float]:
    values = [interval.estimate, *drawn]
    return {
        name: interval.estimate,
        f"{name}_low": interval.low,
        f"{name}_high": interval.high,
        f"{name}_least": float(np.min(values)),
        f"{name}_most": float(np.max(values)),
    }


def _runs(
    scenario: Scenario, machine: Machine, question: Question, rate: float, seeds: Sequence[int], cards: int
) -> Runs:
    workload = _workload(question)
    results = [simulate(replace(scenario, trace=workload.trace(rate, seed)), machine) for seed in seeds]
    return Runs(tuple(results), False, Objectives(), cards)


@lru_cache(maxsize=4)
def _ready(candidate: Candidate, question: Question) -> tuple[Scenario, Machine, float]:
    """Return how a candidate serves, and what it serves when all requests arrive at once [requests/s]."""
    scenario = candidate.scenario(question.model, question.efficiency, question.context)
    burst = _workload(question).trace(np.inf, 1)
    return scenario, scenario.machine, saturated(simulate(replace(scenario, trace=burst), scenario.machine))


@lru_cache(maxsize=2)
def _workload(question: Question) -> Workload:
    shape = models.load(question.model)
    options = completed(Options(model=question.model, requests=question.requests, context=question.context))
    return Workload(options, question.context or shape.context)


def _check(question: Question) -> None:
    for name, least in (("requests", 100), ("seeds", 2), ("draws", 0)):
        value = getattr(question, name)
        if value < least:
            raise ValueError(f"--{name} is {value}; allowed: a whole number, at least {least}")
    _workload(question)
