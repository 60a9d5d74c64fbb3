"""A replica of several stages: as many batches in flight as it has stages, each of other sequences."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

from simpy import Environment, Event

from sim.engine.clock import PipelineClock
from sim.engine.engine import RETURNED, Engine
from sim.engine.moments import DECISION, Moment
from sim.scheduling.ledger import Ledger, Policy
from sim.scheduling.sequence import Sequence


@dataclass
class _Batch:
    """What comes out of the last stage at `end` [ticks]: whose tokens, and which of them were the last."""

    end: int
    emitting: list[Sequence]
    finished: list[Sequence]


class PipelinedEngine(Engine):
    """A replica whose layers are on several stages, which work on different batches at the same time.

    One scheduler fills a queue as deep as there are stages. It decides on a batch as soon as the queue has room, also
    while the first stage is busy, and goes on until nobody is left to plan; then it waits for the oldest batch and sees
    only then who has arrived meanwhile. A sequence whose next token is in flight cannot be planned, so that sequences
    stay in the batch that they came with, however unequal these are; a prompt computed in part goes on with its next
    chunk in the very next batch. Each stage takes batches in order and one at a time: a stage without a batch is the
    bubble.
    Source: vLLM V1 (`step_with_batch_queue` in vllm/v1/engine/core.py, `max_concurrent_batches` in
    vllm/v1/executor/multiproc_executor.py).

    Every batch is a decision of its own: nothing is fast-forwarded. A row of the log is the time in which its batch was
    the next to come out; rows do not overlap, and gaps between tokens are logged one by one.

    Parameters
    ----------
    clock : what each stage takes for a batch.
    started, ended, observe : see `Engine`.
    """

    def __init__(
        self,
        env: Environment,
        ledger: Ledger,
        policy: Policy,
        clock: PipelineClock,
        *,
        started: Callable[[Sequence, int], None],
        ended: Callable[[Sequence, int, bool], None],
        observe: Callable[[Ledger, int], None] | None = None,
    ) -> None:
        """Start idle."""
        super().__init__(
            env, ledger, policy, clock.accounting, started=started, ended=ended, observe=observe, coast=False
        )
        self._stages = clock.stages
        self._decide = self._decide_on_batches
        self._batches: deque[_Batch] = deque()
        self._free_at = [0] * len(clock.stages)
        self._last_end = 0

    def _decide_on_batches(self, _: Event) -> None:
        """Hand out the batch that is done, and plan until the queue is full or nobody is left."""
        now, batches = int(self.env.now), self._batches
        if batches:
            self._land(batches.popleft())
        while len(batches) < len(self._stages) and self._fill(now):
            pass
        self._wake = Moment(self.env, batches[0].end - now, self._decide, DECISION) if batches else None

    def _fill(self, now: int) -> bool:
        """Ask the policy and start what it wants; return whether it may be asked again."""
        ledger = self.ledger
        ledger.flight.is_up = bool(self._batches)
        ledger.begin()
        if self.livelocked is not None:
            return False
        aboard = set(ledger.leaving)
        self.policy(ledger)
        ledger.put_back([sequence for sequence in ledger.preempted if sequence not in aboard])
        if self._observe is not None:
            self._observe(ledger, now)
        for sequence in ledger.preempted:
            self.log.pauses.extend((self._row + 1, sequence.index, 1))
            if sequence.tokens > self._pool_tokens and self._goes_round(sequence):
                self.livelocked = sequence
                return False
        for sequence in ledger.ignored:
            self._ended(sequence, now, False)
        released = ledger.lingering and ledger.release_lingering()
        if ledger.chunks or ledger.decodes:
            self._send(now)
            return True
        return bool(ledger.preempted or ledger.ignored or released)

    def _send(self, now: int) -> None:
        """Send a batch through the stages, and enter it in the books as of its end."""
        ledger = self.ledger
        new_tokens, pairs, window_pairs = self._note_prompts() if ledger.chunks else (0, 0, 0)
        end = now
        for stage, clock in enumerate(self._stages):
            ticks = clock.iteration(
                ledger.samples,
                new_tokens,
                pairs,
                ledger.cached_context,
                ledger.decodes,
                ledger.context,
                window_pairs,
                ledger.window_cached,
                ledger.window_keys,
            )
            end = self._free_at[stage] = max(end, self._free_at[stage]) + ticks
        self._start = max(now, self._last_end)
        self._first, self._growth, self._planned = end - self._start, 0, 1
        self._last_end = end
        self._write_row()
        self.log.short[RETURNED] = ledger.decodes  # gaps between tokens are logged one by one
        emitting, finished = self._take_out()
        self._batches.append(_Batch(end, emitting, finished))

    def _note_held(self) -> None:
        """Leave it to the gaps who sat out what."""

    def _take_out(self) -> tuple[list[Sequence], list[Sequence]]:
        """Take who emits a token out of reach of the next plan; return these, and those that are then done."""
        ledger = self.ledger
        finished: list[Sequence] = []
        emitting: list[Sequence] = []
        if ledger.decodes:
            finished = ledger.complete(1)
            emitting = finished + ledger.cohort.part(ledger.held)
        for sequence, chunk in ledger.chunks:
            if ledger.complete_chunk(sequence, chunk):
                emitting.append(sequence)
                if sequence.generated == sequence.target:
                    finished.append(sequence)
        finished.sort(key=attrgetter("serial"))
        for sequence in emitting:
            ledger.leaving[sequence] = sequence.computed
        return emitting, finished

    def _land(self, batch: _Batch) -> None:
        """Hand out the tokens of a batch and let its sequences go on."""
        ledger, end, gaps = self.ledger, batch.end, self.log.gaps
        ledger.flight.is_up = True
        for sequence in batch.emitting:
            if sequence.last_emission < 0:
                self._started(sequence, end)
            else:
                gaps.extend((end, end - sequence.last_emission))
            sequence.last_emission = end
        done = set(batch.finished)
        for sequence in batch.emitting:
            if sequence in done:
                continue
            if sequence in ledger.recalled:
                ledger.put_back([sequence])
            else:
                del ledger.leaving[sequence]
                ledger.cohort.join(sequence)
        for sequence in batch.finished:
            ledger.retire(sequence)
            self._ended(sequence, end, True)
