"""In-flight batching: prompts and decodes in the same iteration (TensorRT-LLM, GUARANTEED_NO_EVICT)."""

from __future__ import annotations

from sim.scheduling.ledger import Ledger


def inflight_batching(ledger: Ledger) -> None:
    """Everybody who decodes, then whole prompts in order of arrival as far as tokens and promised blocks allow.

    A request is admitted only if blocks for its prompt and the longest reply it declared can be promised, so nobody is
    ever preempted. Source: TensorRT-LLM `GUARANTEED_NO_EVICT` (capacityScheduler.cpp, microBatchScheduler.cpp); the
    scheduler of January 2024 was closed, so its rules are reconstructed from the code published in 2025.
    """
    ledger.decode_all()
    while ledger.waiting:
        head = ledger.waiting[0]
        longest = head.prompt + head.longest_reply
        if not ledger.can_ever_run(head, longest):
            ledger.ignore(head)
        elif not ledger.admit(head, guaranteed_tokens=longest):
            break
