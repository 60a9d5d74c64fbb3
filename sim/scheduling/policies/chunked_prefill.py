"""Chunked prefill in list order: what runs goes first, long prompts in pieces (vLLM V1)."""

from __future__ import annotations

from operator import attrgetter

from sim.scheduling.ledger import Ledger
from sim.scheduling.sequence import Sequence


def chunked_prefill(
    ledger: Ledger,
    *,
    chunked: bool = True,
    longest_chunk: int = 0,
    reserve_whole_prompt: bool = True,
    watermark_blocks: int = 0,
    skip_long_prompts: bool = False,
    lone_chunk_is_free: bool = True,
) -> None:
    """Everybody who runs, in order of admission, then new requests in order of arrival, as far as tokens allow.

    There is no phase: each sequence gets the tokens that it lacks, cut to what is left of the iteration's budget. A
    long prompt that runs takes all of the rest before sequences admitted after it. When blocks are missing the
    sequence admitted last is preempted and recomputed, and nobody new is admitted.
    Source: vLLM V1 (vllm/v1/core/sched/scheduler.py). The defaults are those of 0.33; 0.11 has
    `reserve_whole_prompt=False`, `skip_long_prompts=True` and `lone_chunk_is_free=False`.
    Exceptions: in 0.11, and without the reservation, a prompt larger than the pool is admitted and preempted for ever
    (a livelock), and prompts over the budget are overtaken if they may not be chunked.

    Parameters
    ----------
    chunked : whether prompts may be cut.
    longest_chunk : most tokens of one prompt in an iteration (`long_prefill_token_threshold`), 0 for no limit.
    reserve_whole_prompt : admit only if the blocks of the whole prompt are free, though only the chunk's are taken.
    watermark_blocks : blocks that an admission leaves free while anybody runs.
    skip_long_prompts : without chunking, try the next request when a prompt exceeds the budget, and put those that
        were passed over back in reversed order, as 0.11 does.
    lone_chunk_is_free : ignore `longest_chunk` while there is only one request.
    """
    if lone_chunk_is_free and ledger.running + len(ledger.waiting) == 1:
        longest_chunk = 0
    _plan_running(ledger, longest_chunk)
    if ledger.preempted:
        return
    skipped: list[Sequence] = []
    while ledger.waiting and (left := ledger.tokens_left) > 0:
        head = ledger.waiting[0]
        chunk = min(longest_chunk or left, left) if chunked else longest_chunk or None
        if ledger.admit(
            head,
            chunk=chunk,
            whole=False,
            room_tokens=head.tokens if reserve_whole_prompt else 0,
            watermark_blocks=watermark_blocks if ledger.running else 0,
        ):
            continue
        if not (skip_long_prompts and ledger.is_over_budget):
            break
        skipped.append(ledger.waiting.popleft())
    ledger.waiting.extendleft(skipped)


def _plan_running(ledger: Ledger, longest_chunk: int) -> None:
    cohort, partial = ledger.cohort, ledger.partial
    if cohort.count:
        partial_is_last = not partial or partial[0].serial > cohort.newest().serial
        if not (partial_is_last and cohort.count <= ledger.limits.tokens and cohort.demand(1) <= ledger.pool.free):
            _walk(ledger, ledger.in_order(), longest_chunk)
            return
        ledger.decode_all()
    if partial:
        _walk(ledger, sorted((*partial, *ledger.leaving), key=attrgetter("serial")), longest_chunk)


def _walk(ledger: Ledger, order: list[Sequence], longest_chunk: int) -> None:
    """Serve running sequences in order, taking blocks from the last one where they are missing."""
    context = ledger.limits.context
    decoding: set[Sequence] = set()
    walks_cohort = not ledger.decodes
    at = 0
    while at < len(order) and ledger.tokens_left - len(decoding) > 0:
        sequence = order[at]
        chunk = 1
        if sequence in ledger.leaving:
            chunk = 0
        elif not sequence.is_decoding:
            left = ledger.tokens_left - len(decoding)
            chunk = min(sequence.tokens - sequence.computed, longest_chunk or left, left)
            chunk = min(chunk, context - 1 - sequence.computed)
        at += 1
        if chunk <= 0:
            continue
        while not (ledger.decode(sequence) if sequence.is_decoding else ledger.extend(sequence, chunk)):
            victim = order.pop()
            ledger.preempt(victim)
            if victim is sequence:
                break
        else:
            if sequence.is_decoding:
                decoding.add(sequence)
            continue
        break
    if walks_cohort and ledger.cohort.count:
        ledger.decode_only(held=[s for s in ledger.cohort.members() if s not in decoding])
