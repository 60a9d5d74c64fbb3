"""Recorded runs of real servers: what was asked, within which limits, and when every reply began and ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.scoreboard.groups import Floats, Skipped
from experiments.scoreboard.tables import check, path_of, read_columns
from hardware_profiles import HardwareProfile
from hardware_profiles import load as load_hardware
from sim.physics.mixed_attention import ONE_KERNEL_CHIPS
from sim.scenario import Scenario
from sim.scheduling.policies.chunked_prefill import chunked_prefill
from sim.scheduling.schedulers import Scheduler
from workloads.models import load as load_model
from workloads.trace import Segments, Trace

if TYPE_CHECKING:
    import pandas as pd

TABLE, RUNS = "e2e_requests", "e2e_runs.json"
COLUMNS = (
    *("run", "req", "arrival_s", "in_tok", "out_tok", "prefix_hit_ideal", "prefix_parent_req"),
    *("queued_s", "sched_s", "ttft_from_queued_ms", "tpot_ms", "e2e_ms"),
)
ENGINE, CACHE, UTILISATION = "meta.engine_kwargs", "resolved_subset.cache_config", "gpu_memory_utilization"
FORMATS = {"bfloat16": "w16a16", "float16": "w16a16", "half": "w16a16", "auto": "w16a16"}
QUANTISED = {"fp8": "fp8", "awq": "w4a16", "gptq": "w4a16", "awq_marlin": "w4a16"}
CACHES = {"auto": "", "bfloat16": "", "float16": "", "fp8": "-kv8", "fp8_e4m3": "-kv8", "fp8_e5m2": "-kv8"}


@dataclass(frozen=True)
class Recorded:
    """A run of a server, and the same as a scenario.

    Attributes
    ----------
    name, hardware : as the table writes them.
    scenario : the recorded arrivals, lengths and shared prefixes under the recorded limits; its blocks are predicted.
    blocks : KV blocks of the server, one of which it never uses; None where they were not recorded.
    ttft_seconds : from the moment the engine took the request from its queue to the first token (requests,) [s].
    tpot_seconds : nan for replies of one token (requests,) [s].
    end_to_end_seconds : from arrival to the last token (requests,) [s].
    is_overloaded : whether most of the median time to first token was waiting for a seat or for memory.
    """

    name: str
    hardware: str
    scenario: Scenario
    blocks: int | None
    ttft_seconds: Floats
    tpot_seconds: Floats
    end_to_end_seconds: Floats
    is_overloaded: bool


def read(folder: Path) -> list[Recorded | Skipped]:
    """Return the runs that a folder holds; what cannot be replayed is reported, not fatal.

    Raises
    ------
    ValueError
        A file cannot be read, lacks a column, or has a value that cannot be.
    """
    path = path_of(folder, TABLE)
    if path is None:
        missing = f"{TABLE}.csv is missing beside {RUNS}"
        return [Skipped(TABLE, "", "", 0, missing)] if (folder / RUNS).is_file() else []
    table = read_columns(path, TABLE, COLUMNS)
    _check(table, path)
    records = _records(folder / RUNS)
    found: list[Recorded | Skipped] = []
    for name, rows in table.groupby(table["run"].astype(str), sort=True):
        record = records.get(str(name))
        try:
            if record is None:
                raise ValueError(f"{RUNS} says nothing about the run {name}")
            found.append(_recorded(str(name), rows, record, path))
        except (ValueError, TypeError) as error:
            found.append(Skipped(TABLE, _label(record or {}), str(name), len(rows), str(error)))
    return found


def _check(table: pd.DataFrame, path: Path) -> None:
    for column in ("in_tok", "out_tok", "ttft_from_queued_ms", "e2e_ms"):
        check(table, path, column, "above 0")
    for column in ("arrival_s", "queued_s", "sched_s"):
        check(table, path, column, "0 and more", or_low=True)
    check(table[table["out_tok"] > 1].reset_index(drop=True), path, "tpot_ms", "above 0 where out_tok is above 1")


def _records(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is not JSON: {error}") from None
    if not isinstance(records, dict):
        raise ValueError(f"{path}: is a {type(records).__name__}; allowed: an object with an entry for each run")
    return records


def _recorded(name: str, rows: pd.DataFrame, record: Mapping[str, Any], path: Path) -> Recorded:
    _require_modelled(record)
    rows = rows.sort_values(["arrival_s", "req"], kind="stable")
    ttft = rows["ttft_from_queued_ms"].to_numpy(dtype=np.float64) / 1e3
    waited = (rows["sched_s"] - rows["queued_s"]).to_numpy(dtype=np.float64)
    blocks = _first(record, None, "meta.kv_cache.num_gpu_blocks", "resolved_subset.cache_config.num_gpu_blocks")
    return Recorded(
        name,
        _label(record),
        _scenario(record, _trace(name, rows, path)),
        None if blocks is None else int(blocks),
        ttft,
        np.where(rows["out_tok"] > 1, rows["tpot_ms"].to_numpy(dtype=np.float64) / 1e3, np.nan),
        rows["e2e_ms"].to_numpy(dtype=np.float64) / 1e3,
        bool(np.median(waited) > 0.5 * np.median(ttft)),
    )


def _trace(name: str, rows: pd.DataFrame, path: Path) -> Trace:
    prompt, output = (rows[column].to_numpy(dtype=np.int64) for column in ("in_tok", "out_tok"))
    place = {int(request): i for i, request in enumerate(rows["req"])}
    contents: list[list[tuple[int, int, int]]] = []
    parents = rows["prefix_parent_req"].fillna(-1).to_numpy(dtype=np.int64).tolist()
    hits = rows["prefix_hit_ideal"].fillna(0).to_numpy(dtype=np.int64).tolist()
    for i, (parent, hit) in enumerate(zip(parents, hits, strict=True)):
        if parent < 0:
            contents.append([])
            continue
        if place.get(parent, i) >= i or not 0 <= hit <= prompt[i]:
            at = f"{path}: request {rows['req'].iloc[i]} of {name} shares {hit} tokens with request {parent}"
            raise ValueError(f"{at}; allowed: at most its prompt, with one that arrived before it, or -1")
        contents.append(_head(place[parent], contents[place[parent]], hit))
    arrival = rows["arrival_s"].to_numpy(dtype=np.float64)
    return Trace(arrival, prompt, output, output, segments=Segments.from_lists(contents), name=name)


def _head(request: int, content: list[tuple[int, int, int]], tokens: int) -> list[tuple[int, int, int]]:
    """Return the first tokens of a request: what it has from others, then its own."""
    head, at = [], 0
    for key, start, length in content:
        taken = min(length, tokens - at)
        if taken > 0:
            head.append((key, start, taken))
            at += taken
    return [*head, (-1 - request, at, tokens - at)] if at < tokens else head


def _scenario(record: Mapping[str, Any], trace: Trace) -> Scenario:
    chip, model = _chip(record), load_model(str(_first(record, "", "meta.model", f"{ENGINE}.model")))
    scheduling = "resolved_subset.scheduler_config"

    def number(name: str, *more: str, default: float | None = None) -> int:
        value = _first(record, default, f"{scheduling}.{name}", f"{ENGINE}.{name}", *more)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise ValueError(f"{RUNS}: {name} of {trace.name} is {value!r}; allowed: a number, 0 and more")
        return int(value)

    policy = partial(
        chunked_prefill,
        chunked=bool(_first(record, True, f"{scheduling}.enable_chunked_prefill")),
        longest_chunk=number("long_prefill_token_threshold", default=0),
        reserve_whole_prompt=bool(_first(record, True, f"{scheduling}.scheduler_reserve_full_isl")),
    )
    context = number("max_model_len", default=model.context)
    cached = _first(record, True, "meta.kv_cache.enable_prefix_caching", f"{CACHE}.enable_prefix_caching")
    return Scenario(
        trace,
        hardware=chip,
        model=model,
        precision=_precision(record),
        tensor=number("tensor_parallel_size", default=1),
        policy=Scheduler(policy, "vLLM V1", cuts_prompts=bool(policy.keywords["chunked"])),
        prefix_cache=bool(cached),
        asynchronous=bool(_first(record, True, f"{scheduling}.async_scheduling")),
        utilisation=float(_first(record, 0.9, "meta.kv_cache.gpu_memory_utilization", f"{CACHE}.{UTILISATION}")),
        block_tokens=number("block_size", "meta.kv_cache.block_size", f"{CACHE}.block_size", default=16),
        sequences=number("max_num_seqs"),
        tokens=number("max_num_batched_tokens"),
        context=context,
        one_attention_kernel=chip.name in ONE_KERNEL_CHIPS,
    )


def _chip(record: Mapping[str, Any]) -> HardwareProfile:
    """Return the chip, with the memory that the server saw if it says so."""
    chip = load_hardware(_label(record))
    visible = _first(record, None, "meta.hardware.device_total_memory_bytes")
    return replace(chip, memory=replace(chip.memory, cuda_visible_bytes=float(visible))) if visible else chip


def _label(record: Mapping[str, Any]) -> str:
    return str(_first(record, "?", "cluster.nodes.0.instances.0.hardware", "meta.hardware.device_name"))


def _precision(record: Mapping[str, Any]) -> str:
    dtype = str(_first(record, "auto", f"{ENGINE}.dtype")).removeprefix("torch.")
    quantised = _first(record, None, f"{ENGINE}.quantization")
    weights = FORMATS.get(dtype) if quantised is None else QUANTISED.get(str(quantised))
    cache = CACHES.get(str(_first(record, "auto", f"{ENGINE}.kv_cache_dtype", f"{CACHE}.cache_dtype")))
    if weights is None or cache is None:
        raise ValueError(f"dtype {dtype}, quantization {quantised} or its KV cache is not modelled")
    return weights + cache


def _require_modelled(record: Mapping[str, Any]) -> None:
    """Raise ValueError that says what of a server is not modelled."""
    sizes = {
        "DP": _first(record, 1, f"{ENGINE}.data_parallel_size", "resolved_subset.parallel_config.data_parallel_size"),
        "PP": _first(record, 1, f"{ENGINE}.pipeline_parallel_size"),
    }
    missing = [f"{name} {size}" for name, size in sizes.items() if int(size) > 1]
    if _first(record, False, f"{ENGINE}.enable_expert_parallel"):
        missing.append("expert parallelism")
    policy = _first(record, "fcfs", "resolved_subset.scheduler_config.policy")
    if policy != "fcfs":
        missing.append(f"scheduling policy {policy}")
    nodes = _first(record, [], "cluster.nodes")
    instances = [instance for node in nodes for instance in node.get("instances", [])]
    if len(instances) > 1 or any(instance.get("pd_type") for instance in instances):
        missing.append(f"{len(instances)} instances in a cluster")
    if missing:
        raise ValueError(f"replays of {' with '.join(missing)} are not modelled; modelled is one replica with TP")


def _first(record: Mapping[str, Any], default: Any, *paths: str) -> Any:
    """Return the first value that is recorded, of dotted paths through objects and lists."""
    for path in paths:
        value: Any = record
        for step in path.split("."):
            if isinstance(value, list):
                value = value[int(step)] if step.isdigit() and int(step) < len(value) else None
            else:
                value = value.get(step) if isinstance(value, Mapping) else None
        if value is not None:
            return value
    return default
