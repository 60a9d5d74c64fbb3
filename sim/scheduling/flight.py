"""The batch that runs while the next one is planned: its tokens are counted, but nobody has seen them yet."""

from __future__ import annotations

from sim.scheduling.cohort import Cohort
from sim.scheduling.sequence import Sequence


class Flight:
    """What is only known once the batch in flight has landed; empty unless batches are planned ahead.

    A token in flight has its place (its sequence may be planned to decode on from it), but not its content. A block
    that ends with it can therefore not be found by others before the batch has landed.

    Attributes
    ----------
    leaving : sequences whose last token is in flight, and how many of their computed tokens others may find. They
        need no further iteration, yet hold seat and blocks until the batch lands.
    ending : the same of sequences whose last token is in flight although their reply might be longer: they decode on.
    is_up : whether a batch is in flight.
    """

    __slots__ = ("_cohort", "_has_decodes", "_joined", "_resting", "ending", "is_up", "leaving")

    def __init__(self, cohort: Cohort) -> None:
        """Start with nothing in flight; `cohort` tells how far decoding sequences have come."""
        self._cohort = cohort
        self.leaving: dict[Sequence, int] = {}
        self.ending: dict[Sequence, int] = {}
        self._resting: list[Sequence] = []
        self._joined: list[Sequence] = []
        self.land()

    def launch(
        self, finished: list[Sequence], prompts: list[Sequence], resting: list[Sequence], decodes: int, context: int
    ) -> None:
        """Note that a batch has begun, after its tokens have been counted.

        A reply that is as long as it may be is known to end. Any other seems to go on until its last token is seen, so
        that one token too many is planned for it.

        Parameters
        ----------
        finished : sequences whose last token it computes.
        prompts : those of which it computes a part of the prompt.
        resting, decodes : members of the cohort that sit it out, and how many do not.
        context : longest prompt and reply together.
        """
        self.is_up = True
        self._has_decodes = decodes > 0
        self._resting = resting
        for sequence in finished:
            # The last tokens of a prompt were known beforehand, what a decode appends was not.
            findable = sequence.computed - (sequence not in prompts)
            if sequence.target < min(sequence.longest_reply, context - sequence.prompt):
                self._cohort.overrun(sequence)
                self.ending[sequence] = findable
            else:
                self.leaving[sequence] = findable
        self._joined = [sequence for sequence in prompts if sequence.is_decoding]

    def land(self) -> None:
        """Note that the batch is done."""
        self.is_up = self._has_decodes = False
        self._resting = self._joined = []
        self.leaving.clear()
        self.ending.clear()

    def findable(self, sequence: Sequence, planned: int = 0) -> int:
        """Return how many tokens of a sequence others may find that is decoding or about to leave; of others 0.

        `planned` tokens more are about to be planned for it.
        """
        if not sequence.is_decoding:
            return self.leaving.get(sequence, 0)
        computed = self._cohort.computed(sequence) + planned
        if not self.is_up:
            return computed
        is_aboard = sequence in self._joined or (self._has_decodes and sequence not in self._resting)
        return max(self.ending.get(sequence, sequence.computed), computed - is_aboard)
