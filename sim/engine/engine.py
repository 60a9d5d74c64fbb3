"""One replica: asks the policy what to run, waits as long as the clock says, and carries it out."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from operator import attrgetter

from simpy import Environment, Event
from simpy.events import EventPriority

from sim.engine.clock import IterationClock
from sim.engine.log import SHORT, Log
from sim.scheduling.ledger import Ledger, Policy
from sim.scheduling.sequence import Sequence

ARRIVAL, DECISION = EventPriority(1), EventPriority(2)
"""Priorities of events at one instant: a decision sees everything that has arrived by then."""

_ITERATIONS = SHORT.index("iterations") - len(SHORT)
_JOINED = SHORT.index("joined") - len(SHORT)
_RETURNED = SHORT.index("returned") - len(SHORT)


class Moment(Event):
    """An event that will happen after `delay` ticks and calls `callback`; nothing waits for it or cancels it."""

    def __init__(
        self, env: Environment, delay: int, callback: Callable[[Event], None], priority: EventPriority
    ) -> None:
        """Schedule the callback."""
        self.env = env
        self.callbacks = [callback]
        self._ok = True
        self._value = None
        env.schedule(self, priority, delay)


class Engine:
    """A replica that runs one iteration after another, fast-forwarding where nothing can change.

    While only decoding goes on, decisions can change at the next completion, at a shortage of blocks, or at an
    arrival. The engine plans all iterations up to the first of these at once; an arrival cuts the plan after the
    iteration in flight, unless the head of the queue is already refused, for then nobody behind it can be served.
    Step by step is the same with a horizon of one iteration, and gives the same ticks.

    Parameters
    ----------
    started : called with a sequence and the time [ticks] when its first token is out.
    ended : called with a sequence, the time [ticks], and whether it was served, when it leaves for good.
    observe : called with the ledger and the time [ticks] after every decision, for those who want to look.
    coast : False to plan a single iteration at a time.
    """

    def __init__(
        self,
        env: Environment,
        ledger: Ledger,
        policy: Policy,
        clock: IterationClock,
        *,
        started: Callable[[Sequence, int], None],
        ended: Callable[[Sequence, int, bool], None],
        observe: Callable[[Ledger, int], None] | None = None,
        coast: bool = True,
    ) -> None:
        """Start idle."""
        self.env = env
        self.ledger = ledger
        self.policy = policy
        self.clock = clock
        self.log = Log()
        self._started = started
        self._ended = ended
        self._observe = observe
        self._coast = coast
        samples = clock.samples_ticks
        self._decode_ticks = [
            clock.base + clock.decode_ticks + clock.tokens_ticks[n] + samples[n]
            for n in range(min(ledger.limits.sequences + 1, len(clock.tokens_ticks), len(samples)))
        ]
        self._wake: Moment | None = None
        self._start = self._first = self._growth = self._planned = 0
        self._interruptible = False
        self._row = -1
        self._paused: list[Sequence] = []
        self._last_decode_row = self._last_decode_end = -1

    def receive(self, sequence: Sequence) -> None:
        """Take in a request that arrives now; requests of one instant queue in order of their index."""
        waiting = self.ledger.waiting
        later = []
        while waiting and waiting[-1].arrival == sequence.arrival and waiting[-1].index > sequence.index:
            later.append(waiting.pop())
        waiting.append(sequence)
        waiting.extend(reversed(later))
        if self._wake is None:
            self._wake = Moment(self.env, 0, self._decide, DECISION)
        elif self._interruptible:
            self._interrupt()

    def _interrupt(self) -> None:
        """End the stretch with the iteration in flight."""
        self._interruptible = False
        now = int(self.env.now)
        iterations = _iterations_to_reach(now - self._start, self._first, self._growth)
        if iterations < self._planned:
            self._planned = iterations
            self.log.short[_ITERATIONS] = iterations
            self._wake = Moment(self.env, self._start + self._stretch_ticks() - now, self._decide, DECISION)

    def _stretch_ticks(self) -> int:
        planned = self._planned
        return planned * self._first + self._growth * (planned * (planned - 1) // 2)

    def _decide(self, event: Event) -> None:
        if event is not self._wake:
            return  # an arrival has cut this stretch, and another event ends it
        if self._planned:
            self._finish()
        while not self._plan():
            pass

    def _finish(self) -> None:
        """Carry out what has just run."""
        ledger, now, row = self.ledger, int(self.env.now), self._row
        finished: list[Sequence] = []
        if ledger.decodes:
            finished = ledger.complete(self._planned)
            self._last_decode_row, self._last_decode_end = row, now
        if ledger.chunks:
            decoding = len(finished)
            before = ledger.cohort.count
            for sequence, chunk in ledger.chunks:
                if not ledger.complete_chunk(sequence, chunk):
                    continue
                self._emit(sequence, now)
                if sequence.generated < sequence.target:
                    ledger.cohort.join(sequence)
                    sequence.joined_row = row
                else:
                    finished.append(sequence)
            self.log.short[_JOINED] = ledger.cohort.count - before
            if decoding < len(finished) > 1:
                finished.sort(key=attrgetter("serial"))
        for sequence in finished:
            ledger.retire(sequence)
            self._ended(sequence, now, True)
        self._planned = 0

    def _emit(self, sequence: Sequence, now: int) -> None:
        """Note the token that follows a prompt, or what was computed anew."""
        if sequence.generated == 1:
            self._started(sequence, now)
        else:
            self.log.gaps.append(now - sequence.last_emission)

    def _plan(self) -> bool:
        """Ask the policy and start what it wants; return False if it has to be asked again at once."""
        ledger = self.ledger
        ledger.begin()
        self.policy(ledger)
        if self._observe is not None:
            self._observe(ledger, int(self.env.now))
        for sequence in ledger.preempted:
            self._note_pause(sequence)
        for sequence in ledger.ignored:
            self._ended(sequence, int(self.env.now), False)
        released = ledger.lingering and ledger.release_lingering()
        if ledger.chunks:
            self._start_prompts()
        elif ledger.decodes:
            self._start_decoding()
        elif ledger.preempted or ledger.ignored or released:
            return False
        else:
            self._wake = None
        return True

    def _note_pause(self, sequence: Sequence) -> None:
        """Remember when a sequence that stops decoding emitted its last token, for the gap up to its next one."""
        if sequence.joined_row < 0:
            return  # it had not decoded since the last pause
        if self._last_decode_row > sequence.joined_row:
            sequence.last_emission = self._last_decode_end
        else:
            sequence.last_emission = self.log.end(sequence.joined_row)
            self.log.forget_joined(sequence.joined_row, sequence.best_of)
        sequence.joined_row = -1

    def _note_held(self) -> None:
        """Keep account of sequences that sit out this iteration, and of those that decode again or are swapped in."""
        ledger, end = self.ledger, self._start + self._first
        for sequence in ledger.held:
            self._note_pause(sequence)
        back = [s for s in self._paused if s.is_decoding and s not in ledger.held] if ledger.decodes else []
        back += ledger.returning
        for sequence in back:
            self.log.gaps.extend([end - sequence.last_emission] * sequence.best_of)
            sequence.joined_row = self._row - 1
        self.log.short[_RETURNED] = sum(sequence.best_of for sequence in back)
        self._paused = [s for s in self._paused if s.is_decoding and s not in back]
        self._paused += [s for s in ledger.held if s not in self._paused]

    def _start_prompts(self) -> None:
        ledger = self.ledger
        chunks = ledger.chunks
        samples = 0
        for sequence, chunk in chunks:
            samples += sequence.computed + chunk == sequence.prompt + sequence.generated
        self._first = self.clock.iteration(
            samples, ledger.new_tokens, ledger.pairs, ledger.cached_context, ledger.decodes, ledger.context
        )
        self._growth = 0
        self._planned = 1
        self._interruptible = False
        self._write_row(len(chunks), samples)

    def _start_decoding(self) -> None:
        ledger = self.ledger
        count = ledger.decodes
        slope = self.clock.context_ticks
        self._first = self._decode_ticks[count] + slope * (ledger.context + count)
        self._growth = slope * count
        if ledger.moved_blocks:
            self.log.moves.extend((self._row + 1, ledger.moved_blocks))
            self._first += self.clock.host_block_ticks * ledger.moved_blocks
            ledger.moved_blocks = 0
        self._planned = planned = ledger.quiet_iterations() if self._coast else 1
        self._interruptible = planned > 1 and not ledger.refusal
        self._write_row(0, 0)

    def _write_row(self, prompts: int, samples: int) -> None:
        ledger = self.ledger
        self._row += 1
        self._start = start = int(self.env.now)
        self.log.long.extend((start, self._first, self._growth, ledger.context, ledger.pairs))
        self.log.short.extend(
            (
                self._planned,
                ledger.decodes,
                prompts,
                samples,
                0,
                0,
                ledger.new_tokens,
                ledger.cached_context,
                ledger.pool.free,
                len(ledger.waiting),
                len(ledger.preempted),
                ledger.refusal,
            )
        )
        if ledger.held or self._paused or ledger.returning:
            self._note_held()
        self._wake = Moment(self.env, self._stretch_ticks(), self._decide, DECISION)


def _iterations_to_reach(elapsed: int, first: int, growth: int) -> int:
    """Return the least k >= 1 with ``k * first + growth * k * (k - 1) / 2 >= elapsed``.

    >>> [_iterations_to_reach(elapsed, 10, 2) for elapsed in (0, 10, 11, 22, 23)]
    [1, 1, 2, 2, 3]
    """
    if growth:
        # The root of growth k^2 + (2 first - growth) k - 2 elapsed, rounded down, is at most one too small.
        b = 2 * first - growth
        k = (isqrt(b * b + 8 * growth * elapsed) - b) // (2 * growth)
        while k * first + growth * (k * (k - 1) // 2) < elapsed:
            k += 1
        return max(1, k)
    return max(1, -(-elapsed // first))
