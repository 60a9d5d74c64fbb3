"""The band around a time on a chip that nobody calibrated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from physics_strategies import CHIP, DENSE, iteration_models, iterations

from hardware_profiles import load
from sim.physics import calibration
from sim.physics.band import HIGH, INTERVALS, LOW, Interval, band, constants_at, tornado
from sim.physics.efficiency import Efficiency, generic
from sim.physics.iteration import IterationModel
from sim.physics.totals import Totals

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


def test_nine_of_ten_draws_lie_inside_an_interval() -> None:
    for interval in (Interval(0.5, 0.97, logarithmic=False), Interval(0.5e-6, 25e-6)):
        values = [interval.at(position) for position in np.linspace(0, 1, 1001)]
        assert np.mean([interval.low <= value <= interval.high for value in values]) == pytest.approx(0.9, abs=2e-3)
        assert interval.at(LOW) == pytest.approx(interval.low)
        assert interval.at(HIGH) == pytest.approx(interval.high)


def test_constants_move_to_the_ends_of_their_intervals_and_no_others_do() -> None:
    centre = generic()
    assert constants_at(centre, {}) == (centre, 1.0)
    moved, host = constants_at(centre, {"matrix arithmetic": LOW, "matrix launch": HIGH, "host": HIGH})
    assert moved.gemm.compute == pytest.approx(0.60 * centre.gemm.compute)
    assert moved.gemm.launch_seconds == pytest.approx(25e-6)
    assert moved.gemm.memory == centre.gemm.memory
    assert moved.gemm_8bit.compute == pytest.approx(0.60 * centre.gemm_8bit.compute)
    assert (moved.experts, moved.links, host) == (centre.experts, centre.links, 2.0)
    with pytest.raises(ValueError, match="weather; allowed are matrix arithmetic"):
        constants_at(centre, {"weather": 0.5})


def test_a_calibrated_chip_has_a_narrower_band() -> None:
    chip, rng = load("h100-sxm"), np.random.default_rng
    known = IterationModel(DENSE, chip, efficiency=calibration.load("calibrated", chip), host_seconds=0.0)
    unknown = IterationModel(DENSE, chip, host_seconds=0.0)
    narrow, wide = (band(model, DECODE, 100, rng(2)) for model in (known, unknown))
    assert narrow.low < known.seconds(DECODE) < narrow.high
    assert narrow.high / narrow.low < 0.8 * wide.high / wide.low


@given(iteration_models(), iterations())
def test_a_tornado_is_sorted_and_its_slow_end_is_never_the_faster(model: IterationModel, totals: Totals) -> None:
    def seconds(constants: Efficiency, host: float) -> float:
        moved = replace(model, efficiency=constants, host_seconds=host * model.host_seconds)
        return float(moved.seconds(totals))

    swings = tornado(seconds, model.efficiency)
    widths = [swing.width for swing in swings]
    assert widths == sorted(widths, reverse=True)
    assert all(width > 0 for width in widths)
    assert all(swing.slow >= swing.fast for swing in swings)
    assert {swing.name for swing in swings} <= set(INTERVALS)
