"""One replica: asks the policy what to run, waits as long as the clock says, and carries it out."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

from simpy import Environment, Event

from sim.engine.clock import IterationClock
from sim.engine.log import SHORT, Iterations, Log
from sim.engine.moments import DECISION, Moment
from sim.engine.stretch import duration, iterations_to_reach
from sim.scheduling.batch import Order
from sim.scheduling.ledger import Ledger, Policy
from sim.scheduling.sequence import Sequence, queue_up

_NEVER = 1 << 62
_ITERATIONS = SHORT.index("iterations") - len(SHORT)
_JOINED = SHORT.index("joined") - len(SHORT)
RETURNED = SHORT.index("returned") - len(SHORT)
_WASTED = SHORT.index("wasted") - len(SHORT)


class Engine:
    """A replica that runs one iteration after another, fast-forwarding where nothing can change.

    While only decoding goes on, decisions can change at the next completion, at a shortage of blocks, or at an
    arrival. The engine plans all iterations up to the first of these at once; an arrival cuts the plan after the
    iteration in flight, unless the head of the queue is already refused, for then nobody behind it can be served
    (policies with an order of their own say so: `Ledger.order`).
    Step by step is the same with a horizon of one iteration, and gives the same ticks.

    An asynchronous engine always has two batches in flight: it decides on a batch when the one before begins, so that
    the machine never waits for a decision. A decision then counts tokens that nobody has seen yet, arrivals wait for
    one iteration more, and whoever ends in an iteration keeps seat and blocks while the next one is planned. A reply
    that ends by itself, shorter than the client allows, decodes once for nothing before anybody knows.
    Source: vLLM V1 (`step_with_batch_queue` in vllm/v1/engine/core.py, vllm/v1/core/sched/async_scheduler.py).

    Parameters
    ----------
    started : called with a sequence and the time [ticks] when its first token is out.
    ended : called with a sequence, the time [ticks], and whether it was served, when it leaves for good.
    observe : called with the ledger and the time [ticks] after every decision, for those who want to look.
    coast : False to plan a single iteration at a time.
    asynchronous : whether an iteration is planned while the one before runs.
    stops_livelock : False to go on in a livelock, until somebody raises an exception.

    Attributes
    ----------
    livelocked : the request with which the scheduler would go on for ever without a token for anybody: it outgrows the
        pool, and is computed and preempted again and again. The engine then stops. None as long as all is well.
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
        asynchronous: bool = False,
        stops_livelock: bool = True,
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
        self._asynchronous = asynchronous
        self._decide: Callable[[Event], None] = self._decide_ahead if asynchronous else self._decide_between
        if clock.window_ticks and not ledger.limits.window:
            raise ValueError("limits: window is 0; allowed with a clock that charges for one: what that model has")
        samples = clock.samples_ticks
        self._decode_ticks = [
            clock.base + clock.decode_ticks + clock.tokens_ticks[n] + samples[n]
            for n in range(min(ledger.limits.sequences + 1, len(clock.tokens_ticks), len(samples)))
        ]
        self._least_decode_ticks = [clock.base + clock.least_ticks + samples[n] for n in range(len(self._decode_ticks))]
        self._bends = bool(clock.window_ticks or clock.least_ticks)
        self._long_context = clock.long_context
        self._wake: Moment | None = None
        self._start = self._first = self._growth = self._planned = 0
        self._interruptible = False
        self._row = -1
        self._begun: list[Sequence] = []
        self._finished: list[Sequence] = []
        self._paused: list[Sequence] = []
        self._last_decode_row = self._last_decode_end = -1
        self._pool_tokens = ledger.limits.blocks * ledger.limits.block_tokens
        self._stops_livelock = stops_livelock
        self._hopeless: dict[Sequence, int] = {}
        self.livelocked: Sequence | None = None

    def receive(self, sequence: Sequence, late: bool = False) -> None:
        """Take in a request that arrives now; requests of one instant queue in order of their index.

        A `late` one comes after the decisions of this instant: behind the others, and seen by the next decision.
        """
        waiting = self.ledger.waiting
        if waiting and waiting[-1].arrival == sequence.arrival:
            queue_up(waiting, sequence, late)
        else:
            waiting.append(sequence)
        if self._wake is None:
            self._wake = Moment(self.env, 0, self._decide, DECISION)
        elif self._interruptible:
            self._interrupt(late)

    @property
    def ledgers(self) -> tuple[Ledger, ...]:
        """Its only ledger."""
        return (self.ledger,)

    def columns(self) -> Iterations:
        """Return the log as arrays."""
        return self.log.columns()

    def _interrupt(self, late: bool) -> None:
        """End the stretch with the iteration in flight, or one later if that has been decided on.

        `late` : whether what would be decided now, iteration by iteration, has been.
        """
        self._interruptible = False
        now = int(self.env.now)
        ahead = self._asynchronous
        if ahead and self.ledger.flight.is_up:
            iterations = 1  # the stretch is still to come
        else:
            iterations = iterations_to_reach(now + late - self._start, self._first, self._growth) + ahead
        if iterations < self._planned:
            self._planned = iterations
            self.log.short[_ITERATIONS] = iterations
            if not self.ledger.flight.is_up:
                self._sleep(self._start + duration(iterations - ahead, self._first, self._growth) - now)

    def _sleep(self, ticks: int) -> None:
        self._wake = Moment(self.env, ticks, self._decide, DECISION)

    def _decide_between(self, event: Event) -> None:
        """Plan when what was planned has run."""
        if event is not self._wake:
            return  # an arrival has cut this stretch, and another event ends it
        now = self._start = int(self.env.now)
        if self._planned:
            self._carry_out(now)
            self._deliver(now)
        while not self._plan():
            pass
        planned = self._planned
        if planned:
            ticks = duration(planned, self._first, self._growth)
            self._wake = Moment(self.env, ticks, self._decide, DECISION)
        else:
            self._wake = None

    def _decide_ahead(self, event: Event) -> None:
        """Plan when the last iteration of what was planned begins to run."""
        if event is not self._wake:
            return
        now = int(self.env.now)
        if self.ledger.flight.is_up:
            self._deliver(now)
            self.ledger.land()
        if not self._planned:
            self._start = now
            while not self._plan():
                pass
            if not self._planned:
                self._wake = None
                return
        last = self._start + duration(self._planned - 1, self._first, self._growth)
        if last > now:
            self._sleep(last - now)
            return
        end = self._start + duration(self._planned, self._first, self._growth)
        self._carry_out(end)
        self.ledger.launch(self._finished)
        self._start = end
        self._plan()  # once: nothing more is known before this batch has run
        self._sleep(end - now)

    def _carry_out(self, end: int) -> None:
        """Enter in the books what was planned, as of the end of its last iteration."""
        ledger, row = self.ledger, self._row
        finished: list[Sequence] = []
        if ledger.decodes:
            finished = ledger.complete(self._planned)
            self._last_decode_row, self._last_decode_end = row, end
        if ledger.chunks:
            decoding = len(finished)
            before = ledger.cohort.count
            for sequence, chunk in ledger.chunks:
                if not ledger.complete_chunk(sequence, chunk):
                    continue
                self._emit(sequence, end)
                if sequence.generated < sequence.target:
                    ledger.cohort.join(sequence)
                    sequence.joined_row = row
                else:
                    finished.append(sequence)
            self.log.short[_JOINED] = ledger.cohort.count - before
            if decoding < len(finished) > 1:
                finished.sort(key=attrgetter("serial"))
        self._finished = ledger.keep(finished) if ledger.keeps_rows else finished
        self._planned = 0

    def _deliver(self, now: int) -> None:
        """Hand out what has just run."""
        if self._begun:
            for sequence in self._begun:
                self._started(sequence, now)
            self._begun = []
        for sequence in self._finished:
            if self.ledger.retire(sequence):
                self.log.short[_WASTED] += 1
                self.log.pauses.extend((self._row, sequence.index, 2))
            self._ended(sequence, now, True)

    def _emit(self, sequence: Sequence, end: int) -> None:
        """Note the token that follows a prompt, or what was computed anew."""
        if sequence.generated == 1:
            self._begun.append(sequence)
        else:
            self.log.gaps.extend((end, end - sequence.last_emission))

    def _plan(self) -> bool:
        """Ask the policy and write down what it wants; return False if it has to be asked again at once."""
        self._interruptible = False
        ledger = self.ledger
        ledger.begin()
        if self.livelocked is not None:
            return True
        self.policy(ledger)
        if self._observe is not None:
            self._observe(ledger, int(self.env.now))
        for sequence in ledger.preempted:
            self.log.pauses.extend((self._row + 1, sequence.index, 1))
            self._note_pause(sequence)
            if sequence.tokens > self._pool_tokens and self._goes_round(sequence):
                self.livelocked = sequence
                return True
        for sequence in ledger.ignored:
            self._ended(sequence, int(self.env.now), False)
        released = ledger.lingering and ledger.release_lingering()
        if ledger.chunks:
            self._start_prompts()
        elif ledger.decodes:
            self._start_decoding()
        elif ledger.preempted or ledger.ignored or released:
            return False
        return True

    def _goes_round(self, sequence: Sequence) -> bool:
        """Whether nobody has got a token since this request, which outgrows the pool, was preempted before."""
        before = self._hopeless.get(sequence)
        self._hopeless[sequence] = self._row
        is_idle = not (self.ledger.decodes or self.ledger.samples)
        return self._stops_livelock and is_idle and before is not None and not self.log.emits_after(before)

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
            self.log.pauses.extend((self._row, sequence.index, 0))
            self._note_pause(sequence)
        back = [s for s in self._paused if s.is_decoding and s not in ledger.held] if ledger.decodes else []
        back += ledger.returning
        for sequence in ledger.returning:
            self.log.pauses.extend((self._row, sequence.index, 3))
        for sequence in back:
            self.log.gaps.extend((end, end - sequence.last_emission) * sequence.best_of)
            sequence.joined_row = self._row - 1
        self.log.short[RETURNED] = sum(sequence.best_of for sequence in back)
        self._paused = [s for s in self._paused if s.is_decoding and s not in back]
        self._paused += [s for s in ledger.held if s not in self._paused]

    def _start_prompts(self) -> None:
        ledger = self.ledger
        new_tokens, pairs, window_pairs = self._note_prompts()
        self._first = self.clock.iteration(
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
        self._growth = 0
        self._planned = 1
        self._write_row()

    def _note_prompts(self) -> tuple[int, int, int]:
        """Write down the pieces of prompts that are planned; return the tokens and the pairs to compute for them.

        The last number are the pairs in layers with a window.
        """
        ledger, row = self.ledger, self._row + 1
        for sequence, chunk in ledger.chunks:
            computed = sequence.computed
            ends = computed + chunk == sequence.prompt + sequence.generated
            self.log.chunks.extend((row, sequence.index, computed, chunk, ends))
        if ledger.window_keys:
            self.log.sights.extend((row, ledger.window_keys))
        if not ledger.pads:
            return ledger.new_tokens, ledger.pairs, ledger.window_pairs
        rectangle = ledger.rectangle()
        self._note_idle(rectangle[0] - ledger.new_tokens)
        return rectangle

    def _start_decoding(self) -> None:
        ledger = self.ledger
        count, context = ledger.decodes, ledger.context
        if ledger.keeps_rows:
            count, context = ledger.decoding_rows()
            self._note_idle(count - ledger.decodes)
        slope, keys = self.clock.context_ticks, context + count
        self._first = self._decode_ticks[count] + slope * keys
        self._growth = slope * count
        regular = _NEVER
        if keys < self._long_context * count:
            regular = self._rise_to(self.clock.sequence_ticks * count, slope * keys, slope * count)
        if self._bends:
            regular = self._bend(count, regular)
        if ledger.moved_blocks:
            self.log.moves.extend((self._row + 1, ledger.moved_blocks))
            self._first += self.clock.host_block_ticks * ledger.moved_blocks
            ledger.moved_blocks = 0
        planned = ledger.quiet_iterations() if self._coast else 1
        self._planned = planned = regular if regular < planned else planned
        self._interruptible = planned > 1 and not (ledger.refusal and ledger.order == Order.ARRIVAL)
        self._write_row()

    def _note_idle(self, tokens: int) -> None:
        if tokens:
            self.log.idle.extend((self._row + 1, tokens))

    def _rise_to(self, least: int, read: int, growth: int) -> int:
        """Take `least` ticks for what was counted as `read` and grows, and return for how many iterations that holds.

        What takes longer anyway holds as long as it grows like that.
        """
        if read >= least:
            return _NEVER
        self._first += least - read
        self._growth -= growth
        return -((read - least) // growth) if growth else _NEVER

    def _bend(self, count: int, regular: int) -> int:
        """Add what windows cost, heed the least time, and return for how many iterations growth is what it is now.

        `regular` : for how many it would be without them.
        """
        clock, least = self.clock, self._least_decode_ticks[count]
        if clock.window_ticks:
            keys, growing, filling = self.ledger.sight()
            read, growth = clock.window_ticks * keys, clock.window_ticks * growing
            self._first += read
            self._growth += growth
            regular = min(regular, filling, self._rise_to(clock.window_sequence_ticks * count, read, growth))
        if self._first <= least:
            if self._growth:
                regular = min(regular, (least - self._first) // self._growth + 1)
            self._first, self._growth = least, 0
        return regular

    def _write_row(self) -> None:
        ledger = self.ledger
        self._row += 1
        self.log.long.extend((self._start, self._first, self._growth, ledger.context, ledger.pairs))
        self.log.short.extend(
            (
                self._planned,
                ledger.decodes,
                len(ledger.chunks),
                ledger.samples,
                0,
                0,
                0,
                ledger.new_tokens,
                ledger.cached_context,
                ledger.pool.free,
                len(ledger.waiting) + len(ledger.recalled),
                len(ledger.preempted),
                ledger.refusal,
            )
        )
        if ledger.held or self._paused or ledger.returning:
            self._note_held()
