"""The compiled clock against the cost model it was made from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hardware_profiles
from sim.engine.clock import TICKS_PER_SECOND, roofline_clock, seconds, ticks
from sim.physics import calibration, precision
from sim.physics.iteration import IterationModel
from sim.physics.parallelism import Parallelism
from sim.physics.totals import Totals
from workloads import models

CASES = [("l20", "llama-2-13b", 2), ("h200-sxm", "llama-3.1-70b", 8), ("b200-sxm", "llama-3.1-8b", 1)]
MODELS = [
    IterationModel(models.load(m), hardware_profiles.load(h), precision.load("w16a16"), Parallelism(tp))
    for h, m, tp in CASES
]
MODELS += [
    IterationModel(models.load("llama-3.1-8b"), chip, efficiency=calibration.load("calibrated", chip))
    for chip in map(hardware_profiles.load, ("a100-sxm-80", "rtx-4090"))
]
MODELS.append(replace(MODELS[-1], one_attention_kernel=True))
WINDOWED = [replace(models.load("gemma-2-9b"), window=700), replace(models.load("mistral-7b-v0.1"), window=700)]
MODELS += [IterationModel(model, hardware_profiles.load("h200-sxm")) for model in WINDOWED]
MODELS += [replace(MODELS[5], model=model) for model in WINDOWED]
CLOCKS = [roofline_clock(model, 4096 + 256, 512) for model in MODELS]


@given(
    case=st.integers(0, len(MODELS) - 1),
    chunks=st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 3000)), max_size=4),
    contexts=st.lists(st.integers(1, 4096), max_size=64),
)
def test_the_clock_is_the_cost_model_rounded_up_to_ticks(case, chunks, contexts):
    if not chunks and not contexts:
        return
    new = sum(n for n, _ in chunks)
    cached = sum(k for _, k in chunks)
    pairs = sum(n * k + n * (n + 1) // 2 for n, k in chunks)
    window = MODELS[case].window or 10**9
    seen = (
        sum(min(place, window) for n, k in chunks for place in range(k + 1, k + n + 1)),
        sum(min(k, window - 1) for _, k in chunks),
        sum(min(context + 1, window) for context in contexts),
    )
    totals = Totals(
        tokens=new + len(contexts),
        samples=len(chunks) + len(contexts),
        prefill_tokens=new,
        prefill_pairs=pairs,
        prefill_kv_tokens=cached if chunks else 0,
        decode_sequences=len(contexts),
        decode_kv_tokens=sum(contexts) + len(contexts),
        window_pairs=seen[0],
        window_kv_tokens=seen[1],
        window_decode_kv_tokens=seen[2],
    )
    expected = float(MODELS[case].seconds(totals))
    cost = CLOCKS[case].iteration(len(chunks), new, pairs, cached, len(contexts), sum(contexts), *seen)
    assert cost / TICKS_PER_SECOND == pytest.approx(expected, rel=1e-3)
    # Every term is rounded up, the context term once per key.
    keys = sum(contexts) + 2 * len(contexts) + seen[2]
    assert -1 <= cost - expected * TICKS_PER_SECOND <= 10 + keys


@given(st.floats(0, 1e6))
def test_ticks_round_up_by_no_more_than_one(value):
    rounded = int(ticks(value))
    assert 0 <= rounded - value * TICKS_PER_SECOND <= 1
    assert float(seconds(rounded)) == pytest.approx(value, abs=2**-40)


def test_ninety_seven_days_fit():
    assert int(ticks(97 * 86400.0)) == 97 * 86400 * TICKS_PER_SECOND < np.iinfo(np.int64).max
    with pytest.raises(ValueError, match="97 days"):
        ticks([0.0, 98 * 86400.0])
