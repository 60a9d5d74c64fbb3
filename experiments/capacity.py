"""How much a candidate can be asked before it breaks its promises, how sure that is, and what it costs."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from cyclopts import Parameter

from experiments import grid
from experiments.asked import candidates as reading
from experiments.asked import slo
from experiments.asked.candidates import Candidate
from experiments.asked.options import Options, completed
from experiments.asked.slo import Clause
from experiments.asked.workload import Workload
from experiments.grid import HERE, Where
from experiments.shown.table_experiment import Flag, Names, check_counts, check_folder, deliver
from experiments.tried.rate_search import LEAST_SHARE, Found, Trial, search
from experiments.tried.saturation import capacity as saturated
from sim.results.result import Result
from sim.results.separation import LOOKS
from sim.results.warmup import COOL_DOWN, WARM_UP
from sim.scenario import simulate
from workloads import models
from workloads.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_SLO = "ttft p99 <= 2 s, tpot p95 <= 100 ms"
DEFAULT_CANDIDATES = "l20:2,l20:2:fp8,l20:4,h20:1:fp8,l4:1,l20:2:system=vllm-0.33"


@dataclass(frozen=True)
class Question:
    """What every candidate is asked.

    Attributes
    ----------
    clauses : what is promised.
    model, efficiency : what is served, and the constants of the cost model.
    trace, requests : chat, or a recorded trace; requests of each run.
    looks : after how many replications to look whether the answer is known.
    tolerance : of the ends of the interval, relative.
    context : longest prompt and reply together [tokens]; None for the model's own.
    """

    clauses: tuple[Clause, ...]
    model: str
    efficiency: str
    trace: str
    requests: int | None
    looks: tuple[int, ...]
    tolerance: float
    context: int | None

    @property
    def options(self) -> Options:
        """The workload as options."""
        recorded = Options(trace=self.trace).is_recorded
        given = Options(trace=self.trace, model=self.model, requests=self.requests, context=self.context)
        return completed(given if recorded else replace(given, seeds=self.looks[-1]))


def capacity(
    *,
    slo: str = DEFAULT_SLO,
    candidates: str = DEFAULT_CANDIDATES,
    model: str = "llama-2-13b",
    trace: str = "chat",
    requests: int | None = None,
    context: int | None = None,
    efficiency: str = "generic",
    price: Names = (),
    price_date: str | None = None,
    where: Annotated[Where, Parameter(name="*")] = HERE,
    quick: Flag = False,
    out: Path | None = None,
    json: Flag = False,
) -> int:
    """Find the highest request rate that keeps a promise on percentiles, for each candidate, and rank them.

    Unfinished and rejected requests have missed every bound. At each rate replications are added until it is known
    whether the promise is kept; the interval is what stays unknown.

    Parameters
    ----------
    slo
        METRIC pLEVEL <= BOUND UNIT with commas between; ttft, tpot, itl, e2e; us, ms, s, min [default: ttft p99
        <= 2 s, tpot p95 <= 100 ms]
    candidates
        CHIP:TP:PRECISION with commas between; also pp=, ep=, dp=, system=NAME, or policy=NAME and cache=on, and
        utilisation=SHARE; what is left out is l20:2:w16a16:policy=inflight_batching [default:
        l20:2,l20:2:fp8,l20:4,h20:1:fp8,l4:1,l20:2:system=vllm-0.33]
    model
        a model, or the path of a .toml or config.json [default: llama-2-13b]
    trace
        chat (generated), or the name or path of a recorded trace, which cannot be replicated [default: chat]
    requests
        of each run [default: 1500, quick: 600; a recorded trace: all]
    context
        longest prompt and reply together [tokens; default: the model's]
    efficiency
        constants of the cost model: datasheet, generic, calibrated, or the path of a .toml [default: generic]
    price
        CHIP=PRICE of one card for an hour, in your currency; without any there is no column of costs [default: none]
    price_date
        of which day the prices are [default: today]
    quick
        fewer requests, replications and digits; tables only, neither figure nor report
    out
        new folder for the results [default: under results/capacity]
    json
        print one JSON object and nothing else
    """
    from experiments.shown import capacity_answer

    check_folder(out)
    check_counts(requests=requests)
    clauses, chosen, prices = _slo(slo), reading.parse(candidates), reading.parse_prices(price)
    dated = _dated(price_date) if prices else None
    question = Question(
        clauses,
        model,
        efficiency,
        trace,
        requests or (None if Options(trace=trace).is_recorded else 600 if quick else 1500),
        LOOKS[:3] if quick else LOOKS,
        0.05 if quick else 0.03,
        context,
    )
    kept = grid.keeping(where, grid.points_folder("capacity", out))
    trials = run(question, chosen, kept)
    if trials["failure"].notna().all():
        raise ValueError(f"no candidate can serve, first of all {trials['name'].iloc[0]}: {trials['failure'].iloc[0]}")
    table = summary(trials, question, chosen, prices)
    given = {"slo": repr(slo), "candidates": candidates, "model": model, "trace": trace, "requests": requests}
    given |= {"context": context, "efficiency": efficiency, "price": " ".join(price) or None, "price_date": dated}
    answer = capacity_answer.answer(table, trials, question, given | {"quick": quick}, quick)
    status = deliver(answer, out, json)
    grid.forget(where, kept)
    return status


def run(
    question: Question,
    chosen: Sequence[Candidate],
    where: Where = HERE,
    advance: Callable[[float], None] | None = None,
) -> pd.DataFrame:
    """Return a row for each candidate and rate that was tried, or one with a `failure` that says why there is none.

    Columns: candidate, rate [requests/s], replications, decision (1 met, -1 missed, 0 not known), stable,
    growth [requests/s], margins and values by clause (arrays), saturated [requests/s], mean_output_tokens, flags.

    Raises
    ------
    ValueError
        If the question itself is impossible: no such model or trace, or too few requests for a percentile.
    """
    _check(question)
    points = [{"candidate": one, "question": question} for one in chosen]
    outcomes = grid.sweep(trials_of, points, where, advance=advance)
    return grid.table(outcomes)


def trials_of(candidate: Candidate, question: Question) -> list[dict[str, Any]]:
    """Return the rows of one candidate."""
    head = {"name": candidate.name}
    try:
        scenario = candidate.scenario(question.model, question.efficiency, question.context)
        machine = scenario.machine
        bursts = _requests(question, float("inf"), 1)
        top = saturated(simulate(replace(scenario, trace=bursts), machine))
    except ValueError as error:
        return [{**head, "failure": str(error)}]

    def served(rate: float, seed: int) -> Result:
        return simulate(replace(scenario, trace=_requests(question, rate, seed)), machine)

    found = search(
        served,
        question.clauses,
        top,
        candidate.cards,
        recorded=question.options.is_recorded,
        looks=question.looks,
        tolerance=question.tolerance,
    )
    tail = {
        "saturated": top,
        "mean_output_tokens": float(bursts.output_tokens.mean()),
        "flags": " ".join(machine.flags),
        "failure": None,
    }
    return [{**head, **_row(trial, question.clauses), **tail} for trial in found.trials]


def found_in(rows: pd.DataFrame, clauses: Sequence[Clause]) -> Found:
    """Return the trials of one candidate from its rows of `run`, which have no failure."""
    return Found(
        tuple(
            Trial(
                float(row["rate"]),
                np.array([row[f"margin {clause.name}"] for clause in clauses]).T,
                np.array([row[f"value {clause.name}"] for clause in clauses], dtype=np.float64),
                bool(row["stable"]),
                float(row["growth"]),
                int(row["decision"]),
            )
            for row in rows.to_dict(orient="records")
        )
    )


def summary(
    trials: pd.DataFrame, question: Question, chosen: Sequence[Candidate], prices: Mapping[str, float]
) -> pd.DataFrame:
    """Return a row for each candidate, best first.

    By cost per million tokens if every candidate that serves has a price, else by requests/s a card.
    """
    import pandas as pd

    rows = [_summary_row(trials[trials["name"] == one.name], question.clauses, one, prices) for one in chosen]
    table = pd.DataFrame(rows)
    served = table["rate"] > 0
    priced = bool(served.any() and table.loc[served, "cost_per_million_tokens"].notna().all())
    key, ascending = ("cost_per_million_tokens", True) if priced else ("rate_per_card", False)
    table = table.sort_values(key, ascending=ascending, kind="stable", na_position="last").reset_index(drop=True)
    table.insert(0, "rank", np.arange(1, len(table) + 1))
    return table


def _summary_row(
    rows: pd.DataFrame, clauses: Sequence[Clause], candidate: Candidate, prices: Mapping[str, float]
) -> dict[str, Any]:
    nothing = float("nan")
    first = rows.iloc[0]
    price, watts = prices.get(candidate.chip, nothing), reading.total_watts(candidate)
    head = {"candidate": candidate.name, "cards": candidate.cards, "watts": watts}
    if first["failure"] is not None and first["failure"] == first["failure"]:
        numbers = dict.fromkeys((*_NUMBERS, "cost_per_million_tokens"), nothing)
        return {**head, **numbers, "limit": str(first["failure"]), "flags": ""}
    found = found_in(rows, clauses)
    rate = found.rate
    tokens = rate * float(first["mean_output_tokens"])
    cost = price * candidate.cards / 3600 / tokens * 1e6 if rate > 0 else nothing
    return {
        **head,
        "rate": rate,
        "rate_low": found.low,
        "rate_high": found.high,
        "probability_at_low": found.at(found.low).probability if rate > 0 else nothing,
        "rate_per_card": rate / candidate.cards,
        "tokens_per_second": tokens,
        "saturated": float(first["saturated"]),
        "cost_per_million_tokens": cost,
        "limit": _limit(found, clauses, float(first["saturated"])),
        "flags": str(first["flags"]),
    }


_NUMBERS = ("rate", "rate_low", "rate_high", "probability_at_low", "rate_per_card", "tokens_per_second", "saturated")


def _limit(found: Found, clauses: Sequence[Clause], top: float) -> str:
    """Return what breaks the promise, and from which rate on."""
    from sim.figures.words import duration, three_digits

    if np.isnan(found.low):
        first = found.trials[0]
        if not first.stable:
            return f"overloaded even at {three_digits(first.rate)} req/s"
        clause, value = clauses[first.worst], first.values[first.worst]
        known = "missed" if first.decision == -1 else "not known to be met"
        return f"{clause.name} at any rate: {duration(value)} at {100 * LEAST_SHARE:g} % load, {known}"
    if np.isnan(found.high):
        return f"nothing up to {three_digits(found.trials[-1].rate)} req/s"
    broken = found.at(found.high)
    if not broken.stable:
        return f"overloaded from {three_digits(broken.rate)} req/s ({100 * broken.rate / top:.0f} % of saturation)"
    clause, value = clauses[broken.worst], broken.values[broken.worst]
    return f"{clause.name}: {duration(value)} at {three_digits(broken.rate)} req/s"


def _row(trial: Trial, clauses: Sequence[Clause]) -> dict[str, Any]:
    columns: dict[str, Any] = {f"margin {clause.name}": trial.margins[:, i] for i, clause in enumerate(clauses)}
    columns |= {f"value {clause.name}": float(trial.values[i]) for i, clause in enumerate(clauses)}
    return {
        "rate": trial.rate,
        "replications": trial.replications,
        "decision": trial.decision,
        "probability": trial.probability,
        "stable": trial.stable,
        "growth": trial.growth,
        **columns,
    }


@lru_cache(maxsize=2)
def _workload(question: Question) -> Workload:
    shape = models.load(question.model)
    return Workload(question.options, question.context or shape.context)


def _requests(question: Question, rate: float, seed: int) -> Trace:
    return _workload(question).trace(rate, seed)


def _slo(text: str) -> tuple[Clause, ...]:
    return slo.parse(text)


def _dated(text: str | None) -> str:
    if text is None:
        return datetime.date.today().isoformat()
    try:
        return datetime.date.fromisoformat(text).isoformat()
    except ValueError:
        raise ValueError(f"--price-date is {text!r}; allowed: a day as YYYY-MM-DD") from None


def _check(question: Question) -> None:
    """Refuse what no candidate could answer."""
    models.load(question.model)
    workload = _workload(question)
    recorded = question.options.is_recorded
    requests = len(workload.recorded) if recorded else int(question.options.requests or 0)
    for clause in question.clauses:
        least = clause.least_requests(1 if recorded else question.looks[0], 1 - WARM_UP - COOL_DOWN)
        if requests < least:
            raise ValueError(f"--requests is {requests}; allowed: at least {least:,}, to see beyond {clause.name}")
