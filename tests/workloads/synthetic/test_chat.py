"""The chat workload against the public trace that it summarises."""

from __future__ import annotations

import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from workloads.synthetic.chat import chat, conversation_lengths
from workloads.synthetic.lengths import JointQuantiles
from workloads.trace import Trace

SHARES = np.arange(1, 100) / 100


@pytest.fixture(scope="module")
def observed(shared: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return prompt and output tokens of the Azure conversation trace of 2023."""
    file = shared / "traces" / "AzureLLMInferenceTrace_conv.csv"
    prompt, output = np.loadtxt(file, delimiter=",", skiprows=1, usecols=(1, 2), dtype=np.int64).T
    return prompt, output


@pytest.fixture(scope="module")
def drawn() -> Trace:
    return chat(np.random.default_rng(0), 200_000, 5.0, system_prompt_tokens=0)


def test_the_table_is_the_summary_it_says_it_is(observed: tuple[np.ndarray, np.ndarray]) -> None:
    table = conversation_lengths()
    computed = JointQuantiles.summarise(*observed, table.shares, bands=20)
    for column in fields(table):
        np.testing.assert_array_equal(getattr(table, column.name), getattr(computed, column.name))


@pytest.mark.parametrize(("column", "name"), [(0, "prompt_tokens"), (1, "output_tokens")])
def test_marginals_are_those_of_the_trace(
    column: int, name: str, drawn: Trace, observed: tuple[np.ndarray, np.ndarray]
) -> None:
    original, generated = observed[column], getattr(drawn, name)
    # 2 % in tokens; half the distance of two knots in share, which matters where the trace has a gap between lengths.
    quantiles = np.quantile(generated, SHARES)
    assert np.all(quantiles >= 0.98 * np.quantile(original, SHARES - 0.005))
    assert np.all(quantiles <= 1.02 * np.quantile(original, SHARES + 0.005))
    assert generated.mean() == pytest.approx(original.mean(), rel=0.01)
    assert generated.std() == pytest.approx(original.std(), rel=0.03)


def test_prompt_and_output_go_together_as_in_the_trace(drawn: Trace, observed: tuple[np.ndarray, np.ndarray]) -> None:
    generated = stats.spearmanr(drawn.prompt_tokens, drawn.output_tokens).statistic
    assert generated == pytest.approx(stats.spearmanr(*observed).statistic, abs=0.02)
    totals = drawn.prompt_tokens + drawn.output_tokens
    assert stats.ks_2samp(totals, sum(observed)).statistic < 0.03


@pytest.mark.parametrize(("low", "high"), [(1, 200), (200, 390), (390, 430), (430, 1000), (1000, 1100), (1100, 15000)])
def test_outputs_given_the_prompt_are_those_of_the_trace(
    low: int, high: int, drawn: Trace, observed: tuple[np.ndarray, np.ndarray]
) -> None:
    # The joint shape is not monotone: replies to prompts of about 400 tokens are four times shorter than to 1,050.
    prompt, output = observed
    original = output[(prompt >= low) & (prompt < high)]
    generated = drawn.output_tokens[(drawn.prompt_tokens >= low) & (drawn.prompt_tokens < high)]
    assert stats.ks_2samp(generated, original).statistic < 0.1


def test_conditioning_on_the_context_leaves_out_the_share_that_the_trace_has_beyond_it(
    observed: tuple[np.ndarray, np.ndarray],
) -> None:
    trace = chat(np.random.default_rng(0), 100_000, 5.0, context_tokens=4096)
    assert np.all(trace.prompt_tokens + trace.output_tokens <= 4096)
    total = 512 + observed[0] + observed[1]
    left_out = int(trace.notes[0].split(" of 100000 draws")[0].rsplit(" ", 1)[1]) / 100_000
    assert left_out == pytest.approx(np.mean(total > 4096), abs=0.005)
    kept = total[total <= 4096]
    assert np.mean(trace.prompt_tokens + trace.output_tokens) == pytest.approx(kept.mean(), rel=0.01)


def test_every_prompt_begins_with_the_system_prompt() -> None:
    bare = chat(np.random.default_rng(3), 50, 5.0, system_prompt_tokens=0)
    trace = chat(np.random.default_rng(3), 50, 5.0, system_prompt_tokens=700)
    assert trace.segments is not None
    assert all(trace.segments.row(request) == [(0, 0, 700)] for request in range(50))
    assert np.array_equal(trace.prompt_tokens, bare.prompt_tokens + 700)
    assert np.array_equal(trace.output_tokens, bare.output_tokens)


def test_a_million_requests_take_a_second_or_two() -> None:
    begin = time.process_time()
    chat(np.random.default_rng(0), 1_000_000, 100.0, context_tokens=4096)
    assert time.process_time() - begin < 3.0
