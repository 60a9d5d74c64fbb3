"""Which layers each stage of a pipeline has."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from workloads.models.transformer import Transformer


@dataclass(frozen=True)
class Stage:
    """Consecutive layers of a model.

    Attributes
    ----------
    layers : the layers as a model of their own; it has both vocabulary tables, which the stage need not have.
    is_first, is_last : whether the stage has the embedding, and the last norm with the output head.
    """

    layers: Transformer
    is_first: bool = True
    is_last: bool = True


def layers_per_stage(layers: int, stages: int) -> tuple[int, ...]:
    """Return how many layers each stage has.

    What does not divide goes to the stages before the last one, which has the output head, from the back.
    Source: `get_pp_indices` in vllm/distributed/utils.py.

    >>> layers_per_stage(22, 4), layers_per_stage(5, 3)
    ((5, 6, 6, 5), (2, 2, 1))
    """
    each, more = divmod(layers, stages)
    return tuple(each + (stages - 1 - more <= stage < stages - 1) for stage in range(stages))


@lru_cache(maxsize=256)
def stages_of(model: Transformer, stages: int) -> tuple[Stage, ...]:
    """Return the stages of a model, first to last."""
    if stages == 1:
        return (Stage(model),)
    found, done = [], 0
    for place, layers in enumerate(layers_per_stage(model.layers, stages)):
        mixture = model.mixture
        if mixture:
            dense = min(layers, max(0, mixture.dense_layers - done))
            mixture = replace(mixture, dense_layers=dense) if dense < layers else None
        # Layers with a window alternate with others in most models: each stage has its share.
        windowed = [model.window_layers * end // model.layers for end in (done, done + layers)]
        share = windowed[1] - windowed[0]
        window = model.window if share else None
        part = replace(model, layers=layers, mixture=mixture, window=window, window_layers=share)
        found.append(Stage(part, is_first=place == 0, is_last=place == stages - 1))
        done += layers
    return tuple(found)
