"""The sequences that decode together, as a few sums: nothing is touched per iteration or per token."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from heapq import heappop, heappush
from operator import attrgetter

from sim.scheduling.sequence import Sequence

_serial = attrgetter("serial")
_NEVER = 1 << 62


class Cohort:
    """All decoding sequences, advanced by arithmetic.

    Every member computes one token an iteration. A member needs a new KV block when its computed tokens are a multiple
    of the block size, that is every `block_tokens` iterations: one counter for each residue gives the demand of any
    stretch of iterations without looking at the members.

    Attributes
    ----------
    count : members.
    iteration : decode iterations so far.
    context : sum over members of their computed tokens.
    ahead : 1 while an iteration is planned and not carried out, else 0.
    """

    __slots__ = (
        "_buckets",
        "_completions",
        "_demand",
        "_order",
        "ahead",
        "block_tokens",
        "context",
        "count",
        "iteration",
    )

    def __init__(self, block_tokens: int) -> None:
        """Start empty, for KV blocks of `block_tokens` tokens."""
        self.block_tokens = block_tokens
        self.count = 0
        self.iteration = 0
        self.context = 0
        self.ahead = 0
        # Twice the residues, so that a stretch of less than a block is one slice even where it wraps around.
        self._demand = [0] * (2 * block_tokens)
        self._completions: list[int] = []
        self._buckets: dict[int, list[Sequence]] = {}
        self._order: list[Sequence] = []

    def join(self, sequence: Sequence, *, for_ever: bool = False) -> None:
        """Add a sequence that has just emitted a token and has at least one to go, or goes on until `remove`."""
        iteration = self.iteration
        computed = sequence.computed
        sequence.offset = computed - iteration
        sequence.is_decoding = True
        sequence.completion = _NEVER if for_ever else iteration + sequence.target - sequence.generated
        self.count += 1
        self.context += computed
        residue = (iteration - computed) % self.block_tokens
        self._demand[residue] += 1
        self._demand[residue + self.block_tokens] += 1
        self._enter(sequence)
        order = self._order
        if order and order[-1].serial > sequence.serial:
            insort(order, sequence, key=_serial)
        else:
            order.append(sequence)
        if len(order) > 2 * self.count + 64:
            self._order = [member for member in order if member.is_decoding]

    def overrun(self, sequence: Sequence) -> None:
        """Let a sequence go on whose reply is complete, because nobody has noticed yet; end it with `remove`."""
        if sequence in self._order:
            self._order.remove(sequence)
        self.join(sequence, for_ever=True)

    def _enter(self, sequence: Sequence) -> None:
        completion = sequence.completion
        bucket = self._buckets.get(completion)
        if bucket is None:
            self._buckets[completion] = [sequence]
            heappush(self._completions, completion)
        else:
            bucket.append(sequence)

    def _leave(self, sequence: Sequence) -> None:
        computed = sequence.offset + self.iteration
        sequence.generated += computed - sequence.computed
        sequence.computed = computed
        sequence.is_decoding = False
        self.count -= 1
        self.context -= computed
        residue = -sequence.offset % self.block_tokens
        self._demand[residue] -= 1
        self._demand[residue + self.block_tokens] -= 1

    def remove(self, sequence: Sequence) -> None:
        """Take out a sequence before its end (preemption) and bring its counters up to date."""
        self._buckets[sequence.completion].remove(sequence)
        self._order.remove(sequence)  # it may come back
        self._leave(sequence)

    def part(self, staying: Iterable[Sequence] = ()) -> list[Sequence]:
        """Take out all members but some, and bring their counters up to date; return them in order of admission."""
        stay = set(staying)
        going = [member for member in self.members() if member not in stay]
        for sequence in going:
            self._leave(sequence)
        self._buckets.clear()
        self._completions.clear()
        for sequence in self.members():
            self._enter(sequence)
        return going

    def hold(self, sequence: Sequence) -> None:
        """Let a member sit out the iteration that is planned: as if it had joined one iteration later."""
        self._buckets[sequence.completion].remove(sequence)
        residue = -sequence.offset % self.block_tokens
        for at, change in ((residue, -1), ((residue + 1) % self.block_tokens, 1)):
            self._demand[at] += change
            self._demand[at + self.block_tokens] += change
        sequence.offset -= 1
        self.context -= 1
        sequence.completion += 1
        self._enter(sequence)

    def newest(self) -> Sequence:
        """Return the member that was admitted last."""
        order = self._order
        while not order[-1].is_decoding:
            order.pop()
        return order[-1]

    def reorder(self) -> None:
        """Sort the members again after their serial numbers have changed."""
        self._order = sorted((member for member in self._order if member.is_decoding), key=_serial)

    def members(self) -> list[Sequence]:
        """Return the members in the order in which they were admitted."""
        self._order = [member for member in self._order if member.is_decoding]
        return self._order

    def computed(self, sequence: Sequence) -> int:
        """Return how many tokens of a member are computed when what is planned has run."""
        return sequence.offset + self.iteration + self.ahead

    def next_completion(self) -> int:
        """Return how many iterations the member nearest to its end still needs; the cohort must not be empty."""
        completions = self._completions
        while not self._buckets[completions[0]]:
            del self._buckets[heappop(completions)]
        return completions[0] - self.iteration

    def demand(self, iterations: int) -> int:
        """Return the new KV blocks that the next `iterations` iterations need."""
        if iterations == 1:
            return self._demand[self.iteration % self.block_tokens]
        cycles, rest = divmod(iterations, self.block_tokens)
        blocks = cycles * self.count
        if rest:
            start = self.iteration % self.block_tokens
            blocks += sum(self._demand[start : start + rest])
        return blocks

    def covered(self, blocks: int, most: int) -> int:
        """Return the largest number of iterations, up to `most`, that need no more than `blocks` new blocks."""
        if self.count * (most // self.block_tokens + 1) <= blocks or self.demand(most) <= blocks:
            return most  # the first test is the faster one
        low, high = 0, most
        while high - low > 1:
            middle = (low + high) // 2
            if self.demand(middle) <= blocks:
                low = middle
            else:
                high = middle
        return low

    def advance(self, iterations: int) -> list[Sequence]:
        """Run `iterations` iterations and return those that are done with the last one, in the order of admission."""
        self.ahead = 0
        self.iteration += iterations
        self.context += self.count * iterations
        completions = self._completions
        if not completions or completions[0] > self.iteration:
            return []
        finished = self._buckets.pop(heappop(completions))
        if len(finished) > 1:
            finished.sort(key=_serial)
        for sequence in finished:
            self._leave(sequence)
        return finished
