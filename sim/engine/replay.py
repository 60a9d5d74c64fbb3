"""A trace in, what happened out: one replica or several serve every request of a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Sequence as AnySequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from simpy import Environment, Event

from sim.engine.clock import AnyClock, IterationClock
from sim.engine.cluster import FINISHED, IGNORED, OUTCOMES, REJECTED, STALLED, Cluster
from sim.engine.engine import Engine
from sim.engine.log import Iterations
from sim.engine.moments import ARRIVAL, Moment
from sim.engine.replica import Server
from sim.scheduling.batch import Limits
from sim.scheduling.bounds import OracleCache
from sim.scheduling.ledger import Ledger, Policy
from sim.scheduling.schedulers import Scheduler
from sim.scheduling.sequence import Sequence
from workloads.trace import Trace

__all__ = ["FINISHED", "IGNORED", "OUTCOMES", "REJECTED", "STALLED", "Replay", "replay", "serve_cluster"]


@dataclass(frozen=True)
class Replay:
    """What happened to each request (arrays of shape (requests,)) and in each iteration of each replica.

    Attributes
    ----------
    arrival, queued, first_token, finish : [ticks]; -1 where it never happened. `queued` is when the scheduler sees it,
        which a front end makes later than its arrival.
    cached_tokens, preemptions : counts.
    outcome : index into `OUTCOMES`. `rejected`: longer than the context or than the machine could ever hold, refused on
        arrival. `ignored`: given up by the scheduler. `stalled`: still there when nothing could go on.
    logs : what each replica ran.
    clocks : what an iteration of each replica costs at least; see `accounting` of `PipelineClock` and `LockstepClock`.
    evicted_blocks : cached blocks given up for others, on all replicas.
    replica : which one served it, -1 for requests that never arrived.
    streams : whether clients see tokens one by one; if not, the first comes with the last.
    remarks : sentences on requests that were given up or stalled, and why.
    timings : the clock by which each replica ran.
    """

    arrival: npt.NDArray[np.int64]
    queued: npt.NDArray[np.int64]
    first_token: npt.NDArray[np.int64]
    finish: npt.NDArray[np.int64]
    cached_tokens: npt.NDArray[np.int64]
    preemptions: npt.NDArray[np.int64]
    outcome: npt.NDArray[np.int8]
    logs: tuple[Iterations, ...]
    clocks: tuple[IterationClock, ...]
    evicted_blocks: int
    replica: npt.NDArray[np.int32]
    streams: bool = True
    remarks: tuple[str, ...] = ()
    timings: tuple[AnyClock, ...] = ()

    @property
    def is_interleaved(self) -> bool:
        """Whether the rows of the log do not tell in which of them a sequence decoded: with stages, or data ranks."""
        return any(not isinstance(clock, IterationClock) for clock in self.timings)

    @property
    def iterations(self) -> Iterations:
        """The log of the only replica.

        Raises
        ------
        ValueError
            If there are several: each has its own, see `logs`, and `of` for what happened on one of them.
        """
        return cast(Iterations, self._only(self.logs))

    @property
    def clock(self) -> IterationClock:
        """What an iteration of the only replica costs (ValueError if there are several)."""
        return cast(IterationClock, self._only(self.clocks))

    @property
    def timing(self) -> AnyClock:
        """The clock by which the only replica ran (ValueError if there are several)."""
        return cast(AnyClock, self._only(self.timings or self.clocks))

    def of(self, replica: int) -> tuple[npt.NDArray[np.int64], Replay]:
        """Return the indices of the requests that one replica served, and what happened there, to these alone."""
        rows = np.flatnonzero(self.replica == replica)
        log = self.logs[replica]
        chunks, pauses = log.chunks.copy(), log.pauses.copy()
        chunks[:, 1], pauses[:, 1] = np.searchsorted(rows, chunks[:, 1]), np.searchsorted(rows, pauses[:, 1])
        own: dict[str, Any] = {
            column.name: getattr(self, column.name)[rows]
            for column in fields(self)
            if isinstance(getattr(self, column.name), np.ndarray)
        }
        own |= {"replica": np.zeros_like(own["replica"]), "clocks": (self.clocks[replica],)}
        own["timings"] = self.timings[replica : replica + 1]
        return rows, replace(self, logs=(replace(log, chunks=chunks, pauses=pauses),), **own)

    def _only(self, each: tuple[Any, ...]) -> Any:
        if len(each) != 1:
            raise ValueError(f"this is about {len(each)} replicas; allowed: one, as `Result.parts` has them")
        return each[0]


def replay(
    trace: Trace,
    limits: Limits,
    scheduler: Scheduler,
    clock: AnyClock,
    *,
    prefix_cache: bool | str = False,
    coast: bool = True,
    asynchronous: bool = False,
    checks_memory: bool | None = None,
) -> Replay:
    """Serve a trace on one replica until everybody has left or nothing can go on.

    Parameters
    ----------
    prefix_cache : whether there is one, or which of `sim.scheduling.caches`. Where clients declare what they
        share, it is the first segment of the prompt.
    coast : False to step iteration by iteration.
    asynchronous : whether an iteration is planned while the one before runs; see `Engine`. With stages
        batches are planned ahead in any case.
    clock : an `IterationClock` for one engine, a `PipelineClock` for stages (see `PipelinedEngine`), a `LockstepClock`
        for data ranks, each of which has the limits (see `LockstepGroup`); these two step in any case.
    checks_memory : whether requests that the machine can never hold are refused on arrival, None if as the real server
        does (`Scheduler.checks_memory`). If not, they end as the bare scheduler ends them.

    Raises
    ------
    ValueError
        If the scheduler does not go with the cache, with planning ahead, with several replies to a prompt, or with the
        kind of clock.
    """
    server = Server(limits, scheduler, clock, prefix_cache, asynchronous, checks_memory)
    return serve_cluster(trace, [server], coast=coast)


def serve_cluster(
    trace: Trace, servers: AnySequence[Server], router: str = "round_robin", *, seed: int = 0, coast: bool = True
) -> Replay:
    """Serve a trace on several replicas behind a router; see `replay`.

    Parameters
    ----------
    servers : one for each replica; they may differ.
    router : one of `sim.engine.routers.ROUTERS`.
    seed : of the routers that draw lots.

    Raises
    ------
    ValueError
        If there is no replica, no such router, cache or `asynchronous` do not go with a scheduler, or some replicas
        stream their replies and others do not.
    """
    cluster = Cluster(trace, servers, router, seed=seed, coast=coast)
    if any(isinstance(replica.ledger.pool, OracleCache) for replica in cluster.replicas):
        order = np.arange(len(trace))
        if trace.previous is not None:
            # Who follows whom is known, but not when; the best guess is a run that loses nothing.
            keeping = [
                replace(server, prefix_cache="infinite") if isinstance(replica.ledger.pool, OracleCache) else server
                for server, replica in zip(servers, cluster.replicas, strict=True)
            ]
            order = np.argsort(serve_cluster(trace, keeping, router, seed=seed).arrival, kind="stable")
        for replica in cluster.replicas:
            replica.foresee(order)
    cluster.env.run()
    books, replicas = cluster.books, cluster.replicas
    return Replay(
        arrival=np.frombuffer(books.arrival, dtype=np.int64),
        queued=np.frombuffer(books.arrival, dtype=np.int64),
        first_token=np.frombuffer(books.first_token, dtype=np.int64),
        finish=np.frombuffer(books.finish, dtype=np.int64),
        cached_tokens=np.frombuffer(books.cached, dtype=np.int32).astype(np.int64),
        preemptions=np.frombuffer(books.preemptions, dtype=np.int32).astype(np.int64),
        outcome=np.frombuffer(books.state, dtype=np.int8),
        logs=tuple(replica.engine.columns() for replica in replicas),
        clocks=tuple(server.clock.accounting for server in servers),
        evicted_blocks=sum(ledger.pool.evicted for replica in replicas for ledger in replica.engine.ledgers),
        replica=np.frombuffer(books.replica, dtype=np.int32),
        streams=servers[0].scheduler.streams,
        remarks=tuple(cluster.remarks()),
        timings=tuple(server.clock for server in servers),
    )


def serve_sequences(
    sequences: Iterable[Sequence],
    ledger: Ledger,
    policy: Policy,
    clock: IterationClock,
    *,
    started: Callable[[Sequence, int], None],
    ended: Callable[[Sequence, int, bool], None],
    observe: Callable[[Ledger, int], None] | None = None,
    coast: bool = True,
    asynchronous: bool = False,
    stops_livelock: bool = True,
) -> None:
    """Serve sequences made by hand, each at its `arrival`; see `Engine` for the functions that are called."""
    env = Environment(initial_time=0)
    engine = Engine(
        env,
        ledger,
        policy,
        clock,
        started=started,
        ended=ended,
        observe=observe,
        coast=coast,
        asynchronous=asynchronous,
        stops_livelock=stops_livelock,
    )

    def arrive(sequence: Sequence) -> Callable[[Event], None]:
        return lambda _: engine.receive(sequence)

    for sequence in sequences:
        Moment(env, sequence.arrival, arrive(sequence), ARRIVAL)
    env.run()
