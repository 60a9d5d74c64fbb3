"""Which splits a model allows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from physics_strategies import DENSE, LATENT, MIXTURE

from sim.physics.memory import kv_bytes_per_token_per_device
from sim.physics.parallelism import Parallelism, allowed_tensor_sizes
from sim.physics.precision import PRECISIONS


def test_an_uneven_split_is_refused_with_the_allowed_ones() -> None:
    with pytest.raises(ValueError, match=r"tensor=3 cuts 16 query heads .* allowed are 1, 2, 4, 8, 16$"):
        Parallelism(3).check(DENSE)
    with pytest.raises(ValueError, match="tensor=0"):
        Parallelism(0)


def test_every_width_of_a_mixture_must_be_cut_evenly() -> None:
    assert MIXTURE.mixture
    narrow = replace(MIXTURE, mixture=replace(MIXTURE.mixture, intermediate=36))
    assert allowed_tensor_sizes(narrow) == (1, 2, 4)
    with pytest.raises(ValueError, match="36 expert width"):
        Parallelism(8).check(narrow)


def test_too_few_kv_heads_are_replicated() -> None:
    precision = PRECISIONS["w16a16"]
    per_device = [kv_bytes_per_token_per_device(DENSE, precision, Parallelism(size)) for size in (1, 2, 4, 8, 16)]
    head_bytes = DENSE.layers * 2 * DENSE.head * 2.0
    assert per_device == [4 * head_bytes, 2 * head_bytes, head_bytes, head_bytes, head_bytes]


def test_a_latent_vector_is_on_every_device() -> None:
    precision = PRECISIONS["w16a16"]
    whole = LATENT.kv_bytes_per_token()
    assert [kv_bytes_per_token_per_device(LATENT, precision, Parallelism(size)) for size in (1, 8)] == [whole, whole]
