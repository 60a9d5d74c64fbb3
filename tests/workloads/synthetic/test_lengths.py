"""Laws of request lengths."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.synthetic.lengths import (
    Empirical,
    Fixed,
    JointQuantiles,
    Lengths,
    Lognormal,
    declared_tokens,
    draw_fitting,
)

SEEDS = st.integers(0, 2**32 - 1)
OBSERVED = st.lists(st.tuples(st.integers(1, 9000), st.integers(1, 2000)), min_size=4, max_size=60)
SHARES = np.linspace(0, 1, 11)


def columns(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    prompt, output = np.array(pairs, dtype=np.int64).T
    return prompt, output


def test_lognormal_means_and_variations_are_those_asked_for() -> None:
    prompt, output = Lognormal(1000, 200, 1.2, 0.5)(np.random.default_rng(0), 400_000)
    assert prompt.mean() == pytest.approx(1000, rel=0.01)
    assert output.mean() == pytest.approx(200, rel=0.01)
    assert prompt.std() / prompt.mean() == pytest.approx(1.2, rel=0.05)
    assert output.std() / output.mean() == pytest.approx(0.5, rel=0.05)


def test_lognormal_without_variation_is_fixed() -> None:
    prompt, output = Lognormal(30, 7, 0.0, 0.0)(np.random.default_rng(0), 9)
    assert set(prompt) == {30}
    assert set(output) == {7}


@given(seed=SEEDS, pairs=OBSERVED)
def test_empirical_draws_only_what_was_observed_together(seed: int, pairs: list[tuple[int, int]]) -> None:
    prompt, output = Empirical(*columns(pairs))(np.random.default_rng(seed), 200)
    assert set(zip(prompt.tolist(), output.tolist(), strict=True)) <= set(pairs)


@given(seed=SEEDS, pairs=OBSERVED, bands=st.integers(1, 4))
def test_a_summary_draws_within_the_observed_range(seed: int, pairs: list[tuple[int, int]], bands: int) -> None:
    observed = columns(pairs)
    drawn = JointQuantiles.summarise(*observed, SHARES, bands)(np.random.default_rng(seed), 200)
    for values, original in zip(drawn, observed, strict=True):
        assert values.min() >= original.min()
        assert values.max() <= original.max()


@pytest.mark.parametrize("sign", [1, -1])
def test_a_summary_keeps_what_goes_together(sign: int) -> None:
    prompt = np.arange(1, 10_001)
    summary = JointQuantiles.summarise(prompt, prompt[::sign], SHARES, bands=10)
    drawn_prompt, drawn_output = summary(np.random.default_rng(0), 20_000)
    # Uniform inside one of ten cells on the diagonal: correlation 1 - (1/10)**2.
    assert np.corrcoef(drawn_prompt, drawn_output)[0, 1] == pytest.approx(0.99 * sign, abs=0.002)


@given(seed=SEEDS, pairs=OBSERVED)
def test_draws_on_condition_of_fitting_all_fit_and_keep_what_fitted(seed: int, pairs: list[tuple[int, int]]) -> None:
    lengths = Empirical(*columns(pairs))
    context = 40 + int(np.median(np.sum(columns(pairs), axis=0)))
    free_prompt, free_output, no_notes = draw_fitting(np.random.default_rng(seed), 100, lengths, None, 40)
    prompt, output, notes = draw_fitting(np.random.default_rng(seed), 100, lengths, context, 40)
    fitted = 40 + free_prompt + free_output <= context
    assert np.all(40 + prompt + output <= context)
    assert np.array_equal(prompt[fitted], free_prompt[fitted])
    assert np.array_equal(output[fitted], free_output[fitted])
    assert no_notes == ()
    assert f"{100 - fitted.sum()} of 100 draws" in notes[0]


def test_the_condition_gives_the_conditional_distribution() -> None:
    # Uniform on 1..1000 given at most 400 is uniform on 1..400, with mean 200.5 and standard error 0.6.
    lengths = Empirical(np.arange(1, 1001), np.ones(1000, dtype=np.int64))
    prompt, _, _ = draw_fitting(np.random.default_rng(0), 40_000, lengths, 401)
    assert prompt.mean() == pytest.approx(200.5, abs=2.5)
    assert prompt.max() == 400


@given(outputs=st.lists(st.integers(1, 100_000), min_size=1, max_size=20))
def test_the_default_declaration_is_the_next_power_of_two(outputs: list[int]) -> None:
    declared = set(declared_tokens(np.array(outputs), None).tolist())
    assert len(declared) == 1
    power = declared.pop()
    assert max(outputs) <= power < 2 * max(outputs)
    assert power.bit_count() == 1


ONE = np.array([1])
DRAWS: dict[str, tuple[Callable[[], object], str]] = {
    "no prompt": (lambda: Fixed(0, 1), "prompt_tokens is 0"),
    "no output": (lambda: Fixed(1, 0), "output_tokens is 0"),
    "no mean": (lambda: Lognormal(0, 1), "prompt_mean is 0"),
    "endless output": (lambda: Lognormal(1, float("inf")), "output_mean is inf"),
    "negative variation": (lambda: Lognormal(1, 1, -0.5), "prompt_variation is -0.5"),
    "nothing observed": (lambda: Empirical(ONE[:0], ONE[:0]), "prompt_tokens is an empty column"),
    "unequal columns": (lambda: Empirical(ONE, np.array([1, 2])), "output_tokens is a column of 2"),
    "an empty reply": (lambda: Empirical(ONE, np.array([0])), "output_tokens is 0 in a request"),
    "more bands than pairs": (lambda: JointQuantiles.summarise(ONE, ONE, SHARES, 2), "bands is 2"),
    "a promise broken": (lambda: declared_tokens(np.array([5, 9]), 8), "max_tokens is 8"),
    "nothing fits": (lambda: fitting(Fixed(100, 100), 199), "context_tokens is 199"),
}


def fitting(lengths: Lengths, context_tokens: int) -> object:
    return draw_fitting(np.random.default_rng(0), 10, lengths, context_tokens)


@pytest.mark.parametrize("case", DRAWS)
def test_nonsense_is_refused_by_name(case: str) -> None:
    attempt, message = DRAWS[case]
    with pytest.raises(ValueError, match=f"{message}; allowed: "):
        attempt()
