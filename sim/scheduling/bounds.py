"""Prefix caches that no server can have, to see how far real ones are from what is possible.

Both are the cache of vLLM V1 in everything but what they give up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from heapq import heappop, heappush

from sim.scheduling.batch import Limits
from sim.scheduling.ledger import Ledger
from sim.scheduling.prefix_cache import Extent, PrefixCache, Run, earliest
from sim.scheduling.sequence import Sequence

NEVER = 1 << 62


class InfiniteCache(PrefixCache):
    """A cache that keeps everything that was ever computed, in memory that costs nothing while nobody uses it.

    What it finds is all that is shared at the time; a cache that finds less has given something up.
    """

    __slots__ = ()

    def take(self, blocks: int) -> None:
        """Take free blocks, for which nothing has to be given up."""
        self.free -= blocks

    def _set_idle(self, extent: Extent) -> None:
        self.free += extent.end - extent.start
        run = extent.run
        if run is None:
            return
        first, end = earliest(run.extents, extent.start, extent.end)
        if first is extent or end < extent.end:
            self._idle[extent] = None
        else:
            run.extents.remove(extent)  # a double serves nobody


class OracleCache(PrefixCache):
    """A cache that knows which requests are to come, and gives up what is asked for last (Belady, 1966).

    Requests count in the order that `foresee` is told; those that were preempted and come back are not foreseen. What
    is asked for at the same time is given up from the end of the text. With requests of one size that are served one at
    a time this is the best that is possible; where evictions and hits change who is served when, it is a yardstick and
    not a proof.
    """

    __slots__ = ("_farthest", "_number", "_to_come", "_was_served")

    def __init__(self, blocks: int, block_tokens: int, findable: Callable[[Sequence], int]) -> None:
        """Start empty, and without knowing anybody."""
        super().__init__(blocks, block_tokens, findable)
        self._to_come: dict[Run, deque[tuple[int, int]]] = {}
        self._was_served: set[int] = set()
        self._farthest: list[tuple[int, int, int, Extent]] = []
        self._number = 0

    def foresee(self, requests: Iterable[tuple[int, tuple[Run, ...]]]) -> None:
        """Learn which requests are to come, in order: their index and path."""
        for place, (index, path) in enumerate(requests):
            for run in path:
                self._to_come.setdefault(run, deque()).append((place, index))

    def forget(self, sequence: Sequence) -> None:
        """Note that a request is not to come any more."""
        self._was_served.add(sequence.index)
        for run in sequence.path:
            if self._to_come.get(run):
                for extent in run.extents:
                    if extent in self._idle:
                        self._note(extent)

    def admit(self, sequence: Sequence, blocks: int, computed: int) -> None:
        """Give a waiting sequence its first `blocks` blocks; call `match` just before."""
        self.forget(sequence)
        super().admit(sequence, blocks, computed)

    def _first_idle(self) -> Extent:
        farthest = self._farthest
        while True:
            negative, _, _, extent = farthest[0]
            if extent in self._idle and -negative == self._next_use(extent.run):
                return extent
            heappop(farthest)

    def _next_use(self, run: Run | None) -> int:
        if run is None:
            return NEVER
        to_come = self._to_come.get(run)
        while to_come:
            place, index = to_come[0]
            if index not in self._was_served:
                return place
            to_come.popleft()
        return NEVER

    def _note(self, extent: Extent) -> None:
        self._number += 1
        heappush(self._farthest, (-self._next_use(extent.run), -extent.end, self._number, extent))

    def _set_idle(self, extent: Extent) -> None:
        super()._set_idle(extent)
        self._note(extent)

    def _split(self, extent: Extent, at: int) -> Extent:
        tail = super()._split(extent, at)
        if not tail.users:
            self._note(tail)
        return tail


class BoundLedger(Ledger):
    """A ledger over one of these caches."""

    __slots__ = ()

    def __init__(
        self, limits: Limits, *, cache: type[InfiniteCache] | type[OracleCache], late_release: bool = False
    ) -> None:
        """Start with empty queues and a free pool; see `Ledger`."""
        super().__init__(limits, late_release=late_release)
        self.pool = cache(limits.blocks, limits.block_tokens, self.flight.findable)
