"""The arithmetic between a policy and the machine: tokens, seats and KV blocks, so that no policy can overbook."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from operator import attrgetter
from typing import ClassVar, Protocol

from sim.scheduling.batch import Limits, Order, Refusal
from sim.scheduling.cohort import Cohort
from sim.scheduling.flight import Flight
from sim.scheduling.kv_pool import BlockPool, Pool
from sim.scheduling.prefix_cache import PrefixCache
from sim.scheduling.sequence import Sequence
from sim.scheduling.windowed_cohort import WindowedCohort


class Policy(Protocol):
    """A policy looks at a ledger, says what it prefers, and lets the ledger refuse."""

    def __call__(self, ledger: Ledger) -> None:
        """Fill the next iteration."""


class Ledger:
    """What waits, what runs, and the iteration being put together.

    Policies call `admit`, `extend`, one of the ways to decode, `preempt` and `ignore`; the engine calls `begin` before
    and the `complete` methods after.

    Attributes
    ----------
    waiting : sequences in order of service; a preempted one returns to the front.
    partial : sequences whose prompt is computed in part, in order of admission.
    cohort : sequences that decode.
    chunks : (sequence, tokens) of the prompts in this iteration, in the order planned.
    decodes, context : how many of the cohort decode in this iteration, and the sum of their computed tokens.
    held : those of the cohort that sit this iteration out.
    samples, new_tokens, cached_context, pairs : of this iteration's chunks: how many end their prompt, tokens to
        compute, tokens computed before, and causal pairs of query and key.
    window_pairs, window_cached, window_keys : pairs and tokens computed before that are in sight in layers with a
        window, and keys that decoding sequences see there, with the new ones; 0 without such layers.
    flight : the batch that runs while the next one is planned, if that is done ahead.
    leaving : sequences whose last token is in flight; they hold seat and blocks, and nothing is planned for them.
    recalled : sequences preempted while a batch is in flight, and how they will queue: their token may be in it.
    lingering : finished sequences whose blocks are not back yet.
    preempted, ignored : sequences put back or given up while this iteration was planned.
    refusal : why the head of the queue was refused, `Refusal.NONE` if it was not.
    guaranteed : blocks promised to running sequences and not yet taken.
    order : set by policies that do not serve in order of arrival; they keep `waiting` in their own order.
    spare_blocks : set by policies that want more blocks free than an iteration of decoding takes: at most this many.
    pads : set where the prompts of an iteration are computed as a rectangle, each as long as the longest.
    keeps_rows : whether decoding is charged for the rows of a batch: only in a `StaticLedger`.
    swapped, returning, moved_blocks : sequences whose blocks are in the memory of the host, those that come back with
        this iteration, and blocks that were moved since somebody set this to 0. Only `SwappingLedger` has any.
    """

    __slots__ = (
        "_admissions",
        "_late_release",
        "_longest",
        "_most_prompt_tokens",
        "_most_tokens",
        "_taken",
        "cached_context",
        "chunks",
        "cohort",
        "context",
        "decodes",
        "flight",
        "guaranteed",
        "has_released",
        "held",
        "ignored",
        "leaving",
        "limits",
        "lingering",
        "moved_blocks",
        "new_tokens",
        "order",
        "pads",
        "pairs",
        "partial",
        "pool",
        "preempted",
        "recalled",
        "refusal",
        "returning",
        "samples",
        "spare_blocks",
        "swapped",
        "waiting",
        "window_cached",
        "window_keys",
        "window_pairs",
    )

    keeps_rows: ClassVar[bool] = False

    def __init__(
        self,
        limits: Limits,
        *,
        prefix_cache: bool = False,
        unhashed_blocks_first: bool = True,
        late_release: bool = False,
    ) -> None:
        """Start with empty queues and a free pool.

        Parameters
        ----------
        unhashed_blocks_first : see `PrefixCache`.
        late_release : keep the blocks of a finished sequence until the next iteration has been planned.
        """
        self.limits = limits
        self.cohort = (
            WindowedCohort(limits.block_tokens, limits.window) if limits.window else Cohort(limits.block_tokens)
        )
        self.flight = Flight(self.cohort)
        self.leaving = self.flight.leaving
        self.pool: Pool = (
            PrefixCache(limits.blocks, limits.block_tokens, self.flight.findable, unhashed_first=unhashed_blocks_first)
            if prefix_cache
            else BlockPool(limits.blocks, limits.block_tokens)
        )
        self.waiting: deque[Sequence] = deque()
        self.partial: list[Sequence] = []
        self.lingering: list[Sequence] = []
        self.recalled: dict[Sequence, tuple[bool, bool]] = {}
        self.has_released = False
        self._late_release = late_release
        self.swapped: list[Sequence] = []
        self.returning: list[Sequence] = []
        self.moved_blocks = 0
        self.guaranteed = 0
        self.order = Order.ARRIVAL
        self.pads = False
        self.spare_blocks = 0
        self._admissions = 0
        self._most_prompt_tokens = min(limits.tokens, limits.context)
        self._most_tokens = (limits.blocks - limits.watermark_blocks) * limits.block_tokens
        self.begin()

    def begin(self) -> None:
        """Forget the last iteration."""
        self.chunks: list[tuple[Sequence, int]] = []
        self.preempted: list[Sequence] = []
        self.ignored: list[Sequence] = []
        self.held: list[Sequence] = []
        self.decodes = self.context = 0
        self.samples = self.new_tokens = self.cached_context = self.pairs = 0
        self.window_pairs = self.window_cached = self.window_keys = 0
        self._longest = self._taken = 0
        self.refusal = Refusal.NONE

    # What a policy asks.

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been planned or decided for this iteration."""
        return not (self.chunks or self.decodes or self.ignored)

    @property
    def running(self) -> int:
        """Sequences that hold a seat."""
        return self.cohort.count + len(self.partial) + len(self.leaving)

    def in_order(self) -> list[Sequence]:
        """Return all running sequences in the order of admission."""
        if not (self.partial or self.leaving):
            return list(self.cohort.members())
        return sorted((*self.cohort.members(), *self.partial, *self.leaving), key=attrgetter("serial"))

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
            newest = cohort.newest()
            blocks = cohort.demand(1)
            if blocks - (cohort.computed(newest) % cohort.block_tokens == 0) < pool.free:
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
        self.decodes = self.cohort.count
        self.context = self.cohort.context
        if isinstance(self.cohort, WindowedCohort):
            self.window_keys = self.cohort.keys()
        self.cohort.ahead = 1
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

    def _put_back(self, sequence: Sequence, keep_place: bool, to_end: bool) -> None:
        place = len(self.waiting) if to_end else 0
        if keep_place:
            key = (sequence.arrival, sequence.index)
            place = sum((other.arrival, other.index) < key for other in self.waiting)
        self.waiting.insert(place, sequence)

    # What the engine asks.

    def decoding_rows(self) -> tuple[int, int]:
        """Return for how many sequences decoding is charged, and the tokens they hold together before it."""
        return self.decodes, self.context

    def keep(self, finished: list[Sequence]) -> list[Sequence]:
        """Take in sequences whose reply is complete, and return those who may go: all of them."""
        return finished

    def sight(self) -> tuple[int, int, int]:
        """Return what the decoding planned sees in layers with a window, which the limits must have.

        Keys, with the new ones; by how many they grow in each further iteration; and for how many iterations so.
        """
        cohort = self.cohort
        assert isinstance(cohort, WindowedCohort)  # the engine has seen to it
        return self.window_keys, cohort.growing, cohort.regular_iterations()

    def quiet_iterations(self) -> int:
        """Return for how many decode iterations, this one included, no decision can change (arrivals aside)."""
        cohort = self.cohort
        if self.preempted or self.held or self.has_released or self.flight.ending:
            return 1
        if self.refusal and self.waiting and self.pool.is_written(self.waiting[0]):
            return 1  # content being written may let the head of the queue in
        if self.order == Order.CHANGING and self.waiting:
            return 1
        if self.leaving and (self.waiting or self.partial):
            return 1  # so may the seats and blocks that are about to be free
        most = cohort.next_completion()
        if self.guaranteed or most == 1:
            return most
        return max(1, cohort.covered(self.pool.free + self._taken - 1 - self.spare_blocks, most))

    def complete(self, iterations: int) -> list[Sequence]:
        """Carry out the decoding that was planned, `iterations` times, and return the sequences that are done."""
        if iterations > 1:
            blocks = self.cohort.demand(iterations) - self._taken
            self.pool.take(blocks)
            if self.guaranteed:
                self.guaranteed -= blocks
        return self.cohort.advance(iterations)

    def complete_chunk(self, sequence: Sequence, chunk: int) -> bool:
        """Note that a chunk is computed; return whether it was the last, so that a token is out."""
        sequence.computed += chunk
        if sequence.computed < sequence.prompt + sequence.generated:
            return False
        self.partial.remove(sequence)
        sequence.generated += 1
        return True

    def launch(self, finished: list[Sequence]) -> None:
        """Note that what was planned, and has just been completed in the books, now begins to run.

        `finished` sequences are to be retired when the batch has run, before `land`.
        """
        prompts = [sequence for sequence, _ in self.chunks]
        self.flight.launch(finished, prompts, self.held, self.decodes, self.limits.context)

    def land(self) -> None:
        """Note that the batch in flight has run."""
        self.flight.land()
        if self.recalled:
            self.put_back(list(self.recalled))

    def put_back(self, recalled: list[Sequence]) -> None:
        """Queue preempted sequences again that have no batch in flight any more."""
        for sequence in recalled:
            if sequence in self.recalled:
                self._put_back(sequence, *self.recalled.pop(sequence))

    def retire(self, sequence: Sequence) -> bool:
        """Take back the seat and the blocks of a sequence whose reply is complete.

        Returns whether a token too many is planned for it.
        """
        findable = sequence.computed
        is_wasted = False
        if self.flight.is_up:
            if sequence in self.recalled:
                del self.recalled[sequence]  # preempted while its last token was in flight
                return False
            if sequence.is_decoding:
                is_wasted = bool(self.decodes) and sequence not in self.held
                findable = sequence.prompt + sequence.target - 1
                self.cohort.remove(sequence)
                sequence.computed = findable + is_wasted
            else:
                del self.leaving[sequence]
        if self._late_release:
            self.lingering.append(sequence)
        else:
            self._give_back(sequence, findable, keep=False)
        return is_wasted

    def release_lingering(self) -> bool:
        """Take back the blocks of sequences that finished before the last decision; return whether there were any."""
        for sequence in self.lingering:
            self._give_back(sequence, sequence.computed, keep=False)
        self.has_released = bool(self.lingering)
        self.lingering = []
        return self.has_released

    def _give_back(self, sequence: Sequence, findable: int, *, keep: bool) -> None:
        if sequence.guaranteed_blocks:
            held = max(sequence.computed, sequence.allocated)
            self.guaranteed -= sequence.guaranteed_blocks - self.limits.blocks_for(held)
        self.pool.release(sequence, findable=findable, keep=keep)


def _seen_pairs(new: int, cached: int, window: int) -> int:
    """Return the causal pairs of a chunk in layers with a window; its first tokens may see less than a full one."""
    growing = min(new, max(0, window - cached))
    return growing * cached + growing * (growing + 1) // 2 + (new - growing) * window
