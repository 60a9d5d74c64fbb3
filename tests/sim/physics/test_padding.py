"""What padding costs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from physics_strategies import iteration_models

from sim.physics.iteration import IterationModel, Totals
from sim.physics.padding import padded_decode, padded_prefill

lengths = st.lists(st.integers(1, 4000), min_size=1, max_size=8)


@given(iteration_models(), lengths)
def test_padding_never_saves_time(model: IterationModel, tokens: list[int]) -> None:
    count, total = len(tokens), sum(tokens)
    packed = Totals(total, count, total, sum(n * (n + 1) // 2 for n in tokens))
    assert model.seconds(padded_prefill(tokens).totals) >= model.seconds(packed) * (1 - 1e-12)
    step = Totals(count, count, decode_sequences=count, decode_kv_tokens=total)
    assert model.seconds(padded_decode(tokens).totals) >= model.seconds(step) * (1 - 1e-12)


@given(st.integers(1, 4000), st.integers(1, 8))
def test_equal_lengths_waste_nothing(length: int, count: int) -> None:
    assert padded_prefill(np.full(count, length)).waste == padded_decode([length] * count).waste == 0.0


def test_waste_is_the_part_nobody_asked_for() -> None:
    assert padded_prefill([1000, 10, 10, 10]).waste == pytest.approx(1 - 1030 / 4000)
