"""The routing that tables of experts were measured under."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.scoreboard.workloads import busiest_device


def busiest(tokens: int, experts: int, per_token: int, devices: int, routing: str) -> tuple[float, float]:
    numbers = np.array([experts]), np.array([per_token]), np.array([devices])
    visits, met = busiest_device(np.array([float(tokens)]), *numbers, routing)
    return float(visits[0]), float(met[0])


@given(
    st.integers(1, 4096),
    st.sampled_from([8, 64, 128]),
    st.sampled_from([1, 2, 8]),
    st.sampled_from([1, 2, 8]),
    st.sampled_from(["balanced", "power_law_1.01", "power_law_1.2"]),
)
def test_the_busiest_device_has_at_least_its_share(
    tokens: int, experts: int, per_token: int, devices: int, routing: str
) -> None:
    visits, met = busiest(tokens, experts, per_token, devices, routing)
    share = tokens * per_token / devices
    assert share * 0.999 <= visits or routing != "balanced"
    assert visits >= 0.9 * share - 4  # rounding may lose a few visits of a small batch
    assert visits <= tokens * per_token
    assert 1 <= met <= experts / devices


def test_a_power_law_piles_up_where_a_balanced_load_does_not() -> None:
    balanced, skewed = (busiest(4096, 128, 8, 8, routing)[0] for routing in ("balanced", "power_law_1.2"))
    assert balanced == 4096
    assert skewed > 1.2 * balanced


def test_another_routing_is_refused() -> None:
    with pytest.raises(ValueError, match="routing 'zipf' is unknown"):
        busiest(1, 8, 2, 1, "zipf")
