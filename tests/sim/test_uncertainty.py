"""Bands around whole simulations: they hold the point, move together, and know what matters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sim.physics.efficiency import generic
from sim.results.result import Result
from sim.scenario import Scenario, simulate
from sim.uncertainty import at, bands, percentiles, tornado
from workloads.synthetic.chat import chat

SCENARIO = Scenario(
    chat(np.random.default_rng(1), 60, 1.0, context_tokens=4096), hardware="l40s", model="llama-3.1-8b", tensor=1
)


def test_a_band_holds_its_point_and_equal_generators_give_equal_bands() -> None:
    once, twice = (bands(SCENARIO, 40, np.random.default_rng(3)) for _ in range(2))
    assert set(once) == {f"{name} p{level}" for name in ("TTFT", "TPOT", "E2E") for level in (50, 90, 99)}
    for name, estimate in once.items():
        assert estimate.low < estimate.point < estimate.high
        assert estimate.values.tolist() == twice[name].values.tolist()
        assert estimate.high < 4 * estimate.low


def test_two_scenarios_are_compared_at_the_same_constants() -> None:
    cached = replace(SCENARIO, prefix_cache=True)
    plain, other = (bands(each, 8, np.random.default_rng(5))["TTFT p50"] for each in (SCENARIO, cached))
    apart = bands(cached, 8, np.random.default_rng(6))["TTFT p50"]
    paired, unpaired = plain.values / other.values, plain.values / apart.values
    assert np.std(np.log(paired)) < np.std(np.log(unpaired)) / 2


def test_the_tornado_of_a_simulation_knows_what_is_used() -> None:
    def median_tpot(result: Result) -> float:
        return percentiles(result)["TPOT p50"]

    swings = tornado(SCENARIO, median_tpot)
    names = [swing.name for swing in swings]
    assert {"matrix memory", "host", "matrix launch"} <= set(names)
    assert not {"experts", "NVLink", "PCIe", "narrow kernels"} & set(names)
    assert [swing.width for swing in swings] == sorted((swing.width for swing in swings), reverse=True)
    assert all(swing.slow > swing.fast for swing in swings)


def test_the_engines_own_time_moves_every_iteration() -> None:
    slow = at(SCENARIO, generic(), 10.0)
    point, later = (percentiles(simulate(each))["TPOT p50"] for each in (SCENARIO, slow))
    assert later - point == pytest.approx(9 * SCENARIO.host_seconds, rel=0.3)


def test_a_band_needs_two_draws() -> None:
    with pytest.raises(ValueError, match="samples=1; allowed are 2"):
        bands(SCENARIO, 1, np.random.default_rng(1))
