"""The arithmetic between a policy and the machine: tokens, seats and KV blocks, so that no policy can overbook."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from sim.scheduling.batch import Limits, Refusal
from sim.scheduling.cohort import Cohort
from sim.scheduling.kv_pool import BlockPool
from sim.scheduling.prefix_cache import PrefixCache
from sim.scheduling.sequence import Sequence


class Policy(Protocol):
    """A policy looks at a ledger, says what it prefers, and lets the ledger refuse."""

    def __call__(self, ledger: Ledger) -> None:
        """Fill the next iteration."""


class Ledger:
    """What waits, what runs, and the iteration being put together.

    Policies call `admit`, `decode_all` and `ignore`; the engine calls `begin` before and `complete` after.

    Attributes
    ----------
    waiting : sequences in order of service; a preempted one returns to the front.
    cohort : sequences that decode.
    prompts : sequences whose prompt is computed in this iteration, in the order admitted.
    decodes : whether the cohort decodes in this iteration.
    new_tokens, cached_context, pairs : of this iteration's prompts: tokens to compute, tokens found in the cache, and
        causal pairs of query and key.
    preempted, ignored : sequences put back or given up while this iteration was planned.
    refusal : why the head of the queue was refused, `Refusal.NONE` if it was not.
    guaranteed : blocks promised to running sequences and not yet taken.
    """

    __slots__ = (
        "_longest",
        "_most_prompt_tokens",
        "_most_tokens",
        "_taken",
        "cached_context",
        "cohort",
        "decodes",
        "guaranteed",
        "ignored",
        "limits",
        "new_tokens",
        "pairs",
        "pool",
        "preempted",
        "prompts",
        "refusal",
        "waiting",
    )

    def __init__(self, limits: Limits, *, prefix_cache: bool = False) -> None:
        """Start with empty queues and a free pool."""
        self.limits = limits
        self.cohort = Cohort(limits.block_tokens)
        self.pool: BlockPool | PrefixCache = (
            PrefixCache(limits.blocks, limits.block_tokens, self.cohort)
            if prefix_cache
            else BlockPool(limits.blocks, limits.block_tokens)
        )
        self.waiting: deque[Sequence] = deque()
        self.guaranteed = 0
        self._most_prompt_tokens = min(limits.tokens, limits.context)
        self._most_tokens = (limits.blocks - limits.watermark_blocks) * limits.block_tokens
        self.begin()

    def begin(self) -> None:
        """Forget the last iteration."""
        self.prompts: list[Sequence] = []
        self.preempted: list[Sequence] = []
        self.ignored: list[Sequence] = []
        self.decodes = False
        self.new_tokens = self.cached_context = self.pairs = self._longest = self._taken = 0
        self.refusal = Refusal.NONE

    # What a policy asks.

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been planned or decided for this iteration."""
        return not (self.prompts or self.decodes or self.ignored)

    def can_ever_run(self, sequence: Sequence, guaranteed_tokens: int = 0) -> bool:
        """Whether the sequence would fit an empty machine."""
        tokens = sequence.prompt + sequence.generated
        return tokens <= self._most_prompt_tokens and max(tokens, guaranteed_tokens) <= self._most_tokens

    def admit(self, sequence: Sequence, guaranteed_tokens: int = 0) -> bool:
        """Plan the whole prompt of the head of the queue, or say no (see `refusal`).

        `guaranteed_tokens` is the length up to which blocks are promised, so that the sequence is never preempted.
        """
        limits, pool = self.limits, self.pool
        prompts = self.prompts
        seats = self.cohort.count + len(prompts)
        if seats >= limits.sequences:
            self.refusal = Refusal.SEATS
            return False
        tokens = sequence.prompt + sequence.generated
        block_tokens = limits.block_tokens
        blocks = -(-tokens // block_tokens)
        promise = -(-guaranteed_tokens // block_tokens) - blocks if guaranteed_tokens > tokens else 0
        hit, idle = pool.match(sequence)
        if blocks - hit + idle + promise + limits.watermark_blocks > pool.free - self.guaranteed:
            self.refusal = Refusal.BLOCKS
            return False
        cached = hit * block_tokens
        new = tokens - cached
        if not self._fits_budget(tokens, new):
            self.refusal = Refusal.TOKENS
            return False
        self.waiting.popleft()
        pool.admit(sequence, blocks)
        self.guaranteed += promise
        sequence.guaranteed_blocks = blocks + promise if guaranteed_tokens else 0
        if not sequence.preemptions:
            sequence.cached_tokens = cached
        prompts.append(sequence)
        self.new_tokens += new
        self.cached_context += cached
        self.pairs += new * cached + new * (new + 1) // 2
        return True

    def _fits_budget(self, tokens: int, new: int) -> bool:
        limits = self.limits
        if limits.paddings is None:
            decodes = self.cohort.count if self.decodes else 0
            return self.new_tokens + decodes + new <= limits.tokens
        # A rectangular batch is charged at its longest prompt, whatever part of it is cached.
        longest = max(self._longest, tokens)
        rectangle = longest * (len(self.prompts) + 1)
        packed = self.new_tokens + self.cached_context + tokens
        fits = rectangle <= limits.tokens and rectangle - packed <= limits.paddings
        if fits:
            self._longest = longest
        return fits

    def ignore(self, sequence: Sequence) -> None:
        """Give up the head of the queue for good: no machine of this size can serve it."""
        self.waiting.popleft()
        self.ignored.append(sequence)

    def decode_all(self) -> None:
        """Plan one token for every decoding sequence; their blocks must have been promised at admission."""
        if self.cohort.count:
            self._decode(self.cohort.demand(1))

    def decode_or_preempt(self) -> None:
        """Plan one token for every decoding sequence, preempting the newest until the blocks suffice.

        As in vLLM 0.2, each sequence in turn wants a free block to exist even if its last block has room: the last
        one needs what those before it took, and one more.
        """
        cohort, pool = self.cohort, self.pool
        while cohort.count:
            newest = cohort.newest()
            blocks = cohort.demand(1)
            if blocks - (cohort.computed(newest) % cohort.block_tokens == 0) < pool.free:
                self._decode(blocks)
                return
            self._preempt(newest)

    def _decode(self, blocks: int) -> None:
        self.decodes = True
        self._taken = blocks
        self.pool.take(blocks)
        if self.guaranteed:
            self.guaranteed -= blocks

    def _preempt(self, sequence: Sequence) -> None:
        self.cohort.remove(sequence)
        sequence.preemptions += 1
        self._give_back(sequence, keep=True)
        sequence.computed = 0
        self.waiting.appendleft(sequence)
        self.preempted.append(sequence)

    # What the engine asks.

    def quiet_iterations(self) -> int:
        """Return for how many decode iterations, this one included, no decision can change (arrivals aside)."""
        cohort = self.cohort
        most = cohort.next_completion()
        if self.preempted or (self.refusal and self.pool.is_written(self.waiting[0])):
            return 1  # the blocks just freed, or content being written, may let the head of the queue in
        if self.guaranteed or most == 1:
            return most
        return max(1, cohort.covered(self.pool.free + self._taken - 1, most))

    def complete(self, iterations: int) -> list[Sequence]:
        """Carry out what was planned, `iterations` times, and return the decoding sequences that are done."""
        cohort = self.cohort
        if iterations > 1:
            blocks = cohort.demand(iterations) - self._taken
            self.pool.take(blocks)
            if self.guaranteed:
                self.guaranteed -= blocks
        finished = cohort.advance(iterations)
        for sequence in finished:
            self._give_back(sequence, keep=False)
        return finished

    def complete_prompt(self, sequence: Sequence) -> bool:
        """Note that a prompt is computed and its first (or next) token is out; return whether that was the last."""
        sequence.computed = sequence.prompt + sequence.generated
        sequence.generated += 1
        if sequence.generated < sequence.target:
            self.cohort.join(sequence)
            return False
        self._give_back(sequence, keep=False)
        return True

    def _give_back(self, sequence: Sequence, *, keep: bool) -> None:
        if sequence.guaranteed_blocks:
            self.guaranteed -= sequence.guaranteed_blocks - self.limits.blocks_for(sequence.computed)
        self.pool.release(sequence, keep=keep)
