"""Idle KV blocks in the order in which vLLM 0.4 gives them up (vllm/core/evictor.py)."""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush, heapreplace
from itertools import islice

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


class Idle:
    """An idle block, or a stretch of them that nobody can find; what comes last in a text is evicted first."""

    __slots__ = ("block", "end", "group", "order", "start")

    def __init__(self, block: Block | None, start: int, end: int, order: Order, group: Group) -> None:
        """Describe blocks `start` to `end` (exclusive) of a text."""
        self.block = block
        self.start = start
        self.end = end
        self.order = order
        self.group = group

    def __lt__(self, other: Idle) -> bool:
        """Whether this is evicted before another one that was used last at the same time."""
        return (-self.end, self.order) < (-other.end, other.order)


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
        while heap and heap[0].block is not None and heap[0].block.idle is not heap[0]:
            heappop(heap)
        return heap[0] if heap else None


class IdleBlocks:
    """Blocks that nobody uses, nearly least recently used first, and ends of texts before their beginnings."""

    __slots__ = ("_groups",)

    def __init__(self) -> None:
        """Start empty."""
        self._groups: deque[Group] = deque()

    def add(self, block: Block, order: Order) -> None:
        """Note that a block has lost its last user; setting its `idle` to None takes it out again."""
        block.idle = self._add(block, block.position, block.position + 1, block.stamp, order)

    def add_stretch(self, start: int, end: int, stamp: Stamp, order: Order) -> None:
        """Note that blocks which nobody can find, from `start` to `end` (exclusive) of a text, have no user."""
        self._add(None, start, end, stamp, order)

    def _add(self, block: Block | None, start: int, end: int, stamp: Stamp, order: Order) -> Idle:
        if not self._groups or self._groups[-1].stamp != stamp:
            self._groups.append(Group(stamp))
        group = self._groups[-1]
        idle = Idle(block, start, end, order, group)
        heappush(group.heap, idle)
        return idle

    def evict(self) -> Block | None:
        """Give up one block, and return it if it could be found.

        The search starts with what became idle first and goes on to a block further back in its text, until it meets
        one that was used later than the best so far.
        """
        groups = self._groups
        while (chosen := groups[0].first()) is None:
            groups.popleft()
        for group in islice(groups, 1, None):
            if group.stamp > chosen.group.stamp:
                break
            other = group.first()
            if other is not None and other.end > chosen.end:
                chosen = other
        chosen.end -= 1
        if chosen.end > chosen.start:
            heapreplace(chosen.group.heap, chosen)
        else:
            heappop(chosen.group.heap)
        return chosen.block
