"""The ledger of SGLang, in which memory is given up once for all that an iteration needs."""

from __future__ import annotations

from sim.scheduling.batch import Limits
from sim.scheduling.radix_cache import RadixCache
from sim.scheduling.storing_ledger import StoringLedger


class RadixLedger(StoringLedger):
    """A ledger over a `RadixCache`."""

    __slots__ = ("_tree",)

    def __init__(self, limits: Limits, *, late_release: bool = False, eviction: str = "lru") -> None:
        """Start with empty queues and a free pool; `eviction` : see `RadixCache`."""
        self._tree: RadixCache | None = None
        super().__init__(limits, late_release=late_release)
        self.pool = self._store = self._tree = RadixCache(limits.blocks, limits.block_tokens, eviction)

    def begin(self) -> None:
        """Forget the last iteration."""
        if self._tree is not None:
            self._tree.settle()
        super().begin()
