"""Why matrix products are not rounded up to whole waves of tiles: on shapes that the fit never saw it does not pay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy.optimize import least_squares

import hardware_profiles

Floats = npt.NDArray[np.float64]

PROCESSORS = {"A100-SXM-80G": 108, "H100-SXM": 132, "RTXPRO6000": 188}
"""Streaming multiprocessors (NVIDIA's architecture documents)."""

TILES = ((256, 128), (128, 256), (128, 128), (64, 128), (128, 64), (64, 64))
PARTS = 4


def waste(rows: pd.DataFrame, processors: int) -> Floats:
    """Return the flops of whole waves by those asked for, with the tile that wastes least."""
    m, n = (rows[name].to_numpy(dtype=float) for name in "mn")
    wasted = []
    for high, wide in TILES:
        tiles = np.ceil(m / high) * np.ceil(n / wide)
        wasted.append(np.ceil(tiles / processors) * processors * high * wide / (m * n))
    best: Floats = np.min(wasted, axis=0)
    return best


def held_out_error(rows: pd.DataFrame, hardware: str, exponent: float | None) -> float:
    """Return the median error [%] of the smooth form where flops are ``waste ** exponent`` as many; None fits that too.

    Shapes (n, k) are left out in turn, with all their m.
    """
    chip = hardware_profiles.load(hardware)
    m, n, k = (rows[name].to_numpy(dtype=float) for name in "mnk")
    seconds, factor = rows["us"].to_numpy() * 1e-6, waste(rows, PROCESSORS[hardware])
    compute, memory = 2 * m * n * k / chip.peak("bf16"), 2 * (m * k + k * n + m * n)
    memory = memory / chip.memory.bandwidth_bytes_per_second
    part = np.random.default_rng(0).integers(0, PARTS, 10**6)[rows.groupby(["n", "k"]).ngroup()]

    def times(numbers: Floats) -> Floats:
        launch, reached, bandwidth, sharpness = np.exp(numbers[:4])
        power = numbers[4] if exponent is None else exponent
        a, b = compute * factor**power / reached, memory / bandwidth
        longer, shorter = np.maximum(a, b), np.minimum(a, b)
        summed: Floats = launch + longer * (1 + (shorter / longer) ** sharpness) ** (1 / sharpness)
        return summed

    start, low, high = np.log([5e-6, 0.8, 0.8, 2]), np.log([1e-7, 0.02, 0.02, 1]), np.log([3e-4, 1.0001, 1.0001, 20])
    if exponent is None:
        start, low, high = np.append(start, 0.3), np.append(low, 0.0), np.append(high, 1.5)
    predicted = np.empty_like(seconds)
    for left_out in range(PARTS):
        mask = part != left_out
        found = least_squares(
            lambda x, mask=mask: np.log(times(x)[mask] / seconds[mask]),
            start,
            bounds=(low, high),
            loss="soft_l1",
            f_scale=0.1,
        )
        predicted[~mask] = times(found.x)[~mask]
    return 100 * float(np.median(np.abs(predicted / seconds - 1)))


@pytest.mark.parametrize("hardware", PROCESSORS)
def test_whole_waves_explain_unseen_shapes_no_better(shared: Path, hardware: str) -> None:
    table = pd.read_parquet(shared / "measured" / "gemm_grid.parquet")
    rows = table[(table["hw"] == hardware) & (table["dtype"] == "bfloat16") & table["backend"].str.startswith("vllm")]
    rows = rows.iloc[:: max(1, len(rows) // 4000)].reset_index(drop=True)
    plain, whole, fitted = (held_out_error(rows, hardware, exponent) for exponent in (0.0, 1.0, None))
    assert plain < 8.5
    # Whole waves are 2 to 3 points worse on A100 and RTX PRO 6000, and half a point better on H100 alone; a part of the
    # waste, however much fits best, gains less than half a point anywhere, for a number more.
    assert whole > plain + 1 or (hardware == "H100-SXM" and plain - 1 < whole < plain + 0.5)
    assert fitted > plain - 0.6
