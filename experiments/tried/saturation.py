"""What a machine serves when everybody arrives at once: the scale on which loads are chosen."""

from __future__ import annotations

import numpy as np

from sim.results.result import Result


def capacity(result: Result) -> float:
    """Return the requests served per second in the middle of a run in which all arrive at once.

    Between the first and the last quarter of the requests to finish: before that the machine fills, after that it
    runs empty, and in between it is as busy as it can be.

    Raises
    ------
    ValueError
        If fewer than four requests can be served.
    """
    finish = np.sort(result.finish_seconds[~np.isnan(result.finish_seconds)])
    first, last = len(finish) // 4, 3 * len(finish) // 4
    if last <= first or finish[last] <= finish[first]:
        longest = int((result.trace.prompt_tokens + result.trace.output_tokens).max())
        raise ValueError(
            f"trace {result.trace.name!r}: {len(finish)} of {len(result.trace)} requests can be served with a context "
            f"of {result.limits.context} tokens and {result.limits.blocks} KV blocks (the longest has {longest} "
            "tokens); at least 4 are needed: choose another --model, --hardware or --tp"
        )
    return (last - first) / float(finish[last] - finish[first])
