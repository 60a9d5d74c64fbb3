"""In-flight batching: prompts and decodes in the same iteration (TensorRT-LLM)."""

from __future__ import annotations

from collections.abc import Iterator

from sim.scheduling.batch import Refusal
from sim.scheduling.ledger import Ledger
from sim.scheduling.sequence import Sequence

Chunks = list[tuple[Sequence, int]]


def inflight_batching(
    ledger: Ledger, *, chunking: str | None = None, chunk_unit: int | None = None, static: bool = False
) -> None:
    """Everybody who decodes, then prompts in order of arrival as far as tokens and promised blocks allow.

    A request is admitted only if blocks for its prompt and the longest reply it declared can be promised, so nobody is
    ever preempted (GUARANTEED_NO_EVICT), and nobody overtakes a request that has to wait for blocks. Exception: where
    prompts are cut, one that gets its first chunk can be overtaken by a shorter one behind it; and with block reuse
    one that would compute the same block as another before it waits for that, and for nobody behind it.
    Source: TensorRT-LLM capacityScheduler.cpp and microBatchScheduler.cpp, published in 2025; the scheduler of January
    2024 was closed, so that its rules are reconstructed from these.

    Parameters
    ----------
    chunking : None for whole prompts only, or how a budget too small for all prompts is shared: see `chunk_sizes`.
    chunk_unit : chunks that do not end a prompt are a multiple of this many tokens; a block unless said otherwise.
    static : admit only when nobody decodes (STATIC_BATCH).
    """
    if static and ledger.cohort.count:
        ledger.decode_all()
        return
    _decode_within_budget(ledger)
    if ledger.held:
        return
    if chunking is None:
        _admit_whole(ledger)
    else:
        places = ledger.limits.sequences - ledger.decodes
        contexts = [sequence for sequence, _ in zip(_promised(ledger), range(places), strict=False)]
        run_chunks(
            ledger, chunk_sizes(contexts, ledger.tokens_left, chunking, chunk_unit or ledger.limits.block_tokens)
        )


def _decode_within_budget(ledger: Ledger) -> None:
    cohort, budget = ledger.cohort, ledger.limits.tokens
    if cohort.count <= budget:
        ledger.decode_all()
        return
    members = list(cohort.members())
    for sequence in members[:budget]:
        ledger.decode(sequence)
    ledger.decode_only(held=members[budget:])


def _admit_whole(ledger: Ledger) -> None:
    deferred = 0
    while len(ledger.waiting) > deferred:
        head = ledger.waiting[deferred]
        longest = head.prompt + head.longest_reply
        if not ledger.can_ever_run(head, longest):
            ledger.ignore(head)
        elif ledger.is_deferred(head):
            deferred += 1
        elif not ledger.admit(head, guaranteed_tokens=longest):
            break


def _promised(ledger: Ledger) -> Iterator[Sequence]:
    """Yield the prompts to be computed, in order, as long as blocks for their whole life can be promised."""
    yield from list(ledger.partial)
    available = ledger.pool.free - ledger.guaranteed
    for sequence in list(ledger.waiting):
        if not ledger.can_ever_hold(sequence, sequence.prompt + sequence.longest_reply):
            ledger.ignore(sequence)
            continue
        if ledger.is_deferred(sequence):
            continue
        _, used = ledger.pool.match(sequence)
        available -= ledger.limits.blocks_for(sequence.prompt + sequence.longest_reply) - used
        if available < 0:
            ledger.refusal = Refusal.BLOCKS
            return
        yield sequence


def chunk_sizes(contexts: list[Sequence], budget: int, chunking: str, unit: int) -> Chunks:
    """Share a token budget between prompts, and return those that get anything, unfinished ones first.

    If all fit, all run whole. Otherwise ``FIRST_COME_FIRST_SERVED`` gives each in turn what it lacks or what is left,
    rounded down to the unit, and ``EQUAL_PROGRESS`` gives a unit to each in turn until nothing more fits.
    """
    lacking = [sequence.tokens - sequence.computed for sequence in contexts]
    if sum(lacking) <= budget:
        return list(zip(contexts, lacking, strict=True))
    sizes = [0] * len(contexts)
    if chunking == "FIRST_COME_FIRST_SERVED":
        for i, lack in enumerate(lacking):
            sizes[i] = lack if lack <= budget else budget // unit * unit
            budget -= sizes[i]
    elif chunking == "EQUAL_PROGRESS":
        progress = True
        while progress:
            progress = False
            for i, lack in enumerate(lacking):
                more = min(unit, lack - sizes[i])
                if 0 < more <= budget:
                    sizes[i] += more
                    budget -= more
                    progress = True
    else:
        raise ValueError(f"chunking is {chunking!r}; allowed: FIRST_COME_FIRST_SERVED, EQUAL_PROGRESS")
    chosen = [entry for entry in zip(contexts, sizes, lacking, strict=True) if entry[1]]
    chosen.sort(key=lambda entry: entry[1] == entry[2])
    return [(sequence, size) for sequence, size, _ in chosen]


def run_chunks(ledger: Ledger, chunks: Chunks, *, promise: bool = True) -> None:
    """Plan chunks of prompts, some begun and some new; blocks for a whole prompt are taken with its first chunk."""
    for sequence, size in chunks:
        if sequence.allocated:
            ledger.extend(sequence, size)
        else:
            longest = sequence.prompt + sequence.longest_reply if promise else 0
            ledger.admit(sequence, chunk=size, guaranteed_tokens=longest)
