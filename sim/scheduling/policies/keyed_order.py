"""What policies with an order of their own have in common: everything but the order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from sim.scheduling.batch import Order, Refusal
from sim.scheduling.ledger import Ledger
from sim.scheduling.sequence import Sequence

Key = Callable[[Sequence], Any]


def arrival(sequence: Sequence) -> tuple[int, int]:
    """Return what breaks ties in every order: who came first."""
    return sequence.arrival, sequence.index


def serve_in_order(ledger: Ledger, key: Key, *, chunked: bool = True, order: Order = Order.KEY) -> None:
    """Everybody who decodes, then begun prompts, then new ones in the order of `key`, as far as tokens allow.

    Only the queue is reordered: what is begun is not interrupted for somebody who goes before it, unless KV blocks run
    out; then the running request that is last in the order loses its blocks, is recomputed, and nobody new is admitted
    in that iteration. In that order nobody overtakes: if the first one does not fit, nobody is admitted. A request that
    others keep going before may wait without bound.

    Parameters
    ----------
    key : what to sort by, smallest first; it must tell any two requests apart.
    chunked : cut prompts to what is left of the iteration's tokens; else they run whole or wait.
    order : `Order.CHANGING` if the key of a request that waits may change.
    """
    ledger.order = Order.ARRIVAL
    _decode(ledger, key)
    for sequence in list(ledger.partial):
        chunk = min(sequence.tokens - sequence.computed, ledger.tokens_left)
        if chunk > 0:
            ledger.extend(sequence, chunk)
    if not ledger.waiting or ledger.preempted:
        return
    if ledger.running >= ledger.limits.sequences:
        ledger.refusal = Refusal.SEATS  # whoever is first, so there is no need to know
        return
    ledger.order = order
    ledger.waiting = deque(sorted(ledger.waiting, key=key))
    while ledger.waiting:
        head = ledger.waiting[0]
        left = ledger.tokens_left
        if not (ledger.can_ever_hold(head) if chunked else ledger.can_ever_run(head)):
            ledger.ignore(head)
        elif left <= 0:
            ledger.refusal = Refusal.TOKENS
            break
        elif not ledger.admit(head, chunk=left if chunked else None, watermark_blocks=ledger.limits.watermark_blocks):
            break


def _decode(ledger: Ledger, key: Key) -> None:
    """Plan one token for everybody who decodes, taking blocks from the last in the order until they suffice."""
    cohort = ledger.cohort
    while cohort.count and cohort.demand(1) > ledger.pool.free:
        ledger.preempt(max((*cohort.members(), *ledger.partial), key=key))
    ledger.decode_all()
