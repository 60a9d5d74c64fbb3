"""In-flight batching that fills the machine and pauses somebody when blocks run out (TensorRT-LLM MAX_UTILIZATION)."""

from __future__ import annotations

from itertools import islice

from sim.scheduling.batch import Refusal
from sim.scheduling.ledger import Ledger
from sim.scheduling.policies.inflight_batching import chunk_sizes, run_chunks
from sim.scheduling.sequence import Sequence


def max_utilization(
    ledger: Ledger, *, chunking: str | None = None, chunk_unit: int | None = None, lookahead: int = 1
) -> None:
    """Everybody in order of arrival, whether prompt or decode, with blocks for one step only.

    A request for which blocks are missing makes the last one behind it that has begun, or itself, give up its blocks;
    that one keeps its place and is recomputed when it fits. Nothing behind it is considered in this iteration.
    Source: TensorRT-LLM capacityScheduler.cpp, MaxUtilizationScheduler.
    Exception: without chunking a paused request whose text has outgrown the iteration's tokens is given up.

    Parameters
    ----------
    chunking, chunk_unit : see `inflight_batching`.
    lookahead : steps ahead for which a decoding request wants blocks, 1 or 2.
    """
    possible = ledger.can_ever_run if chunking is None else ledger.can_ever_hold
    in_reach = islice(ledger.waiting, max(1, ledger.limits.sequences - ledger.running))
    for sequence in [s for s in in_reach if not possible(s)]:
        ledger.ignore(sequence)
    ledger.spare_blocks = (lookahead - 1) * ledger.cohort.count
    if _all_decode(ledger, lookahead, whole=chunking is None):
        contexts = _contexts_behind(ledger, lookahead, whole=chunking is None)
        ledger.decode_all()
    else:
        contexts = _walk(ledger, lookahead, whole=chunking is None)
    if chunking is None:
        run_chunks(ledger, [(s, s.tokens - s.computed) for s in contexts], promise=False)
    else:
        unit = chunk_unit or ledger.limits.block_tokens
        run_chunks(ledger, chunk_sizes(contexts, ledger.tokens_left, chunking, unit), promise=False)


def _all_decode(ledger: Ledger, lookahead: int, *, whole: bool) -> bool:
    """Whether everybody who runs can decode and those who wait are all behind them, as the walk would find.

    Whole prompts are never overtaken, so whoever was admitted last is the last in order of arrival.
    """
    cohort, limits = ledger.cohort, ledger.limits
    if ledger.partial or cohort.count > min(limits.sequences, limits.tokens):
        return False
    if cohort.demand(lookahead) > ledger.pool.free:
        return False
    if not (cohort.count and ledger.waiting):
        return True
    last = _place(cohort.newest()) if whole else max(map(_place, cohort.members()))
    return last < _place(ledger.waiting[0])


def _contexts_behind(ledger: Ledger, lookahead: int, *, whole: bool) -> list[Sequence]:
    """Return those who wait for whom blocks, seats and (for whole prompts) tokens are left when everybody decodes."""
    limits, count = ledger.limits, ledger.cohort.count
    free, left = ledger.pool.free - ledger.cohort.demand(lookahead), limits.tokens - count
    contexts: list[Sequence] = []
    for sequence in islice(ledger.waiting, limits.sequences - count):
        if ledger.is_deferred(sequence):
            continue
        free -= _blocks_needed(ledger, sequence, lookahead)
        left -= sequence.tokens if whole else 0
        if free < 0 or left < 0:
            ledger.refusal = Refusal.BLOCKS if free < 0 else Refusal.TOKENS
            break
        contexts.append(sequence)
    return contexts


def _walk(ledger: Ledger, lookahead: int, *, whole: bool) -> list[Sequence]:
    """Plan who decodes and return whose prompts to compute, having looked at one after the other."""
    fitting = _fitting(ledger, lookahead)
    contexts: list[Sequence] = []
    decoding: list[Sequence] = []
    planned = 0
    for sequence in fitting:
        if len(contexts) + len(decoding) == ledger.limits.sequences:
            break
        needed = 1 if sequence.is_decoding else sequence.tokens - sequence.computed
        if sequence.is_decoding or whole:
            if planned + needed > ledger.limits.tokens:
                ledger.refusal = Refusal.TOKENS
                break
            planned += needed
        (decoding if sequence.is_decoding else contexts).append(sequence)
    running = set(decoding)
    for sequence in decoding:
        ledger.decode(sequence)
    if ledger.cohort.count:
        ledger.decode_only(held=[s for s in ledger.cohort.members() if s not in running])
    return contexts


def _place(sequence: Sequence) -> tuple[int, int]:
    return sequence.arrival, sequence.index


def _fitting(ledger: Ledger, lookahead: int) -> list[Sequence]:
    """Return the requests that blocks allow, in order of arrival, pausing some to let others go on."""
    limits = ledger.limits
    active = sorted(
        (*ledger.cohort.members(), *ledger.partial, *list(ledger.waiting)[: limits.sequences]),
        key=_place,
    )[: limits.sequences]
    fitting: list[Sequence] = []
    scheduled = at = 0
    while at < len(active):
        sequence = active[at]
        if not sequence.allocated and ledger.is_deferred(sequence):
            at += 1
            continue
        needed = _blocks_needed(ledger, sequence, lookahead)
        if scheduled + needed <= ledger.pool.free:
            scheduled += needed
            fitting.append(sequence)
            at += 1
            continue
        ledger.refusal = Refusal.BLOCKS
        last = next((i for i in range(len(active) - 1, at - 1, -1) if active[i].allocated), None)
        if last is None:
            break
        ledger.preempt(active[last], keep_place=True)
        del active[last:]
    return fitting


def _blocks_needed(ledger: Ledger, sequence: Sequence, lookahead: int) -> int:
    limits = ledger.limits
    if not sequence.allocated:
        _, used = ledger.pool.match(sequence)
        return limits.blocks_for(sequence.tokens) - used
    if not sequence.is_decoding:
        return 0
    computed = ledger.cohort.computed(sequence)
    left = sequence.prompt + sequence.longest_reply - computed
    return limits.blocks_for(computed + min(lookahead, left)) - limits.blocks_for(computed)
