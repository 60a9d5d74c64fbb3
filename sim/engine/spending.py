"""What the ticks of iterations are spent on: whole numbers by resource that sum to what the clock charges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from sim.engine.clock import TICKS_PER_SECOND, IterationClock, ticks
from sim.engine.log import Iterations
from sim.physics import resources
from sim.physics.iteration import IterationModel
from sim.physics.roofline import Floats
from sim.physics.streaming import weights_seconds
from sim.physics.totals import seen_pairs, seen_tokens

Integers = npt.NDArray[np.int64]

SPENT_ON = {
    "compute": "arithmetic",
    "memory": "memory traffic",
    "link": "communication",
    "launch": "launching kernels",
    "host": "host work",
}
"""What device and host do in an iteration, in words. A kernel's time belongs to the resource that it waits for."""

_PLACE = {name: place for place, name in enumerate(SPENT_ON)}
LINK, HOST = _PLACE["link"], _PLACE["host"]


@dataclass(frozen=True)
class Spending:
    """A clock read as what its ticks go to; arrays are (len(SPENT_ON), ...) [ticks].

    A clock made by hand has no model: all that it charges beyond its base counts as arithmetic. What an iteration that
    takes the least time takes beyond the device's own work, attention aside, is spent on what it waits for: on the link
    where weights are brought over it, else on the host.
    """

    clock: IterationClock

    def decoding(self, iterations: Integers, decodes: npt.NDArray[np.integer], spent: Integers) -> Integers:
        """Split stretches of decoding of `spent` ticks, the clock's base included (..., stretches).

        Linear in the iterations, so that it makes no difference where a stretch is cut.
        """
        each = self._tokens[:, decodes] + self._samples[:, decodes]
        each[_PLACE["launch"]] += self.clock.decode_ticks
        each[HOST] += self.clock.base
        split = np.asarray(each * iterations, dtype=np.int64)
        rest = spent - split.sum(axis=0)
        least = self.clock.base + self.clock.least_ticks + self._samples[:, decodes].sum(axis=0)
        waits = (spent == iterations * least) & (self.clock.least_ticks > 0)
        split[self._attention] += np.where(waits, 0, rest)
        split[self._least] += np.where(waits, rest, 0)
        return split

    def prompts(self, cached: Integers, tokens: Integers, ends: Integers, spent: Integers) -> Integers:
        """Split iterations of one piece of a prompt each, of `spent` ticks without the clock's base (..., pieces)."""
        pairs = tokens * cached + tokens * (tokens + 1) // 2
        seen = None
        if window := self._window:
            seen = seen_pairs(tokens, cached, window), seen_tokens(cached, window - 1)
        weights = self._tokens[:, tokens] + self._samples[:, ends] + self._prompt_attention(pairs, cached, tokens, seen)
        return self._apportioned(spent, weights)

    def rows(self, log: Iterations) -> Integers:
        """Split each stretch of a log (..., stretches); the sums are their durations."""
        prompts, decodes, idle = log.new_tokens.astype(np.int64), log.decodes, log.idle_each
        tables = self._tokens[:, prompts + decodes + idle] + self._samples[:, log.samples + decodes]
        seen = log.seen(self._window) if self._window else None
        weights = tables + self._prompt_attention(log.pairs, log.cached_context.astype(np.int64), prompts, seen)
        weights[_PLACE["launch"]] += np.where(decodes > 0, self.clock.decode_ticks, 0)
        read = self.clock.context_ticks * (log.context + decodes)
        weights[self._attention] += np.where(decodes > 0, np.maximum(read, self.clock.sequence_ticks * decodes), 0)
        row, in_window = log.sights.T
        least = self.clock.window_sequence_ticks * decodes[row]
        weights[self._attention, row] += np.maximum(self.clock.window_ticks * in_window, least)
        weights[HOST] += self.clock.base
        moved = self.moved(log)
        device = log.duration - moved
        split = self._apportioned(device, weights)
        alone = np.flatnonzero(prompts == 0)
        split[:, alone] = self.decoding(log.iterations[alone], (decodes + idle)[alone], device[alone])
        split[LINK] += moved
        return split

    def moved(self, log: Iterations) -> Integers:
        """Return what each stretch takes to move KV blocks from or to the memory of the host (stretches,) [ticks]."""
        moved = np.zeros(len(log.start), dtype=np.int64)
        row, blocks = log.moves.T
        np.add.at(moved, row, self.clock.host_block_ticks * blocks)
        return moved

    @cached_property
    def _least(self) -> int:
        """What an iteration waits for that takes the least time."""
        brought = int(ticks(weights_seconds(self.clock.model))) if self.clock.model else 0
        return LINK if 0 < self.clock.least_ticks <= brought else HOST

    @property
    def _window(self) -> int | None:
        return self.clock.model.window if self.clock.model else None

    def _apportioned(self, spent: Integers, weights: Floats) -> Integers:
        """Split iterations in proportion to weights; beyond them, one that takes the least time waits."""
        if not self.clock.least_ticks:
            return apportioned(spent, weights)
        waits = np.maximum(0, spent - np.ceil(weights.sum(axis=0)).astype(np.int64))
        split = apportioned(spent - waits, weights)
        split[self._least] += waits
        return split

    def _prompt_attention(
        self, pairs: Integers, cached: Integers, tokens: Integers, seen: tuple[Floats, Floats] | None
    ) -> Floats:
        model = self.clock.model
        if model is None:
            return np.zeros((len(SPENT_ON), *pairs.shape))
        split = resources.prompt_resources(model.attention.prefill_slopes, pairs, cached, tokens)
        if seen is not None:
            split = split + resources.prompt_resources(model.attention.window_prefill_slopes, *seen, tokens)
        return _ticks(split)

    @cached_property
    def _tokens(self) -> Integers:
        return self._table(self.clock.tokens_ticks, resources.token_resources)

    @cached_property
    def _samples(self) -> Integers:
        return self._table(self.clock.samples_ticks, resources.head_resources)

    @cached_property
    def _attention(self) -> int:
        return _PLACE[resources.decode_attention_resource(self.clock.model) if self.clock.model else "compute"]

    def _table(self, charged: Sequence[int], split: Callable[[IterationModel, Integers], Floats]) -> Integers:
        """Split a table of the clock; what it charges beyond the device's time keeps the host busy."""
        totals = np.array(list(charged), dtype=np.int64)
        if self.clock.model is None:
            return np.stack([totals, *[np.zeros_like(totals)] * (len(SPENT_ON) - 1)])
        seconds = split(self.clock.model, np.arange(len(totals)))
        weights = _ticks(seconds)
        weights[HOST] = np.maximum(0, totals - ticks(seconds.sum(axis=0)))
        return apportioned(totals, weights)


def apportioned(totals: Integers, weights: npt.NDArray[np.number]) -> Integers:
    """Split whole numbers in proportion to weights, (parts, ...), so that the parts sum to them exactly.

    Where all weights are 0, the first part has all.

    >>> apportioned(np.array([10, 7]), np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])).T.tolist()
    [[3, 3, 4], [7, 0, 0]]
    """
    reached = np.cumsum(np.asarray(weights, dtype=np.float64), axis=0)
    share = np.divide(reached, reached[-1], out=np.ones_like(reached), where=reached[-1] > 0)
    edges = np.minimum(np.floor(share * totals).astype(np.int64), totals)
    edges[-1] = totals
    return np.asarray(np.diff(edges, axis=0, prepend=0), dtype=np.int64)


def _ticks(seconds: Floats) -> Floats:
    """Return shares of resources in ticks, not rounded, with an empty row for the host."""
    return np.concatenate([seconds * TICKS_PER_SECOND, np.zeros((1, *seconds.shape[1:]))])
