"""MAX_UTILIZATION takes a short cut where everybody can decode; it must find what the walk finds."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.engine.replay import Replay, replay
from sim.scheduling.policies import max_utilization as module
from sim.scheduling.schedulers import Scheduler
from tests.laws.test_engine_laws import COLUMNS
from tests.laws.test_order_laws import contended
from tests.strategies import clocks, limits, traces


@given(
    trace=st.one_of(traces(), contended()),
    bounds=limits(),
    clock=clocks(),
    cache=st.sampled_from([False, True, "tensorrt-llm"]),
    chunking=st.sampled_from([None, "FIRST_COME_FIRST_SERVED", "EQUAL_PROGRESS"]),
    lookahead=st.sampled_from([1, 2]),
)
def test_the_short_cut_changes_nothing(trace, bounds, clock, cache, chunking, lookahead):
    policy = partial(module.max_utilization, chunking=chunking, lookahead=lookahead)
    scheduler = Scheduler(policy, "", cuts_prompts=chunking is not None)

    def serve(coast: bool) -> Replay:
        return replay(trace, replace(bounds, paddings=None), scheduler, clock, prefix_cache=cache, coast=coast)

    short, coasted = serve(coast=False), serve(coast=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_all_decode", lambda *_, **__: False)
        walked = serve(coast=False)
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(short, column), getattr(walked, column), err_msg=column)
        np.testing.assert_array_equal(getattr(coasted, column), getattr(walked, column), err_msg=column)
    for column in ("start", "decodes", "new_tokens", "free_blocks", "refusal"):
        ours, theirs = getattr(short.iterations, column), getattr(walked.iterations, column)
        np.testing.assert_array_equal(ours, theirs, err_msg=column)
