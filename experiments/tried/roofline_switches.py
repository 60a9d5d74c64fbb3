"""What one iteration would take with one thing switched off: FlashAttention, CUDA graphs, windows, weights at hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from sim.physics.iteration import EAGER_SECONDS_PER_LAYER, IterationModel
from sim.physics.mixed_attention import ONE_KERNEL_CHIPS
from sim.physics.placement import Placement
from sim.physics.totals import Totals

if TYPE_CHECKING:
    import pandas as pd


def table(built: IterationModel, totals: Totals) -> pd.DataFrame:
    """Return a row for each switch that model, chip and iteration have: its seconds, and how many times as long."""
    import pandas as pd

    seconds = float(built.seconds(totals))
    rows = [{"switch": name, "seconds": value, "times": value / seconds} for name, value in _switched(built, totals)]
    return pd.DataFrame(rows)


def _switched(built: IterationModel, totals: Totals) -> Iterator[tuple[str, float]]:
    def taken(model: IterationModel) -> float:
        return float(model.seconds(totals))

    yield "FlashAttention off: scores are written and read", taken(replace(built, flash_attention=False))
    eager = built.model.layers * EAGER_SECONDS_PER_LAYER
    yield "CUDA graphs off: a host of 2023 starts every kernel", max(taken(built), eager)
    both = float(totals.prefill_pairs) > 0 and float(totals.decode_kv_tokens) > 0  # type: ignore[arg-type]
    if both and built.hardware.name in ONE_KERNEL_CHIPS:
        name = "prompt and decodes in one attention kernel, as vLLM has them there"
        yield name, taken(replace(built, one_attention_kernel=True))
    if built.window is not None:
        everywhere = replace(built.model, window=None, window_layers=0)
        yield "no sliding windows: all layers see the whole context", taken(replace(built, model=everywhere))
    yield "weights on the host: brought in every iteration", taken(replace(built, placement=Placement("host")))
