"""Decode-first chunking: no decode ever waits for a prompt (Sarathi-Serve, Agrawal et al., OSDI 2024)."""

from __future__ import annotations

from sim.scheduling.ledger import Ledger


def decode_first(ledger: Ledger) -> None:
    """Everybody who decodes, then begun prompts, then new ones, cut to what is left of the iteration's tokens.

    The token budget (`Limits.tokens`, Sarathi's chunk size) bounds the stall that a prompt can cause. Blocks for a
    whole prompt are taken with its first chunk; under pressure the newest request is preempted and recomputed.
    Source: microsoft/sarathi-serve, sarathi/core/scheduler/sarathi_scheduler.py.
    Exceptions: a request that outgrows the pool is given up; decodes are never cut, so keep the budget above the seats.
    """
    ledger.decode_or_preempt()
    for sequence in list(ledger.partial):
        chunk = min(sequence.tokens - sequence.computed, ledger.tokens_left)
        if chunk > 0:
            ledger.extend(sequence, chunk)
    while ledger.waiting and not ledger.recalled:  # who is recalled from a batch in flight will be the head
        head = ledger.waiting[0]
        if not ledger.can_ever_hold(head):
            ledger.ignore(head)
        elif not ledger.admit(head, chunk=ledger.tokens_left, watermark_blocks=ledger.limits.watermark_blocks):
            break
