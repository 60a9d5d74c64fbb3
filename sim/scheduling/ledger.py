"""The arithmetic between a policy and the machine: tokens, seats and KV blocks, so that no policy can overbook."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from sim.scheduling.batch import Refusal
from sim.scheduling.books import Books
from sim.scheduling.sequence import Sequence
from sim.scheduling.windowed_cohort import WindowedCohort


class Policy(Protocol):
    """A policy looks at a ledger, says what it prefers, and lets the ledger refuse."""

    def __call__(self, ledger: Ledger) -> None:
        """Fill the next iteration."""


class Ledger(Books):
    """Books in which a policy plans: it calls `admit`, `extend`, one of the ways to decode, `preempt` and `ignore`."""

    __slots__ = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been planned or decided for this iteration."""
        return not (self.chunks or self.decodes or self.ignored)

    @property
    def tokens_left(self) -> int:
        """New tokens that the iteration being planned has room for."""
        return self.limits.tokens - self.new_tokens - self.decodes

    @property
    def is_over_budget(self) -> bool:
        """Whether the last refusal was for the tokens of this iteration."""
        return self.refusal == Refusal.TOKENS

    def can_ever_run(self, sequence: Sequence, guaranteed_tokens: int = 0) -> bool:
        """Whether the sequence would fit an empty machine, its prompt in one iteration."""
        tokens = sequence.prompt + sequence.generated
        return tokens <= self._most_prompt_tokens and tokens <= self._most_tokens >= guaranteed_tokens

    def can_ever_hold(self, sequence: Sequence, guaranteed_tokens: int = 0) -> bool:
        """Whether the sequence would fit the memory of an empty machine."""
        tokens = sequence.prompt + sequence.generated
        return tokens <= self.limits.context and max(tokens, guaranteed_tokens) <= self._most_tokens

    def admit(
        self,
        sequence: Sequence,
        *,
        chunk: int | None = None,
        guaranteed_tokens: int = 0,
        whole: bool = True,
        room_tokens: int = 0,
        watermark_blocks: int = 0,
    ) -> bool:
        """Plan the prompt of a waiting sequence, or its first chunk, or say no (see `refusal`).

        Parameters
        ----------
        chunk : most tokens of the prompt to compute now; None for all or nothing.
        guaranteed_tokens : length up to which blocks are promised, so that the sequence is never preempted.
        whole : whether the blocks of the whole prompt are taken now, or only those of the chunk.
        room_tokens : length up to which blocks must be free although they are not taken yet.
        watermark_blocks : blocks that must stay free.
        """
        limits, pool = self.limits, self.pool
        if self.cohort.count + len(self.partial) + len(self.leaving) >= limits.sequences:
            self.refusal = Refusal.SEATS
            return False
        tokens = sequence.prompt + sequence.generated
        block_tokens = limits.block_tokens
        cached, used = pool.match(sequence)
        new = tokens - cached
        if chunk is not None and new > chunk:
            new = self._cut(cached, chunk)
        allocated = tokens if whole else cached + new
        blocks = -(-allocated // block_tokens)
        promise = -(-guaranteed_tokens // block_tokens) - blocks if guaranteed_tokens > allocated else 0
        room = max(blocks, -(-room_tokens // block_tokens)) if room_tokens else blocks
        if room - used + promise + watermark_blocks > pool.free - self.guaranteed:
            self.refusal = Refusal.BLOCKS
            return False
        if not self._fits_budget(tokens, new):
            self.refusal = Refusal.TOKENS
            return False
        if self.waiting[0] is sequence:
            self.waiting.popleft()
        else:
            self.waiting.remove(sequence)
        pool.admit(sequence, blocks, cached + new)
        self.guaranteed += promise
        sequence.guaranteed_blocks = blocks + promise if guaranteed_tokens else 0
        sequence.allocated = allocated
        sequence.computed = cached
        sequence.serial = self._admissions = self._admissions + 1
        if not sequence.preemptions:
            sequence.cached_tokens = cached
        self.partial.append(sequence)
        self.chunks.append((sequence, new))
        self.samples += cached + new == tokens
        self.new_tokens += new
        self.cached_context += cached
        self.pairs += new * cached + new * (new + 1) // 2
        if limits.window:
            self._look_back(new, cached)
        return True

    def rectangle(self) -> tuple[int, int, int]:
        """Return the tokens and the causal pairs of this iteration's prompts if each is as long as the longest.

        The last number are the pairs that are in sight in layers with a window.
        """
        longest, rows = max(chunk for _, chunk in self.chunks), len(self.chunks)
        pairs = longest * self.cached_context + rows * (longest * (longest + 1) // 2)
        window = self.limits.window
        seen = sum(_seen_pairs(longest, sequence.computed, window) for sequence, _ in self.chunks) if window else 0
        return rows * longest, pairs, seen

    def is_deferred(self, sequence: Sequence) -> bool:
        """Whether a waiting sequence had better wait for content that somebody else computes in this iteration."""
        return False

    def _cut(self, cached: int, chunk: int) -> int:
        """Return how much of a chunk, behind `cached` tokens, is computed if it does not end the prompt: all of it."""
        return chunk

    def extend(self, sequence: Sequence, chunk: int) -> bool:
        """Plan the next `chunk` tokens of a prompt that has been computed in part; False if blocks are missing."""
        computed = sequence.computed
        after = computed + chunk
        blocks = 0
        if after > sequence.allocated:
            block_tokens = self.limits.block_tokens
            blocks = -(-after // block_tokens) + (-sequence.allocated // block_tokens)
            if blocks > self.pool.free - self.guaranteed:
                return False
            sequence.allocated = after
        self.pool.extend(sequence, blocks, after)
        self.chunks.append((sequence, chunk))
        self.samples += after == sequence.prompt + sequence.generated
        self.new_tokens += chunk
        self.cached_context += computed
        self.pairs += chunk * computed + chunk * (chunk + 1) // 2
        if self.limits.window:
            self._look_back(chunk, computed)
        return True

    def _look_back(self, new: int, cached: int) -> None:
        """Count what a chunk sees in layers with a window."""
        window = self.limits.window
        self.window_pairs += _seen_pairs(new, cached, window)
        self.window_cached += min(cached, window - 1)

    def _fits_budget(self, tokens: int, new: int) -> bool:
        limits = self.limits
        if limits.paddings is None:
            return 0 < new <= limits.tokens - self.new_tokens - self.decodes
        # A rectangular batch is charged at its longest prompt, whatever part of it is cached.
        longest = max(self._longest, tokens)
        rectangle = longest * (len(self.chunks) + 1)
        packed = self.new_tokens + self.cached_context + tokens
        fits = rectangle + self.decodes <= limits.tokens and rectangle - packed <= limits.paddings
        if fits:
            self._longest = longest
        return fits

    def ignore(self, sequence: Sequence) -> None:
        """Give up a waiting sequence for good: no machine of this size can serve it."""
        self.waiting.remove(sequence)
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
            blocks = cohort.demand(1)
            newest = None if blocks < pool.free else cohort.newest()
            if newest is None or blocks - (cohort.computed(newest) % cohort.block_tokens == 0) < pool.free:
                self._decode(blocks)
                return
            is_behind = bool(self.partial) and self.partial[-1].serial > newest.serial
            self.preempt(self.partial[-1] if is_behind else newest)

    def decode(self, sequence: Sequence) -> bool:
        """Take the block that one decoding sequence may need; False if there is none. End with `decode_only`."""
        if self.cohort.computed(sequence) % self.limits.block_tokens == 0:
            if self.pool.free <= self.guaranteed:
                return False
            self.pool.take(1)
            self._taken += 1
        if sequence.path:
            self.pool.fill(sequence, self.flight.findable(sequence, planned=1))
        return True

    def decode_only(self, held: Iterable[Sequence]) -> None:
        """Plan one token for every decoding sequence but those `held`, after `decode` has taken all blocks."""
        cohort = self.cohort
        sitting = list(held)
        if len(sitting) == cohort.count:
            return
        self.held = sitting
        computed = [cohort.computed(sequence) for sequence in sitting]
        if isinstance(cohort, WindowedCohort):
            self.window_keys = cohort.keys() - sum(min(tokens + 1, cohort.window) for tokens in computed)
        for sequence in sitting:
            cohort.hold(sequence)
        self.decodes = cohort.count - len(sitting)
        self.context = cohort.context + len(sitting) - sum(computed)
        cohort.ahead = 1

    def _decode(self, blocks: int) -> None:
        cohort = self.cohort
        self.decodes = cohort.count
        self.context = cohort.context
        if self.limits.window and isinstance(cohort, WindowedCohort):  # the first test is the faster one
            self.window_keys = cohort.keys()
        cohort.ahead = 1
        self._taken = blocks
        self.pool.take(blocks)
        if self.guaranteed:
            self.guaranteed -= blocks

    def queue_again(self, sequences: list[Sequence]) -> None:
        """Move decoding sequences behind all others, in the order given."""
        for sequence in sequences:
            sequence.serial = self._admissions = self._admissions + 1
        self.cohort.reorder()

    def preempt(self, sequence: Sequence, *, keep_place: bool = False, to_end: bool = False) -> None:
        """Take a running sequence's blocks, to be computed anew, and put it back into the queue.

        It goes to the front, or to its place by arrival, or to the end; if a batch is in flight, when that has landed.
        """
        findable = sequence.computed
        if sequence.is_decoding:
            findable = self.flight.findable(sequence)
            self.cohort.remove(sequence)
        elif sequence in self.leaving:
            findable = self.leaving.pop(sequence)
        else:
            self.partial.remove(sequence)
        sequence.preemptions += 1
        self._give_back(sequence, findable, keep=True)
        sequence.computed = sequence.allocated = 0
        self.preempted.append(sequence)
        if self.flight.is_up:
            self.recalled[sequence] = keep_place, to_end
        else:
            self._put_back(sequence, keep_place, to_end)


def _seen_pairs(new: int, cached: int, window: int) -> int:
    """Return the causal pairs of a chunk in layers with a window; its first tokens may see less than a full one."""
    growing = min(new, max(0, window - cached))
    return growing * cached + growing * (growing + 1) // 2 + (new - growing) * window
