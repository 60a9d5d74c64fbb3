"""The prefix caches by name, each with the ledger that goes with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sim.scheduling.batch import Limits
from sim.scheduling.bounds import BoundLedger, InfiniteCache, OracleCache
from sim.scheduling.copying_ledger import CopyingLedger
from sim.scheduling.ledger import Ledger
from sim.scheduling.pinned_prefixes import PinningLedger
from sim.scheduling.radix_cache import EVICTION
from sim.scheduling.radix_ledger import RadixLedger
from sim.scheduling.reusing_ledger import ReusingLedger

CACHES: dict[str, Callable[..., Ledger]] = {
    "none": Ledger,
    "vllm-1": partial(Ledger, prefix_cache=True),
    "vllm-0.11": partial(Ledger, prefix_cache=True, unhashed_blocks_first=False),
    "vllm-0.4": CopyingLedger,
    "vllm-0.3": PinningLedger,
    "tensorrt-llm": ReusingLedger,
    "tensorrt-llm-2024": partial(ReusingLedger, only_at_end=True),
    "sglang": RadixLedger,
    **{f"sglang-{name}": partial(RadixLedger, eviction=name) for name in EVICTION if name != "lru"},
}
"""`vllm-1` is vLLM V1 as of 0.33, whose blocks that were given back before they were full are used again first; in
`vllm-0.11` they queue up. `vllm-0.4` goes with the policy `prefill_first` only; `vllm-0.3` caches what clients declare
(`Sequence.prefix`). In `tensorrt-llm-2024` (0.8 to 0.11) a text can be found when its reply is complete.
`sglang` gives up leaves least recently used first, the others of that name as they say."""


BOUNDS: dict[str, Callable[..., Ledger]] = {
    "infinite": partial(BoundLedger, cache=InfiniteCache),
    "belady": partial(BoundLedger, cache=OracleCache),
}
"""Caches that no server can have: one that keeps everything, and one that knows who is to come."""

CACHE_EVIDENCE = {
    "executed": "hits and evictions equal those recorded while the published code was executed",
    "described": "written from the published code, of which nothing was run or recorded",
}
"""How a cache is known."""

EVIDENCE_OF_CACHES = {
    "vllm-1": "executed",
    "vllm-0.11": "executed",
    "vllm-0.4": "executed",
    "vllm-0.3": "executed",
    "tensorrt-llm": "described",
    "tensorrt-llm-2024": "described",
    "sglang": "described",
    **{f"sglang-{name}": "described" for name in EVICTION if name != "lru"},
}
"""The key of `CACHE_EVIDENCE` for every cache of a real system."""


def ledger_for(limits: Limits, prefix_cache: bool | str, *, late_release: bool = False) -> Ledger:
    """Return an empty ledger with a prefix cache of `CACHES` or `BOUNDS`; True is ``vllm-1``, False ``none``.

    `late_release` : see `Ledger`.

    Raises
    ------
    ValueError
        If there is no such cache.
    """
    name = prefix_cache if isinstance(prefix_cache, str) else "vllm-1" if prefix_cache else "none"
    known = {**CACHES, **BOUNDS}
    if name not in known:
        raise ValueError(f"prefix_cache is {prefix_cache!r}; allowed: True, False, {', '.join(known)}")
    return known[name](limits, late_release=late_release)
