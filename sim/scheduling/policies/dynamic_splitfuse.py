"""Dynamic SplitFuse: every iteration filled to the token budget (DeepSpeed-FastGen, Holmes et al., 2024)."""

from __future__ import annotations

from sim.scheduling.batch import Refusal
from sim.scheduling.ledger import Ledger
from sim.scheduling.sequence import Sequence


def dynamic_splitfuse(ledger: Ledger, *, ragged_sequences: int = 512) -> None:
    """Everybody who decodes, then prompts in order, the long ones split and the short ones packed to fill the rest.

    A decoding request that needs a block when none is free sits the iteration out while others go on, and is first in
    turn next time. A prompt is begun, or gone on with, only if a block was free at first and those of all of it still
    are, or else nobody behind it is considered either; the rest of a split prompt comes before other prompts. A prompt
    of which one token is left does not block those behind it. If nothing at all can run, the last request that holds
    blocks loses them and queues up again at the end. The blocks of a finished request come back with the next
    iteration, so that the decision in between cannot use them: give the ledger `late_release`.
    Source: microsoft/DeepSpeed-MII, mii/batching/ragged_batching.py.

    Parameters
    ----------
    ragged_sequences : most sequences in one iteration (`max_ragged_sequence_count`).
    """
    full = ledger.pool.free == 0
    _decode(ledger, min(ragged_sequences, ledger.limits.tokens))
    _split_and_fuse(ledger, ragged_sequences, full=full)
    nothing = not (ledger.chunks or ledger.decodes or ledger.lingering)
    if nothing and (ledger.cohort.count or ledger.partial):
        last = ledger.cohort.newest() if ledger.cohort.count else ledger.partial[-1]
        ledger.preempt(last, to_end=True)


def _decode(ledger: Ledger, most: int) -> None:
    cohort = ledger.cohort
    if cohort.count <= most and cohort.demand(1) <= ledger.pool.free:
        ledger.decode_all()
        return
    going: list[Sequence] = []
    held: list[Sequence] = []
    for sequence in cohort.members():
        (going if len(going) < most and ledger.decode(sequence) else held).append(sequence)
    ledger.decode_only(held)
    ledger.queue_again(going)


def _split_and_fuse(ledger: Ledger, ragged_sequences: int, *, full: bool) -> None:
    limits = ledger.limits
    for sequence in (*ledger.partial, *ledger.waiting):
        left = ledger.tokens_left
        lacking = sequence.tokens - sequence.computed
        if left <= 0 or len(ledger.chunks) + ledger.decodes >= ragged_sequences:
            ledger.refusal = Refusal.TOKENS
            return
        missing = limits.blocks_for(sequence.tokens) - limits.blocks_for(sequence.computed)
        if full or missing > ledger.pool.free:
            ledger.refusal = Refusal.BLOCKS
            if full or lacking > 1:
                return
        elif sequence.allocated:
            ledger.extend(sequence, min(lacking, left))
        elif not ledger.admit(sequence, chunk=left, whole=False):
            return
