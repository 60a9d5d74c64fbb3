"""Iteration-level scheduling with memory reserved for the longest reply (Orca, Yu et al., OSDI 2022)."""

from __future__ import annotations

from sim.scheduling.ledger import Ledger


def orca(ledger: Ledger) -> None:
    """Everybody who runs, and whole new prompts in order of arrival, as long as memory for the model's context is free.

    There is no paging: each request holds blocks for the longest context from its admission on, so few run at once and
    nobody is preempted. Selective batching lets prompts and decodes share an iteration.
    Source: the paper, and its reproduction in microsoft/sarathi-serve, sarathi/core/scheduler/orca_scheduler.py.
    """
    ledger.decode_all()
    admit_reserving_context(ledger)


def static_batching(ledger: Ledger) -> None:
    """Whole prompts only when nobody runs; then that batch until its last reply is complete (FasterTransformer).

    Members leave as they finish, which neither computes for them nor keeps their memory, but nobody takes their place.
    Source: request-level scheduling as reproduced in microsoft/sarathi-serve, faster_transformer_scheduler.py.
    """
    ledger.decode_all()
    if ledger.is_empty:
        admit_reserving_context(ledger)


def admit_reserving_context(ledger: Ledger) -> None:
    """Admit whole prompts in order of arrival, each with memory for the longest context."""
    while ledger.waiting:
        head = ledger.waiting[0]
        if not ledger.can_ever_hold(head, ledger.limits.context):
            ledger.ignore(head)
        elif not ledger.admit(head, guaranteed_tokens=ledger.limits.context):
            break
