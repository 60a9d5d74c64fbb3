"""The ledger of TensorRT-LLM with block reuse: chunks end with a block, and a prompt waits for one that shares it."""

from __future__ import annotations

from sim.scheduling.batch import Limits
from sim.scheduling.block_reuse import BlockReuse
from sim.scheduling.radix_tree import Key
from sim.scheduling.sequence import Sequence
from sim.scheduling.storing_ledger import StoringLedger


class ReusingLedger(StoringLedger):
    """A ledger over `BlockReuse`.

    What is found costs none of the iteration's tokens, except where prompts are cut: tokens are shared out as if
    nothing could be found.
    Source: capacityScheduler.cpp (`beneficialToSkip`) and llmRequest.h (`setPrepopulatedPromptLen`) of 2025.
    """

    __slots__ = ("_contributed", "_defers", "_reuse")

    def __init__(self, limits: Limits, *, late_release: bool = False, only_at_end: bool = False) -> None:
        """Start with empty queues and a free pool; `only_at_end` : see `BlockReuse`, and no prompt is deferred."""
        self._contributed: set[Key] | None = None
        self._defers = not only_at_end
        super().__init__(limits, late_release=late_release)
        self.pool = self._store = self._reuse = BlockReuse(limits.blocks, limits.block_tokens, only_at_end=only_at_end)

    def begin(self) -> None:
        """Forget the last iteration."""
        super().begin()
        self._contributed = None

    def is_deferred(self, sequence: Sequence) -> bool:
        """Whether a waiting sequence had better wait for content that somebody else computes in this iteration.

        That is so if the first block that it would have to compute is also the first one that a prompt before it in
        this iteration has to, or one that goes on; it is then the turn of those behind. Whoever is asked twice in an
        iteration, because somebody was paused for it, waits for itself, as it does there.
        """
        if not self._defers:
            return False
        if self._contributed is None:
            begun = (self._reuse.first_missing(other) for other in self.partial)
            self._contributed = {key for key in begun if key is not None}
        key = self._reuse.first_missing(sequence)
        if key in self._contributed:
            return True
        if key is not None:
            self._contributed.add(key)
        return False

    def _cut(self, cached: int, chunk: int) -> int:
        """Let the first chunk of a prompt that was found in part end with a block."""
        past = (cached + chunk) % self.limits.block_tokens
        return chunk - past if cached and past < chunk else chunk
