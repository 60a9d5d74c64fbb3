"""The default workload: the lengths of a public chat service behind one system prompt."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

import numpy as np

from workloads.synthetic.arrivals import Arrivals, poisson
from workloads.synthetic.lengths import JointQuantiles
from workloads.synthetic.prefixes import system_prompt
from workloads.synthetic.single_turn import single_turn
from workloads.trace import Trace


def chat(
    rng: np.random.Generator,
    requests: int,
    rate_per_second: float,
    *,
    arrivals: Arrivals = poisson,
    system_prompt_tokens: int = 512,
    context_tokens: int | None = None,
    max_tokens: int | None = None,
) -> Trace:
    """Return chat requests: one system prompt, then lengths like those of the Azure conversation trace of 2023.

    The lengths keep the trace's marginals and the way in which prompt and output go together (`conversation_lengths`).
    The prompts of the trace are up to 14,050 tokens long; `context_tokens` says what becomes of those that a model
    cannot hold. Nothing is cut.

    Parameters
    ----------
    rate_per_second : mean arrival rate [1/s]; inf lets everybody arrive at 0.
    arrivals : when requests come.
    system_prompt_tokens : shared text (key 0) in front of the prompts; 0 is none.
    context_tokens : draw lengths on condition that system prompt, prompt and output fit; the notes of the trace say
        what share that left out. With 4,096 and the default system prompt it is 9 %. None draws without condition;
        a simulator then rejects what its model cannot hold.
    max_tokens : what each client declares; None is the longest output (at most 1,000) rounded up to a power of two.

    Raises
    ------
    ValueError
        If a parameter is not allowed, or nothing fits the context.

    Examples
    --------
    >>> trace = chat(np.random.default_rng(0), 1000, 5.0)
    >>> trace.segments.row(3), int(trace.prompt_tokens.min()) > 512
    ([(0, 0, 512)], True)
    """
    return single_turn(
        rng,
        requests,
        rate_per_second,
        conversation_lengths(),
        arrivals=arrivals,
        prefix=system_prompt(system_prompt_tokens),
        context_tokens=context_tokens,
        max_tokens=max_tokens,
        name="chat",
    )


@cache
def conversation_lengths() -> JointQuantiles:
    """Return the summary of the Azure conversation trace of 2023 (``azure_conversation.toml`` names its source)."""
    with (Path(__file__).parent / "azure_conversation.toml").open("rb") as file:
        table = tomllib.load(file)
    return JointQuantiles(
        shares=np.array(table["shares"], dtype=np.float64),
        prompt_tokens=np.array(table["prompt_tokens"], dtype=np.float64),
        output_tokens=np.array(table["output_tokens"], dtype=np.float64),
        pairs=np.array(table["pairs"], dtype=np.int64),
    )
