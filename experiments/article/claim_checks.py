"""The article's claims C1 to C8, each computed anew."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

import hardware_profiles
from experiments import tp_scaling
from experiments.article.finding import DOES_NOT_HOLD, HOLDS, NOT_DECIDABLE, Finding, Number, article, percent
from experiments.article.table import article_chips
from experiments.sizing import Need, rank
from experiments.tried.cell import Cell
from experiments.tried.instance import CARDS_IN_A_SERVER, Instance, eight_bit
from hardware_profiles.profile import HardwareProfile
from sim.physics import efficiency, precision
from sim.physics.band import Band, band
from sim.physics.breakdown import breakdown
from sim.physics.iteration import IterationModel
from sim.physics.memory import weight_bytes_per_device
from sim.physics.parallelism import Parallelism
from sim.physics.placement import Placement
from sim.physics.streaming import hiding_tokens
from sim.physics.totals import Totals
from workloads import models
from workloads.models.transformer import Transformer

if TYPE_CHECKING:
    import pandas as pd

    from experiments.tried.comparison import Comparison

DRAWS = 200
CONTEXT = 1024
PROMPT = 1024
TPOT_OBJECTIVE = 0.2
"""Objective for each further token [s]: MLPerf Inference, Llama-2-70B server."""
YEAR = 2024
MARGIN = 0.01
"""Differences of less are none."""


def example(tensor: int = 2, name: str = "w16a16") -> Instance:
    """Return the article's own example on so many cards."""
    said = article()["example"]
    return Instance(models.load(said["model"]), hardware_profiles.load(said["chip"]), precision.load(name), tensor)


def decoding(batch: int, context: int = CONTEXT) -> Totals:
    """Return an iteration in which so many sequences decode."""
    return Totals(tokens=batch, samples=batch, decode_sequences=batch, decode_kv_tokens=batch * context)


def prompt_of(tokens: int) -> Totals:
    """Return an iteration of one prompt."""
    return Totals(tokens=tokens, samples=1, prefill_tokens=tokens, prefill_pairs=tokens * (tokens + 1) / 2)


def spread(model: IterationModel, totals: Totals) -> Band:
    """Return between which times an iteration lies with the plausible constants of the cost model."""
    return band(model, totals, DRAWS, np.random.default_rng(1))


def memory_share(model: IterationModel, totals: Totals) -> float:
    """Return the part of an iteration in operators that wait for memory."""
    parts = breakdown(model, totals)
    return math.fsum(p.seconds for p in parts if p.bound_by == "memory") / math.fsum(p.seconds for p in parts)


def memory_bound() -> Finding:
    """C1: decoding and prompts, and the longest prompt that is answered within the article's objective."""
    instance, says = example(), article()["claims"]["C1"]
    objective = float(article()["example"]["first_token_seconds"])
    most = instance.room(CONTEXT)
    batches = [2**power for power in range(most.bit_length())]
    decode = [memory_share(instance.iteration, decoding(batch)) for batch in batches]
    prefill = memory_share(instance.iteration, prompt_of(PROMPT))
    lengths = np.arange(1, instance.model.context + 1, dtype=np.float64)
    times = instance.iteration.seconds(Totals(lengths, 1, lengths, lengths * (lengths + 1) / 2))
    longest = int(lengths[times <= objective].max(initial=0))
    first, seconds = spread(instance.iteration, prompt_of(PROMPT)), instance.ttft_seconds(PROMPT)
    ours = (
        f"2 x L20, 13B: {percent(min(decode), max(decode))} of decoding waits for memory at batch 1-{batches[-1]}, and "
        f"{percent(prefill, prefill)} of a prompt of {PROMPT:,}; its first token takes {seconds:.3g} s "
        f"[{first.low:.2g}, {first.high:.2g}], and up to {longest:,} tokens are within {objective:g} s"
    )
    if min(decode) > 0.5 and prefill > 0.5:
        verdict = HOLDS
    elif max(decode) > 0.5:
        held = [batch for batch, share in zip(batches, decode, strict=True) if share > 0.5]
        verdict = f"holds if decoding is meant (batch {held[0]} to {held[-1]}); prompts are bound by arithmetic"
    else:
        verdict = f"{DOES_NOT_HOLD}: neither phase waits for memory most of the time"
    numbers = (
        Number("decoding bound by memory, least", "share", min(decode)),
        Number("prompt bound by memory", "share", prefill),
        Number(f"first token of {PROMPT}", "s", seconds, float(first.low), float(first.high)),
        Number("longest prompt within the objective", "tokens", float(longest)),
    )
    return Finding("C1", says, ours, verdict, "roofserve roofline --decode 32", numbers)


def weight_read() -> Finding:
    """C2: reading the weights, in the article's units and in strict ones, and a whole token by the roofline."""
    said = article()["example"]
    chip = hardware_profiles.load(said["chip"])
    weight_bytes, bandwidth = 2 * said["parameters"], chip.memory.bandwidth_bytes_per_second
    numbers, texts, reproduced, off = [], [], True, 0.0
    for cards, claimed in ((int(cards), value) for cards, value in said["milliseconds"].items()):
        mixed = 1e3 * round(weight_bytes / 2**30, 2) / (bandwidth / 1e9) / cards
        strict = 1e3 * weight_bytes / bandwidth / cards
        instance = example(cards)
        bare = replace(instance.iteration, efficiency=efficiency.datasheet(), host_seconds=0.0)
        floor, token = 1e3 * float(bare.seconds(decoding(1))), 1e3 * instance.tpot_seconds(CONTEXT)
        limits = spread(instance.iteration, decoding(1))
        low, high = 1e3 * float(limits.low), 1e3 * float(limits.high)
        reproduced &= round(mixed, 2) == claimed
        off = max(off, strict / claimed - 1)
        numbers += [
            Number(f"weights read, GiB by GB/s, TP {cards}", "ms", mixed, article=claimed),
            Number(f"weights read, bytes by bytes/s, TP {cards}", "ms", strict, article=claimed),
            Number(f"whole token, datasheet roofline, TP {cards}", "ms", floor, article=claimed),
            Number(f"whole token, generic constants, TP {cards}", "ms", token, low, high, article=claimed),
        ]
        texts.append(
            f"TP {cards}: {mixed:.2f} ms as the article counts (GiB by GB/s), {strict:.2f} strictly; a whole token "
            f"{floor:.1f} by the datasheet, {token:.1f} [{low:.1f}, {high:.1f}] with launches, links and attention"
        )
    if not reproduced:
        verdict = f"{DOES_NOT_HOLD}: its own arithmetic is not reproduced"
    elif off > MARGIN:
        verdict = f"holds if GiB are divided by GB/s; in one unit it takes {100 * off:.1f} % longer"
    else:
        verdict = HOLDS
    command = "roofserve roofline --decode 1 --tp 1 --efficiency datasheet"
    return Finding("C2", article()["claims"]["C2"], "; ".join(texts), verdict, command, tuple(numbers))


def best_tensor() -> Finding:
    """C3: where a larger TP is slower, and where the fastest is not the largest."""
    table = tp_scaling.run()
    slower, every = tp_scaling.slower_with_more(table)
    within = table[table["one_server"] & (table["tensor"] > 1)]
    least, most = within["communication_share"].min(), within["communication_share"].max()
    off = sum(not _shared(table, case) for case in slower)
    cases = ", ".join(dict.fromkeys(f"{chip} {phase}" for _, chip, phase, _ in slower))
    ours = (
        f"in {len(slower)} of {len(every)} cases (model, chip, phase, batch) a larger TP within a server is slower"
        f"{': ' if cases else ''}{cases}; {off} of these leave the fast link; communication takes "
        f"{percent(least, most)}"
    )
    verdict = HOLDS if slower else f"{DOES_NOT_HOLD}: within a server more cards are always faster"
    numbers = (
        Number("cases with a larger TP slower", "of all", len(slower) / len(every)),
        Number("communication, most", "share", float(most)),
    )
    return Finding("C3", article()["claims"]["C3"], ours, verdict, "roofserve tp_scaling", numbers)


def _shared(table: pd.DataFrame, case: tuple[str, str, str, int]) -> bool:
    """Return whether all splits of a case within a server have a common fast link."""
    model, chip, phase, batch = case
    rows = table[(table["model"] == model) & (table["chip"] == chip) & table["one_server"]]
    return bool(rows[(rows["phase"] == phase) & (rows["batch"] == batch)]["fast_link"].all())


def too_large_for_a_server() -> Finding:
    """C4: 530B on 8, then 16 cards, and weights streamed from the host."""
    model, chip, formats = models.load("mt-nlg-530b"), hardware_profiles.load("h800-sxm"), precision.load("w16a16")
    one, two = (Instance(model, chip, formats, CARDS_IN_A_SERVER, stages) for stages in (1, 2))
    premise, fits = one.room(CONTEXT) == 0, two.room(CONTEXT) > 0
    staged = two.tpot_seconds(CONTEXT)
    split, placement = Parallelism(CARDS_IN_A_SERVER), Placement("host")
    streaming = IterationModel(model, chip, formats, split, efficiency.generic(chip), placement=placement)
    streamed = float(streaming.seconds(decoding(1)))
    ours = (
        f"530B FP16 {'does not fit' if premise else 'fits'} 8 x H800; 16 as {two.split} take {1e3 * staged:.0f} ms a "
        f"token; 8 that stream weights over PCIe take {streamed:.2f} s, for up to {hiding_tokens(streaming):,} tokens"
    )
    if not (premise and fits and staged <= TPOT_OBJECTIVE):
        verdict = f"{DOES_NOT_HOLD}: pipeline stages do not answer within {TPOT_OBJECTIVE:g} s a token"
    elif streamed > TPOT_OBJECTIVE:
        verdict = f"holds if latency does not matter to ZeRO-Inference: {streamed / staged:.0f} times slower than PP"
    else:
        verdict = HOLDS
    numbers = (
        Number("TP 8 x PP 2, a token", "s", staged),
        Number("streamed, a token", "s", streamed),
    )
    command = "roofserve offload --model mt-nlg-530b --chip h800-sxm"
    return Finding("C4", article()["claims"]["C4"], ours, verdict, command, numbers)


def eight_bits() -> Finding:
    """C5: memory, prompt and token of 8-bit weights against 16-bit ones, with and without an 8-bit unit."""
    model = models.load(article()["example"]["model"])
    ratios: dict[str, list[tuple[float, float, float]]] = {"unit": [], "none": []}
    for chip in article_chips().values():
        name = eight_bit(chip)
        ratios["none" if name == "w8a16" else "unit"].append(_ratios(model, chip, name))
    memory, prompt, token = (np.array(values) for values in zip(*ratios["unit"], strict=True))
    without = np.array([values[1] for values in ratios["none"]])
    ours = (
        f"13B, TP 2, against FP16: weights {percent(memory.min(), memory.max())}, a prompt of {PROMPT:,} "
        f"{percent(prompt.min(), prompt.max())} and a token {percent(token.min(), token.max())} of the time on "
        f"{len(prompt)} chips with 8-bit units; prompt on {len(without)} without (V100): "
        f"{percent(without.min(), without.max())}"
    )
    if memory.max() > 0.7 or prompt.max() >= 1:
        verdict = f"{DOES_NOT_HOLD}: on some chip with 8-bit units nothing is saved"
    elif without.max() >= 1 - MARGIN:
        verdict = "holds if the chip computes in 8 bits; where weights are widened prompts gain nothing"
    else:
        verdict = HOLDS
    numbers = (
        Number("weights", "of FP16", float(memory.max())),
        Number(
            "prompt, with 8-bit units", "of FP16", float(np.median(prompt)), float(prompt.min()), float(prompt.max())
        ),
        Number("prompt, without", "of FP16", float(without.max())),
        Number("token, with 8-bit units", "of FP16", float(np.median(token)), float(token.min()), float(token.max())),
    )
    return Finding("C5", article()["claims"]["C5"], ours, verdict, "roofserve sizing --model llama-2-13b", numbers)


def _ratios(model: Transformer, chip: HardwareProfile, name: str) -> tuple[float, float, float]:
    wide, narrow = (Instance(model, chip, precision.load(formats), 2) for formats in ("w16a16", name))
    memory = [weight_bytes_per_device(model, one.formats, Parallelism(2)) for one in (wide, narrow)]
    return (
        memory[1] / memory[0],
        narrow.ttft_seconds(PROMPT) / wide.ttft_seconds(PROMPT),
        narrow.tpot_seconds(CONTEXT) / wide.tpot_seconds(CONTEXT),
    )


def throughput_against_latency(comparison: Comparison) -> Finding:
    """C6: what the last token pays for throughput, between the lightest and the heaviest load that is stable."""
    arm = "prefill_first"
    cells: list[Cell] = [comparison.cell(arm, load) for load in comparison.loads]
    stable = [cell for cell in cells if cell.verdict.stable]
    if len(stable) < 2:
        return Finding("C6", article()["claims"]["C6"], "fewer than two stable loads", NOT_DECIDABLE, "sched_compare")
    light, heavy = stable[0], stable[-1]
    rates = [cell.quantity("output_tokens_per_second") for cell in (light, heavy)]
    last = [cell.quantity("mean_end_to_end_seconds") for cell in (light, heavy)]
    loads = [f"{100 * cell.load.share_of_capacity:.0f} %" for cell in (light, heavy)]
    ours = (
        f"from {loads[0]} to {loads[1]} load throughput rises {rates[1].estimate / rates[0].estimate:.2f} times and "
        f"the mean last token comes {last[1].estimate / last[0].estimate:.2f} times as late: {last[0].estimate:.1f} s "
        f"[{last[0].low:.1f}, {last[0].high:.1f}], then {last[1].estimate:.1f} s [{last[1].low:.1f}, "
        f"{last[1].high:.1f}]; three steps in a chain wait {3 * last[0].estimate:.0f} or {3 * last[1].estimate:.0f} s"
    )
    apart = last[1].low > last[0].high
    verdict = HOLDS if apart else f"{DOES_NOT_HOLD}: no difference in last-token latency is shown"
    numbers = tuple(
        Number(f"mean last token at {load} load", "s", value.estimate, value.low, value.high)
        for load, value in zip(loads, last, strict=True)
    )
    return Finding("C6", article()["claims"]["C6"], ours, verdict, "roofserve sched_compare", numbers)


def quality() -> Finding:
    """C7: what a performance simulator can say of FP8 against INT8, which is not quality."""
    fp8, int8 = example(2, "fp8"), example(2, "w8a8")
    prompt = fp8.ttft_seconds(PROMPT) / int8.ttft_seconds(PROMPT) - 1
    token = fp8.tpot_seconds(CONTEXT) / int8.tpot_seconds(CONTEXT) - 1
    ours = (
        f"on L20 FP8 and INT8 differ by {100 * prompt:+.0f} % in prompts and {100 * token:+.0f} % in tokens; "
        "neither says anything of quality"
    )
    numbers = (
        Number("FP8 against INT8, prompt", "relative", prompt),
        Number("FP8 against INT8, token", "relative", token),
    )
    return Finding("C7", article()["claims"]["C7"], ours, NOT_DECIDABLE, "roofserve roofline --precision fp8", numbers)


def price_performance() -> Finding:
    """C8: whether the fastest instance is also the cheapest per token, where prices are known."""
    need = Need(context=CONTEXT, concurrency=32, prompt=PROMPT)
    table = rank(need, article()["example"]["model"])
    old = table["chip"].map(lambda name: hardware_profiles.load(name).year <= YEAR)
    known = table[old & table["meets"] & table["usd_per_hour"].notna()]
    tokens = need.concurrency / known["tpot_seconds"]
    dollars = (known["usd_per_hour_mean"] / 3600 / tokens * 1e6).to_numpy()
    fast, cheap = int(np.argmax(tokens)), int(np.argmin(dollars))
    texts = [
        f"{known['cards'].iloc[i]} x {known['chip'].iloc[i]} {known['precision'].iloc[i]}: {tokens.iloc[i]:,.0f} "
        f"tokens/s, {dollars[i]:.2f} USD per million"
        for i in (fast, cheap)
    ]
    unpriced = [name for name, chip in article_chips().items() if chip.usd_per_hour is None]
    ours = (
        f"13B, 32 sequences, chips up to {YEAR}: fastest {texts[0]}; cheapest {texts[1]}; no price known: "
        f"{', '.join(unpriced)}; what could be bought is not a matter of simulation"
    )
    verdict = HOLDS if fast != cheap else f"{DOES_NOT_HOLD}: the fastest is also the cheapest"
    scale = known[["usd_per_hour", "usd_per_hour_high"]].to_numpy() / 3600 / tokens.to_numpy()[:, None] * 1e6
    numbers = tuple(
        Number(f"{word}, output tokens", "USD per million", float(dollars[i]), float(scale[i, 0]), float(scale[i, 1]))
        for word, i in (("fastest", fast), ("cheapest", cheap))
    )
    command = "roofserve sizing --model llama-2-13b --context 1024 --concurrency 32"
    return Finding("C8", article()["claims"]["C8"], ours, verdict, command, numbers)


def findings(comparison: Comparison) -> list[Finding]:
    """Return C1 to C8; the comparison of schedulers is what C6 is read from."""
    return [
        memory_bound(),
        weight_read(),
        best_tensor(),
        too_large_for_a_server(),
        eight_bits(),
        throughput_against_latency(comparison),
        quality(),
        price_performance(),
    ]
