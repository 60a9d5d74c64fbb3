"""KV blocks with the prefix cache of vLLM 0.4: equal blocks are one block, copied when a reply is written into it.

Every block has a key, its text up to the block's end; the last one of a prompt has one even if it is not full. What is
allocated under a key that exists is that block, whether it has been computed or not. Blocks that nobody uses stay
findable until they are needed. Content is a path of runs as in `prefix_cache`, but cut at tokens instead of blocks.

A block that only its owner could ever ask for is not kept as an object: it is arithmetic until it is given back. So is
the progress of a reply through blocks that others may ask for: somebody asks only at an admission, and then those few
sequences that write such blocks are brought up to date.
Source: vllm/core/block_manager_v1.py and evictor.py of vLLM 0.4.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from sim.scheduling.cohort import Cohort
from sim.scheduling.idle_blocks import Block, IdleBlocks, Stamp
from sim.scheduling.prefix_cache import Key, Run, key_of
from sim.scheduling.sequence import Sequence

_FOREVER = 1 << 62


class Table:
    """The blocks of a running sequence that others may find, in front of those that are only its own."""

    __slots__ = ("admitted", "blocks")

    def __init__(self, admitted: Stamp) -> None:
        """Start without blocks."""
        self.admitted = admitted
        self.blocks: list[Block] = []


class CopyingCache:
    """A pool of KV blocks in which equal blocks are shared, and copied before a reply is written into a shared one.

    It goes with prompts computed as a whole and without promises, as in `CopyingLedger`.

    Attributes
    ----------
    total, free : blocks; `free` counts idle blocks too.
    evicted : idle blocks that were given up so far.
    content_tokens : granularity of content that this pool tells apart.
    batch : number of the prompt batch that is being planned.
    """

    __slots__ = (
        "_cohort",
        "_has_shared_tails",
        "_idle",
        "_known",
        "_open",
        "_releases",
        "_tables",
        "_unused",
        "batch",
        "block_tokens",
        "content_tokens",
        "evicted",
        "free",
        "total",
    )

    def __init__(self, blocks: int, block_tokens: int, cohort: Cohort) -> None:
        """Start empty; `cohort` tells how far decoding sequences have come."""
        self.total = blocks
        self.free = blocks
        self.block_tokens = block_tokens
        self.content_tokens = 1
        self.evicted = 0
        self.batch = 0
        self._unused = blocks
        self._cohort = cohort
        self._known: dict[Key, Block] = {}
        self._tables: dict[Sequence, Table] = {}
        self._open: dict[Sequence, Table] = {}
        self._idle = IdleBlocks()
        self._has_shared_tails = False
        self._releases = 0

    # What every pool offers.

    def match(self, sequence: Sequence) -> tuple[int, int]:
        """Return how many leading tokens need no computing, and 0: the test for free blocks ignores what is cached."""
        self._catch_up_all()
        hit, most = 0, (sequence.tokens - 1) // self.block_tokens
        for key in islice(self._keys(sequence), most):
            block = self._known.get(key)
            if block is None or not block.is_computed:
                break
            hit += 1
        return hit * self.block_tokens, 0

    def admit(self, sequence: Sequence, blocks: int, computed: int) -> None:
        """Give a waiting sequence its `blocks` blocks, as far as possible those that exist."""
        table = self._tables[sequence] = self._open[sequence] = Table((self._cohort.iteration, self.batch))
        for key in self._keys(sequence):
            table.blocks.append(self._allocate(key, len(table.blocks)))
        if table.blocks and table.blocks[-1].users > 1 and self._is_partial(table.blocks[-1]):
            self._has_shared_tails = True
        self.take(blocks - len(table.blocks))

    def extend(self, sequence: Sequence, blocks: int, computed: int) -> None:
        """Refuse to compute a prompt in pieces: no release that had this cache did."""
        raise ValueError("the prefix cache of vLLM 0.4 goes with whole prompts, as the policy prefill_first has them")

    def fill(self, sequence: Sequence, findable: int) -> None:
        """Do nothing: what is decoded gets its key when somebody looks (`_catch_up`)."""

    def take(self, blocks: int) -> None:
        """Take free blocks: those never used, then those that have been idle longest, tails first."""
        self.free -= blocks
        fresh = min(blocks, self._unused)
        self._unused -= fresh
        for _ in range(blocks - fresh):
            block = self._idle.evict()
            if block is not None:
                del self._known[block.key]
        self.evicted += blocks - fresh

    def release(self, sequence: Sequence, *, findable: int, keep: bool) -> None:
        """Take back the blocks of a sequence; they stay findable while they are idle."""
        table = self._tables.pop(sequence)
        self._open.pop(sequence, None)
        path = sequence.path
        if keep and (not path or path[-1].last < _FOREVER):
            # The sequence will come back and look for its own text: from now on that text has a run.
            sequence.path = (*path, Run(path[-1].last if path else 0, _FOREVER))
        self._catch_up(sequence, table, sequence.computed)
        stamp = self._last_use(table)
        if keep:
            self._releases += 1
        # Replies that end together are given back in the order of their names.
        order = (self._releases, "") if keep else (0, str(sequence.index))
        start, end = len(table.blocks), -(-max(sequence.computed, sequence.allocated) // self.block_tokens)
        if end > start:
            self._idle.add_stretch(start, end, stamp, order)
            self.free += end - start
        for block in table.blocks:
            self._leave(block, stamp, order)

    def is_written(self, sequence: Sequence) -> bool:
        """Whether decoding could let this waiting sequence in: no, for its test ignores what is cached."""
        return False

    # What only this pool offers.

    def regular_iterations(self) -> int:
        """Return for how many decode iterations each sequence just needs a block whenever its last one is full.

        A shared last block is copied at once. A reply that fills a block which exists already (a later request quotes
        the reply, and has overtaken it) gives up its own.
        """
        if self._has_shared_tails:
            return 0
        most, size = _FOREVER, self.block_tokens
        for sequence in self._open:
            if sequence.is_decoding:
                computed = sequence.offset + self._cohort.iteration
                end = (computed // size + 1) * size
                if end - 1 - computed < most and key_of(sequence, end) in self._known:
                    most = end - 1 - computed
        return most

    def append(self, sequence: Sequence) -> None:
        """Make room for one more token of a decoding sequence, when not all iterations are regular."""
        table, computed = self._tables[sequence], sequence.offset + self._cohort.iteration
        self._catch_up(sequence, table, computed)
        position, rest = divmod(computed, self.block_tokens)
        own = table.blocks[position] if position < len(table.blocks) else None
        is_full = rest == self.block_tokens - 1
        key = key_of(sequence, computed + 1) if is_full else None
        exists = key in self._known
        if rest and not exists and (own is None or own.users == 1):
            return  # there is room, and nobody else there
        if exists and rest and (own is None or own.users == 1):
            # The block that exists replaces the own one, which is given back first.
            self._drop(table, own, position)
            own = None
        if key is not None:
            block = self._allocate(key, position)
            self._open[sequence] = table
        else:
            self.take(1)
            block = None
        if own is not None:
            self._drop(table, own, position)
        if block is not None:
            table.blocks.append(block)

    def settle(self) -> None:
        """Note that every decoding sequence has had its turn, so that none shares its last block any more."""
        self._has_shared_tails = False

    # Blocks and keys.

    def _keys(self, sequence: Sequence) -> Iterator[Key]:
        """Yield the keys of a sequence's blocks, as far as others may have them."""
        size, tokens, end = self.block_tokens, sequence.tokens, 0
        for run in sequence.path:
            while end < tokens and min(end + size, tokens) <= run.last:
                end = min(end + size, tokens)
                yield run, end

    def _is_partial(self, block: Block) -> bool:
        return block.key[1] % self.block_tokens != 0

    def _allocate(self, key: Key, position: int) -> Block:
        """Return the block with this key, or take a new one."""
        block = self._known.get(key)
        if block is None:
            self.take(1)
            block = self._known[key] = Block(key, position)
            return block
        if block.idle is not None:
            self.free -= 1
            block.idle = None
        block.users += 1
        return block

    def _drop(self, table: Table, own: Block | None, position: int) -> None:
        """Give back the last block of a sequence, at `position`, which another one replaces."""
        stamp = self._last_use(table)
        self._releases += 1
        if own is None:
            self._idle.add_stretch(position, position + 1, stamp, (self._releases, ""))
            self.free += 1
        else:
            table.blocks.pop()
            self._leave(own, stamp, (self._releases, ""))

    def _leave(self, block: Block, stamp: Stamp, order: tuple[int, str]) -> None:
        block.users -= 1
        block.stamp = max(block.stamp, stamp)
        if not block.users:
            self._idle.add(block, order)
            self.free += 1

    # Lazy bookkeeping.

    def _last_use(self, table: Table) -> Stamp:
        """Return when a sequence ran last: with the last decoding, or only when it was admitted."""
        return max(table.admitted, (self._cohort.iteration, 0))

    def _catch_up_all(self) -> None:
        for sequence, table in list(self._open.items()):
            if sequence.is_decoding and self._catch_up(sequence, table, sequence.offset + self._cohort.iteration):
                del self._open[sequence]

    def _catch_up(self, sequence: Sequence, table: Table, computed: int) -> bool:
        """Key and mark the blocks that a sequence has filled since; return whether nothing more can change."""
        blocks, size = table.blocks, self.block_tokens
        full = computed // size
        if blocks and blocks[-1].position < full and self._is_partial(blocks[-1]):
            # The key of a prompt's last block is given up when the block is full.
            tail = blocks.pop()
            del self._known[tail.key]
        while len(blocks) < full and (key := key_of(sequence, (len(blocks) + 1) * size)) is not None:
            block = Block(key, len(blocks))
            self._known[key] = block
            blocks.append(block)
        # A block counts as computed when the one behind it is full, too.
        for block in reversed(blocks[: max(0, full - 1)]):
            if block.is_computed:
                break
            block.is_computed = True
        if key_of(sequence, (len(blocks) + 1) * size) is not None:
            return False
        return not blocks or blocks[-1].is_computed
