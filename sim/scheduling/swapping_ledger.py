"""The ledger of vLLM 0.2 and 0.3 where requests may ask for several replies, of which the best is returned."""

from __future__ import annotations

from bisect import insort
from collections import deque
from dataclasses import dataclass
from operator import attrgetter

from sim.scheduling.batch import Limits, Refusal
from sim.scheduling.pinned_prefixes import PinningLedger
from sim.scheduling.sequence import Sequence

_arrival = attrgetter("arrival")
"""Of requests that arrived together, the one goes first that came into the list first."""


@dataclass
class Group:
    """The replies to one prompt: all members of the cohort, sharing the blocks of the prompt.

    Attributes
    ----------
    leader : the sequence that the engine knows; the others answer to nobody.
    members : all of them.
    shared_tokens : length of the prompt, whose last block each reply but one copies when it starts.
    host_blocks : blocks in the memory of the host while it is swapped out.
    """

    leader: Sequence
    members: list[Sequence]
    shared_tokens: int
    host_blocks: int = 0

    def own_blocks(self, block_tokens: int) -> int:
        """Return the blocks that the replies hold beyond those of the leader."""
        computed = self.leader.computed
        if computed == self.shared_tokens:
            return 0
        return (len(self.members) - 1) * (-(-computed // block_tokens) - self.shared_tokens // block_tokens)


class SwappingLedger(PinningLedger):
    """A ledger for requests with several replies (`Sequence.best_of`), which are swapped out instead of recomputed.

    A preempted group goes to the memory of the host; while one is there, no prompt is admitted. For policies that
    decode with `decode_or_preempt`. Source: vllm/core/scheduler.py and block_manager.py of vLLM 0.2.7. Since 0.4.3 it
    can be told to swap requests with one reply as well (--preemption-mode swap, vllm/engine/arg_utils.py).

    Attributes
    ----------
    host_free : free blocks there.
    """

    __slots__ = (
        "_groups",
        "_has_shared_tails",
        "_has_walked",
        "_host_blocks",
        "_least_replies",
        "host_free",
    )

    def __init__(self, limits: Limits, host_blocks: int, *, swaps_all: bool = False) -> None:
        """Start with empty queues and free pools.

        Parameters
        ----------
        swaps_all : whether requests with one reply are swapped out, too.
        """
        super().__init__(limits)
        self._least_replies = 1 if swaps_all else 2
        self._groups: dict[Sequence, Group] = {}
        self._has_shared_tails = False
        self.host_free = self._host_blocks = host_blocks

    def begin(self) -> None:
        """Forget the last iteration."""
        super().begin()
        self.returning = []
        self._has_walked = False

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
        """Plan the prompt of a waiting sequence, or say no; each of its replies needs a seat."""
        seats = self.cohort.count + sum(other.best_of for other in self.partial)
        if seats + sequence.best_of > self.limits.sequences:
            self.refusal = Refusal.SEATS
            return False
        return super().admit(
            sequence,
            chunk=chunk,
            guaranteed_tokens=guaranteed_tokens,
            whole=whole,
            room_tokens=room_tokens,
            watermark_blocks=watermark_blocks,
        )

    def complete_chunk(self, sequence: Sequence, chunk: int) -> bool:
        """Note that a chunk is computed; with the last one the replies part ways."""
        is_last = super().complete_chunk(sequence, chunk)
        if is_last and sequence.best_of >= self._least_replies and sequence.generated < sequence.target:
            group = Group(sequence, [sequence], sequence.computed)
            for _ in range(sequence.best_of - 1):
                reply = Sequence(
                    sequence.index, sequence.arrival, sequence.prompt, sequence.target, sequence.longest_reply
                )
                reply.best_of = 0
                reply.serial, reply.computed, reply.generated = sequence.serial, sequence.computed, sequence.generated
                group.members.append(reply)
                self.cohort.join(reply)
            self._groups[sequence] = group
            self._has_shared_tails |= sequence.best_of > 1 and sequence.computed % self.limits.block_tokens > 0
        return is_last

    def decode_or_preempt(self) -> None:
        """Plan one token for every reply, taking out the newest requests until the blocks suffice.

        Each request in turn wants a free block for each of its replies. Then those swapped out come back, if nobody
        had to leave.
        """
        if not (self._groups or self.swapped):
            super().decode_or_preempt()
            return
        blocks = self.cohort.demand(1)
        if self.cohort.count and not (
            self._has_shared_tails or self.swapped or blocks + self._widest() > self.pool.free
        ):
            self._decode(blocks)
            return
        self._has_walked = True
        order = deque(sorted((member for member in self.cohort.members() if member.best_of), key=_arrival))
        while order:
            sequence = order.popleft()
            while self.pool.free < sequence.best_of:
                victim = order.pop() if order else sequence
                self.preempt(victim)
                if victim is sequence:
                    break
            else:
                self._append(sequence)
        self._has_shared_tails = False
        while self.swapped and not self.preempted and self._swap_in(self.swapped[0]):
            pass
        self.decode_only(held=())

    def _widest(self) -> int:
        return max((group.leader.best_of for group in self._groups.values()), default=1)

    def _append(self, sequence: Sequence) -> None:
        """Take the blocks that one more token of each reply needs."""
        group, computed = self._groups.get(sequence), self.cohort.computed(sequence)
        if computed % self.limits.block_tokens == 0:
            self.pool.take(sequence.best_of)
        elif group is not None and computed == group.shared_tokens:
            self.pool.take(sequence.best_of - 1)  # all but one copy the block to write into it

    def preempt(self, sequence: Sequence, *, keep_place: bool = False, to_end: bool = False) -> None:
        """Take a running sequence's blocks, to be computed anew, or swap out a group of replies.

        Raises
        ------
        ValueError
            If the memory of the host is full, which ends the real server, too.
        """
        group = self._groups.get(sequence)
        if group is None:
            super().preempt(sequence, keep_place=keep_place, to_end=to_end)
            return
        for member in group.members:
            self.cohort.remove(member)
        sequence.preemptions += 1
        group.host_blocks = self._held(group)
        if group.host_blocks > self.host_free:
            raise ValueError(
                f"host_blocks is {self._host_blocks}; allowed: enough for all that is swapped out, and a request with "
                f"{len(group.members)} replies needs {group.host_blocks} where {self.host_free} are free"
            )
        self._give_back(sequence, sequence.computed, keep=True)
        sequence.prefix = 0  # what comes back is a copy of its own
        self.host_free -= group.host_blocks
        self.moved_blocks += group.host_blocks
        self.preempted.append(sequence)
        insort(self.swapped, sequence, key=_arrival)

    def _swap_in(self, sequence: Sequence) -> bool:
        """Bring back a group and plan its next tokens, if there are seats, and a free block more for each reply."""
        group = self._groups[sequence]
        blocks = group.host_blocks
        if self.pool.free - blocks - sequence.best_of < self.limits.watermark_blocks:
            return False
        if self.cohort.count + sequence.best_of > self.limits.sequences:
            return False
        self.swapped.pop(0)
        self.pool.take(blocks)
        self.host_free += blocks
        self.moved_blocks += blocks
        self._admissions += 1
        for member in group.members:
            member.serial = self._admissions
            self.cohort.join(member)
        self._append(sequence)
        self.returning.append(sequence)
        return True

    def quiet_iterations(self) -> int:
        """Return for how many decode iterations, this one included, no decision can change (arrivals aside)."""
        if self._has_walked or self.preempted:
            return 1
        most = super().quiet_iterations()
        if most > 1 and self._groups:
            most = max(1, self.cohort.covered(self.pool.free + self._taken - self._widest(), most))
        return most

    def complete(self, iterations: int) -> list[Sequence]:
        """Carry out the decoding that was planned, and return the leaders that are done."""
        return [sequence for sequence in super().complete(iterations) if sequence.best_of]

    def retire(self, sequence: Sequence) -> bool:
        """Take back the blocks of a request whose replies are complete."""
        is_wasted = super().retire(sequence)
        self._groups.pop(sequence, None)
        return is_wasted

    def _held(self, group: Group) -> int:
        size = self.limits.block_tokens
        return -(-group.leader.computed // size) + group.own_blocks(size)

    def _give_back(self, sequence: Sequence, findable: int, *, keep: bool) -> None:
        super()._give_back(sequence, findable, keep=keep)
        group = self._groups.get(sequence)
        if group is not None:
            self.pool.free += group.own_blocks(self.limits.block_tokens)
