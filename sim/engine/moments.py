"""Moments at which something happens, and what comes first of what happens at one instant."""

from __future__ import annotations

from collections.abc import Callable

from simpy import Environment, Event
from simpy.events import EventPriority

ARRIVAL, ROUTING, DECISION, LATE = (EventPriority(level) for level in (1, 2, 3, 4))
"""Priorities of events at one instant: a decision sees everything that has arrived by then; see `Cluster`."""


class Moment(Event):
    """An event that will happen after `delay` ticks and calls `callback`; nothing waits for it or cancels it."""

    _ok = True
    _value = None

    def __init__(
        self, env: Environment, delay: int, callback: Callable[[Event], None], priority: EventPriority
    ) -> None:
        """Schedule the callback."""
        self.env = env
        self.callbacks = [callback]
        env.schedule(self, priority, delay)
