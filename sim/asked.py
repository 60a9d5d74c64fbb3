"""What a scenario asks to be served, from however little it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from workloads.recorded import recorded
from workloads.synthetic.chat import chat
from workloads.trace import Trace

CHAT = "chat"
REQUESTS = 2000
REQUESTS_PER_SECOND = 1.0
"""Of a generated workload; 70 % of what the default machine serves."""


def asked(
    trace: Trace | str | Path | None, load: float | None, requests: int | None, seed: int, context_tokens: int
) -> Trace:
    """Return the requests; see `sim.scenario.Scenario` for what the parameters may be.

    Raises
    ------
    ValueError
        If there is no such trace, or load, requests or seed are impossible.
    """
    if load is not None and not load > 0:
        raise ValueError(f"load is {load}; allowed: a positive number of requests per second, None, or infinity")
    if requests is not None and requests < 1:
        raise ValueError(f"requests is {requests}; allowed: 1 or more, or None")
    if seed < 0:
        raise ValueError(f"seed is {seed}; allowed: 0 or more")
    if is_generated(trace):
        rng = np.random.default_rng(np.random.SeedSequence(seed))
        return chat(rng, requests or REQUESTS, load or REQUESTS_PER_SECOND, context_tokens=context_tokens)
    if isinstance(trace, Trace):
        return _at(load, trace.head(requests) if requests else trace)
    assert trace is not None
    return _at(load, recorded(trace, requests))


def is_generated(trace: Trace | str | Path | None) -> bool:
    """Tell whether another seed gives another workload."""
    return trace is None or (isinstance(trace, str) and trace == CHAT)


def _at(load: float | None, trace: Trace) -> Trace:
    if load is None:
        return trace
    if np.isinf(load):
        return replace(trace, arrival_seconds=np.zeros(len(trace)))
    if not trace.duration_seconds:
        raise ValueError(
            f"load is {load:g} requests/s, but all {len(trace)} requests of {trace.name} arrive at one instant; "
            "allowed: None"
        )
    return trace.sped_up(load * trace.duration_seconds / len(trace))
