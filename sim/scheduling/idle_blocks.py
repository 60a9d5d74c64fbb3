"""Idle KV blocks in the order in which vLLM 0.4 gives them up (vllm/core/evictor.py)."""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush, heapreplace
from itertools import islice
from typing import NamedTuple

from sim.scheduling.prefix_cache import Key

Stamp = tuple[int, int]
"""When a block was used last: decode iterations up to then, and 0, or the number of a later prompt batch."""

Order = tuple[int, str]
"""What comes first among blocks of equal rank: a number, then a name."""


class Block:
    """A block that several sequences may find, at `position` in all of them, used by `users`.

    Attributes
    ----------
    stamp : last use by those who have given it back.
    is_computed : whether a prompt may skip it.
    idle : its place among the idle blocks, None while it is in use.
    """

    __slots__ = ("idle", "is_computed", "key", "position", "stamp", "users")

    def __init__(self, key: Key, position: int) -> None:
        """Describe a block that has just been taken."""
        self.key = key
        self.position = position
        self.users = 1
        self.stamp: Stamp = (-1, 0)
        self.is_computed = False
        self.idle: Idle | None = None


class Idle(NamedTuple):
    """An idle block, or a stretch of them that nobody can find, in the order of eviction: ends of texts first.

    It ends before block `-minus_end` of its text and starts with block `start`; `number` makes ties impossible.
    """

    minus_end: int
    order: Order
    number: int
    start: int
    block: Block | None


class Group:
    """Blocks that became idle one after another and were used last at the same time."""

    __slots__ = ("heap", "stamp")

    def __init__(self, stamp: Stamp) -> None:
        """Start empty."""
        self.stamp = stamp
        self.heap: list[Idle] = []

    def first(self) -> Idle | None:
        """Return what would be evicted first, dropping what has been found again."""
        heap = self.heap
        while heap:
            idle = heap[0]
            block = idle[4]
            if block is None or block.idle is idle:
                return idle
            heappop(heap)
        return None


class IdleBlocks:
    """Blocks that nobody uses, nearly least recently used first, and ends of texts before their beginnings."""

    __slots__ = ("_groups", "_number")

    def __init__(self) -> None:
        """Start empty."""
        self._groups: deque[Group] = deque()
        self._number = 0

    def add(self, block: Block, order: Order) -> None:
        """Note that a block has lost its last user; setting its `idle` to None takes it out again."""
        block.idle = self._add(block, block.position, block.position + 1, block.stamp, order)

    def add_stretch(self, start: int, end: int, stamp: Stamp, order: Order) -> None:
        """Note that blocks which nobody can find, from `start` to `end` (exclusive) of a text, have no user."""
        self._add(None, start, end, stamp, order)

    def _add(self, block: Block | None, start: int, end: int, stamp: Stamp, order: Order) -> Idle:
        groups = self._groups
        if not groups or groups[-1].stamp != stamp:
            groups.append(Group(stamp))
        self._number += 1
        idle = Idle(-end, order, self._number, start, block)
        heappush(groups[-1].heap, idle)
        return idle

    def evict(self) -> Block | None:
        """Give up one block, and return it if it could be found.

        The search starts with what became idle first and goes on to a block further back in its text, until it meets
        one that was used later than the best so far.
        """
        groups = self._groups
        while (chosen := groups[0].first()) is None:
            groups.popleft()
        place = groups[0]
        for group in islice(groups, 1, None):
            if group.stamp > place.stamp:
                break
            other = group.first()
            if other is not None and other[0] < chosen[0]:
                chosen, place = other, group
        end = -chosen[0] - 1
        if end > chosen[3]:
            heapreplace(place.heap, Idle(-end, chosen[1], chosen[2], chosen[3], None))
        else:
            heappop(place.heap)
        block = chosen[4]
        if block is not None:
            block.idle = None  # or the two would keep each other alive
        return block
