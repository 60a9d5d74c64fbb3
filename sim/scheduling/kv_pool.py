"""KV blocks without a prefix cache: a count, because which block it is never matters."""

from __future__ import annotations

from typing import Protocol

from sim.scheduling.sequence import Sequence


class Pool(Protocol):
    """What every pool of KV blocks offers, cached or not; the ledger does all its arithmetic through it.

    Attributes
    ----------
    total, free : blocks.
    evicted : blocks of cached content given up so far.
    block_tokens : tokens in a block.
    content_tokens : tokens in the pieces of shared content that it tells apart (see `Sequence.path`), 0 if none.
    """

    total: int
    free: int
    evicted: int
    block_tokens: int
    content_tokens: int

    def match(self, sequence: Sequence) -> tuple[int, int]:
        """Return how many leading tokens of the sequence are computed, and how many blocks in use, which cost none."""

    def admit(self, sequence: Sequence, blocks: int, computed: int) -> None:
        """Give a waiting sequence its first `blocks` blocks, of which it will fill those of `computed` tokens now.

        Call `match` just before.
        """

    def extend(self, sequence: Sequence, blocks: int, computed: int) -> None:
        """Give a sequence in the middle of its prompt `blocks` more blocks; it will have `computed` tokens computed."""

    def fill(self, sequence: Sequence, findable: int) -> None:
        """Note in its turn that a decoding sequence has `findable` tokens that others may find."""

    def take(self, blocks: int) -> None:
        """Give `blocks` more blocks to sequences that decode."""

    def release(self, sequence: Sequence, *, findable: int, keep: bool) -> None:
        """Take back the blocks of a sequence.

        Parameters
        ----------
        findable : tokens whose content is known, so that others may find the blocks that they fill.
        keep : whether the sequence will come back (preemption).
        """

    def is_written(self, sequence: Sequence) -> bool:
        """Whether a decoding sequence is writing content that this waiting one could reuse."""


class BlockPool:
    """A pool of equal KV blocks that nobody shares.

    Attributes
    ----------
    total, free, evicted, block_tokens, content_tokens : see `Pool`.
    """

    __slots__ = ("block_tokens", "content_tokens", "evicted", "free", "total")

    def __init__(self, blocks: int, block_tokens: int) -> None:
        """Start with `blocks` free blocks of `block_tokens` tokens."""
        self.total = blocks
        self.free = blocks
        self.block_tokens = block_tokens
        self.content_tokens = self.evicted = 0

    def match(self, sequence: Sequence) -> tuple[int, int]:
        """Return how many leading tokens are computed, and how many blocks in use hold them: none."""
        return 0, 0

    def admit(self, sequence: Sequence, blocks: int, computed: int) -> None:
        """Give a waiting sequence its first `blocks` blocks."""
        self.free -= blocks

    def extend(self, sequence: Sequence, blocks: int, computed: int) -> None:
        """Give a sequence in the middle of its prompt `blocks` more blocks."""
        self.free -= blocks

    def fill(self, sequence: Sequence, findable: int) -> None:
        """Do nothing: nobody can find anything."""

    def take(self, blocks: int) -> None:
        """Give `blocks` more blocks to sequences that decode."""
        self.free -= blocks

    def release(self, sequence: Sequence, *, findable: int, keep: bool) -> None:
        """Take back the blocks of a sequence."""
        held = sequence.computed if sequence.computed > sequence.allocated else sequence.allocated
        self.free += -(-held // self.block_tokens)

    def is_written(self, sequence: Sequence) -> bool:
        """Whether a decoding sequence is writing content that this waiting one could reuse: never."""
        return False
