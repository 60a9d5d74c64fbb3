"""What an iteration costs in whole ticks, so that time is exact and a stretch of iterations has a closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from sim.physics.iteration import IterationModel
from sim.physics.mixed_attention import MixedSlopes
from sim.physics.prefill_attention import PrefillSlopes
from sim.physics.roofline import together
from sim.physics.streaming import weights_seconds

TICKS_PER_SECOND = 1 << 40
"""Time is counted in ticks of 2**-40 s (about a picosecond): 97 days fit 63 bits, and integers never round."""

LAST_SECOND = (1 << 63) // TICKS_PER_SECOND


def ticks(times: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Round times up to ticks [s -> ticks].

    Raises
    ------
    ValueError
        If a time is beyond what 63 bits hold.

    >>> ticks([0.0, 0.5, 1e-13])
    array([           0, 549755813888,            1])
    """
    latest = float(np.max(times, initial=0.0))
    if latest >= LAST_SECOND:
        raise ValueError(f"a time of {latest:.0f} s; allowed: below {LAST_SECOND} s (97 days): cut the trace")
    return np.ceil(np.asarray(times, dtype=np.float64) * TICKS_PER_SECOND).astype(np.int64)


def seconds(ticks: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Convert ticks to seconds [ticks -> s]."""
    return np.asarray(ticks) / TICKS_PER_SECOND


@dataclass(frozen=True)
class IterationClock:
    """The cost of an iteration as tables of integers, exactly affine in the context that decoding reads.

    An iteration of `tokens` new tokens, of which `samples` sequences sample one, costs ``base + tokens_ticks[tokens] +
    samples_ticks[samples]``, plus `prompt_ticks(pairs, cached_context, new_tokens)` if it computes prompts, plus
    ``decode_ticks + context_ticks * context`` if it decodes, where `context` counts every key read. While n sequences
    only decode, each iteration therefore takes ``context_ticks * n`` longer than the one before: k of them end after
    ``k * first + growth * k * (k - 1) / 2`` ticks, whatever k is, with nothing rounded on the way.

    Three things bend that line, and a stretch ends where they do. Reading takes at least `sequence_ticks` for each
    sequence, which counts while contexts are short. In layers with a window a sequence reads no more than
    the window: ``window_ticks`` a key, of which it adds one an iteration until the window is full. And everything but
    base and samples takes at least `least_ticks`: what a host needs to start kernels, or a link to bring weights.

    Attributes
    ----------
    base : [ticks] per iteration.
    tokens_ticks, samples_ticks : [ticks] by number of tokens and of samples, from 0.
    decode_ticks, context_ticks : [ticks] per decoding iteration, and per key that it reads.
    sequence_ticks, window_sequence_ticks : [ticks] least time to read the keys of each decoding sequence, in layers
        that see the whole context and in those with a window.
    prompt_ticks : (pairs, cached context tokens, new tokens of the prompts) -> [ticks]
    mixed_ticks : (pairs, cached, new tokens, decoding sequences, keys they read) -> [ticks], instead of both parts in
        an iteration that has both; None where they are a plain sum.
    window_ticks : [ticks] per key read in layers with a window.
    window_prompt_ticks, window_mixed_ticks : like `prompt_ticks` and `mixed_ticks`, and on top of them, of what is in
        sight in layers with a window; None without such layers.
    least_ticks : [ticks] least time of an iteration, base and samples aside.
    host_block_ticks : [ticks] per KV block moved from or to the memory of the host; only requests with several replies
        are swapped.
    model : what is tabulated, for those who ask what the ticks are spent on; None for a clock made by hand.
    """

    base: int
    tokens_ticks: Sequence[int]
    samples_ticks: Sequence[int]
    decode_ticks: int
    context_ticks: int
    prompt_ticks: Callable[[int, int, int], int]
    sequence_ticks: int = 0
    mixed_ticks: Callable[[int, int, int, int, int], int] | None = None
    host_block_ticks: int = 0
    model: IterationModel | None = None
    window_ticks: int = 0
    window_prompt_ticks: Callable[[int, int, int], int] | None = None
    window_mixed_ticks: Callable[[int, int, int, int, int], int] | None = None
    window_sequence_ticks: int = 0
    least_ticks: int = 0

    @property
    def accounting(self) -> IterationClock:
        """The clock itself; see the other clocks."""
        return self

    @cached_property
    def long_context(self) -> int:
        """Mean context from which on reading it takes longer than `sequence_ticks`, however long it gets."""
        if not self.sequence_ticks:
            return 0
        return -(-self.sequence_ticks // self.context_ticks) if self.context_ticks else 1 << 62

    def iteration(
        self,
        samples: int,
        new_tokens: int,
        pairs: int,
        cached: int,
        decodes: int,
        context: int,
        window_pairs: int = 0,
        window_cached: int = 0,
        window_keys: int = 0,
        *,
        padding: int = 0,
    ) -> int:
        """Return the ticks of an iteration of chunks of prompts (or none) and `decodes` decoding sequences (or none).

        `samples` of the chunks end their prompt; `new_tokens`, `pairs` and `cached` are sums over the chunks; `context`
        is the sum of computed tokens of the decoding sequences, before this iteration adds one to each. The next three
        count what is in sight in layers with a window, the keys with those that this iteration adds. `padding` tokens
        are computed for nobody.
        """
        fixed = self.base + self.samples_ticks[samples + decodes]
        cost = self.tokens_ticks[new_tokens + decodes + padding]
        if new_tokens and decodes and self.mixed_ticks:
            cost += self.mixed_ticks(pairs, cached, new_tokens, decodes, context + decodes)
            if self.window_mixed_ticks:
                cost += self.window_mixed_ticks(window_pairs, window_cached, new_tokens, decodes, window_keys)
        else:
            if new_tokens:
                cost += self.prompt_ticks(pairs, cached, new_tokens)
                if self.window_prompt_ticks:
                    cost += self.window_prompt_ticks(window_pairs, window_cached, new_tokens)
            if decodes:
                read, least = self.context_ticks * (context + decodes), self.sequence_ticks * decodes
                cost += self.decode_ticks + (read if read > least else least)
                if self.window_ticks:
                    read, least = self.window_ticks * window_keys, self.window_sequence_ticks * decodes
                    cost += read if read > least else least
        return fixed + (cost if cost > self.least_ticks else self.least_ticks)


@dataclass(frozen=True)
class PipelineClock:
    """The cost of a batch on each stage of a pipeline.

    Attributes
    ----------
    stages : first to last; at least one.
    """

    stages: tuple[IterationClock, ...]

    @property
    def accounting(self) -> IterationClock:
        """The last stage, whose time for a batch is the least between two: what cannot be spent on anything else."""
        return self.stages[-1]


@dataclass(frozen=True)
class LockstepClock:
    """The cost of an iteration of data ranks that share experts.

    Attributes
    ----------
    rank : what a rank spends on its own batch, experts aside.
    together_ticks : [ticks] for experts and for bringing tokens there, by the tokens of all ranks, from 0.
    ranks : how many there are.
    most_padded : up to so many tokens on the fullest rank, all ranks pad theirs to as many, so that each replays the
        same recorded graph; the padding is computed like tokens. vLLM records up to 512 tokens by default
        (`max_cudagraph_capture_size` in vllm/config; vllm/v1/worker/dp_utils.py).
    """

    rank: IterationClock
    together_ticks: Sequence[int]
    ranks: int
    most_padded: int = 512

    @property
    def accounting(self) -> IterationClock:
        """What sums over all ranks cost at least, spread evenly: what cannot be spent on anything else."""
        rank, most = self.rank, len(self.together_ticks)
        share = [-(-count // self.ranks) for count in range(most)]
        own, samples = rank.tokens_ticks, rank.samples_ticks
        return replace(
            rank,
            tokens_ticks=[own[share[n]] + self.together_ticks[n] for n in range(most) if share[n] < len(own)],
            samples_ticks=[samples[share[n]] for n in range(most) if share[n] < len(samples)],
            context_ticks=0,
            sequence_ticks=0,
            mixed_ticks=None,
            window_ticks=0,
            window_sequence_ticks=0,
            window_mixed_ticks=None,
        )

    def together(self, batches: Sequence[tuple[int, ...] | None]) -> int:
        """Return the ticks of an iteration in which each rank has a batch, or None and runs one dummy token along.

        A batch is what `IterationClock.iteration` takes. Layer by layer the ranks wait for each other, so that the
        rank with the most work of its own counts; with the experts everybody is busy at once.
        """
        own = [sums or (0,) * 6 for sums in batches]
        tokens = [sums[1] + sums[4] or 1 for sums in own]
        most = max(tokens)
        padded = [most] * self.ranks if most <= self.most_padded else tokens
        slowest = max(
            self.rank.iteration(*sums, padding=count - sums[1] - sums[4])
            for sums, count in zip(own, padded, strict=True)
        )
        return slowest + self.together_ticks[sum(padded)]


AnyClock = IterationClock | PipelineClock | LockstepClock
"""What decides how a replica runs; see `sim.engine.replay.replay`."""


def clock_for(model: IterationModel, most_tokens: int, most_samples: int) -> AnyClock:
    """Tabulate an iteration model as its parallelism wants it; see `roofline_clock`.

    Raises
    ------
    ValueError
        For data ranks with stages each, which no engine here runs.
    """
    split = model.parallelism
    if split.data > 1 and split.pipeline > 1:
        raise ValueError(f"{split.words}: data ranks with stages of their own cannot be simulated; allowed: DP or PP")
    if split.data > 1:
        return lockstep_clock(model, most_tokens, most_samples)
    if split.pipeline > 1:
        return pipeline_clock(model, most_tokens, most_samples)
    return roofline_clock(model, most_tokens, most_samples)


def lockstep_clock(model: IterationModel, most_tokens: int, most_samples: int) -> LockstepClock:
    """Tabulate a model with data ranks; `most_tokens` and `most_samples` are of one rank."""
    ranks = model.parallelism.data
    rank = replace(
        roofline_clock(model, most_tokens, most_samples),
        tokens_ticks=ticks(model.rank_token_seconds(np.arange(most_tokens + 1))).tolist(),
    )
    return LockstepClock(rank, ticks(model.expert_seconds(np.arange(ranks * most_tokens + 1))).tolist(), ranks)


def pipeline_clock(model: IterationModel, most_tokens: int, most_samples: int) -> PipelineClock:
    """Tabulate every stage of an iteration model; see `roofline_clock`."""
    return PipelineClock(tuple(roofline_clock(stage, most_tokens, most_samples) for stage in model.stages))


def roofline_clock(model: IterationModel, most_tokens: int, most_samples: int) -> IterationClock:
    """Tabulate an iteration model for up to `most_tokens` new tokens and `most_samples` samples, rounding up.

    Raises
    ------
    ValueError
        For a KV cache beside the device: how long it takes to bring that is not in the clock.
    """
    if model.placement.kv_on != "device":
        raise ValueError(f"kv_on is {model.placement.kv_on!r}; allowed where requests are simulated: device")
    whole, windowed = model.attention.whole_layers, model.attention.window_layers
    return IterationClock(
        base=int(ticks(model.fixed_seconds)),
        tokens_ticks=ticks(model.token_seconds(np.arange(most_tokens + 1))).tolist(),
        samples_ticks=ticks(model.head_seconds(np.arange(most_samples + 1))).tolist(),
        decode_ticks=int(ticks(model.attention.decode_launch_seconds)),
        context_ticks=int(ticks(model.attention.decode_seconds_per_kv_token)),
        prompt_ticks=_prompt_ticks(model.attention.prefill_slopes) if whole else lambda pairs, cached, new: 0,
        sequence_ticks=int(ticks(model.attention.decode_seconds_per_sequence)),
        mixed_ticks=_mixed_ticks(model.attention.mixed_slopes),
        window_ticks=int(ticks(model.attention.decode_seconds_per_window_token)),
        window_sequence_ticks=int(ticks(model.attention.decode_seconds_per_window_sequence)),
        window_prompt_ticks=_prompt_ticks(model.attention.window_prefill_slopes) if windowed else None,
        window_mixed_ticks=_mixed_ticks(model.attention.window_mixed_slopes),
        least_ticks=int(ticks(weights_seconds(model))),
        model=model,
    )


def _prompt_ticks(slopes: PrefillSlopes) -> Callable[[int, int, int], int]:
    sharpness, most_keys = slopes.sharpness, slopes.most_keys
    launch, per_pair, per_kv_token, per_new_token, moved = (TICKS_PER_SECOND * slope for slope in slopes[:5])
    per_tail_key = TICKS_PER_SECOND * slopes.per_tail_key

    def prompt_ticks(pairs: int, cached: int, new_tokens: int) -> int:
        keys = math.sqrt(2 * pairs)
        compute = pairs * per_pair + per_tail_key * (keys if keys < most_keys else most_keys)
        memory = cached * per_kv_token + new_tokens * per_new_token + pairs * moved
        larger, smaller = (compute, memory) if compute > memory else (memory, compute)
        return math.ceil(launch + float(together(larger, smaller / larger, sharpness)))

    return prompt_ticks


def _mixed_ticks(slopes: MixedSlopes | None) -> Callable[[int, int, int, int, int], int] | None:
    return slopes and (lambda *sums: math.ceil(TICKS_PER_SECOND * slopes.seconds(*sums)))


def uniform_clock(base: int, per_token: int, most_tokens: int) -> IterationClock:
    """Return a clock that charges `base` an iteration and `per_token` a new token, as recorded runs of schedulers do.

    >>> uniform_clock(1000, 1, 8).iteration(1, 5, 15, 0, 2, 40)
    1007
    """
    return IterationClock(
        base,
        range(0, per_token * (most_tokens + 1), per_token),
        bytes(most_tokens + 1),
        0,
        0,
        lambda pairs, cached, new: 0,
    )
