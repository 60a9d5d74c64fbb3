"""Which assumption turns a decision round: each moved alone between plausible values, and where the answer flips."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from cyclopts import Parameter

from experiments import grid
from experiments.asked import candidates as reading
from experiments.asked.assumptions import ASSUMPTIONS, Assumption, Case, touches
from experiments.asked.candidates import Candidate
from experiments.asked.slo import METRICS
from experiments.grid import HERE, Where
from experiments.shown.table_experiment import Flag, check_counts, check_folder, deliver
from experiments.tried.saturation import capacity as saturated
from sim.machine import Machine
from sim.results.order_statistics import median_interval
from sim.results.percentiles import Floats, percentile
from sim.results.runs import Section
from sim.results.warmup import window
from sim.scenario import Scenario, simulate
from workloads import models

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_CANDIDATES = "l20:2:policy=prefill_first,l20:2:policy=inflight_batching"
DEFAULT_METRIC = "e2e mean"
LOAD = 0.85
STEPS = 5
_METRIC = re.compile(r"([a-z0-9]+)\s+(mean|p[0-9.]+)")


@dataclass(frozen=True)
class Metric:
    """A number to decide by, the lower the better: the mean (level None) or a percentile of a latency."""

    name: str
    level: float | None

    def __str__(self) -> str:
        """Return it in words.

        >>> str(Metric("E2E", 0.99)), str(Metric("TTFT", None))
        ('p99 E2E', 'mean TTFT')
        """
        return f"{'mean' if self.level is None else f'p{100 * self.level:g}'} {self.name}"

    def of(self, section: Section) -> float:
        """Return the number of one replication [s]; NaN if there is none."""
        values, counts = section.gaps if self.name == "ITL" else (section.latency(self.name), None)
        if self.level is not None:
            return percentile(values, self.level, counts)
        known = ~np.isnan(values)
        if not known.any():
            return np.nan
        return float(np.average(values[known], weights=None if counts is None else counts[known]))


@dataclass(frozen=True)
class Question:
    """What is decided.

    Attributes
    ----------
    first, second : the candidates.
    metric : what they are compared by.
    model, efficiency : what is served, and the constants of the cost model in the middle.
    load : arrivals as a share of what the first serves at the base when all arrive at once.
    requests, seeds : of each run, and runs.
    context : longest prompt and reply together [tokens]; None for the model's own.
    steps : halvings of the way to the value at which the answer flips.
    """

    first: Candidate
    second: Candidate
    metric: Metric
    model: str
    efficiency: str
    load: float
    requests: int
    seeds: int
    context: int | None
    steps: int


def sensitivity(
    *,
    candidates: str = DEFAULT_CANDIDATES,
    metric: str = DEFAULT_METRIC,
    model: str = "llama-2-13b",
    load: float = LOAD,
    requests: int | None = None,
    seeds: int | None = None,
    context: int | None = None,
    efficiency: str = "generic",
    where: Annotated[Where, Parameter(name="*")] = HERE,
    quick: Flag = False,
    out: Path | None = None,
    json: Flag = False,
) -> int:
    """Show which assumption turns a decision between two candidates round, as a tornado, and at which value.

    Constants of the cost model, memory, host, lengths, burstiness and shared prompts are moved one at a time; the
    difference of the two candidates is taken on the same requests.

    Parameters
    ----------
    candidates
        two of CHIP:TP:PRECISION with KEY=VALUE fields, as in `capacity` [default: prefill_first and
        inflight_batching on two L20]
    metric
        ttft, tpot, itl or e2e, and mean or pLEVEL: the lower the better [default: e2e mean]
    model
        a model, or the path of a .toml or config.json [default: llama-2-13b]
    load
        generated chat requests per second, as a share of what the first candidate can serve [default: 0.85]
    requests
        of each run [default: 1000, quick: 300]
    seeds
        replications, at least 6 [default: 9, quick: 6]
    context
        longest prompt and reply together [tokens; default: the model's]
    efficiency
        constants in the middle: datasheet, generic, calibrated, or the path of a .toml [default: generic]
    quick
        fewer requests and replications; tables only, neither figure nor report
    out
        new folder for the results [default: under results/sensitivity]
    json
        print one JSON object and nothing else
    """
    from experiments.shown import sensitivity_answer

    check_folder(out)
    check_counts(requests=requests, seeds=seeds, context=context)
    both = reading.parse(candidates)
    if len(both) != 2:
        raise ValueError(f"--candidates is {candidates!r}; allowed: two, as in {DEFAULT_CANDIDATES!r}")
    sizes = {"requests": requests or (300 if quick else 1000), "seeds": seeds or (6 if quick else 9)}
    asked = Question(
        both[0],
        both[1],
        parse_metric(metric),
        model,
        efficiency,
        load,
        **sizes,
        context=context,
        steps=3 if quick else STEPS,
    )
    kept = grid.keeping(where, grid.points_folder("sensitivity", out))
    table = run(asked, kept)
    given = {"candidates": candidates, "metric": repr(metric), "model": model, "load": load, **sizes}
    given |= {"context": context, "efficiency": efficiency, "quick": quick}
    status = deliver(sensitivity_answer.answer(table, asked, given, quick), out, json)
    grid.forget(where, kept)
    return status


def parse_metric(text: str) -> Metric:
    """Read ``e2e p99`` or ``ttft mean``.

    Raises
    ------
    ValueError
        Naming what is allowed.
    """
    found = _METRIC.fullmatch(text.strip().lower())
    level = None if found is None or found[2] == "mean" else _level(found[2])
    if found is None or found[1] not in METRICS or (level is not None and not 0 < level < 1):
        allowed = f"{', '.join(METRICS)}, and mean or a percentile, as in 'e2e p99'"
        raise ValueError(f"--metric is {text!r}; allowed: {allowed}")
    return Metric(METRICS[found[1]], level)


def run(question: Question, where: Where = HERE, advance: Callable[[float], None] | None = None) -> pd.DataFrame:
    """Return a row for the base and for each assumption, by how far it moves the difference.

    Columns: assumption; for `base`, `low` and `high` the difference (second / first - 1) [%] of the median replication
    with its interval (`_low`, `_high`) and by replication (`_seeds`), the value in words (`at_low`, `at_high`);
    `flips` (surely, perhaps, no); `threshold` (the value in words at which the sign changes, where it does);
    `overloaded` (at which ends a backlog grows).

    Raises
    ------
    ValueError
        If the question is impossible or a candidate cannot serve.
    """
    _check(question)
    _ready(question)
    chosen = [one.name for one in ASSUMPTIONS.values() if _matters(question, one)]
    points: list[dict[str, Any]] = [{"assumption": name, "question": question} for name in chosen]
    outcomes = grid.sweep(swing, points, where, advance=advance)
    failed = next((one.error for one in outcomes if one.error is not None), None)
    if failed is not None:
        raise ValueError(failed.removeprefix("ValueError: "))
    table = grid.table(outcomes).drop(columns=["question", "error"])
    moved = table[["low", "base", "high"]].max(axis=1) - table[["low", "base", "high"]].min(axis=1)
    order = moved.sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index(drop=True)


def swing(assumption: str, question: Question) -> dict[str, Any]:
    """Return the row of one assumption."""
    one = ASSUMPTIONS[assumption]
    base = _at_base(question)
    ends = {name: differences(question, one.case(getattr(one, name))) for name in ("low", "high")}
    found = {"base": base} | {name: values for name, (values, _) in ends.items()}
    row: dict[str, Any] = {}
    for name, values in found.items():
        interval = median_interval(values)
        row |= {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
        row[f"{name}_seeds"] = values
    sides = [name for name in ("low", "high") if row[name] * row["base"] < 0]
    return row | {
        "at_low": one.words(one.low),
        "at_base": one.words(one.base),
        "at_high": one.words(one.high),
        "flips": _flips(row),
        "threshold": " and ".join(one.words(_threshold(question, one, side, row["base"])) for side in sides),
        "overloaded": " and ".join(name for name, (_, stable) in ends.items() if not stable),
    }


def differences(question: Question, case: Case) -> tuple[Floats, bool]:
    """Return by how many percent the second candidate's number exceeds the first's, (seeds,), and if both keep up."""
    scenarios, rate, context = _ready(question)
    numbers, queues = [], []
    for base in scenarios:
        scenario = case.scenario(base)
        machine = scenario.machine
        sections = [_served(scenario, machine, case, question, rate, seed, context) for seed in _seeds(question)]
        numbers.append(np.array([question.metric.of(section) for section in sections]))
        queues.append(np.mean([_keeps_up(section) for section in sections]) >= 0.5)
    return 100 * (numbers[1] / numbers[0] - 1), all(queues)


def _served(
    scenario: Scenario, machine: Machine, case: Case, question: Question, rate: float, seed: int, context: int
) -> Section:
    result = simulate(replace(scenario, trace=case.trace(question.requests, rate, seed, context)), machine)
    return Section(result, *window(result.arrival_seconds), 1)


def _keeps_up(section: Section) -> bool:
    return section.result.queue_ever_empty((section.begin + section.end) / 2, section.end)


def _threshold(question: Question, one: Assumption, side: str, base: float) -> float:
    """Return between the base and one end the value at which the median difference changes its sign."""
    inside, outside = one.base, getattr(one, side)
    for _ in range(question.steps):
        middle = one.between(inside, outside)
        if float(np.median(differences(question, one.case(middle))[0])) * base < 0:
            outside = middle
        else:
            inside = middle
    return one.between(inside, outside)


def _flips(row: dict[str, Any]) -> str:
    """Return whether an end is surely, perhaps or not on the other side of zero than the base."""
    sign = np.sign(row["base"])
    surely = [sign * row[f"{name}_{'high' if sign > 0 else 'low'}"] < 0 for name in ("low", "high")]
    perhaps = [sign * row[f"{name}_{'low' if sign > 0 else 'high'}"] < 0 for name in ("low", "high")]
    return "surely" if any(surely) else "perhaps" if any(perhaps) else "no"


@lru_cache(maxsize=2)
def _ready(question: Question) -> tuple[tuple[Scenario, Scenario], float, int]:
    """Return how both serve at the base, the arrivals [requests/s], and the context [tokens]."""
    context = question.context or models.load(question.model).context
    first, second = (
        one.scenario(question.model, question.efficiency, question.context) for one in (question.first, question.second)
    )
    burst = Case().trace(question.requests, np.inf, 1, context)
    top = saturated(simulate(replace(first, trace=burst)))
    saturated(simulate(replace(second, trace=burst)))  # whether it can serve at all
    return (first, second), float(f"{question.load * top:.4g}"), context


@lru_cache(maxsize=2)
def _at_base(question: Question) -> Floats:
    return differences(question, Case())[0]


def _matters(question: Question, one: Assumption) -> bool:
    scenarios = _ready(question)[0]
    return any(touches(one, scenario.machine.model) for scenario in scenarios)


def _seeds(question: Question) -> Sequence[int]:
    return range(1, question.seeds + 1)


def _level(text: str) -> float:
    try:
        return float(text.removeprefix("p")) / 100
    except ValueError:
        return np.nan


def _check(question: Question) -> None:
    for name, least in (("requests", 100), ("seeds", 6)):
        value = getattr(question, name)
        if value < least:
            raise ValueError(f"--{name} is {value}; allowed: a whole number, at least {least}")
    if not 0 < question.load < 10:
        raise ValueError(f"--load is {question.load}; allowed: a share of the capacity, above 0")
