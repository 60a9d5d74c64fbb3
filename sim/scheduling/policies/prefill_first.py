"""Prefill first: whole prompts before any decoding (vLLM 0.2 to 0.4, Kwon et al., SOSP 2023)."""

from __future__ import annotations

from sim.scheduling.ledger import Ledger


def prefill_first(ledger: Ledger) -> None:
    """Whole prompts in order of arrival; decode only when none can be admitted.

    An iteration is either a batch of prompts or a batch of decodes, so a stream of arrivals makes running requests
    pause. Nothing is reserved for replies: under pressure the newest request is preempted and recomputed.
    Requests with several replies are swapped out instead, and come back before any prompt is computed.
    Exceptions to "nobody is lost": a request that outgrows the whole pool is given up (`ignored`), as vLLM does; one
    that is swapped out and has outgrown the pool never comes back, and holds up all prompts (`stalled`).
    """
    while ledger.waiting and not ledger.swapped:
        head = ledger.waiting[0]
        if not ledger.can_ever_run(head):
            ledger.ignore(head)
        elif not ledger.admit(head, watermark_blocks=ledger.limits.watermark_blocks):
            break
    if ledger.is_empty:
        ledger.decode_or_preempt()
