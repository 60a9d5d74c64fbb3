"""The band around a time on a chip that nobody calibrated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from physics_strategies import CHIP, DENSE, iteration_models, iterations

from sim.physics.band import band
from sim.physics.iteration import IterationModel, Totals

DECODE = Totals(32, 32, decode_sequences=32, decode_kv_tokens=32_000)


def test_the_generic_time_lies_in_its_band_and_the_band_is_wide() -> None:
    model = IterationModel(DENSE, CHIP)
    found = band(model, DECODE, 200, np.random.default_rng(1))
    assert found.low < model.seconds(DECODE) < found.high
    assert found.high / found.low > 1.2


@given(iteration_models(), iterations())
def test_equal_generators_give_equal_bands(model: IterationModel, totals: Totals) -> None:
    once, twice = (band(model, totals, 5, np.random.default_rng(7)) for _ in range(2))
    assert (once.low, once.high) == (twice.low, twice.high)
    assert 0 <= once.low <= once.high


def test_a_band_of_arrays_is_the_band_of_each() -> None:
    model = IterationModel(DENSE, CHIP)
    tokens = np.array([1.0, 512.0])
    both = band(model, Totals(tokens, np.ones(2)), 20, np.random.default_rng(3))
    alone = band(model, Totals(512.0, 1.0), 20, np.random.default_rng(3))
    assert both.low[1] == alone.low
    with pytest.raises(ValueError, match="samples=1"):
        band(model, DECODE, 1, np.random.default_rng(3))
