"""Who arrives when, and at which replica: the requests of a trace, a router, and the columns in which they end."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import itemgetter

import numpy as np
from simpy import Environment, Event

from sim.engine.clock import ticks
from sim.engine.moments import ARRIVAL, LATE, ROUTING, Moment
from sim.engine.replica import Replica, Server
from sim.engine.routers import ROUTERS, Fleet, Router
from sim.scheduling.sequence import Sequence as Served
from workloads.trace import Trace

STALLED, FINISHED, REJECTED, IGNORED = range(4)
OUTCOMES = ("stalled", "finished", "rejected", "ignored")
_CHUNK = 4096

Arrival = tuple[int, int, int, int, int]
"""Arrival [ticks], index, and prompt, reply and longest reply [tokens]."""


class Books:
    """What happened to each request, as machine integers; see `sim.engine.replay.Replay`."""

    def __init__(self, trace: Trace) -> None:
        """Write down when everybody comes."""
        n = len(trace)
        self.arrival = array("q", ticks(trace.arrival_seconds).tobytes())
        self.first_token = array("q", np.full(n, -1, dtype=np.int64).tobytes())
        self.finish = array("q", self.first_token)
        self.cached = array("i", bytes(4 * n))
        self.preemptions = array("i", bytes(4 * n))
        self.state = array("b", bytes(n))
        self.replica = array("i", np.full(n, -1, dtype=np.int32).tobytes())


class Cluster:
    """The arrivals of a trace, replicas to serve them, and a router that says which one does.

    A router may look at what every replica has been given and has answered. So that it sees the same whether engines
    step or coast, and in whatever order they were made, requests of one instant are gathered and routed in the order
    of their index: behind all arrivals and before the decisions of that instant, or behind the decisions if a decision
    released them at that very instant. A single replica needs no router and is asked directly.
    """

    def __init__(
        self, trace: Trace, servers: Sequence[Server], router: str = "round_robin", *, seed: int = 0, coast: bool = True
    ) -> None:
        """Schedule the first arrival; `env.run()` does the rest."""
        if not servers:
            raise ValueError("there are 0 replicas; allowed: at least 1")
        if router not in ROUTERS:
            raise ValueError(f"router is {router!r}; allowed: {', '.join(ROUTERS)}")
        self._streams = servers[0].scheduler.streams
        if any(server.scheduler.streams != self._streams for server in servers):
            raise ValueError("some replicas stream replies and others do not; allowed: all or none")
        self.trace = trace
        self.env = Environment(initial_time=0)
        self.books = books = Books(trace)
        alone = len(servers) == 1
        self._fleet = Fleet(len(servers), trace, servers[0].limits.block_tokens, seed)
        self._router: Router = ROUTERS[router](self._fleet)
        self.replicas = [
            Replica(
                self.env,
                trace,
                server,
                started=self._started if alone else partial(self._started_at, number),
                ended=self._ended if alone else partial(self._ended_at, number),
                refused=self._refused if alone else partial(self._refused_at, number),
                alone=alone,
                coast=coast,
            )
            for number, server in enumerate(servers)
        ]
        self._prompts = array("q", b"" if alone else trace.prompt_tokens.astype(np.int64).tobytes())
        self._gathered: list[Arrival] = []
        self._late: list[Arrival] = []
        self._deliver: Callable[[int, int, int, int, int], None] = self._gather
        if alone:
            self._deliver = self.replicas[0].accept
            books.replica = array("i", bytes(4 * len(trace)))
        self._followers: dict[int, list[int]] = {}
        if trace.previous is not None:
            for request in np.flatnonzero(trace.previous >= 0).tolist():
                self._followers.setdefault(int(trace.previous[request]), []).append(request)
        self._coming = self._in_order()
        self._next = next(self._coming, None)
        self._await_next(0)

    def _in_order(self) -> Iterator[Arrival]:
        """Yield the requests that wait for nobody."""
        trace = self.trace
        free = np.arange(len(trace)) if trace.previous is None else np.flatnonzero(trace.previous < 0)
        arrival = np.frombuffer(self.books.arrival, dtype=np.int64)
        for start in range(0, len(free), _CHUNK):
            rows = free[start : start + _CHUNK]
            tokens = (trace.prompt_tokens[rows], trace.output_tokens[rows], trace.max_tokens[rows])
            yield from zip(*(column.tolist() for column in (arrival[rows], rows, *tokens)), strict=True)

    def _await_next(self, now: int) -> None:
        if self._next is not None:
            Moment(self.env, self._next[0] - now, self._arrive, ARRIVAL)

    def _arrive(self, _: Event) -> None:
        now = int(self.env.now)
        deliver = self._deliver
        while self._next is not None and self._next[0] == now:
            arrival, index, prompt, output, longest = self._next
            self._next = next(self._coming, None)
            deliver(arrival, index, prompt, output, longest)
        self._await_next(now)

    def _gather(self, *arrival: int) -> None:
        """Take in a request that the router will see when all of this instant are there."""
        if not self._gathered:
            Moment(self.env, 0, self._route_gathered, ROUTING)
        self._gathered.append(arrival)  # type: ignore[arg-type]

    def _gather_late(self, *arrival: int) -> None:
        if not self._late:
            Moment(self.env, 0, self._route_late, LATE)
        self._late.append(arrival)  # type: ignore[arg-type]

    def _route_gathered(self, _: Event) -> None:
        arrivals, self._gathered = self._gathered, []
        self._route(arrivals, late=False)

    def _route_late(self, _: Event) -> None:
        arrivals, self._late = self._late, []
        self._route(arrivals, late=True)

    def _route(self, arrivals: list[Arrival], late: bool) -> None:
        if len(arrivals) > 1:
            arrivals.sort(key=itemgetter(1))
        for arrival in arrivals:
            _, index, prompt, _, _ = arrival
            number = self._router(index, prompt)
            self.books.replica[index] = number
            self._fleet.send(number, prompt)
            self.replicas[number].accept(*arrival, late)

    def remarks(self) -> Iterator[str]:
        """Yield sentences on the requests that were given up or stalled, by replica."""
        state = np.frombuffer(self.books.state, dtype=np.int8)
        for number, replica in enumerate(self.replicas):
            here = np.frombuffer(self.books.replica, dtype=np.int32) == number
            where = f"replica {number}: " if len(self.replicas) > 1 else ""
            if given_up := int((here & (state == IGNORED)).sum()):
                yield f"{where}{given_up} requests were given up by the scheduler: a machine of this size cannot go on"
            if (stalled := int((here & (state == STALLED)).sum())) and (reason := replica.stalled()):
                yield f"{where}{stalled} requests stalled, the first of them is {reason}"

    def _started(self, sequence: Served, now: int) -> None:
        self.books.first_token[sequence.index] = now

    def _started_at(self, number: int, sequence: Served, now: int) -> None:
        self.books.first_token[sequence.index] = now
        self._fleet.start(number, self._prompts[sequence.index])

    def _ended(self, sequence: Served, now: int, served: bool) -> None:
        books, index = self.books, sequence.index
        if sequence.cached_tokens:
            books.cached[index] = sequence.cached_tokens
        if sequence.preemptions:
            books.preemptions[index] = sequence.preemptions
        books.state[index] = FINISHED if served else IGNORED
        if served:
            books.finish[index] = now
            if not self._streams:
                books.first_token[index] = now
        if self._followers:
            self._release_followers(index, now)

    def _ended_at(self, number: int, sequence: Served, now: int, served: bool) -> None:
        self._fleet_end(number, sequence.index)
        self._ended(sequence, now, served)

    def _refused(self, index: int, now: int) -> None:
        self.books.state[index] = REJECTED
        if self._followers:
            self._release_followers(index, now)

    def _refused_at(self, number: int, index: int, now: int) -> None:
        self._fleet_end(number, index)
        self._refused(index, now)

    def _fleet_end(self, number: int, index: int) -> None:
        self._fleet.end(number, self._prompts[index], self.books.first_token[index] >= 0)

    def _release_followers(self, index: int, now: int) -> None:
        for follower in self._followers.get(index, ()):
            self._release(follower, now)

    def _release(self, request: int, now: int) -> None:
        trace = self.trace
        think = 0 if trace.think_seconds is None else int(ticks(trace.think_seconds[request]))
        self.books.arrival[request] = at = max(self.books.arrival[request], now + think)
        row = (
            at,
            request,
            int(trace.prompt_tokens[request]),
            int(trace.output_tokens[request]),
            int(trace.max_tokens[request]),
        )
        if at > now:
            Moment(self.env, at - now, lambda _: self._deliver(*row), ARRIVAL)
        elif len(self.replicas) == 1:
            self._deliver(*row)
        else:
            self._gather_late(*row)
