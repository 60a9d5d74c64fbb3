"""From options to traces: the same requests for every arm, and for a seed at every load."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from experiments.asked.options import Options
from workloads.declared import with_max_tokens
from workloads.recorded import recorded
from workloads.synthetic.chat import chat
from workloads.trace import Segments, Trace


@dataclass(frozen=True)
class Workload:
    """What `options` (completed) ask to be served; `context_tokens` is what the model can hold."""

    options: Options
    context_tokens: int

    @cached_property
    def recorded(self) -> Trace:
        """The recorded trace at its natural pace, with the system prompt and the declared replies asked for.

        Raises
        ------
        ValueError
            If there is no such trace, it cannot be read, or all its requests arrive at one instant.
        """
        options = self.options
        declared = {"spread_ties": options.spread_ties, "max_tokens": options.max_tokens}
        trace = recorded(str(options.trace), options.requests, **declared)
        return behind_system_prompt(trace, int(options.system_prompt or 0))

    @property
    def natural_rate(self) -> float:
        """Arrivals of the recorded trace by its duration [requests/s]."""
        return len(self.recorded) / self.recorded.duration_seconds

    def trace(self, requests_per_second: float, seed: int) -> Trace:
        """Return the requests of one replication at one load; infinity lets everybody arrive at once.

        The same seed at another load is the same requests, only the arrivals are stretched.
        """
        if self.options.is_recorded:
            if np.isinf(requests_per_second):
                return replace(self.recorded, arrival_seconds=np.zeros(len(self.recorded)))
            return self.recorded.sped_up(requests_per_second / self.natural_rate)
        trace = chat(
            np.random.default_rng(np.random.SeedSequence(seed)),
            int(self.options.requests or 0),
            requests_per_second,
            system_prompt_tokens=int(self.options.system_prompt or 0),
            context_tokens=self.context_tokens,
        )
        return with_max_tokens(trace, str(self.options.max_tokens))

    @property
    def prefix_note(self) -> str:
        """What the prefix cache can find in this workload, in a sentence."""
        tokens = self.options.system_prompt
        if not self.options.is_recorded:
            return f"every prompt begins with one system prompt of {tokens} tokens; nothing else is shared"
        if self.recorded.segments is None:
            return (
                f"{self.options.trace} carries no prefix information: its prompts share nothing, so a cache helps only "
                "a preempted request, which finds its own blocks again (--system-prompt N puts one text in front of "
                "every prompt)"
            )
        if tokens:
            return f"one system prompt of {tokens} tokens was put in front of every prompt of {self.options.trace}"
        return f"{self.options.trace} says which parts of its prompts are equal; the cache finds those"


def behind_system_prompt(trace: Trace, tokens: int) -> Trace:
    """Return the requests with one more text of `tokens` tokens, the same for all, in front of their prompts.

    >>> one = np.array([1])
    >>> behind_system_prompt(Trace(np.zeros(1), one, one, one), 512).prompt_tokens
    array([513])
    """
    if not tokens:
        return trace
    n = len(trace)
    old = trace.segments or Segments(np.zeros(n + 1, dtype=np.int64), *(np.zeros(0, dtype=np.int64),) * 3)
    before = old.offsets[:-1]
    prompt_key = int(old.key.max(initial=-1)) + 1
    segments = Segments(
        old.offsets + np.arange(n + 1),
        np.insert(old.key, before, prompt_key),
        # A request's own text is named by its position in the prompt, which has moved.
        np.insert(old.start + np.where(old.key < 0, tokens, 0), before, 0),
        np.insert(old.length, before, tokens),
    )
    return replace(trace, prompt_tokens=trace.prompt_tokens + tokens, segments=segments)
