"""Requests that know nothing of each other but the text their prompts begin with."""

from __future__ import annotations

import numpy as np

from workloads.synthetic.arrivals import Arrivals, poisson
from workloads.synthetic.checks import require_count
from workloads.synthetic.lengths import Lengths, declared_tokens, draw_fitting
from workloads.synthetic.prefixes import UNSHARED, PrefixTree
from workloads.trace import Trace


def single_turn(
    rng: np.random.Generator,
    requests: int,
    rate_per_second: float,
    lengths: Lengths,
    *,
    arrivals: Arrivals = poisson,
    prefix: PrefixTree = UNSHARED,
    context_tokens: int | None = None,
    max_tokens: int | None = None,
    name: str = "single-turn",
) -> Trace:
    """Compose arrivals, lengths and shared text to an open-loop workload.

    Arrivals, lengths and shared text come from three children of `rng`: the same seed with another rate, another
    arrival process or another prefix tree keeps everything else.

    Parameters
    ----------
    rng : a fresh generator, for instance ``numpy.random.default_rng(seed)``.
    rate_per_second : mean arrival rate [1/s]; inf lets everybody arrive at 0.
    lengths : the request's own prompt tokens (without the shared ones) and its output tokens.
    arrivals : when requests come, for instance ``functools.partial(gamma, burstiness=0.5)``.
    prefix : shared text in front of the prompts.
    context_tokens : draw lengths on condition that shared text, prompt and output fit; the notes of the trace say what
        share that left out. None draws without condition; a simulator then rejects what its model cannot hold.
    max_tokens : what each client declares; None is the longest output rounded up to a power of two.

    Raises
    ------
    ValueError
        If a parameter is not allowed, or nothing fits the context.

    Examples
    --------
    >>> from workloads.synthetic.lengths import Fixed
    >>> single_turn(np.random.default_rng(0), 3, 2.0, Fixed(100, 20)).arrival_seconds.round(2)
    array([1.65, 2.03, 2.65])
    """
    require_count("requests", requests)
    arrival_rng, length_rng, prefix_rng = rng.spawn(3)
    prompt, output, notes = draw_fitting(length_rng, requests, lengths, context_tokens, prefix.tokens)
    return Trace(
        arrival_seconds=arrivals(arrival_rng, requests, rate_per_second),
        prompt_tokens=prefix.tokens + prompt,
        output_tokens=output,
        max_tokens=declared_tokens(output, max_tokens),
        segments=prefix(prefix_rng, requests),
        name=name,
        notes=notes,
    )
