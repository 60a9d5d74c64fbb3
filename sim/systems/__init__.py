"""Which serving systems there are, dated, and the scenario in which one of them serves a trace."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import hardware_profiles
from hardware_profiles.profile import HardwareProfile
from sim.physics import precision as precisions
from sim.physics.efficiency import generic
from sim.physics.mixed_attention import ONE_KERNEL_CHIPS
from sim.scenario import Scenario
from sim.scheduling.schedulers import SCHEDULERS, Scheduler
from sim.systems.reading import from_toml
from sim.systems.system import CAPABILITIES, EVIDENCE, Capability, Rules, System
from workloads import models
from workloads.models.transformer import Transformer
from workloads.trace import Trace

__all__ = ["CAPABILITIES", "EVIDENCE", "Capability", "System", "available", "load", "scenario"]

SHIPPED = Path(__file__).parent


def available() -> tuple[str, ...]:
    """Return the names of the shipped systems, sorted.

    >>> "vllm-0.2.7" in available()
    True
    """
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.toml")))


def load(name_or_path: str | Path) -> System:
    """Return the shipped system of that name, or the one that a user's ``.toml`` describes.

    Raises
    ------
    ValueError
        If there is no such system, or the file is not one; the message says what is allowed.

    >>> load("vllm-0.2.7").limits.paddings
    256
    """
    name = str(name_or_path)
    if name in available():
        return _shipped(name)
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return from_toml(path)
    near = get_close_matches(name, available(), n=2, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ValueError(f"system {name!r} is unknown; {hint}allowed: {', '.join(available())}, or the path of a .toml")


@lru_cache
def _shipped(name: str) -> System:
    return from_toml(SHIPPED / f"{name}.toml")


def scenario(
    system: System | str,
    trace: Trace | str | Path | None = None,
    *,
    hardware: str | HardwareProfile = "l20",
    model: str | Transformer = "llama-2-13b",
    precision: str = "w16a16",
    tensor: int = 2,
    prefix_cache: bool | None = None,
    chunked: bool | None = None,
    context: int | None = None,
    utilisation: float | None = None,
) -> Scenario:
    """Return how a system serves a trace, with its own limits, cache and overheads, ready for `sim.simulate`.

    Parameters
    ----------
    trace, hardware, model, precision, tensor : as in `Scenario`.
    prefix_cache, chunked : None for the system's default.
    context, utilisation : None for what the system takes by itself.

    Raises
    ------
    ValueError
        If the system cannot do what is asked; the message names those that can.
    """
    if isinstance(system, str):
        system = load(system)
    chip = hardware_profiles.load(hardware) if isinstance(hardware, str) else hardware
    shape = models.load(model) if isinstance(model, str) else model
    _require_precision(system, precision)
    if prefix_cache:
        _require(system, "prefix_sharing", "prefix_cache=True")
    limits, overheads, budget = system.limits, system.overheads, system.limits.budget(chip)
    longest = min(shape.context, limits.most_context or shape.context)
    if context is not None and context > longest and limits.most_context is not None:
        raise ValueError(f"context is {context}; {system.title} allows at most {longest} tokens")
    cache = system.prefix_cache
    return Scenario(
        trace,
        hardware=chip,
        model=shape,
        precision=precision,
        tensor=tensor,
        policy=_scheduler(_rules(system, chunked)),
        prefix_cache=cache.cache if cache and (cache.default if prefix_cache is None else prefix_cache) else False,
        asynchronous=system.asynchronous,
        utilisation=utilisation or limits.utilisation,
        utilisation_of_free=limits.of_free,
        reserved_bytes=limits.reserved_bytes,
        block_tokens=limits.block_tokens,
        sequences=budget.sequences,
        tokens=max(budget.tokens, context or longest) if limits.tokens_cover_context else budget.tokens,
        context=context or longest,
        watermark=limits.watermark,
        paddings=limits.paddings,
        host_seconds=overheads.host_seconds,
        least_iteration_seconds=overheads.least_seconds_per_layer * shape.layers,
        front_end_seconds=overheads.front_end_seconds,
        flash_attention=system.has("flash_attention"),
        one_attention_kernel=system.one_attention_kernel and chip.name in ONE_KERNEL_CHIPS,
        efficiency=generic(chip, system.kernels),
    )


def _require(system: System, capability: str, asked: str) -> None:
    """Refuse what a system lacks, and say which of the shipped ones have it."""
    found = system.capabilities[capability]
    if found.has:
        return
    why = f" ({found.checked})" if found.checked else ""
    able = [name for name in available() if load(name).has(capability)]
    raise ValueError(
        f"{asked}: {system.title} has no {CAPABILITIES[capability]}{why}; systems that have it: {', '.join(able)}"
    )


def _require_precision(system: System, precision: str) -> None:
    weights, _, cache = precisions.load(precision).name.partition("-")
    for name in (weights, "kv8" if cache in ("kv8", "kv4") else ""):
        if name in CAPABILITIES:
            _require(system, name, f"precision={precision!r}")
    if cache == "kv4":
        raise ValueError(f"precision={precision!r}: no system preset has a 4-bit KV cache; allowed: kv16, kv8")


def _rules(system: System, chunked: bool | None) -> Rules:
    wanted = system.chunked if chunked is None else chunked
    if wanted:
        _require(system, "chunked_prefill", "chunked=True")
    rules = system.chunked_prompts if wanted else system.whole_prompts
    if rules is None:
        able = [name for name in available() if load(name).whole_prompts]
        raise ValueError(
            f"chunked=False: {system.title} always cuts prompts; systems that can run them whole: {', '.join(able)}"
        )
    return rules


def _scheduler(rules: Rules) -> Scheduler:
    found = SCHEDULERS[rules.policy]
    if not rules.parameters:
        return found
    parameters: dict[str, Any] = dict(rules.parameters)
    whole_only = parameters.get("chunked") is False
    return replace(
        found, policy=partial(found.policy, **parameters), cuts_prompts=found.cuts_prompts and not whole_only
    )
