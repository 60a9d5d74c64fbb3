"""Memory that running requests keep, and how much of it holds their tokens, from the log of a run."""

from __future__ import annotations

import numpy as np

from sim.engine.clock import seconds
from sim.results.percentiles import Floats
from sim.results.result import Result


def stranded_share(result: Result, keeps: str) -> float:
    """Return the part of the room kept for running requests that holds no token of theirs, averaged over time.

    Exact unless somebody is preempted: what is computed a second time is then counted from its first time on.

    Parameters
    ----------
    keeps : what a request keeps from its first iteration to its last: room for the "context", for the longest "reply"
        that the client declares, or the "blocks" that it has taken.
    """
    log, limits = result.iterations, result.limits
    size = limits.block_tokens
    if keeps == "blocks":
        kept = float(((limits.blocks - log.free_blocks) * size * seconds(log.duration)).sum())
    else:
        request, place = np.unique(log.chunks[:, 1], return_index=True)
        begun = log.start[log.chunks[place, 0]]
        longest = (result.trace.prompt_tokens + result.trace.max_tokens)[request]
        room = limits.context if keeps == "context" else np.minimum(longest, limits.context)
        kept = float((-(-room // size) * size * seconds(result.replay.finish[request] - begun)).sum())
    return 1.0 - float(stored_token_seconds(result).sum()) / kept if kept else 0.0


def stored_token_seconds(result: Result) -> Floats:
    """Return tokens in the cache by how long they are of use to their request, (requests,) [s].

    A prompt counts from the iteration that computes it, a token of the reply from the one behind it, all of them until
    the reply is complete.
    """
    log, replies = result.iterations, result.trace.output_tokens
    spent = seconds(log.duration)
    row, request, computed, tokens, ends = log.chunks.astype(np.int64).T
    stored = np.zeros(len(result.trace))
    np.add.at(stored, request, (computed + tokens) * spent[row])
    decoding = log.decodes > 0
    steps = np.concatenate([[0], np.cumsum(np.where(decoding, log.iterations, 0))])
    growth = np.where(decoding, (log.iterations - 1) / 2, 0.0)  # on average over a stretch
    time = np.concatenate([[0.0], np.cumsum(spent)])
    grown = np.concatenate([[0.0], np.cumsum(spent * (steps[:-1] + growth))])
    whole = ends == 1
    first = np.zeros(len(stored), dtype=np.int64)
    first[request[whole][::-1]] = row[whole][::-1] + 1  # the last assignment, the first end of the prompt, stays
    served = np.zeros(len(stored), dtype=bool)
    served[request[whole]] = True
    begin = steps[first]
    last = np.maximum(np.searchsorted(steps, begin + replies - 1), first).clip(max=len(spent))
    replied = (result.trace.prompt_tokens - begin) * (time[last] - time[first]) + grown[last] - grown[first]
    return np.asarray(stored + np.where(served, replied, 0.0), dtype=np.float64)
