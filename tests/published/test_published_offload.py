"""Published runs of ZeRO-Inference: what one card generates from weights in the memory of its host."""

from __future__ import annotations

from dataclasses import replace

import pytest

import hardware_profiles
from sim.physics.iteration import IterationModel
from sim.physics.placement import Placement
from sim.physics.precision import PRECISIONS
from sim.physics.totals import Totals, decodes, prompt
from workloads import models
from workloads.models.transformer import Transformer

PROMPT, REPLY = 512, 32
OPT = replace(
    models.load("gpt3-175b"), name="opt", title="OPT", vocabulary=50_272, context=2_048, learned_positions=2_050
)
"""OPT has the block of GPT-3 (Zhang et al. 2022, arXiv:2205.01068, table 1: layers, heads, width)."""


def opt(layers: int, heads: int, hidden: int) -> Transformer:
    return replace(
        OPT,
        layers=layers,
        query_heads=heads,
        kv_heads=heads,
        head=hidden // heads,
        hidden=hidden,
        intermediate=4 * hidden,
    )


RUNS = {
    # Tokens/s and batch of github.com/deepspeedai/DeepSpeedExamples, inference/huggingface/zero_inference: RTX A6000,
    # prompts of 512 tokens and replies of 32, weights in 4 bits in the memory of the host, KV cache on the card.
    "opt-30b": (opt(48, 56, 7168), 24, 22.74),
    "opt-66b": (opt(64, 72, 9216), 16, 7.68),
    "opt-175b": (opt(96, 96, 12_288), 8, 1.21),
    "bloom-176b": (models.load("bloom-176b"), 4, 0.65),
    "llama-2-70b": (models.load("llama-2-70b"), 96, 24.05),
}


def generated_per_second(model: Transformer, batch: int) -> float:
    """Return the tokens of a batch by the time from its prompts to its last tokens."""
    four_bit = replace(PRECISIONS["w4a16"], weight_bytes=0.5 + 4.0 / 64)  # a 16-bit scale and minimum for every 64
    card = hardware_profiles.load("rtx-a6000")
    priced = IterationModel(model, card, four_bit, placement=Placement("host"))
    one = prompt(PROMPT)
    prompts = Totals(batch * PROMPT, batch, batch * PROMPT, batch * one.prefill_pairs)
    steps = sum(float(priced.seconds(decodes(batch, PROMPT + step))) for step in range(1, REPLY))
    return batch * REPLY / (float(priced.seconds(prompts)) + steps)


@pytest.mark.parametrize("name", RUNS)
def test_published_runs_reach_half_of_what_the_link_allows_or_more(name: str) -> None:
    # The published code copies from memory that is not pinned, and widens 4-bit weights in kernels of their own. Ours
    # is an engine that does neither, which nobody can beat by much. Published by ours: 0.63 to 0.87.
    model, batch, published = RUNS[name]
    assert 0.5 * generated_per_second(model, batch) <= published <= 1.05 * generated_per_second(model, batch)


def test_opt_models_are_as_large_as_their_names_say() -> None:
    for name in ("opt-30b", "opt-66b", "opt-175b"):
        billions = float(name.removeprefix("opt-").removesuffix("b"))
        assert RUNS[name][0].parameters == pytest.approx(billions * 1e9, rel=0.02)
