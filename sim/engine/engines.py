"""Which engine a clock asks for: one that runs a batch at a time, one of stages, or ranks that keep one pace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simpy import Environment

from sim.engine.clock import AnyClock, IterationClock, LockstepClock, PipelineClock
from sim.engine.engine import Engine
from sim.engine.lockstep import LockstepGroup
from sim.engine.pipeline import PipelinedEngine
from sim.scheduling.batch import Limits
from sim.scheduling.bounds import OracleCache
from sim.scheduling.ledgers import ledger_of
from sim.scheduling.schedulers import Scheduler
from sim.scheduling.sequence import Sequence

AnyEngine = Engine | LockstepGroup
"""What takes requests in (`receive`), and has `ledgers`, a `clock` and `columns`."""


def engine_of(
    env: Environment,
    limits: Limits,
    scheduler: Scheduler,
    clock: AnyClock,
    prefix_cache: bool | str,
    *,
    started: Callable[[Sequence, int], None],
    ended: Callable[[Sequence, int, bool], None],
    coast: bool = True,
    asynchronous: bool = False,
    several_replies: bool = False,
) -> AnyEngine:
    """Return an idle engine, with as many ledgers as it has ranks; see `Engine` and `ledger_of` for the parameters.

    Raises
    ------
    ValueError
        If the scheduler does not go with the cache, with planning ahead, with several replies, or with the clock.
    """
    if not isinstance(clock, IterationClock):
        if scheduler.pads or scheduler.to_end or scheduler.preemption == "swap":
            raise ValueError(f"several stages or data ranks; allowed for {scheduler.system}: one of each")
        if several_replies:
            raise ValueError("several replies to a prompt; allowed with several stages or data ranks: one")
    ranks = clock.ranks if isinstance(clock, LockstepClock) else 1
    ledgers = [
        ledger_of(limits, scheduler, prefix_cache, asynchronous=asynchronous, several_replies=several_replies)
        for _ in range(ranks)
    ]
    if ranks > 1 and isinstance(ledgers[0].pool, OracleCache):
        raise ValueError(
            f"prefix_cache is {prefix_cache!r}; allowed for one replica with several data ranks: any other"
        )
    policy = scheduler.policy
    report: Any = {"started": started, "ended": ended}
    if isinstance(clock, PipelineClock):
        return PipelinedEngine(env, ledgers[0], policy, clock, **report)
    if isinstance(clock, LockstepClock):
        return LockstepGroup(env, ledgers, policy, clock, asynchronous=asynchronous, **report)
    return Engine(env, ledgers[0], policy, clock, coast=coast, asynchronous=asynchronous, **report)
