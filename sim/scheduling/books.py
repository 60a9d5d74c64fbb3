"""Who waits, runs and leaves, and what an iteration that was planned changes about that."""

from __future__ import annotations

from collections import deque
from operator import attrgetter
from typing import ClassVar

from sim.scheduling.batch import Limits, Order, Refusal
from sim.scheduling.cohort import Cohort
from sim.scheduling.flight import Flight
from sim.scheduling.kv_pool import BlockPool, Pool
from sim.scheduling.prefix_cache import PrefixCache
from sim.scheduling.sequence import Sequence
from sim.scheduling.windowed_cohort import WindowedCohort


class Books:
    """The sequences and blocks of a replica, and the iteration being put together.

    A policy fills the iteration through a `Ledger`; the engine calls `begin` before it and `complete`,
    `complete_chunk` and `retire` after, with `launch` and `land` in between if it plans ahead.

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
        self.window_pairs = self.window_cached = self.window_keys = 0
        self.preempted: list[Sequence] = []
        self.ignored: list[Sequence] = []
        self.held: list[Sequence] = []
        self._admissions = 0
        self._most_prompt_tokens = min(limits.tokens, limits.context)
        self._most_tokens = (limits.blocks - limits.watermark_blocks) * limits.block_tokens
        self.begin()

    def begin(self) -> None:
        """Forget the last iteration."""
        self.chunks: list[tuple[Sequence, int]] = []
        if self.preempted:
            self.preempted = []
        if self.ignored:
            self.ignored = []
        if self.held:
            self.held = []
        self.decodes = self.context = 0
        self.samples = self.new_tokens = self.cached_context = self.pairs = 0
        if self.limits.window:
            self.window_pairs = self.window_cached = self.window_keys = 0
        self._longest = self._taken = 0
        self.refusal = Refusal.NONE

    @property
    def running(self) -> int:
        """Sequences that hold a seat."""
        return self.cohort.count + len(self.partial) + len(self.leaving)

    def in_order(self) -> list[Sequence]:
        """Return all running sequences in the order of admission."""
        if not (self.partial or self.leaving):
            return list(self.cohort.members())
        return sorted((*self.cohort.members(), *self.partial, *self.leaving), key=attrgetter("serial"))

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
        if self.ignored:
            return 1  # who waited for their answer may have come since
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

    def _put_back(self, sequence: Sequence, keep_place: bool, to_end: bool) -> None:
        place = len(self.waiting) if to_end else 0
        if keep_place:
            key = (sequence.arrival, sequence.index)
            place = sum((other.arrival, other.index) < key for other in self.waiting)
        self.waiting.insert(place, sequence)
