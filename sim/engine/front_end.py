"""What stands before the scheduler: a delay that every request passes, and that clients count."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sim.engine.clock import ticks
from sim.engine.replay import Replay
from workloads.trace import Trace


def behind_front_end(trace: Trace, front_end_seconds: float) -> Trace:
    """Return the trace as the scheduler sees it."""
    if not front_end_seconds:
        return trace
    think = np.zeros(len(trace)) if trace.think_seconds is None else trace.think_seconds
    return replace(
        trace,
        arrival_seconds=trace.arrival_seconds + front_end_seconds,
        think_seconds=None if trace.previous is None else think + front_end_seconds,
    )


def since_arrival(outcome: Replay, trace: Trace, front_end_seconds: float) -> Replay:
    """Return what happened with the arrivals at the front end, from which clients count."""
    if not front_end_seconds:
        return outcome
    arrival = outcome.arrival - int(ticks(front_end_seconds))
    free = np.ones(len(trace), dtype=bool) if trace.previous is None else trace.previous < 0
    return replace(outcome, arrival=np.where(free, ticks(trace.arrival_seconds), arrival))
