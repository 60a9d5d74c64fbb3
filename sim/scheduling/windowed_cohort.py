"""Decoding sequences of a model some of whose layers see a window: what is in sight, still without touching anybody."""

from __future__ import annotations

from heapq import heappop, heappush

from sim.scheduling.cohort import Cohort
from sim.scheduling.sequence import Sequence


class WindowedCohort(Cohort):
    """A cohort that also knows how many keys its members see in layers with a window.

    The token that a member computes sees itself and those before it, at most `window` in all. A member whose window is
    not full yet sees one more in every iteration, any other as many as before; when it fills up is known on joining.

    Attributes
    ----------
    window : tokens.
    growing : members whose next token but one sees more than their next.
    """

    __slots__ = ("_fillings", "_growing_offsets", "_leaving_at", "growing", "window")

    def __init__(self, block_tokens: int, window: int) -> None:
        """Start empty."""
        super().__init__(block_tokens)
        self.window = window
        self.growing = 0
        self._growing_offsets = 0
        self._leaving_at: dict[int, int] = {}
        self._fillings: list[int] = []

    def keys(self) -> int:
        """Return how many keys all members together see with the next token of each."""
        seen_by_growing = self._growing_offsets + self.growing * (self.iteration + 1)
        return seen_by_growing + self.window * (self.count - self.growing)

    def regular_iterations(self) -> int:
        """Return for how many iterations the keys grow by as many each time; they do for ever once all are full."""
        fillings = self._fillings
        while fillings and fillings[0] not in self._leaving_at:
            heappop(fillings)
        return fillings[0] - self.iteration + 1 if fillings else 1 << 62

    def join(self, sequence: Sequence, *, for_ever: bool = False) -> None:
        """Add a sequence; see `Cohort.join`."""
        super().join(sequence, for_ever=for_ever)
        self._watch(sequence)

    def _leave(self, sequence: Sequence) -> None:
        self._forget(sequence)
        super()._leave(sequence)

    def hold(self, sequence: Sequence) -> None:
        """Let a member sit out the iteration that is planned; see `Cohort.hold`."""
        self._forget(sequence)
        super().hold(sequence)
        self._watch(sequence)

    def advance(self, iterations: int) -> list[Sequence]:
        """Run `iterations` iterations; see `Cohort.advance`."""
        finished = super().advance(iterations)
        fillings = self._fillings
        while fillings and fillings[0] <= self.iteration:
            filling = heappop(fillings)
            members = self._leaving_at.pop(filling, 0)
            self.growing -= members
            self._growing_offsets -= members * (self.window - 1 - filling)
        return finished

    def _watch(self, sequence: Sequence) -> None:
        """Count a member as growing up to the iteration whose token is the first to see a full window."""
        filling = self.window - 1 - sequence.offset
        if filling <= self.iteration:
            return
        if filling not in self._leaving_at:
            self._leaving_at[filling] = 0
            heappush(self._fillings, filling)
        self._leaving_at[filling] += 1
        self.growing += 1
        self._growing_offsets += sequence.offset

    def _forget(self, sequence: Sequence) -> None:
        filling = self.window - 1 - sequence.offset
        members = self._leaving_at.get(filling)
        if members is None:
            return
        if members == 1:
            del self._leaving_at[filling]
        else:
            self._leaving_at[filling] = members - 1
        self.growing -= 1
        self._growing_offsets -= sequence.offset
