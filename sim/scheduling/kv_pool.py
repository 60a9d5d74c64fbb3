"""KV blocks without a prefix cache: a count, because which block it is never matters."""

from __future__ import annotations

from sim.scheduling.sequence import Sequence


class BlockPool:
    """A pool of equal KV blocks.

    Every pool, cached or not, offers the same few operations; the ledger does all its arithmetic through them.

    Attributes
    ----------
    total, free : blocks.
    """

    __slots__ = ("block_tokens", "free", "total")

    def __init__(self, blocks: int, block_tokens: int) -> None:
        """Start with `blocks` free blocks of `block_tokens` tokens."""
        self.total = blocks
        self.free = blocks
        self.block_tokens = block_tokens

    def match(self, sequence: Sequence) -> tuple[int, int]:
        """Return how many leading blocks of the sequence are computed, and how many are in use, so that they cost none."""
        return 0, 0

    def admit(self, sequence: Sequence, blocks: int, computed: int) -> None:
        """Give a waiting sequence its first `blocks` blocks, of which it will fill those of `computed` tokens now.

        Call `match` just before.
        """
        self.free -= blocks

    def extend(self, sequence: Sequence, blocks: int, computed: int) -> None:
        """Give a sequence in the middle of its prompt `blocks` more blocks; it will have `computed` tokens computed."""
        self.free -= blocks

    def take(self, blocks: int) -> None:
        """Give `blocks` more blocks to sequences that decode."""
        self.free -= blocks

    def release(self, sequence: Sequence, *, keep: bool) -> None:
        """Take back the blocks of a sequence; `keep` says that it will come back (preemption)."""
        self.free += -(-max(sequence.computed, sequence.allocated) // self.block_tokens)

    def is_written(self, sequence: Sequence) -> bool:
        """Whether a decoding sequence is writing content that this waiting one could reuse."""
        return False
