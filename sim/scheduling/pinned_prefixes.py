"""KV blocks with the manual prefix cache of vLLM 0.3: a prefix that a client declares stays in memory for good.

Source: vllm/prefix.py, vllm/core/block_manager.py and vllm/worker/model_runner.py of vLLM 0.3.3 (`prefix_pos`).
"""

from __future__ import annotations

from sim.scheduling.batch import Limits
from sim.scheduling.kv_pool import BlockPool
from sim.scheduling.ledger import Ledger
from sim.scheduling.prefix_cache import key_of
from sim.scheduling.sequence import Sequence


class PinnedPrefixes(BlockPool):
    """A pool in which the full blocks of declared prefixes are shared, and never given back.

    There is no limit: prefixes that nobody asks for again may fill the pool until no request fits any more.

    Attributes
    ----------
    pinned : blocks that hold prefixes.
    """

    __slots__ = ("_first_users", "pinned")

    def __init__(self, blocks: int, block_tokens: int) -> None:
        """Start empty."""
        super().__init__(blocks, block_tokens)
        self.content_tokens = 1
        self.pinned = 0
        self._first_users: dict[object, Sequence] = {}

    def match(self, sequence: Sequence) -> tuple[int, int]:
        """Return how many leading tokens are computed, and how many blocks are in use.

        Those who share a prefix with the first of its users in one batch share memory, but compute it once more.
        """
        blocks = self._prefix_blocks(sequence)
        first = self._first_users.get(self._key(sequence, blocks)) if blocks else None
        if first is None:
            return 0, 0
        # At least one token is always left to compute, since its output is needed.
        found = min(blocks, (sequence.tokens - 1) // self.block_tokens) if first.generated else 0
        return found * self.block_tokens, blocks

    def admit(self, sequence: Sequence, blocks: int, computed: int) -> None:
        """Give a waiting sequence its first `blocks` blocks, pinning its prefix if it is the first to have it."""
        self.free -= blocks
        shared = self._prefix_blocks(sequence)
        if not shared:
            return
        key = self._key(sequence, shared)
        if key in self._first_users:
            self.free += shared
        else:
            self._first_users[key] = sequence
            self.pinned += shared

    def release(self, sequence: Sequence, *, findable: int, keep: bool) -> None:
        """Take back the blocks of a sequence, but those of its prefix."""
        super().release(sequence, findable=findable, keep=keep)
        self.free -= self._prefix_blocks(sequence)

    def _prefix_blocks(self, sequence: Sequence) -> int:
        return min(sequence.prefix, sequence.prompt) // self.block_tokens

    def _key(self, sequence: Sequence, blocks: int) -> object:
        tokens = blocks * self.block_tokens
        return key_of(sequence, tokens) or (sequence.index, tokens)


class PinningLedger(Ledger):
    """A ledger over `PinnedPrefixes`."""

    __slots__ = ()

    def __init__(self, limits: Limits, *, late_release: bool = False) -> None:
        """Start with empty queues and a free pool; see `Ledger`."""
        super().__init__(limits, late_release=late_release)
        self.pool = PinnedPrefixes(limits.blocks, limits.block_tokens)

    def can_ever_run(self, sequence: Sequence, guaranteed_tokens: int = 0) -> bool:
        """Whether the sequence would fit a machine that holds nothing, not even the prefix that it finds now."""
        _, used = self.pool.match(sequence)
        tokens = sequence.tokens
        own = max(tokens, guaranteed_tokens) - used * self.limits.block_tokens
        return tokens <= self._most_prompt_tokens and own <= self._most_tokens
