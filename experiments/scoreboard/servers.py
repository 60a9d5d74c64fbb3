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
from experiments.scoreboard.tables import path_of, read_columns
from hardware_profiles import HardwareProfile, available
from hardware_profiles import load as load_hardware
from sim.engine.clock import LAST_SECOND
from sim.physics.efficiency import generic
from sim.physics.mixed_attention import ONE_KERNEL_CHIPS
from sim.physics.parallelism import Parallelism
from sim.scenario import Scenario
from sim.scheduling.policies.chunked_prefill import chunked_prefill
from sim.scheduling.schedulers import Scheduler
from workloads.models import load as load_model
from workloads.models.transformer import Transformer
from workloads.trace import Segments, Trace

if TYPE_CHECKING:
    import pandas as pd

TABLE, RUNS = "e2e_requests", "e2e_runs.json"
COLUMNS = ("run", "req", "arrival_s", "in_tok", "out_tok", "tpot_ms", "e2e_ms")
FROM_QUEUE, FROM_ARRIVAL = "ttft_from_queued_ms", "ttft_ms"
"""The time to first token as the engine counts it, or else as its client does."""
OPTIONAL = (FROM_QUEUE, FROM_ARRIVAL, "prefix_hit_ideal", "prefix_parent_req", "queued_s", "sched_s")
ENGINE, CACHE, UTILISATION = "meta.engine_kwargs", "resolved_subset.cache_config", "gpu_memory_utilization"
FORMATS = {"bfloat16": "w16a16", "float16": "w16a16", "half": "w16a16", "auto": "w16a16"}
QUANTISED = {"fp8": "fp8", "awq": "w4a16", "gptq": "w4a16", "awq_marlin": "w4a16"}
LARGEST = 2**31
CACHES = {"auto": "", "bfloat16": "", "float16": "", "fp8": "-kv8", "fp8_e4m3": "-kv8", "fp8_e5m2": "-kv8"}


@dataclass(frozen=True)
class Recorded:
    """A run of a server, and the same as a scenario.

    Attributes
    ----------
    name, hardware : as the table writes them.
    scenario : the recorded arrivals, lengths and shared prefixes under the recorded limits; its blocks are predicted.
    blocks : KV blocks of the server, one of which it never uses; None where they were not recorded.
    ttft_seconds : time to first token (requests,) [s]; nan, here and below, where nothing was recorded.
    ttft_is_since_queued : counted from the moment the engine took the request from its queue, not from its arrival.
    tpot_seconds : nan for replies of one token (requests,) [s].
    end_to_end_seconds : from arrival to the last token (requests,) [s].
    is_overloaded : whether most of the median time to first token was waiting for a seat or for memory.
    """

    name: str
    hardware: str
    scenario: Scenario
    blocks: int | None
    ttft_seconds: Floats
    ttft_is_since_queued: bool
    tpot_seconds: Floats
    end_to_end_seconds: Floats
    is_overloaded: bool


def read(folder: Path) -> list[Recorded | Skipped]:
    """Return the runs that a folder holds; what cannot be read or replayed is reported, not fatal."""
    path = path_of(folder, TABLE)
    if path is None:
        missing = f"{TABLE}.csv is missing beside {RUNS}"
        return [Skipped(TABLE, "", "", 0, missing)] if (folder / RUNS).is_file() else []
    try:
        table, odd = _sorted_out(read_columns(path, TABLE, COLUMNS), path)
        records = _records(folder / RUNS)
    except ValueError as error:
        return [Skipped(TABLE, "", "", 0, str(error))]
    found: list[Recorded | Skipped] = [*odd]
    for name, rows in table.groupby(table["run"].astype(str), sort=True):
        record = records.get(str(name))
        try:
            if not isinstance(record, Mapping):
                raise ValueError(f"{RUNS} says nothing about the run {name}")
            found.append(_recorded(str(name), rows, record))
        except (ValueError, TypeError, AttributeError) as error:
            label = _label(record) if isinstance(record, Mapping) else "?"
            found.append(Skipped(TABLE, label, str(name), len(rows), str(error)))
    return found


def _sorted_out(table: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, list[Skipped]]:
    """Return the requests that can be replayed, numbers as numbers, and what is wrong with the others."""
    import pandas as pd

    if FROM_QUEUE not in table and FROM_ARRIVAL not in table:
        raise ValueError(f"{path}: columns {FROM_QUEUE} and {FROM_ARRIVAL} are missing; allowed: one of them, or both")
    table = table.reset_index(drop=True)
    for name in (*COLUMNS[1:], *OPTIONAL):
        given = table[name] if name in table else pd.Series(np.nan, index=table.index)
        table[name] = pd.to_numeric(given, errors="coerce").replace([np.inf, -np.inf], np.nan)
    limits = {
        "req": (-np.inf, LARGEST),
        "arrival_s": (0, LAST_SECOND - 1),
        "in_tok": (1, LARGEST),
        "out_tok": (1, LARGEST),
    }
    good = np.ones(len(table), dtype=bool)
    skipped = []
    for name, (low, high) in limits.items():
        odd = good & ~table[name].between(low, high).to_numpy()
        if odd.any():
            reason = f"{path}, row {int(odd.argmax()) + 1}: {name} is not a number from {low:g} to {high:g}"
            skipped.append(Skipped(TABLE, "", name, int(odd.sum()), reason))
        good &= ~odd
    return table[good], skipped


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


def _recorded(name: str, rows: pd.DataFrame, record: Mapping[str, Any]) -> Recorded:
    _require_modelled(record)
    rows = rows.sort_values(["arrival_s", "req"], kind="stable")
    since_queued = bool(rows[FROM_QUEUE].notna().any())
    ttft, tpot, end_to_end = (
        rows[column].where(rows[column] > 0).to_numpy(dtype=np.float64) / 1e3
        for column in (FROM_QUEUE if since_queued else FROM_ARRIVAL, "tpot_ms", "e2e_ms")
    )
    waited = (rows["sched_s"] - rows["queued_s"]).median()  # nan, and so not overloaded, where it was not recorded
    blocks = _first(record, None, "meta.kv_cache.num_gpu_blocks", "resolved_subset.cache_config.num_gpu_blocks")
    return Recorded(
        name,
        _label(record),
        _scenario(record, _trace(name, rows)),
        None if blocks is None else int(blocks),
        ttft,
        since_queued,
        np.where(rows["out_tok"] > 1, tpot, np.nan),
        end_to_end,
        bool(waited > 0.5 * np.nanmedian(ttft)) if np.isfinite(ttft).any() else False,
    )


def _trace(name: str, rows: pd.DataFrame) -> Trace:
    """Return what was asked; text shared with a request that is not in the table, or came later, is nobody's."""
    prompt, output = (rows[column].to_numpy(dtype=np.int64) for column in ("in_tok", "out_tok"))
    place = {int(request): i for i, request in enumerate(rows["req"])}
    contents: list[list[tuple[int, int, int]]] = []
    parents = rows["prefix_parent_req"].fillna(-1).to_numpy(dtype=np.int64).tolist()
    hits = rows["prefix_hit_ideal"].fillna(0).to_numpy(dtype=np.int64)
    for i, (parent, hit) in enumerate(zip(parents, np.clip(hits, 0, prompt).tolist(), strict=True)):
        at = place.get(parent, i) if parent >= 0 else i
        contents.append(_head(at, contents[at], hit) if at < i and hit else [])
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
    split = _split(record, model, number("tensor_parallel_size", default=1))
    cached = _first(record, True, "meta.kv_cache.enable_prefix_caching", f"{CACHE}.enable_prefix_caching")
    return Scenario(
        trace,
        hardware=chip,
        model=model,
        precision=_precision(record),
        tensor=split.tensor,
        pipeline=split.pipeline,
        expert=split.expert,
        data=split.data,
        policy=Scheduler(policy, "vLLM V1", cuts_prompts=bool(policy.keywords["chunked"])),
        prefix_cache=bool(cached),
        asynchronous=bool(_first(record, True, f"{scheduling}.async_scheduling")),
        utilisation=float(_first(record, 0.9, "meta.kv_cache.gpu_memory_utilization", f"{CACHE}.{UTILISATION}")),
        block_tokens=number("block_size", "meta.kv_cache.block_size", f"{CACHE}.block_size", default=16),
        sequences=number("max_num_seqs"),
        tokens=number("max_num_batched_tokens"),
        context=context,
        one_attention_kernel=chip.name in ONE_KERNEL_CHIPS,
        efficiency=generic(chip, "vllm"),
    )


def _split(record: Mapping[str, Any], model: Transformer, tensor: int) -> Parallelism:
    """Return what vLLM makes of its options: experts lie on the devices of all data ranks, whole or cut.

    Source: docs.vllm.ai, "Data Parallel Deployment" and "Expert Parallel Deployment".
    """
    data, stages = _data_ranks(record), int(_first(record, 1, f"{ENGINE}.pipeline_parallel_size"))
    if data > 1 and model.mixture is None:
        raise ValueError(f"replays of DP {data} without experts to share are not modelled: these are several servers")
    whole = model.mixture is not None and bool(_first(record, False, f"{ENGINE}.enable_expert_parallel"))
    split = Parallelism(tensor, stages, tensor * data if whole else 1, data)
    split.check(model)
    return split


def _data_ranks(record: Mapping[str, Any]) -> int:
    parallel = "resolved_subset.parallel_config"
    return int(_first(record, 1, f"{ENGINE}.data_parallel_size", f"{parallel}.data_parallel_size"))


def _chip(record: Mapping[str, Any]) -> HardwareProfile:
    """Return the chip, with the memory that the server saw if it says so."""
    chip = _named(_label(record))
    visible = _first(record, None, "meta.hardware.device_total_memory_bytes")
    return replace(chip, memory=replace(chip.memory, cuda_visible_bytes=float(visible))) if visible else chip


def _named(name: str) -> HardwareProfile:
    """Return a chip by its name here, or by the name its driver gives it, which is our title without the capacity."""
    try:
        return load_hardware(name)
    except ValueError:
        titles = {load_hardware(chip).title: chip for chip in available()}
        close = [chip for title, chip in titles.items() if title.casefold().startswith(f"{name.casefold()} ")]
        if len(close) != 1:
            raise
        return load_hardware(close[0])


def _label(record: Mapping[str, Any]) -> str:
    """Return the name of the chip: the recorded one that is known, or else the first."""
    paths = ("cluster.nodes.0.instances.0.hardware", "meta.hardware.device_name")
    names = [str(name) for path in paths if (name := _first(record, None, path)) is not None]
    return next((name for name in names if _is_known(name)), names[0] if names else "?")


def _is_known(name: str) -> bool:
    try:
        _named(name)
    except ValueError:
        return False
    return True


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
    missing = []
    policy = _first(record, "fcfs", "resolved_subset.scheduler_config.policy")
    if policy != "fcfs":
        missing.append(f"scheduling policy {policy}")
    nodes = _first(record, [], "cluster.nodes")
    instances = [instance for node in nodes for instance in node.get("instances", [])]
    if any(instance.get("pd_type") for instance in instances):
        missing.append("prefill and decode on instances of their own")
    if len(instances) > _data_ranks(record):
        missing.append(f"{len(instances)} instances in a cluster")
    if missing:
        raise ValueError(f"replays of {' with '.join(missing)} are not modelled; modelled is one replica")


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
