"""The slowest requests of some policies: the runs, and the parts of their latencies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from experiments.asked.options import Options, completed
from experiments.asked.scenario import scenario_of
from experiments.asked.workload import Workload
from experiments.tried.saturation import capacity
from sim.engine.clock import seconds
from sim.engine.replay import FINISHED
from sim.engine.spending import SPENT_ON
from sim.figures.words import duration, listed, percent, readable
from sim.results.attribution import OWN, PARTS, Attribution
from sim.results.percentiles import Floats, Integers
from sim.results.result import Result
from sim.results.warmup import steady
from sim.scenario import COMPARED, simulate
from sim.scheduling.schedulers import SCHEDULERS

if TYPE_CHECKING:
    import pandas as pd

TAIL = 0.01
"""Share of the requests that are the slowest."""

SHARE_OF_CAPACITY = 0.7
METRICS = ("TTFT", "E2E")


@dataclass(frozen=True)
class Tail:
    """Runs of the same requests under some policies.

    Attributes
    ----------
    options : completed, with the load that was run.
    results : policy -> one run a seed.
    """

    options: Options
    results: Mapping[str, Sequence[Result]]

    @cached_property
    def attributions(self) -> dict[str, list[Attribution]]:
        """The parts of every request, policy -> one a run."""
        return {policy: [result.attribution() for result in results] for policy, results in self.results.items()}

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row for each metric, policy and part: mean in the tail and over all [s], share of the tail's time."""
        import pandas as pd

        rows = []
        for metric in METRICS:
            for policy in self.results:
                tail, everybody = self._parts(policy, metric)
                total = tail.mean(axis=1).sum()
                rows += [
                    {
                        "metric": metric,
                        "policy": policy,
                        "part": part,
                        "seconds": float(tail[place].mean()),
                        "share": float(tail[place].mean() / total),
                        "all_requests_seconds": float(everybody[place].mean()),
                        "requests": tail.shape[1],
                    }
                    for place, part in enumerate(PARTS)
                ]
        return pd.DataFrame(rows)

    @cached_property
    def own_table(self) -> pd.DataFrame:
        """A row for each policy and resource: what own work of the slowest by last token is spent on, mean [s]."""
        import pandas as pd

        rows = []
        for policy in self.results:
            counted = self._counted(policy)
            parts = np.concatenate([found.end_to_end[:, kept] for found, kept in counted], axis=1)
            spent = np.concatenate([found.spent[:, kept] for found, kept in counted], axis=1)
            means = seconds(spent[:, _slowest(parts)]).mean(axis=1)
            rows += [
                {"policy": policy, "resource": name, "seconds": float(mean), "share": float(mean / means.sum())}
                for name, mean in zip(SPENT_ON, means, strict=True)
            ]
        return pd.DataFrame(rows)

    def _counted(self, policy: str) -> list[tuple[Attribution, npt.NDArray[np.bool_]]]:
        """Return each run with the requests that count in it."""
        return [
            (found, steady(result.arrival_seconds) & (result.replay.outcome == FINISHED))
            for result, found in zip(self.results[policy], self.attributions[policy], strict=True)
        ]

    def _parts(self, policy: str, metric: str) -> tuple[Floats, Floats]:
        """Return the parts of the slowest requests and of all that count, both (parts, requests) [s]."""
        parts: Integers = np.concatenate(
            [(found.ttft if metric == "TTFT" else found.end_to_end)[:, kept] for found, kept in self._counted(policy)],
            axis=1,
        )
        if not parts.shape[1]:
            raise ValueError(
                f"policy {policy}: no request was served between warm-up and cool-down; allowed: more requests, and a "
                "model and --context that fit them"
            )
        return seconds(parts[:, _slowest(parts)]), seconds(parts)

    def slowest(self, policy: str) -> int:
        """Return the request of the first run whose end-to-end time exceeds its own work by most."""
        found = self.attributions[policy][0]
        own = sum((found.part(name) for name in OWN), np.zeros_like(found.part(OWN[0])))
        lost = np.where(steady(self.results[policy][0].arrival_seconds), found.end_to_end.sum(axis=0) - own, -1)
        return int(np.argmax(lost))


def _slowest(parts: Integers) -> Integers:
    """Return the columns with the largest sums, the slowest first."""
    return np.argsort(-parts.sum(axis=0), kind="stable")[: math.ceil(TAIL * parts.shape[1])]


def run(options: Options, policies: Sequence[str] = COMPARED) -> Tail:
    """Serve the same requests under each policy, without prefix cache.

    Raises
    ------
    ValueError
        If an option or a policy is not allowed.
    """
    for policy in policies:
        if policy not in SCHEDULERS:
            raise ValueError(f"--policy names {policy!r}; allowed: {', '.join(SCHEDULERS)}")
    options = completed(options)
    template = scenario_of(options, None)
    machine = template.machine
    workload = Workload(options, machine.limits.context)

    def serve(policy: str, rate: float, seed: int) -> Result:
        scenario = scenario_of(options, workload.trace(rate, seed))
        return simulate(replace(scenario, policy=policy), machine)

    if options.is_recorded:
        rate = (options.speed or (1.0,))[0] * workload.natural_rate
    else:
        full = options.load or (SHARE_OF_CAPACITY * capacity(serve(COMPARED[0], np.inf, 1)),)
        rate = float(f"{full[0]:.3g}")
        options = replace(options, load=(rate,))
    seeds = range(1, int(options.seeds or 1) + 1)
    return Tail(options, {policy: [serve(policy, rate, seed) for seed in seeds] for policy in policies})


def findings(tail: Tail) -> tuple[str, str]:
    """Return two sentences: what the slowest first tokens wait for, and what stalls cost the slowest replies."""
    table = tail.table
    waits, stalls = [], []
    for policy in tail.results:
        rows = table[table.policy == policy].set_index("part")
        first, last = (rows[rows.metric == metric] for metric in METRICS)
        largest = str(first.share.idxmax())
        cause = f"{percent(first.share[largest])} {PARTS[largest]}"
        waits.append(f"{duration(first.seconds.sum())} under {readable(policy)} ({cause})")
        stall = last.seconds["prefill_stall"]
        share = percent(last.share["prefill_stall"])
        stalls.append(f"{duration(stall)} of {duration(last.seconds.sum())} under {readable(policy)} ({share})")
    return (
        f"The slowest {100 * TAIL:g} % of first tokens take on average {listed(waits)}",
        f"Prompts of others stall the decoding of the slowest {100 * TAIL:g} % of replies for {listed(stalls)}",
    )
