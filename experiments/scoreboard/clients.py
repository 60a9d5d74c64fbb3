"""What load generators write about a server, as one kind of run: what was asked, and when every reply came."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.scoreboard.groups import Floats
from sim.results.percentiles import Integers
from workloads.trace import Trace

Request = tuple[float, float, float, float, float]
"""Arrival [s], prompt and output tokens, time to first token and end-to-end latency [s]."""


@dataclass(frozen=True)
class ClientRun:
    """A run as its client saw it, in order of arrival; failed requests are left out.

    Attributes
    ----------
    tool, model : who measured it; the model as named there, None where it is not.
    trace : arrivals from 0 and lengths.
    ttft_seconds, tpot_seconds : shape (requests,) [s]; TPOT is (E2E - TTFT) / (output tokens - 1), nan for one token.
    """

    tool: str
    model: str | None
    trace: Trace
    ttft_seconds: Floats
    tpot_seconds: Floats


def read(path: Path) -> ClientRun:
    """Read the result of ``vllm bench serve --save-detailed``, aiperf, guidellm or inference-perf.

    Whatever a tool says about its time per output token is left alone: that of inference-perf is half the truth, since
    it counts two stream events a token. It follows from latency, first token and length.

    Raises
    ------
    ValueError
        The file is none of these, or lacks what is needed of single requests; the message says what to ask the tool
        for.
    """
    document = _document(path)
    for tool, recognises, requests_of, model_of in TOOLS:
        if recognises(document):
            try:
                requests = list(requests_of(document))
            except (KeyError, TypeError, IndexError) as error:
                raise ValueError(f"{path}: a request of {tool} lacks {error}") from None
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
            return _run(path, tool, model_of(document), requests)
    tools = ", ".join(tool for tool, *_ in TOOLS)
    raise ValueError(f"{path}: is not a result that is known; allowed: per-request results of {tools}")


def is_result(path: Path) -> bool:
    """Return whether a file can be a result of a load generator, by its name."""
    return path.suffix in (".json", ".jsonl")


def _document(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        return json.loads(text)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is not JSON: {error}") from None


def _run(path: Path, tool: str, model: str | None, requests: list[Request]) -> ClientRun:
    table = np.array(requests, dtype=np.float64).reshape(-1, 5)
    good = np.isfinite(table).all(axis=1) & (table[:, 1:] > 0).all(axis=1) & (table[:, 4] >= table[:, 3])
    table = table[good]
    if not len(table):
        raise ValueError(f"{path}: no request of {tool} has an arrival, lengths, a first token and an end")
    table = table[np.argsort(table[:, 0], kind="stable")]
    arrival, prompt, output, ttft, end = table.T
    tokens: Integers = output.astype(np.int64)
    with np.errstate(divide="ignore", invalid="ignore"):
        tpot = np.where(tokens > 1, (end - ttft) / (tokens - 1), np.nan)
    trace = Trace(arrival - arrival[0], prompt.astype(np.int64), tokens, tokens, name=path.name)
    return ClientRun(tool, model, trace, ttft, np.where(tpot > 0, tpot, np.nan))


def _is_vllm(document: Any) -> bool:
    return isinstance(document, dict) and "num_prompts" in document and "request_throughput" in document


def _vllm(document: Mapping[str, Any]) -> Iterable[Request]:
    needed = ("input_lens", "output_lens", "ttfts", "itls")
    if missing := [name for name in needed if not document.get(name)]:
        raise ValueError(f"{', '.join(missing)} missing; run vllm bench serve with --save-detailed")
    count = len(document["ttfts"])
    starts = document.get("start_times") or ([0.0] * count if document.get("request_rate") == "inf" else None)
    if starts is None:
        raise ValueError("start_times missing; allowed without them: --request-rate inf")
    errors = document.get("errors") or [""] * count
    ends = document.get("latencies") or [
        first + sum(gaps) for first, gaps in zip(document["ttfts"], document["itls"], strict=True)
    ]
    columns = (starts, document["input_lens"], document["output_lens"], document["ttfts"], ends, errors)
    for *request, error in zip(*columns, strict=True):
        if not error:
            yield _five(request)


def _is_aiperf(document: Any) -> bool:
    return _is_list_with(document, "metrics", "metadata")


def _aiperf(document: list[Mapping[str, Any]]) -> Iterable[Request]:
    milliseconds = {"ms": 1e-3, "s": 1.0, "us": 1e-6, "ns": 1e-9}
    for record in document:
        metadata, metrics = record["metadata"], record["metrics"]
        warm = metadata.get("benchmark_phase", "profiling") != "profiling"
        if record.get("error") or metadata.get("was_cancelled") or warm or "time_to_first_token" not in metrics:
            continue
        first, end = (
            metrics[name]["value"] * milliseconds[metrics[name]["unit"]]
            for name in ("time_to_first_token", "request_latency")
        )
        lengths = (metrics[f"{name}_sequence_length"]["value"] for name in ("input", "output"))
        yield _five((metadata["request_start_ns"] / 1e9, *lengths, first, end))


def _is_guidellm(document: Any) -> bool:
    return isinstance(document, dict) and _is_list_with(document.get("benchmarks"), "requests")


def _guidellm(document: Mapping[str, Any]) -> Iterable[Request]:
    if len(document["benchmarks"]) > 1:
        rates = len(document["benchmarks"])
        raise ValueError(f"{rates} benchmarks in one file, which followed each other; allowed: one rate to a file")
    for request in document["benchmarks"][0]["requests"]["successful"]:
        start = _first(request, "request_start_time", "start_time")
        end = request.get("request_latency") or _first(request, "request_end_time", "end_time") - start
        prompt = _first(request, "prompt_tokens", "input_tokens")
        yield _five((start, prompt, request["output_tokens"], request["time_to_first_token_ms"] / 1e3, end))


def _is_inference_perf(document: Any) -> bool:
    return _is_list_with(document, "start_time", "end_time", "info")


def _inference_perf(document: list[Mapping[str, Any]]) -> Iterable[Request]:
    for request in document:
        if request.get("error"):
            continue
        info = request["info"]
        asked = info["request_metrics"]["text"] if "request_metrics" in info else info
        answered = info.get("response_metrics") or info
        if not answered.get("output_token_times"):
            continue  # not streamed: nobody knows when it began
        start, first = request["start_time"], answered["output_token_times"][0]
        lengths = asked["input_tokens"], answered["output_tokens"]
        yield _five((start, *lengths, first - start, request["end_time"] - start))


def _is_list_with(document: Any, *keys: str) -> bool:
    return (
        isinstance(document, list)
        and bool(document)
        and isinstance(document[0], dict)
        and all(key in document[0] for key in keys)
    )


def _first(record: Mapping[str, Any], *names: str) -> Any:
    """Return the entry of the first of these names, which differ between versions."""
    return record[next((name for name in names if name in record), names[0])]


def _five(values: Iterable[Any]) -> Request:
    start, prompt, output, first, end = (float("nan") if value is None else float(value) for value in values)
    return start, prompt, output, first, end


TOOLS: tuple[
    tuple[str, Callable[[Any], bool], Callable[[Any], Iterable[Request]], Callable[[Any], str | None]], ...
] = (
    ("vllm bench serve", _is_vllm, _vllm, lambda document: document.get("model_id")),
    ("aiperf", _is_aiperf, _aiperf, lambda _: None),
    ("guidellm", _is_guidellm, _guidellm, lambda _: None),
    ("inference-perf", _is_inference_perf, _inference_perf, lambda _: None),
)
"""Tool, how to tell its files, their requests, and the model they name."""
