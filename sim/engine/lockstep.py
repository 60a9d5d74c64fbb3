"""Data ranks that share experts: schedulers and caches of their own, but one pace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from simpy import Environment, Event

from sim.engine.clock import LockstepClock, ticks
from sim.engine.engine import Engine
from sim.engine.log import LONG, Iterations
from sim.engine.moments import DECISION, Moment
from sim.scheduling.ledger import Ledger, Policy
from sim.scheduling.prefix_cache import Run
from sim.scheduling.sequence import Sequence, queue_up

COUNTS_SECONDS = 0.1
"""How often the router learns how busy ranks are (`min_stats_update_interval_ms` in vllm/v1/engine/coordinator.py)."""

WAITING_WEIGHT = 4
"""What a waiting request counts in running ones (`get_core_engine_for_request` in vllm/v1/engine/core_client.py)."""

Numbers = npt.NDArray[Any]

_FIRST = LONG.index("first") - len(LONG)


class _Rank(Engine):
    """An engine that is told when its iterations begin and how long they take."""

    def settle(self, now: int) -> None:
        """Hand out what has just run."""
        if not self._asynchronous:
            if self._planned:
                self._carry_out(now)
                self._deliver(now)
        elif self.ledger.flight.is_up:
            self._deliver(now)
            self.ledger.land()

    def prepare(self, now: int) -> bool:
        """Plan unless that was done ahead; return whether there is anything to run."""
        if not self._planned:
            self._start = now
            while not self._plan():
                pass
        return bool(self._planned)

    def begin(self, now: int, duration: int) -> None:
        """Run what was planned for so many ticks."""
        self._first = self.log.long[_FIRST] = duration
        ledger = self.ledger
        if ledger.held or self._paused or ledger.returning:
            super()._note_held()
        if self._asynchronous:
            self._carry_out(now + duration)
            ledger.launch(self._finished)
            self._start = now + duration
            self._plan()

    def _note_held(self) -> None:
        """Wait with this until the end of the iteration is known."""

    @property
    def sums(self) -> tuple[int, ...] | None:
        """What is planned, as `IterationClock.iteration` wants it; None if nothing is."""
        plan = self.ledger
        if not self._planned:
            return None
        new_tokens, pairs, window_pairs = plan.new_tokens, plan.pairs, plan.window_pairs
        if plan.pads and plan.chunks:
            new_tokens, pairs, window_pairs = plan.rectangle()
        sums = plan.samples, new_tokens, pairs, plan.cached_context, plan.decodes, plan.context
        return *sums, window_pairs, plan.window_cached, plan.window_keys


class LockstepGroup:
    """Data ranks (DP) that meet in every layer of experts, so that their iterations begin and end together.

    Each rank has a scheduler and KV blocks of its own. While any of them has work, the others run along with a dummy
    token; what arrives at a rank waits for the next iteration of all. An iteration lasts as the busiest rank needs.

    A request goes to the rank with the least waiting, counted four times, and running requests, of equals to the first.
    The router learns these counts every 100 ms, and in between counts those that it has sent as waiting.
    Sources: `DPEngineCoreProc.run_busy_loop` in vllm/v1/engine/core.py; `DPLBAsyncMPClient` in
    vllm/v1/engine/core_client.py; docs.vllm.ai, "Data Parallel Deployment".

    Every iteration is a decision of its own: nothing is fast-forwarded.

    Parameters
    ----------
    ledgers : one of each rank.
    clock : see `LockstepClock`.
    started, ended, asynchronous : see `Engine`.
    """

    def __init__(
        self,
        env: Environment,
        ledgers: list[Ledger],
        policy: Policy,
        clock: LockstepClock,
        *,
        started: Callable[[Sequence, int], None],
        ended: Callable[[Sequence, int, bool], None],
        asynchronous: bool = False,
    ) -> None:
        """Start idle."""
        self.env = env
        self.clock = clock
        self._ranks = [
            _Rank(
                env,
                ledger,
                policy,
                clock.rank,
                started=started,
                ended=ended,
                coast=False,
                asynchronous=asynchronous,
            )
            for ledger in ledgers
        ]
        self._counts = [[0, 0] for _ in ledgers]
        self._counts_known = False
        self._runs: list[dict[Run, Run]] = [{} for _ in ledgers]
        self._has_news = False
        self._wake: Moment | None = None

    def receive(self, sequence: Sequence, late: bool = False) -> None:
        """Send a request that arrives now to a rank; `late` : see `Engine.receive`."""
        loads = [WAITING_WEIGHT * waiting + running for waiting, running in self._counts]
        chosen = loads.index(min(loads))
        self._counts[chosen][0] += 1
        if chosen and sequence.path:  # what a rank caches of a text is noted on the run: each rank has its own
            copies = self._runs[chosen]
            sequence.path = tuple(copies.setdefault(run, Run(run.first, run.last)) for run in sequence.path)
        queue_up(self._ranks[chosen].ledger.waiting, sequence, late)
        self._has_news = True
        if self._wake is None:
            self._wake = Moment(self.env, 0, self._decide, DECISION)
        if not self._counts_known:
            self._counts_known = True
            self._tell_counts_later()

    def _tell_counts_later(self) -> None:
        Moment(self.env, int(ticks(COUNTS_SECONDS)), self._tell_counts, DECISION)

    def _tell_counts(self, _: Event) -> None:
        """Let the router know how busy the ranks are, and go on while any is running."""
        for counts, rank in zip(self._counts, self._ranks, strict=True):
            ledger = rank.ledger
            counts[:] = len(ledger.waiting) + len(ledger.recalled), ledger.running
        self._counts_known = self._wake is not None
        if self._counts_known:
            self._tell_counts_later()

    def _decide(self, _: Event) -> None:
        """End an iteration of all ranks and begin the next one, unless nobody has any work."""
        now = int(self.env.now)
        for rank in self._ranks:
            rank.settle(now)
        busy: list[_Rank] = []
        self._has_news = True
        while self._has_news and not busy:  # one rank may give up a request that another one's request has waited for
            self._has_news = False
            busy = [rank for rank in self._ranks if rank.prepare(now)]
        if not busy:
            self._wake = None
            return
        duration = self.clock.together([rank.sums for rank in self._ranks])
        for rank in busy:
            rank.begin(now, duration)
        self._wake = Moment(self.env, duration, self._decide, DECISION)

    @property
    def ledgers(self) -> tuple[Ledger, ...]:
        """One of each rank."""
        return tuple(rank.ledger for rank in self._ranks)

    @property
    def livelocked(self) -> Sequence | None:
        """See `Engine`."""
        return next((rank.livelocked for rank in self._ranks if rank.livelocked), None)

    def columns(self) -> Iterations:
        """Return the iterations of all ranks, a row each with sums over the ranks; gaps between tokens one by one."""
        return merged([rank.log.columns() for rank in self._ranks])


def merged(logs: list[Iterations]) -> Iterations:
    """Return the rows of ranks that keep the same time as those of one replica; see `LockstepGroup.columns`."""
    starts = np.unique(np.concatenate([log.start for log in logs]))
    places = [np.searchsorted(starts, log.start) for log in logs]

    def summed(name: str) -> Numbers:
        total = np.zeros(len(starts), dtype=getattr(logs[0], name).dtype)
        for log, place in zip(logs, places, strict=True):
            total[place] += getattr(log, name)
        return total

    def one(name: str) -> Numbers:
        value = np.zeros(len(starts), dtype=getattr(logs[0], name).dtype)
        for log, place in zip(logs, places, strict=True):
            value[place] = np.maximum(value[place], getattr(log, name))
        return value

    def moved(name: str) -> Numbers:
        found = []
        for log, place in zip(logs, places, strict=True):
            rows = getattr(log, name).copy()
            behind = place[-1:] + 1  # somebody may be preempted before a row that never comes
            rows[:, 0] = np.concatenate([place, behind])[rows[:, 0]]
            found.append(rows)
        rows = np.concatenate(found)
        return rows[np.argsort(rows[:, 0], kind="stable")]

    sums = ("context", "pairs", "decodes", "prompts", "samples", "new_tokens", "cached_context", "free_blocks")
    columns = {name: summed(name) for name in (*sums, "waiting", "preempted", "wasted")}
    columns |= {name: one(name) for name in ("first", "growth", "iterations", "refusal")}
    columns |= {name: moved(name) for name in ("chunks", "pauses", "idle", "moves")}
    sights = moved("sights")
    rows, place = np.unique(sights[:, 0], return_inverse=True)
    columns["sights"] = np.stack([rows, np.bincount(place, sights[:, 1], len(rows)).astype(np.int64)], axis=1)
    gaps = np.concatenate([log.every_gap() for log in logs])
    columns |= {"start": starts, "joined": np.zeros_like(columns["decodes"])}
    columns["returned"] = columns["decodes"] - columns["wasted"]
    columns["gaps"] = gaps[np.argsort(gaps[:, 0], kind="stable")]
    return Iterations(**columns)
