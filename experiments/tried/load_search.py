"""The highest load at which a server still answers in time, with the same requests at every load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sim.machine import Machine
from sim.results.result import Result
from sim.scenario import Scenario, simulate
from workloads.trace import Trace

STEPS, QUICK_STEPS = 10, 7
"""Bisections of a range of `SPAN` from its highest load down: the last one is 0.5 % wide, or 4 %."""

SPAN = 256.0

Measure = Callable[[Result], float]


@dataclass(frozen=True)
class Service:
    """A scenario without a trace of its own, on a machine that is made once."""

    scenario: Scenario
    machine: Machine

    @classmethod
    def of(cls, scenario: Scenario) -> Service:
        """Make the machine of a scenario."""
        return cls(scenario, scenario.machine)

    def serve(self, trace: Trace) -> Result:
        """Serve a trace."""
        return simulate(replace(self.scenario, trace=trace), self.machine)

    def saturated(self, trace: Trace) -> float:
        """Return what it serves when all requests of a trace arrive at once [requests/s]."""
        burst = replace(trace, arrival_seconds=np.zeros(len(trace)))
        return len(trace) / self.serve(burst).makespan_seconds


def highest_load(service: Service, trace: Trace, measure: Measure, bound: float, steps: int = STEPS) -> float:
    """Return the highest load at which a measure is at most `bound` [requests/s]; 0 if there is none.

    Parameters
    ----------
    trace : the requests, at one a second on average; only their pace changes.
    measure : of a run; it should grow with the load.
    steps : bisections.
    """
    most = 2.0 * service.saturated(trace)

    def meets(load: float) -> bool:
        return measure(service.serve(trace.sped_up(load))) <= bound

    low, high = most / SPAN, most
    if not meets(low):
        return 0.0
    if meets(high):
        return high
    for _ in range(steps):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if meets(middle) else (low, middle)
    return low


def normalised_latency(result: Result) -> float:
    """Return the mean over requests of end-to-end time by tokens of the reply [s]; infinite if one is not served.

    The yardstick of Orca and of vLLM (Kwon et al., SOSP 2023, section 6.1). It means the same where replies come token
    by token and where they come at once.
    """
    times = result.end_to_end_seconds / result.trace.output_tokens
    return float("inf") if np.isnan(times).any() else float(times.mean())
