"""One run in the shape that `vllm bench serve --save-detailed` writes, so that the same scripts read both."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from experiments.tried.cell import Cell
from sim.results.percentiles import Integers
from sim.results.result import Result
from sim.results.tokens import has_token_times, token_times

DIGITS = 9
"""Of a second: a nanosecond."""


def bench(cell: Cell, model_id: str, devices: str) -> dict[str, Any]:
    """Return the first replication of a cell.

    Keys and definitions are those of vllm/benchmarks/serve.py; times are seconds of the simulation, and its statistics
    are of all completed requests (numpy's percentiles), not trimmed as elsewhere. Requests that were turned away are
    `failed`. Those that were preempted are left out of the arrays, since the log does not tell when they paused;
    `preempted_requests_left_out` counts them.
    """
    result = cell.results[0]
    served = np.flatnonzero(~np.isnan(result.finish_seconds))
    listed = np.flatnonzero(has_token_times(result))
    return {
        "date": "19700101-000000",  # of the simulated clock: the same run is the same file
        "endpoint_type": "simulated",
        "backend": "roofserve",
        "label": cell.arm,
        "model_id": model_id,
        "tokenizer_id": model_id,
        "devices": devices,
        "num_prompts": len(result.trace),
        "request_rate": cell.load.requests_per_second,
        "burstiness": None if cell.within_one else 1.0,
        "max_concurrency": None,
        "preempted_requests_left_out": len(served) - len(listed),
        **_totals(cell, result),
        **_per_request(result, listed),
        **_statistics(result),
    }


def _totals(cell: Cell, result: Result) -> dict[str, Any]:
    served = ~np.isnan(result.finish_seconds)
    duration = max(result.makespan_seconds, 1e-12)
    prompts, outputs = (
        int(tokens[served].sum()) for tokens in (result.trace.prompt_tokens, result.trace.output_tokens)
    )
    good = (result.ttft_seconds <= cell.objectives.ttft_seconds) & ~(result.tpot_seconds > cell.objectives.tpot_seconds)
    return {
        "duration": duration,
        "completed": int(served.sum()),
        "failed": int((~served).sum()),
        "total_input_tokens": prompts,
        "total_output_tokens": outputs,
        "request_throughput": int(served.sum()) / duration,
        "request_goodput": int(good.sum()) / duration,
        "output_throughput": outputs / duration,
        "total_token_throughput": (prompts + outputs) / duration,
    }


def _per_request(result: Result, listed: Integers) -> dict[str, Any]:
    offsets, times = token_times(result, listed)
    gaps = np.round(np.diff(times), DIGITS).tolist()
    return {
        "input_lens": result.trace.prompt_tokens[listed].tolist(),
        "output_lens": result.trace.output_tokens[listed].tolist(),
        "ttfts": np.round(result.ttft_seconds[listed], DIGITS).tolist(),
        # Between the last token of one row and the first of the next there is no gap.
        "itls": [gaps[first : last - 1] for first, last in pairwise(offsets.tolist())],
        "start_times": np.round(result.arrival_seconds[listed], DIGITS).tolist(),
        "latencies": np.round(result.end_to_end_seconds[listed], DIGITS).tolist(),
        "generated_texts": [""] * len(listed),
        "errors": [""] * len(listed),
    }


def _statistics(result: Result) -> dict[str, float]:
    values, counts = result.inter_token_seconds()
    columns = {
        "ttft": (result.ttft_seconds, None),
        "tpot": (result.tpot_seconds, None),
        "itl": (values, counts),
        "e2el": (result.end_to_end_seconds, None),
    }
    statistics: dict[str, float] = {}
    for name, (column, weights) in columns.items():
        sample = np.repeat(column, weights) if weights is not None else column[~np.isnan(column)]
        if not len(sample):
            continue
        milliseconds = 1e3 * sample
        statistics[f"mean_{name}_ms"] = float(milliseconds.mean())
        statistics[f"median_{name}_ms"] = float(np.median(milliseconds))
        statistics[f"std_{name}_ms"] = float(milliseconds.std())
        for level in (90, 99):
            statistics[f"p{level}_{name}_ms"] = float(np.percentile(milliseconds, level))
    return statistics
