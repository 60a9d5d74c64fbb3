"""What iterations spend on each resource: nothing negative, and all of it together is the time they take."""

from __future__ import annotations

import numpy as np
from hypothesis import given

from sim.physics.iteration import IterationModel
from sim.physics.parallelism import Parallelism
from sim.physics.resources import RESOURCES, head_resources, prompt_resources, token_resources
from sim.physics.totals import Totals
from tests.sim.physics.physics_strategies import iteration_models, iterations


@given(model=iteration_models(), totals=iterations())
def test_resources_sum_to_the_time(model: IterationModel, totals: Totals) -> None:
    prompts = totals.prefill_pairs, totals.prefill_kv_tokens, totals.prefill_tokens
    for split, whole in (
        (token_resources(model, totals.tokens), model.token_seconds(totals.tokens)),
        (head_resources(model, totals.samples), model.head_seconds(totals.samples)),
        (prompt_resources(model.attention.prefill_slopes, *prompts), model.attention.prefill_slopes.seconds(*prompts)),
    ):
        assert len(split) == len(RESOURCES)
        assert (split >= 0).all()
        np.testing.assert_allclose(split.sum(axis=0), whole, rtol=1e-12)


@given(model=iteration_models(Parallelism()))
def test_one_device_has_no_links(model: IterationModel) -> None:
    count = np.arange(1, 100)
    for split in (token_resources(model, count), head_resources(model, count)):
        assert not split[RESOURCES.index("link")].any()
