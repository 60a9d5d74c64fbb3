"""The ledger of vLLM 0.4 with its prefix cache, where a reply may need a block although its last one has room."""

from __future__ import annotations

from collections import deque

from sim.scheduling.batch import Limits
from sim.scheduling.copying_cache import CopyingCache
from sim.scheduling.ledger import Ledger
from sim.scheduling.sequence import Sequence


class CopyingLedger(Ledger):
    """A ledger over a `CopyingCache`; for policies that compute whole prompts and decode with `decode_or_preempt`."""

    __slots__ = ("_cache", "_has_walked")

    def __init__(self, limits: Limits, *, late_release: bool = False) -> None:
        """Start with empty queues and a free pool; see `Ledger`."""
        super().__init__(limits, late_release=late_release)
        self.pool = self._cache = CopyingCache(limits.blocks, limits.block_tokens, self.cohort)

    def begin(self) -> None:
        """Forget the last iteration."""
        super().begin()
        self._has_walked = False

    def admit(
        self,
        sequence: Sequence,
        *,
        chunk: int | None = None,
        guaranteed_tokens: int = 0,
        whole: bool = True,
        room_tokens: int = 0,
        watermark_blocks: int = 0,
    ) -> bool:
        """Plan the prompt of a waiting sequence, or say no, as `Ledger.admit` does for whole prompts."""
        if chunk is not None or guaranteed_tokens or not whole:
            raise ValueError(
                "the prefix cache of vLLM 0.4 goes with whole prompts and no promises: policy prefill_first"
            )
        if not self.chunks:
            self._cache.batch += 1
        return super().admit(sequence, room_tokens=room_tokens, watermark_blocks=watermark_blocks)

    def _fits_budget(self, tokens: int, new: int) -> bool:
        if self.limits.paddings is None:
            # What is cached saves time, but not the iteration's tokens.
            return self.new_tokens + self.cached_context + tokens <= self.limits.tokens - self.decodes
        return super()._fits_budget(tokens, new)

    def decode_or_preempt(self) -> None:
        """Plan one token for every decoding sequence, preempting the newest until the blocks suffice.

        Each sequence in turn wants a free block, as in `Ledger`. What a preemption frees, and who needs a copy then,
        depends on those before, so they are served one by one unless it is plain that all is regular and fits.
        """
        cohort = self.cohort
        if not cohort.count:
            return
        if self._cache.regular_iterations():
            blocks = cohort.demand(1)
            if blocks - (cohort.computed(cohort.newest()) % cohort.block_tokens == 0) < self._cache.free:
                self._decode(blocks)
                return
        self._has_walked = True
        order = deque(cohort.members())
        while order:
            sequence = order.popleft()
            while not self._cache.free:
                victim = order.pop() if order else sequence
                self.preempt(victim)
                if victim is sequence:
                    break
            else:
                self._cache.append(sequence)
        self._cache.settle()
        self.decode_only(held=())

    def quiet_iterations(self) -> int:
        """Return for how many decode iterations, this one included, no decision can change (arrivals aside)."""
        if self._has_walked:
            return 1
        return min(super().quiet_iterations(), self._cache.regular_iterations())
