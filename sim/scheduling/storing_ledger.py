"""A ledger over a cache in which text can be found from the moment it is stored, not from when it is planned."""

from __future__ import annotations

from typing import Protocol

from sim.scheduling.batch import Limits
from sim.scheduling.ledger import Ledger
from sim.scheduling.sequence import Sequence


class Store(Protocol):
    """A pool that is told what has been computed."""

    def store(self, sequence: Sequence, tokens: int) -> None:
        """Let others find the first `tokens` tokens of a prompt, which are computed, as far as the pool wants that."""


class StoringLedger(Ledger):
    """A ledger that stores a chunk of a prompt when it has run: before anything of the iteration is given back.

    When batches are planned ahead, a chunk is stored when its batch has landed, so that the batch planned meanwhile
    does not find it.
    """

    __slots__ = ("_computed", "_store")

    def __init__(self, limits: Limits, *, late_release: bool = False) -> None:
        """Start with empty queues; a subclass provides pool and store."""
        self._computed: list[tuple[Sequence, int]] = []
        self._store: Store | None = None
        super().__init__(limits, late_release=late_release)

    def begin(self) -> None:
        """Forget the last iteration."""
        super().begin()
        if not self.flight.is_up:
            self._store_computed()

    def land(self) -> None:
        """Note that the batch in flight has run."""
        self._store_computed()
        super().land()

    def quiet_iterations(self) -> int:
        """Return for how many decode iterations, this one included, no decision can change (arrivals aside)."""
        if self._computed and self.waiting:
            return 1  # what is in flight may let somebody in when it is stored
        return super().quiet_iterations()

    def complete_chunk(self, sequence: Sequence, chunk: int) -> bool:
        """Note that a chunk is computed; return whether it was the last, so that a token is out."""
        is_last = super().complete_chunk(sequence, chunk)
        self._computed.append((sequence, sequence.computed))
        return is_last

    def retire(self, sequence: Sequence) -> bool:
        """Take back the seat and the blocks of a sequence whose reply is complete."""
        self._store_computed()
        return super().retire(sequence)

    def preempt(self, sequence: Sequence, *, keep_place: bool = False, to_end: bool = False) -> None:
        """Take a running sequence's blocks and put it back into the queue; what is in flight is not stored any more."""
        self._computed = [entry for entry in self._computed if entry[0] is not sequence]
        super().preempt(sequence, keep_place=keep_place, to_end=to_end)

    def _store_computed(self) -> None:
        if self._computed:
            assert self._store is not None
            for sequence, tokens in self._computed:
                self._store.store(sequence, tokens)
            self._computed = []
