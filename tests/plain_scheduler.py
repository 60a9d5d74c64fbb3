"""The rules of vLLM V1 (0.33), one request and one token at a time, with one or two batches in flight.

Written from the rules alone, for others to be compared with: no cohort, no coasting, and every block has a record.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from sim.scheduling.batch import Limits
from tests.block_by_block import BlockByBlock


@dataclass(eq=False)
class Request:
    """A request, with what has been planned for it, and what of that has been seen."""

    index: int
    arrival: int
    prompt: int
    output: int
    longest: int
    planned: int = 0
    seen: int = 0
    unseen: int = 0
    is_running: bool = False
    preemptions: int = 0
    cached: int = -1
    first_token: int = -1
    finish: int = -1

    @property
    def known(self) -> int:
        return self.prompt + self.seen


@dataclass
class Batch:
    """Who computes how many tokens, who of them samples one, and when it runs."""

    entries: list[tuple[Request, int]]
    samplers: list[Request]
    preempted: int
    start: int = -1
    end: int = -1

    @property
    def tokens(self) -> int:
        return sum(tokens for _, tokens in self.entries)


@dataclass
class Rules:
    """Options of the policy; see `chunked_prefill`."""

    longest_chunk: int = 0
    reserve_whole_prompt: bool = True
    watermark_blocks: int = 0


@dataclass
class PlainScheduler:
    """Plans batches and takes note of what they brought."""

    limits: Limits
    rules: Rules
    symbols: list[list[Hashable]]
    prefix_cache: bool
    waiting: list[Request] = field(default_factory=list)
    running: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pool = BlockByBlock(self.limits.blocks, self.limits.block_tokens, self.symbols)

    def schedule(self) -> Batch:
        chunk = 0 if len(self.running) + len(self.waiting) == 1 else self.rules.longest_chunk
        entries: list[tuple[Request, int]] = []
        preempted = self._schedule_running(entries, chunk)
        if not preempted:
            self._schedule_waiting(entries, chunk)
        for request, tokens in entries:
            request.planned += tokens
        samplers = [request for request, _ in entries if request.planned >= request.known + request.unseen]
        for request in samplers:
            request.unseen += 1
        return Batch(entries, samplers, preempted)

    def _schedule_running(self, entries: list[tuple[Request, int]], chunk: int) -> int:
        left, at, preempted = self.limits.tokens, 0, 0
        while at < len(self.running) and left:
            request = self.running[at]
            at += 1
            if request.unseen and request.seen + request.unseen >= request.longest:
                continue
            tokens = request.known + request.unseen - request.planned
            tokens = min(tokens, chunk or tokens, left, self.limits.context - request.planned - 1)
            if tokens <= 0:
                continue
            while not self._allocate(request, tokens, [], 0, 0):
                victim = self.running.pop()
                self._preempt(victim)
                preempted += 1
                if victim is request:
                    return preempted
            entries.append((request, tokens))
            left -= tokens
        return preempted

    def _schedule_waiting(self, entries: list[tuple[Request, int]], chunk: int) -> None:
        left = self.limits.tokens - sum(tokens for _, tokens in entries)
        while self.waiting and left and len(self.running) < self.limits.sequences:
            request = self.waiting[0]
            found = self.pool.match(request.index, request.known) if self.prefix_cache else []
            hit = len(found) * self.limits.block_tokens
            tokens = min(request.known - hit, chunk or left, left)
            room = request.known if self.rules.reserve_whole_prompt else 0
            watermark = self.rules.watermark_blocks if self.running else 0
            if not self._allocate(request, tokens, found, room, watermark):
                break
            self.running.append(self.waiting.pop(0))
            request.planned, request.is_running = hit, True
            if request.cached < 0:
                request.cached = hit
            entries.append((request, tokens))
            left -= tokens

    def _allocate(self, request: Request, tokens: int, found: list[int], room: int, watermark: int) -> bool:
        pool, size = self.pool, self.limits.block_tokens
        after = request.planned + len(found) * size + tokens
        held = pool.held.setdefault(request.index, [])
        idle = sum(not pool.users[block] for block in found)
        needed = -(-max(after, room) // size) - len(held) - len(found)
        if needed + idle + watermark > pool.free:
            return False
        for block in found:
            pool.idle.pop(block, None)
            pool.users[block] += 1
        held.extend(found)
        held.extend(pool.take() for _ in range(-(-after // size) - len(held)))
        pool.register(request.index, min(after, request.known))
        return True

    def _preempt(self, request: Request) -> None:
        self.pool.release(request.index, 0)
        request.planned = request.unseen = 0
        request.is_running = False
        request.preemptions += 1
        self.waiting.insert(0, request)

    def update(self, batch: Batch) -> None:
        """Take note of the tokens of a batch."""
        for request in batch.samplers:
            if request.finish >= 0:
                continue  # the reply had ended before this token
            request.seen += 1
            if request.first_token < 0:
                request.first_token = batch.end
            if request.is_running:
                request.unseen -= 1
                self.pool.register(request.index, request.planned - request.unseen)
            if request.seen == request.output:
                request.finish = batch.end
                if request.is_running:
                    self.pool.release(request.index, 0)
                (self.running if request.is_running else self.waiting).remove(request)


def run(scheduler: PlainScheduler, requests: list[Request], base: int, in_flight: int) -> list[Batch]:
    """Serve requests that are sorted by arrival; a batch takes `base` ticks and one for each token."""
    coming, queue, ran = list(requests), [], []
    now = end = 0
    while True:
        while coming and coming[0].arrival <= now:
            scheduler.waiting.append(coming.pop(0))
        batch = scheduler.schedule()
        if batch.entries:
            batch.start = max(now, end)
            batch.end = end = batch.start + base + batch.tokens
            ran.append(batch)
        queue.append(batch)
        is_busy = batch.entries or batch.preempted
        if is_busy and len(queue) < in_flight:
            continue
        if not is_busy and not any(other.entries for other in queue):
            if not coming:
                return ran
            queue.clear()
            now = coming[0].arrival
            continue
        first = queue.pop(0)
        if first.entries:
            now = first.end
            scheduler.update(first)
