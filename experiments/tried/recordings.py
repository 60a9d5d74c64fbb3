"""Recorded runs of real schedulers, and the same requests through our policy, cache and engine."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from sim.engine.clock import uniform_clock
from sim.engine.content import content_tree
from sim.engine.replay import serve_sequences
from sim.engine.replica import content_paths
from sim.scheduling.batch import Limits
from sim.scheduling.copying_ledger import CopyingLedger
from sim.scheduling.ledger import Ledger, Policy
from sim.scheduling.policies.chunked_prefill import chunked_prefill
from sim.scheduling.policies.decode_first import decode_first
from sim.scheduling.policies.dynamic_splitfuse import dynamic_splitfuse
from sim.scheduling.policies.inflight_batching import inflight_batching
from sim.scheduling.policies.max_utilization import max_utilization
from sim.scheduling.policies.orca import orca, static_batching
from sim.scheduling.policies.prefill_first import prefill_first
from sim.scheduling.sequence import Sequence
from sim.scheduling.swapping_ledger import SwappingLedger
from workloads.trace import Segments, Trace

Recording = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """Our counterpart of a recorded scheduler: how its configuration is said in our words.

    Attributes
    ----------
    limits, policy : made from a recording's `config`.
    ledger : made from the limits and the `config`.
    longest_reply : tokens that may be generated for a prompt of so many tokens before the model's length stops it.
    prompts_first : what sorts the decoding sequences where an iteration lists them behind the prompts.
    decodes_first : whether it lists them before the prompts (else all in order of admission).
    unordered : whether the order within an iteration means nothing (the real one sorts by name).
    asynchronous : whether an iteration is planned while the one before runs; those that schedule nothing are left out.
    """

    limits: Callable[[Recording], Limits]
    policy: Callable[[Recording], Policy]
    ledger: Callable[[Limits, Recording], Ledger]
    longest_reply: Callable[[Recording, int], int]
    prompts_first: Callable[[Sequence], Any] | None = None
    decodes_first: bool = False
    unordered: bool = False
    asynchronous: bool = False


@dataclass
class Run:
    """What our scheduler did with the requests of a recording."""

    iterations: list[Recording] = field(default_factory=list)
    first_token: dict[str, int] = field(default_factory=dict)
    finish: dict[str, int] = field(default_factory=dict)
    given_up: set[str] = field(default_factory=set)


def read(folder: Path, oracle: str | None = None) -> Iterator[Recording]:
    """Yield every recording under a folder: `<oracle>/<scenario>.json` and `<oracle>/fuzz.jsonl.gz`.

    Raises
    ------
    ValueError
        If there is none, or a file is no recording.
    """
    folders = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    names = [path.name for path in folders]
    if oracle is not None and oracle not in names:
        raise ValueError(f"no recordings of {oracle!r} in {folder}; there are: {', '.join(names) or 'none'}")
    chosen = [path for path in folders if oracle in (None, path.name)]
    files = [file for path in chosen for file in sorted((*path.glob("*.json"), *path.glob("*.jsonl.gz")))]
    if not files:
        raise ValueError(f"no recordings in {folder}; expected <oracle>/<scenario>.json or <oracle>/fuzz.jsonl.gz")
    for file in files:
        try:
            text = gzip.decompress(file.read_bytes()).decode() if file.suffix == ".gz" else file.read_text()
            lines = text.splitlines() if file.suffix == ".gz" else [text]
            recordings = [json.loads(line) for line in lines]
        except (OSError, ValueError) as error:
            raise ValueError(f"{file} is not a recording: {error}") from None
        for number, recording in enumerate(recordings, 1):
            if recording.get("schema") != "llm-sched-golden/1":
                raise ValueError(
                    f"{file}, line {number}: schema is {recording.get('schema')!r}, not llm-sched-golden/1"
                )
            yield recording


def serve(recording: Recording, *, coast: bool = False) -> Run:
    """Run the requests of a recording through our counterpart of its scheduler, by the recording's clock."""
    subject, config = SUBJECTS[recording["oracle"]["name"]], recording["config"]
    limits = subject.limits(config)
    ledger = subject.ledger(limits, config)
    requests = recording["requests"]
    names = [request["id"] for request in requests]
    run = Run()
    most_iterations = config.get("max_iters")
    if most_iterations is None and recording.get("status") == "max_iters":
        most_iterations = len(recording["iterations"])

    def observe(ledger: Ledger, now: int) -> None:
        if most_iterations is not None and len(run.iterations) >= most_iterations:
            raise StopIteration
        _observe(run, ledger, now, names, subject)

    def started(sequence: Sequence, now: int) -> None:
        run.first_token[names[sequence.index]] = now

    def ended(sequence: Sequence, now: int, served: bool) -> None:
        name = names[sequence.index]
        if served:
            run.finish[name] = now
        else:
            run.given_up.add(name)

    clock = recording["clock"]
    with suppress(StopIteration):
        serve_sequences(
            _sequences(recording, ledger.pool.content_tokens, subject),
            ledger,
            subject.policy(config),
            uniform_clock(clock["step_base"], clock["step_per_token"], 1 << 20),
            started=started,
            ended=ended,
            observe=observe,
            coast=coast,
            asynchronous=subject.asynchronous,
            stops_livelock=most_iterations is None,
        )
    if not coast:
        _date(run, clock)
    if subject.asynchronous:
        run.iterations = [iteration for iteration in run.iterations if iteration["scheduled"]]
    return run


def _date(run: Run, clock: Recording) -> None:
    """Enter when each iteration began (those planned ahead begin later), and who finished at its end."""
    finished = defaultdict(list)
    for name, at in run.finish.items():
        finished[at].append(name)
    end = 0
    for iteration in run.iterations:
        if entries := iteration["scheduled"]:
            start = iteration["t_start"] = max(iteration["t_scheduled"], end)
            end = start + clock["step_base"] + clock["step_per_token"] * sum(tokens for _, tokens, _ in entries)
            order = [name for name, _, _ in entries]
            iteration["finished"] = sorted(finished[end], key=order.index)


def _observe(run: Run, ledger: Ledger, now: int, names: list[str], subject: Subject) -> None:
    prompts = [(s, chunk, s.computed) for s, chunk in ledger.chunks]
    sitting = set(ledger.held)
    members = [s for s in ledger.cohort.members() if s.best_of and s not in sitting]
    decodes = [(s, s.best_of, ledger.cohort.computed(s) - 1) for s in members]
    if not ledger.decodes:
        decodes = []
    order = subject.prompts_first
    if order is not None:
        planned = [*prompts, *sorted(decodes, key=lambda entry: order(entry[0]))]
    elif subject.decodes_first:
        planned = [*decodes, *prompts]
    else:
        planned = sorted((*prompts, *decodes), key=lambda entry: entry[0].serial)
    run.iterations.append(
        {
            "t_scheduled": now,
            "t_start": now,
            "scheduled": [[names[s.index], tokens, computed] for s, tokens, computed in planned],
            "emitted": [names[s.index] for s, tokens, computed in planned if computed + tokens >= s.tokens],
            "preempted": [names[s.index] for s in ledger.preempted],
            "finished": [],
            "queue": [names[s.index] for s in ledger.waiting],
            "free_blocks": ledger.pool.free,
        }
    )


def _sequences(recording: Recording, content_tokens: int, subject: Subject) -> list[Sequence]:
    config, requests = recording["config"], recording["requests"]
    prompts = [request["prompt_len"] for request in requests]
    most = [subject.longest_reply(config, prompt) for prompt in prompts]
    outputs = [max(1, min(request["output_len"], limit)) for request, limit in zip(requests, most, strict=True)]
    # A text named like a request is what that request says itself.
    texts = {request["id"]: -1 - index for index, request in enumerate(requests)}
    rows = [
        [(texts.setdefault(key, len(texts)), start, length) for key, start, length in request.get("segments") or ()]
        for request in requests
    ]
    trace = Trace(
        arrival_seconds=np.zeros(len(requests)),
        prompt_tokens=np.array(prompts),
        output_tokens=np.array(outputs),
        max_tokens=np.array(outputs),
        segments=Segments.from_lists(rows),
    )
    tree = content_tree(trace, content_tokens or 1)
    paths = content_paths(tree)
    return [
        Sequence(
            index,
            request["arrival"],
            prompts[index],
            outputs[index],
            request["output_len"],
            paths[tree.deepest[index]] if tree.deepest[index] >= 0 else (),
            request.get("prefix_pos", 0),
            request.get("best_of", 1),
        )
        for index, request in enumerate(requests)
    ]


def _vllm_0_limits(config: Recording) -> Limits:
    return Limits(
        blocks=config["num_gpu_blocks"],
        block_tokens=config["block_size"],
        sequences=config["max_num_seqs"],
        tokens=config["max_num_batched_tokens"],
        context=config["max_model_len"],
        watermark_blocks=int(0.01 * config["num_gpu_blocks"]),
        paddings=config.get("max_paddings"),
    )


def _vllm_1_limits(config: Recording) -> Limits:
    return Limits(
        blocks=config["num_gpu_blocks"] - 1,  # one is the null block
        block_tokens=config["block_size"],
        sequences=config["max_num_seqs"],
        tokens=config["max_num_batched_tokens"],
        context=config["max_model_len"],
    )


def _trtllm_limits(config: Recording) -> Limits:
    return Limits(
        blocks=config["num_blocks"],
        block_tokens=config["tokens_per_block"],
        sequences=config["max_batch_size"],
        tokens=config["max_num_tokens"],
        context=config["max_seq_len"],
    )


def _sarathi_limits(config: Recording) -> Limits:
    chunked = config["algorithm"] == "sarathi"
    return Limits(
        blocks=config["num_gpu_blocks"],
        block_tokens=config["block_size"],
        sequences=config["max_num_seqs"],
        tokens=config["chunk_size"] if chunked else 1 << 30,
        context=config["max_model_len"],
        watermark_blocks=int(0.01 * config["num_gpu_blocks"]) if chunked else 0,
    )


def _mii_limits(config: Recording) -> Limits:
    return Limits(
        blocks=config["num_blocks"],
        block_tokens=config["block_size"],
        sequences=config["max_tracked_sequences"],
        tokens=config["max_ragged_batch_size"],
        context=config["max_length"],
    )


def _chunked_prefill(config: Recording, *, old: bool) -> Policy:
    return partial(
        chunked_prefill,
        chunked=config["enable_chunked_prefill"],
        longest_chunk=config["long_prefill_token_threshold"],
        reserve_whole_prompt=config.get("scheduler_reserve_full_isl", False),
        watermark_blocks=int(config.get("watermark", 0) * config["num_gpu_blocks"]),
        skip_long_prompts=old,
        lone_chunk_is_free=not old,
    )


def _trtllm_policy(config: Recording) -> Policy:
    capacity = config["capacity_policy"]
    chunks = {"chunking": config["chunking"], "chunk_unit": config["chunk_unit_size"]}
    if capacity == "MAX_UTILIZATION":
        return partial(max_utilization, lookahead=2 if config["two_step_lookahead"] else 1, **chunks)
    return partial(inflight_batching, static=capacity == "STATIC_BATCH", **chunks)


def _cached(limits: Limits, config: Recording, **options: Any) -> Ledger:
    return Ledger(limits, prefix_cache=config["enable_prefix_caching"], **options)


def _swapping(limits: Limits, config: Recording) -> Ledger:
    return SwappingLedger(limits, config["num_cpu_blocks"])


_SARATHI: dict[str, Policy] = {"sarathi": decode_first, "orca": orca, "faster_transformer": static_batching}

_BY_ENTRY = attrgetter("arrival", "serial")
_BY_REQUEST = attrgetter("arrival", "index")

SUBJECTS: dict[str, Subject] = {
    "vllm-v0-0.2.7": Subject(
        _vllm_0_limits,
        lambda config: prefill_first,
        _swapping,
        lambda config, prompt: config["max_model_len"] + 1 - prompt,
        prompts_first=_BY_ENTRY,
    ),
    "vllm-v0-0.3.3": Subject(
        _vllm_0_limits,
        lambda config: prefill_first,
        _swapping,
        lambda config, prompt: config["max_model_len"] + 1 - prompt,
        prompts_first=_BY_ENTRY,
        unordered=True,
    ),
    "vllm-v0-0.4.0": Subject(
        _vllm_0_limits,
        lambda config: prefill_first,
        lambda limits, config: CopyingLedger(limits) if config["enable_prefix_caching"] else _swapping(limits, config),
        lambda config, prompt: config["max_model_len"] + 1 - prompt,
        prompts_first=_BY_ENTRY,
        unordered=True,
    ),
    "vllm-v1-0.33.0": Subject(
        _vllm_1_limits,
        partial(_chunked_prefill, old=False),
        _cached,
        lambda config, prompt: config["max_model_len"] - prompt,
    ),
    "vllm-v1-async-0.33.0": Subject(
        _vllm_1_limits,
        partial(_chunked_prefill, old=False),
        _cached,
        lambda config, prompt: config["max_model_len"] - prompt,
        asynchronous=True,
    ),
    "vllm-v1-0.11.2": Subject(
        _vllm_1_limits,
        partial(_chunked_prefill, old=True),
        partial(_cached, unhashed_blocks_first=False),
        lambda config, prompt: config["max_model_len"] - prompt,
    ),
    "deepspeed-mii": Subject(
        _mii_limits,
        lambda config: partial(dynamic_splitfuse, ragged_sequences=config["max_ragged_sequence_count"]),
        lambda limits, config: Ledger(limits, late_release=True),
        lambda config, prompt: config["max_length"] - prompt,
        decodes_first=True,
    ),
    "sarathi-serve": Subject(
        _sarathi_limits,
        lambda config: _SARATHI[config["algorithm"]],
        lambda limits, config: Ledger(limits),
        lambda config, prompt: config["max_model_len"] + 1 - prompt,
        prompts_first=_BY_REQUEST,
    ),
    "trtllm-py": Subject(
        _trtllm_limits,
        _trtllm_policy,
        lambda limits, config: Ledger(limits),
        lambda config, prompt: config["max_seq_len"] - prompt,
        prompts_first=_BY_REQUEST,
    ),
}
