"""KV blocks with a prefix cache: reference counts, least-recently-used eviction, and runs of blocks instead of blocks.

Which physical block holds what never matters; the order of the free list and the identity of full blocks do. Content
is a tree of *runs*: stretches of blocks through which exactly the same requests pass. What is cached of a run is a few
*extents*, so the work for a request is a handful of steps, however long its prompt is. The rules are those of the
vLLM V1 block pool (`vllm/v1/core/block_pool.py`, 0.33): blocks that nobody uses form a list, unhashed ones in front,
then hashed ones in the order in which they were freed, the tail of a request before its head; allocation takes from
the front, and a hit takes a block out of the middle. A full block can be found from the moment it is allocated.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from sim.scheduling.sequence import Sequence


class Run:
    """Blocks `first` to `last` (exclusive) of every request that passes through it, and what is cached of them.

    Attributes
    ----------
    extents : cached copies in the order in which they were made; the earliest one that has a block serves it.
    writers : decoding sequences that are still filling blocks of this run.
    """

    __slots__ = ("extents", "first", "last", "writers")

    def __init__(self, first: int, last: int) -> None:
        """Nothing of a new run is cached."""
        self.first = first
        self.last = last
        self.extents: list[Extent] = []
        self.writers: list[Sequence] = []


Key = tuple[Run, int]
"""What tokens up to some place say: the run of the last one, and how many there are."""


def key_of(sequence: Sequence, tokens: int) -> Key | None:
    """Return the key of the first so many tokens of a sequence, None if nobody else can have it."""
    for run in sequence.path:
        if tokens <= run.last:
            return run, tokens
    return None


class Extent:
    """Cached blocks `start` to `end` (exclusive) of a run, used by `users` sequences; idle if there are none.

    `rest` continues an extent that was split while in use: those who hold the whole find the other part there.
    """

    __slots__ = ("end", "rest", "run", "start", "users")

    is_full = True
    """Whether its blocks were ever full, so that giving them up counts."""

    def __init__(self, run: Run | None, start: int, end: int, users: int) -> None:
        """Describe blocks that have just been filled or freed; content that nobody else can ever ask for has no run."""
        self.run = run
        self.start = start
        self.end = end
        self.users = users
        self.rest: Extent | None = None


class Unfilled(Extent):
    """Blocks that were given back before they were full, where they queue up with the others."""

    __slots__ = ()

    is_full = False


class PrefixCache:
    """A pool of KV blocks in which full blocks stay findable until they are needed for something else.

    Attributes
    ----------
    total, free : blocks; `free` counts idle cached blocks too.
    evicted : cached blocks that were given up so far.
    """

    __slots__ = (
        "_findable",
        "_idle",
        "_matched",
        "_unhashed",
        "_unhashed_first",
        "block_tokens",
        "content_tokens",
        "evicted",
        "free",
        "total",
    )

    def __init__(
        self, blocks: int, block_tokens: int, findable: Callable[[Sequence], int], *, unhashed_first: bool = True
    ) -> None:
        """Start empty; `findable` tells how many tokens of a sequence that decodes are there for others to find.

        With `unhashed_first` a block that was freed before it was full is used again before any other, as in vLLM
        0.33; without, it queues behind those freed earlier, as in 0.11.
        """
        self.total = blocks
        self.free = blocks
        self.block_tokens = self.content_tokens = block_tokens
        self.evicted = 0
        self._unhashed = blocks
        self._unhashed_first = unhashed_first
        self._idle: OrderedDict[Extent, None] = OrderedDict()
        self._findable = findable
        self._matched: list[tuple[Extent, int]] = []

    def match(self, sequence: Sequence) -> tuple[int, int]:
        """Return how many leading tokens of the sequence are cached, and how many blocks in use hold them.

        At least one token is always left to compute, since its output is needed.
        """
        limit = (sequence.prompt + sequence.generated - 1) // self.block_tokens
        matched = self._matched = []
        position = used = 0
        for run in sequence.path:
            if run.writers:
                self._register_written(run)
            last = min(run.last, limit)
            while position < last:
                extent, end = earliest(run.extents, position, last)
                if extent is None:
                    return position * self.block_tokens, used
                if extent.users:
                    used += end - position
                matched.append((extent, end))
                position = end
            if position == limit:
                break
        return position * self.block_tokens, used

    def admit(self, sequence: Sequence, blocks: int, computed: int) -> None:
        """Give a waiting sequence its first `blocks` blocks, cached ones first; call `match` just before.

        Those that are full when `computed` tokens are computed, that is after this iteration, can be found at once.
        """
        hit = 0
        held = sequence.held
        for extent, end in self._matched:
            held.append((self._use(extent, hit, end), end))
            hit = end
        self._matched = []
        self.take(blocks - hit)
        sequence.registered = hit
        self._register(sequence, computed // self.block_tokens, is_prompt=True)
        path = sequence.path
        if path and path[-1].last > sequence.registered:
            for run in path:
                if run.last > sequence.registered:
                    run.writers.append(sequence)

    def extend(self, sequence: Sequence, blocks: int, computed: int) -> None:
        """Give a sequence in the middle of its prompt `blocks` more blocks; it will have `computed` tokens computed."""
        self.take(blocks)
        self._register(sequence, computed // self.block_tokens, is_prompt=True)

    def fill(self, sequence: Sequence, findable: int) -> None:
        """Note in its turn that a decoding sequence has `findable` tokens that others may find."""
        self._register(sequence, findable // self.block_tokens)

    def take(self, blocks: int) -> None:
        """Take free blocks, unhashed ones first, then cached ones that have been idle longest, tails first."""
        self.free -= blocks
        self._unhashed -= blocks
        while self._unhashed < 0:
            extent = self._first_idle()
            here = extent.end - extent.start
            wanted = -self._unhashed
            if here > wanted:
                extent.end -= wanted
                here = wanted
            else:
                del self._idle[extent]
                if extent.run is not None:
                    extent.run.extents.remove(extent)
            self.evicted += here if extent.is_full else 0
            self._unhashed += here

    def release(self, sequence: Sequence, *, findable: int, keep: bool) -> None:
        """Take back the blocks of a sequence, its tail first; full ones stay findable while they are idle."""
        path = sequence.path
        full = findable // self.block_tokens
        if keep and (not path or path[-1].last < full):
            # The sequence will come back and look for its own text: from now on that text has a run.
            own = Run(path[-1].last if path else 0, 1 << 62)
            path = sequence.path = (*path, own)
        for run in path:
            if run.writers and sequence in run.writers:
                run.writers.remove(sequence)
        self._register(sequence, full)
        partial = -(-max(sequence.computed, sequence.allocated) // self.block_tokens) - full
        if partial and not self._unhashed_first:
            self._set_idle(Unfilled(None, full, full + partial, 0))
        else:
            self._unhashed += partial
            self.free += partial
        if full > sequence.registered:
            self._set_idle(Extent(None, sequence.registered, full, 0))
        for extent, end in reversed(sequence.held):
            for piece in reversed(_pieces(extent, end)):
                piece.users -= 1
                if not piece.users:
                    self._set_idle(piece)
        sequence.held = []
        sequence.registered = 0

    def is_written(self, sequence: Sequence) -> bool:
        """Whether a decoding sequence is writing content that this waiting one could reuse."""
        return any(run.writers for run in sequence.path)

    def cached_blocks(self) -> int:
        """Return how many idle blocks are in the order of eviction."""
        return self.free - self._unhashed

    def _first_idle(self) -> Extent:
        """Return the extent from whose end blocks are taken next."""
        return next(iter(self._idle))

    def _set_idle(self, extent: Extent) -> None:
        self._idle[extent] = None
        self.free += extent.end - extent.start

    def _use(self, extent: Extent, start: int, end: int) -> Extent:
        """Add a user to blocks `start` to `end` of an extent, splitting off what it does not use."""
        if start > extent.start:
            extent = self._split(extent, start)
        if extent.users:
            if end < extent.end:
                self._split(extent, end)
        else:
            self.free -= end - extent.start
            if end < extent.end:
                extent = self._split_front(extent, end)
            else:
                del self._idle[extent]
        extent.users += 1
        return extent

    def _split_front(self, extent: Extent, at: int) -> Extent:
        """Cut the blocks before `at` off an idle extent; what remains keeps its place in the order of eviction."""
        front = Extent(extent.run, extent.start, at, 0)
        extent.start = at
        if extent.run is not None:
            extents = extent.run.extents
            extents.insert(extents.index(extent), front)
        return front

    def _split(self, extent: Extent, at: int) -> Extent:
        """Cut an extent in two and return the part from `at` on; both keep their place in every order."""
        tail = Extent(extent.run, at, extent.end, extent.users)
        tail.rest, extent.rest, extent.end = extent.rest, tail, at
        if extent.run is not None:
            extents = extent.run.extents
            extents.insert(extents.index(extent) + 1, tail)
        if not extent.users:
            # A tail is evicted before its head. Only overlapping copies bring us here, too rarely to deserve better.
            order = list(self._idle)
            self._idle[tail] = None
            for later in order[order.index(extent) :]:
                self._idle.move_to_end(later)
        return tail

    def _register(self, sequence: Sequence, upto: int, *, is_prompt: bool = False) -> None:
        """Let others find the blocks of the path that the sequence has filled, up to block `upto`.

        A prompt comes behind decoding sequences that have written the same text before.
        """
        start = sequence.registered
        if start >= upto:
            return
        for run in sequence.path:
            if run.last > start:
                if is_prompt and run.writers:
                    self._register_written(run)
                end = min(run.last, upto)
                extent = Extent(run, start, end, 1)
                run.extents.append(extent)
                sequence.held.append((extent, end))
                start = end
                if start == upto:
                    break
        sequence.registered = start

    def _register_written(self, run: Run) -> None:
        for writer in run.writers:
            self._register(writer, self._findable(writer) // self.block_tokens)


def earliest(extents: list[Extent], position: int, last: int) -> tuple[Extent | None, int]:
    """Return the earliest extent that has block `position`, and how far it serves (at most to `last`)."""
    end = last
    for extent in extents:
        if extent.start <= position < extent.end:
            return extent, min(end, extent.end)
        if position < extent.start < end:
            end = extent.start
    return None, position


def _pieces(extent: Extent, end: int) -> list[Extent]:
    """Return the extent and what was split off from it, up to block `end`."""
    pieces = [extent]
    while extent.end < end:
        assert extent.rest is not None
        extent = extent.rest
        pieces.append(extent)
    return pieces
