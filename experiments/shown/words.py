"""Numbers, intervals and notes as a reader sees them: units, three digits, and what must stand beside them."""

from __future__ import annotations

import math

from experiments.article.scheduler_claims import RULE
from experiments.tried.comparison import Comparison
from sim.figures.words import overload as overload
from sim.figures.words import three_digits
from sim.figures.words import verdict as verdict
from sim.figures.words import with_bounds as with_bounds
from sim.results import stability, warmup
from sim.scheduling.caches import EVIDENCE_OF_CACHES
from sim.systems import EVIDENCE

TITLE = "roofserve sched_compare"
BANDS = {
    "datasheet": "datasheet (every peak reached, 30-50 % too fast: no prediction)",
    "generic": "generic constants (band about +-12 % on TPOT of dense models, +-25 % with experts)",
}
DEFINITIONS = (
    "TTFT: from arrival to the first token. TPOT: (end to end - TTFT) / (output tokens - 1), as vLLM defines it. "
    "ITL: every single gap between two tokens of a reply. E2E, the article's last-token latency: from arrival to the "
    "last token. Goodput: share of all requests answered within both objectives (DistServe, OSDI 2024). "
    "GPU-seconds: time in iterations x devices."
)
LEFT_OUT = (
    "Left out: front end and tokeniser (about 10 ms a request over HTTP), the network, the host overhead of eager "
    "Python engines of 2023 (20-45 ms an iteration), compilation, failures, and noise between runs of a real server."
)
POLICIES_NOT_PRODUCTS = (
    "The arms are policies, not products, on the same machine, kernels and limits. prefill_first: vLLM 0.2, which "
    "could not cache prefixes in January 2024, so its cache arm is an ablation. inflight_batching: reconstructed from "
    "code published in 2025; TensorRT-LLM's scheduler of January 2024 was closed."
)

PRODUCTS_NOT_POLICIES = (
    "The arms are products, not policies: seats, tokens, blocks, cache, host and front end are each system's own "
    "defaults, so that differences are not those of scheduling alone. Kernels are the same for all."
)
LEFT_OUT_OF_SYSTEMS = (
    "Left out: kernels of a system's own date, the network, compilation, failures, and noise between runs of a real "
    "server."
)


def share(value: float) -> str:
    """Return a share in percent.

    >>> share(0.98123), share(float("nan"))
    ('98.1 %', '-')
    """
    return "-" if math.isnan(value) else f"{100 * value:.1f} %"


def machine(comparison: Comparison) -> str:
    """Return model, precision, chips and the link between them."""
    return comparison.machine.title


def label(comparison: Comparison, arm: str) -> str:
    """Return the name of an arm, of a system with how its schedule is known."""
    system = comparison.systems.get(arm)
    return f"{arm} [{system.evidence}]" if system else arm


def as_run(comparison: Comparison, arm: str) -> dict[str, str]:
    """Return how a system ran, in words."""
    chosen = comparison.by_name[arm]
    system, limits, scenario = chosen.system, chosen.machine.limits, chosen.scenario
    assert system is not None
    cache = system.prefix_cache
    known = EVIDENCE_OF_CACHES[cache.cache] if cache else ""
    host = f"{1e3 * scenario.host_seconds:g} ms added"
    if scenario.least_iteration_seconds:
        host = f"at least {1e3 * scenario.least_iteration_seconds:.3g} ms an iteration"
    return {
        "evidence": system.evidence,
        "date": system.date,
        "policy": system.rules.policy,
        "seats": f"{limits.sequences:,}",
        "tokens": f"{limits.tokens:,}",
        "KV blocks": f"{limits.blocks:,} x {limits.block_tokens}",
        "prefix cache": ("on" if known == "executed" else f"on, {known}")
        if scenario.prefix_cache
        else "off"
        if cache
        else "none",
        "host": host,
        "front end": f"{1e3 * scenario.front_end_seconds:g} ms",
    }


def workload(comparison: Comparison) -> str:
    """Return the trace and what is shared in it."""
    options = comparison.options
    kind = "recorded trace" if comparison.recorded else "generated workload"
    shared = f", {options.system_prompt}-token system prompt" if options.system_prompt else ""
    return f"{options.trace} ({kind}{shared})"


def evidence(comparison: Comparison) -> str:
    """Return how good the constants of the cost model are."""
    level = comparison.machine.model.efficiency.level
    return BANDS.get(level, level)


def sampling(comparison: Comparison) -> str:
    """Return what the intervals rest on."""
    options = comparison.options
    some = next(iter(comparison.cells.values()))
    requests = f"{len(some.results[0].trace):,} requests"
    quick = " · QUICK: a first look, fewer loads, requests and replications" if options.quick else ""
    if comparison.recorded:
        return f"one recorded trace of {requests}: intervals hold within this trace{quick}"
    seeds = f"seeds 1-{options.seeds}" if (options.seeds or 1) > 1 else "seed 1"
    plural = "s" if (options.seeds or 1) > 1 else ""
    return f"{options.seeds} replication{plural} x {requests} · {seeds}{quick}"


def notes(comparison: Comparison) -> list[str]:
    """Return everything that a reader must know, a paragraph each."""
    options = comparison.options
    flags = [f"Beware: {flag}." for flag in comparison.machine.flags] + hints(comparison)
    capacity = (
        f"Capacity: {three_digits(comparison.capacity)} req/s are what {_first(comparison)} serves in the "
        "middle half of a run in which all requests arrive at once."
    )
    objectives = f"Objectives: TTFT <= {options.slo_ttft:g} s (the article's), TPOT <= {options.slo_tpot:g} s."
    pairing = "All arms see the same requests (common random numbers), so differences are paired."
    if comparison.recorded:
        pairing += " A recorded trace cannot be replicated: its intervals come from five time blocks of it."
    else:
        pairing += " At another load a seed has the same requests; only the arrivals are stretched."
    about = [f"Workload: {note}." for note in comparison.notes]
    rules = [f"Trimmed: {warmup.RULE}", stability.RULE]
    if comparison.systems:
        arms, rules = _about_systems(comparison), [*rules, LEFT_OUT_OF_SYSTEMS]
    else:
        arms, rules = [POLICIES_NOT_PRODUCTS], [*rules, RULE, LEFT_OUT]
    return [*flags, *arms, DEFINITIONS, objectives, capacity, pairing, *about, *rules]


def _first(comparison: Comparison) -> str:
    return comparison.arms[0] if comparison.systems else "prefill_first without cache"


def _about_systems(comparison: Comparison) -> list[str]:
    """Return what evidence means, and what must be known of each system."""
    systems = comparison.systems.values()
    levels = [f"{level}: {meaning}" for level, meaning in EVIDENCE.items() if level in {s.evidence for s in systems}]
    remarks = [f"{system.name}: {remark}" for system in systems for remark in system.remarks]
    return [*_host_bound(comparison), PRODUCTS_NOT_POLICIES, f"Evidence of schedules. {'; '.join(levels)}.", *remarks]


def brief(comparison: Comparison) -> list[str]:
    """Return the few notes that belong beside the numbers; all of them are in the report."""
    options = comparison.options
    lead = [f"Beware: {flag}." for flag in comparison.machine.flags] + hints(comparison)
    definitions = (
        "TTFT: arrival to first token. ITL: each gap between two tokens. TPOT: (E2E - TTFT) / (output tokens - 1). "
        "E2E: arrival to last token, the article's last-token latency. Goodput: share answered with "
        f"TTFT <= {options.slo_ttft:g} s and TPOT <= {options.slo_tpot:g} s."
    )
    arms = "Arms are policies on one machine, not products: vLLM 0.2 had no cache; in-flight batching is reconstructed."
    if comparison.systems:
        arms = (
            "Arms are products, each with its own limits, cache and overheads, not policies on one machine; the word "
            "in brackets says how a schedule is known, and the report what stands in for what."
        )
    lead += _host_bound(comparison)
    declared = [f"{note}." for note in comparison.notes if note.startswith("max_tokens") or "no prefix" in note]
    return [*lead, definitions, arms, *declared]


def _host_bound(comparison: Comparison) -> list[str]:
    """Return what must stand beside the numbers of systems that are held to a least time of an iteration."""
    held = [name for name, arm in comparison.by_name.items() if arm.scenario.least_iteration_seconds]
    if not held:
        return []
    return [
        f"Beware: no iteration of {', '.join(held)} is shorter than one of an eager Python engine of 2023 (45 ms for "
        "the 80 layers of a 70B model, measured). vLLM replays CUDA graphs while it decodes since 0.2.6, so this "
        "is an upper bound, which decides the result where the device alone would be faster."
    ]


def hints(comparison: Comparison) -> list[str]:
    """Return what to try where nothing can be compared, or where requests were turned away."""
    found = []
    cells = comparison.cells.values()
    if not any(cell.verdict.stable for cell in cells):
        rate = 0.7 * comparison.capacity
        load = comparison.loads[0]
        if load.speed is None:
            option = f"--load {rate:.2g}"
        else:
            option = f"--speed {rate / load.requests_per_second * load.speed:.2g}"
        found.append(f"Every arm is overloaded at every load: try {option}, which is 70 % of the capacity.")
    rejected = max(cell.counts["rejected"] / sum(len(result.trace) for result in cell.results) for cell in cells)
    if rejected:
        context = comparison.machine.limits.context
        found.append(
            f"{100 * rejected:.1f} % of the requests were rejected on arrival: with their reply they exceed "
            f"{context:,} tokens of context, or the machine. They count against goodput and in no percentile."
        )
    unclear = next((cell.verdict.reason for cell in cells if verdict(cell) == "unclear"), "")
    if unclear:
        found.append(f"It is unclear whether the arms keep up: {unclear}.")
    for cell in cells:
        if remark := next((remark for result in cell.results for remark in result.remarks), ""):
            found.append(f"{cell.arm} at {cell.load.requests_per_second:.3g} requests/s: {remark}.")
            break
    return found
