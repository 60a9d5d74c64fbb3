"""What happened: one row for each stretch of equal iterations, and four columns for requests; nothing per token."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.physics.totals import seen_pairs, seen_tokens

LONG = ("start", "first", "growth", "context", "pairs")
SHORT = (
    "iterations",
    "decodes",
    "prompts",
    "samples",
    "joined",
    "returned",
    "wasted",
    "new_tokens",
    "cached_context",
    "free_blocks",
    "waiting",
    "preempted",
    "refusal",
)


class Log:
    """The iterations of one replica, a row for each stretch, grown as machine integers.

    Columns of 64 bits: `start` [ticks], `first` (duration of the first iteration) and `growth` (each further one takes
    longer by this) [ticks], `context` (computed tokens of the decoding sequences at the start), `pairs`.
    Columns of 32 bits: `iterations`, `decodes` (sequences decoding), `prompts` (sequences prefilling), `samples` (those
    of them whose prompt ends, so that a token is out), `joined` (those that then go on to decode), `returned` (decoding
    sequences that sat out the decoding row before), `wasted` (decoding sequences whose reply had ended when the
    iteration began, though not when it was planned: they emit nothing), `new_tokens` and `cached_context` (of the
    prompts), `free_blocks` and `waiting` (when it was planned), `preempted` (just before it), `refusal` (why the head
    of the queue waits, see `Refusal`).
    """

    __slots__ = ("chunks", "gaps", "idle", "long", "moves", "pauses", "short", "sights")

    def __init__(self) -> None:
        """Start empty."""
        self.long = array("q")
        self.short = array("i")
        self.gaps = array("q")
        """Ends of gaps between tokens that the rows do not show, each followed by the gap itself [ticks]."""
        self.chunks = array("i")
        """Of each chunk of a prompt: row, request, tokens computed before it, its tokens, 1 if it ends the prompt."""
        self.pauses = array("i")
        """Row, request, and what became of it: 0 if it decodes and sits that row out, 1 if it was preempted before that
        row, 2 if it decodes there for nothing, 3 if it decodes there as it comes back from the memory of the host."""
        self.moves = array("q")
        """Row and number of KV blocks, in turn, where blocks were moved from or to the memory of the host."""

        self.idle = array("q")
        """Row, and tokens that each of its iterations computes for nobody, in turn: padding, and finished replies."""
        self.sights = array("q")
        """Row and keys that decoding sequences see in layers with a window, in turn, of rows with prompts."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.short) // len(SHORT)

    def forget_joined(self, row: int, replies: int) -> None:
        """Note that a sequence which joined in `row` with so many replies was preempted before it decoded."""
        self.short[row * len(SHORT) + SHORT.index("joined")] -= replies

    def emits_after(self, row: int) -> bool:
        """Whether a token is out in a row behind that one."""
        decodes, samples = (self.short[SHORT.index(name) :: len(SHORT)][row + 1 :] for name in ("decodes", "samples"))
        return any(decodes) or any(samples)

    def end(self, row: int) -> int:
        """Return when the stretch in `row` ended [ticks]."""
        start, first, growth = self.long[row * len(LONG) : row * len(LONG) + 3]
        iterations = self.short[row * len(SHORT)]
        return start + iterations * first + growth * (iterations * (iterations - 1) // 2)

    def columns(self) -> Iterations:
        """Return the rows as arrays."""
        wide = np.frombuffer(self.long, dtype=np.int64).reshape(-1, len(LONG))
        narrow = np.frombuffer(self.short, dtype=np.int32).reshape(-1, len(SHORT))
        values: dict[str, Any] = {name: wide[:, i] for i, name in enumerate(LONG)}
        values |= {name: narrow[:, i] for i, name in enumerate(SHORT)}
        # Its square does not always fit 32 bits.
        values["iterations"] = values["iterations"].astype(np.int64)
        values["gaps"] = np.frombuffer(self.gaps, dtype=np.int64).reshape(-1, 2)
        values["chunks"] = np.frombuffer(self.chunks, dtype=np.int32).reshape(-1, 5)
        values["moves"] = np.frombuffer(self.moves, dtype=np.int64).reshape(-1, 2)
        values["idle"] = np.frombuffer(self.idle, dtype=np.int64).reshape(-1, 2)
        values["pauses"] = np.frombuffer(self.pauses, dtype=np.int32).reshape(-1, 3)
        values["sights"] = np.frombuffer(self.sights, dtype=np.int64).reshape(-1, 2)
        return Iterations(**values)


@dataclass(frozen=True)
class Iterations:
    """The columns of a `Log` (see there) as arrays of shape (stretches,), and what follows from them.

    `gaps` has a row for each gap between tokens that spans a preemption or a pause: when it ended, and how long it was.
    `chunks`, (chunks, 5), and `pauses`, (pauses, 3), say which request the rows are about: see `Log`.
    `moves`, (rows, 2), says which iterations move KV blocks from or to the memory of the host, and how many;
    `idle`, (rows, 2), which iterations compute tokens for nobody, and how many; `sights`, (rows, 2), what those
    with prompts and decodes read in layers with a window.
    """

    start: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    growth: npt.NDArray[np.int64]
    context: npt.NDArray[np.int64]
    pairs: npt.NDArray[np.int64]
    iterations: npt.NDArray[np.int64]
    decodes: npt.NDArray[np.int32]
    prompts: npt.NDArray[np.int32]
    samples: npt.NDArray[np.int32]
    joined: npt.NDArray[np.int32]
    returned: npt.NDArray[np.int32]
    wasted: npt.NDArray[np.int32]
    new_tokens: npt.NDArray[np.int32]
    cached_context: npt.NDArray[np.int32]
    free_blocks: npt.NDArray[np.int32]
    waiting: npt.NDArray[np.int32]
    preempted: npt.NDArray[np.int32]
    refusal: npt.NDArray[np.int32]
    gaps: npt.NDArray[np.int64]
    chunks: npt.NDArray[np.int32]
    pauses: npt.NDArray[np.int32]
    moves: npt.NDArray[np.int64]
    idle: npt.NDArray[np.int64]
    sights: npt.NDArray[np.int64]

    def seen(self, window: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the pairs of each row's prompts, and the tokens computed before, that a window leaves in sight."""
        row, _, before, tokens, _ = self.chunks.T
        pairs, cached = np.zeros((2, len(self.start)))
        np.add.at(pairs, row, seen_pairs(tokens, before, window))
        np.add.at(cached, row, seen_tokens(before, window - 1))
        return pairs, cached

    @property
    def duration(self) -> npt.NDArray[np.int64]:
        """Whole stretches [ticks]."""
        k = self.iterations
        return k * self.first + self.growth * (k * (k - 1) // 2)

    @property
    def end(self) -> npt.NDArray[np.int64]:
        """End of each stretch [ticks]."""
        return self.start + self.duration

    @property
    def idle_each(self) -> npt.NDArray[np.int64]:
        """Tokens that each iteration of a stretch computes for nobody."""
        tokens = np.zeros(len(self.start), dtype=np.int64)
        np.add.at(tokens, *self.idle.T)
        return tokens

    @property
    def computed_tokens(self) -> int:
        """Tokens computed for somebody: of prompts, and one for each decoding sequence and iteration."""
        decodes = self.decodes * self.iterations - self.wasted
        return int(self.new_tokens.sum() + decodes.sum())

    @property
    def idle_tokens(self) -> int:
        """Tokens computed for nobody: padding, rows of replies that are complete, decodes planned too far ahead."""
        row, tokens = self.idle.T
        return int((tokens * self.iterations[row]).sum() + self.wasted.sum())

    def inter_token_gaps(self, since: int = 0, until: int | None = None) -> tuple[npt.NDArray[np.int64], ...]:
        """Return every gap between consecutive tokens of a reply, as values [ticks] and how often each occurs.

        Sequences that decode together share their gaps, so this is exact without a list of tokens. Only gaps that end
        in a stretch which starts from `since` and before `until` [ticks] count.
        """
        _, value, weight = self._gaps(since, until)
        return value[weight > 0], weight[weight > 0]

    def every_gap(self) -> npt.NDArray[np.int64]:
        """Return when each gap between tokens ended and how long it was, (gaps, 2) [ticks]."""
        end, value, weight = self._gaps(0, None)
        return np.stack([np.repeat(end, weight), np.repeat(value, weight)], axis=1)

    def _gaps(self, since: int, until: int | None) -> tuple[npt.NDArray[np.int64], ...]:
        """Return ends, values and counts of the gaps of `inter_token_gaps`; counts may be 0."""
        rows = np.flatnonzero(self.decodes > 0)
        end, steps = self.end, self.iterations
        first_end = self.start[rows] + self.first[rows]
        # Sequences that joined since the last decoding row got their last token when their prompt was done.
        joined_before = np.concatenate([[0], np.cumsum(np.where(self.decodes > 0, 0, self.joined))])
        previous = np.concatenate([[-1], rows])[:-1]
        newcomers = joined_before[rows] - joined_before[previous + 1]
        old = self.decodes[rows] - newcomers - self.returned[rows] - self.wasted[rows]
        last_end = np.where(previous >= 0, end[previous], 0)
        inside = (self.start[rows] >= since) & (self.start[rows] < (until if until is not None else np.inf))
        moments = [first_end[inside]]
        values = [(first_end - last_end)[inside]]
        weights = [old[inside]]

        fresh = np.flatnonzero((self.decodes == 0) & (self.joined > 0))
        following = np.searchsorted(rows, fresh)
        known = following < len(rows)
        fresh, following = fresh[known], following[known]
        fresh, following = fresh[inside[following]], following[inside[following]]
        moments.append(first_end[following])
        values.append(first_end[following] - end[fresh])
        weights.append(self.joined[fresh])

        rows = rows[inside]
        more = steps[rows] - 1
        stretch = np.repeat(rows, more)
        index = np.arange(len(stretch)) - np.repeat(np.cumsum(more) - more, more) + 1
        values.append(self.first[stretch] + self.growth[stretch] * index)
        moments.append(self.start[stretch] + (index + 1) * self.first[stretch])
        moments[-1] += self.growth[stretch] * (index * (index + 1) // 2)
        weights.append(self.decodes[stretch])

        ends = self.gaps[:, 0]
        lone = self.gaps[(ends > since) & (ends <= (until if until is not None else np.inf))]
        moments.append(lone[:, 0])
        values.append(lone[:, 1])
        weights.append(np.ones_like(lone[:, 1]))
        return np.concatenate(moments), np.concatenate(values), np.concatenate(weights)
