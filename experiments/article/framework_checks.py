"""The rows of the article's framework table: what the systems of that date had, and what it is worth here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.article.claim_checks import CONTEXT, PROMPT, example, prompt_of
from experiments.article.finding import DOES_NOT_HOLD, HOLDS, NOT_DECIDABLE, Finding, Number, article
from experiments.article.scheduler_claims import claims
from experiments.asked.workload import Workload
from experiments.tried.saturation import capacity
from sim.results.intervals import Interval, replicated
from sim.scenario import simulate
from sim.systems import CAPABILITIES, load

if TYPE_CHECKING:
    from experiments.tried.comparison import Comparison
    from workloads.trace import Trace

SYSTEMS = {"tensorrt-llm": "tensorrt-llm-2024-01", "vllm": "vllm-0.2.7"}
"""The columns of the table, and the presets of that date."""
UNCACHED = ("prefill_first", "inflight_batching")
FAR_FEWER = 0.5
"""Saved part of the GPU-seconds from which we call it far fewer."""
PADDED_TOGETHER = 8
"""Prompts in a padded batch, for the row on padding."""

Measured = tuple[str, tuple[Number, ...], str]
"""What a measurement says: in words, in numbers, and its own verdict ("" if it has none)."""


def findings(comparison: Comparison) -> list[Finding]:
    """Return one finding for each row of the framework table."""
    return [_row(row, comparison) for row in article()["rows"]]


def _row(row: dict[str, Any], comparison: Comparison) -> Finding:
    says = "; ".join(f"{load(SYSTEMS[name]).title}: {text}" for name, text in row["says"].items())
    verdict, remarks = capabilities_verdict(row["capabilities"])
    measure = MEASURES.get(row.get("measure", ""))
    text, numbers, own = measure(comparison) if measure else ("", (), "")
    if verdict in (HOLDS, NOT_DECIDABLE) and own:
        verdict = own
    ours = "; ".join(part for part in (*remarks, text) if part) or "as the published code and documents of that date"
    command = COMMANDS.get(row.get("measure", ""), "roofserve claims")
    return Finding(row["title"], says, ours, verdict, command, numbers)


def capabilities_verdict(names: list[str]) -> tuple[str, list[str]]:
    """Return what the presets of that date say of the article's statements, and what was found beyond them.

    A statement of the article about a capability is right if the preset has it where the article says yes, and lacks
    it where the article says anything else.
    """
    stated = wrong = 0
    errors, remarks = [], []
    for system in map(load, SYSTEMS.values()):
        for name in names:
            found = system.capabilities[name]
            stated += bool(found.article_says)
            what = f"{system.title}, {CAPABILITIES[name]}"
            if found.article_errs:
                wrong += 1
                errors.append(f"{what} ({found.checked or 'it is otherwise'})")
            elif found.checked:
                remarks.append(f"{what}: {found.checked}")
    if not stated:
        return NOT_DECIDABLE, remarks
    if not wrong:
        return HOLDS, remarks
    if wrong < stated:
        return f"holds if these are left out: {'; '.join(errors)}", remarks
    return f"{DOES_NOT_HOLD}: {'; '.join(errors)}", remarks


def _first_token(comparison: Comparison) -> Measured:
    found = [claim for claim in claims(comparison) if claim.scope == "no cache"]
    texts = [f"{claim.says}: {claim.answer}" for claim in found]
    stable = [load for load in comparison.loads if all(comparison.cell(arm, load).verdict.stable for arm in UNCACHED)]
    every = [load for load in stable if all(load.requests_per_second in claim.held_at for claim in found)]
    loads = ", ".join(f"{100 * load.share_of_capacity:.0f}" for load in every)
    if not every:
        verdict = f"{DOES_NOT_HOLD}: at no load are all three effects shown"
    else:
        verdict = HOLDS if every == stable else f"holds if the load is {loads} % of the capacity (of those tried)"
    pair = comparison.differences
    pair = pair[(pair.effect == "policy") & (pair.within == "no cache")]
    at = pair[pair.load == comparison.shown.requests_per_second]
    numbers = tuple(
        Number(f"in-flight against prefill first, {name}", "%", *map(float, row))
        for metric, name in (("mean_ttft_seconds", "mean TTFT"), ("mean_end_to_end_seconds", "mean E2E"))
        for row in at.loc[at.metric == metric, ["percent", "percent_low", "percent_high"]].to_numpy()
    )
    return "; ".join(texts), numbers, verdict


def _fp8(_: Comparison) -> Measured:
    wide, narrow = example(), example(2, "fp8")
    prompt = narrow.ttft_seconds(PROMPT) / wide.ttft_seconds(PROMPT)
    token = narrow.tpot_seconds(CONTEXT) / wide.tpot_seconds(CONTEXT)
    text = f"worth, 13B on 2 x L20: prompt {100 * prompt:.0f} % and token {100 * token:.0f} % of the time in FP16"
    return text, (Number("prompt", "of FP16", prompt), Number("token", "of FP16", token)), ""


def _narrow(_: Comparison) -> Measured:
    names = ("w8a8", "w8a16", "w4a16", "w4a8")  # L20 has no 4-bit unit, so that W4A4 cannot be priced on it
    wide = example().tpot_seconds(CONTEXT)
    shares = {name: example(2, name).tpot_seconds(CONTEXT) / wide for name in names}
    listed = ", ".join(f"{name.upper()} {100 * share:.0f} %" for name, share in shares.items())
    numbers = tuple(Number(f"token, {name}", "of FP16", share) for name, share in shares.items())
    return f"token of 13B on 2 x L20 against FP16: {listed}", numbers, ""


def _prefix_sharing(comparison: Comparison) -> Measured:
    table = comparison.differences
    rows = table[(table.effect == "cache") & (table.within == "inflight_batching") & np.isinf(table.load)]
    row = next(rows.itertuples())
    saved, low, high = (-row.percent / 100, -row.percent_high / 100, -row.percent_low / 100)
    shared = _share_of_prompts(comparison)
    text = (
        f"saturated GPU-seconds per request fall by {100 * saved:.0f} % [{100 * low:.0f}, {100 * high:.0f}] where "
        f"{100 * shared:.0f} % of prompt tokens are shared"
    )
    numbers = (Number("GPU-seconds saved", "of all", saved, low, high), Number("shared", "of prompt tokens", shared))
    sure = low if np.isfinite(low) else saved
    if sure >= FAR_FEWER:
        return text, numbers, HOLDS
    if sure > 0:
        return text, numbers, f"holds if prompts share more than here: {100 * saved:.0f} % saved is not far fewer"
    return text, numbers, f"{DOES_NOT_HOLD}: no saving is shown"


def _share_of_prompts(comparison: Comparison) -> float:
    trace = next(iter(comparison.cells.values())).results[0].trace
    return len(trace) * int(comparison.options.system_prompt or 0) / float(trace.prompt_tokens.sum())


def _padding(comparison: Comparison) -> Measured:
    def waste(trace: Trace) -> float:
        whole = trace.prompt_tokens[: len(trace) // PADDED_TOGETHER * PADDED_TOGETHER].reshape(-1, PADDED_TOGETHER)
        return 1 - float(whole.sum()) / float(whole.max(axis=1).sum() * PADDED_TOGETHER)

    found = replicated(np.array([waste(trace) for trace in _traces(comparison)]))
    text = f"{PADDED_TOGETHER} prompts padded to the longest: {_interval(found, 100)} % of the tokens are padding"
    return text, (_number("padding", "of tokens", found),), ""


def _flash_attention(_: Comparison) -> Measured:
    model = example().iteration
    totals = prompt_of(model.model.context)
    ratio = float(replace(model, flash_attention=False).seconds(totals) / model.seconds(totals))
    text = f"without it a prompt of {model.model.context:,} tokens takes {ratio:.2f} times as long (13B, 2 x L20)"
    return text, (Number("prompt without FlashAttention", "times as long", ratio),), ""


def _paged_attention(comparison: Comparison) -> Measured:
    context = comparison.machine.limits.context
    ratios = [context / float((trace.prompt_tokens + trace.output_tokens).mean()) for trace in _traces(comparison)]
    found = replicated(np.array(ratios))
    text = f"reserving {context:,} tokens a request instead would seat {_interval(found)} times fewer at once"
    return text, (_number("requests at once", "times as many", found),), ""


def _continuous_batching(comparison: Comparison) -> Measured:
    arm = comparison.by_name["prefill_first"]

    def served(trace: Trace, policy: str) -> float:
        return capacity(simulate(replace(arm.scenario, trace=trace, policy=policy), arm.machine))

    gains = [served(trace, "prefill_first") / served(trace, "static_padded_to_end") for trace in _traces(comparison)]
    found = replicated(np.array(gains))
    text = f"saturated throughput is {_interval(found)} times that of static, padded batches"
    return text, (_number("throughput against static batching", "times", found),), ""


def _traces(comparison: Comparison) -> list[Trace]:
    """Return the requests of every replication, all arriving at once."""
    workload = Workload(comparison.options, comparison.machine.limits.context)
    return [workload.trace(np.inf, seed) for seed in range(1, int(comparison.options.seeds or 1) + 1)]


def _number(quantity: str, unit: str, found: Interval) -> Number:
    return Number(quantity, unit, found.estimate, found.low, found.high)


def _interval(found: Interval, scale: float = 1.0) -> str:
    return f"{scale * found.estimate:.3g} [{scale * found.low:.3g}, {scale * found.high:.3g}]"


MEASURES: dict[str, Callable[[Comparison], Measured]] = {
    "first_token": _first_token,
    "fp8": _fp8,
    "narrow": _narrow,
    "prefix_sharing": _prefix_sharing,
    "padding": _padding,
    "flash_attention": _flash_attention,
    "paged_attention": _paged_attention,
    "continuous_batching": _continuous_batching,
}
"""What is simulated beside a row, by its name in the data."""

COMMANDS = {
    "first_token": "roofserve sched_compare",
    "prefix_sharing": "roofserve sched_compare",
    "fp8": "roofserve roofline --precision fp8",
    "narrow": "roofserve roofline --precision w4a16",
}
