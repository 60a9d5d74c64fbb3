"""The routing that public tables of experts were measured under: balanced, or a power law with a busiest device."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from experiments.scoreboard.groups import Floats
from sim.physics.routing import chances

Integers = npt.NDArray[np.int64]

_DRAWS = 8


def busiest_device(
    tokens: Floats, experts: Integers, experts_per_token: Integers, devices: Integers, distribution: str
) -> tuple[Floats, Floats]:
    """Return the visits to experts on the busiest device, and how many of its experts they meet, shape (rows,) each.

    Parameters
    ----------
    tokens, experts, experts_per_token, devices : of each row; `devices` share the experts.
    distribution : ``"balanced"``, or ``"power_law_<a>"``: loads of experts drawn with a density ``x^-a`` between 1 and
        0.8 of the tokens (0.01 and 2 where there are fewer visits than experts), scaled to the number of visits
        (github.com/ai-dynamo/aiconfigurator, collectors of MoE tables). Means over a few draws with fixed seeds.

    Raises
    ------
    ValueError
        For another distribution.
    """
    if distribution == "balanced":
        visits = tokens * experts_per_token / devices
        return visits, np.minimum(experts / devices, np.maximum(1.0, visits))
    if not distribution.startswith("power_law_"):
        raise ValueError(f"routing {distribution!r} is unknown; known are balanced and power_law_<exponent>")
    exponent = float(distribution.removeprefix("power_law_"))
    keys = zip(tokens.tolist(), experts.tolist(), experts_per_token.tolist(), devices.tolist(), strict=True)
    pairs = np.array([_skewed(int(count), *shape, exponent) for count, *shape in keys])
    return pairs[:, 0], pairs[:, 1]


@lru_cache(maxsize=65536)
def _skewed(tokens: int, experts: int, experts_per_token: int, devices: int, exponent: float) -> tuple[float, float]:
    visits = tokens * experts_per_token
    low, high = (1.0, max(1.0, 0.8 * tokens)) if visits > experts else (0.01, 2.0)
    bend = 1.0 - exponent
    uniform = np.random.default_rng(experts).random((_DRAWS, experts))
    drawn = (low**bend + (high**bend - low**bend) * uniform) ** (1.0 / bend)
    likely = np.array([chances(row / row.sum(), experts_per_token) for row in drawn])
    loads = -np.sort(-np.rint(tokens * likely), axis=1)
    missing = visits - loads.sum(axis=1, keepdims=True)
    # What rounding lost or gained goes to the hottest experts; none is visited twice by a token.
    loads = np.minimum(tokens, loads + np.sign(missing) * (np.arange(experts) < np.abs(missing)))
    order = np.random.default_rng(experts + 1).permuted(np.tile(np.arange(experts), (_DRAWS, 1)), axis=1)
    devices = min(devices, experts)
    each = experts // devices  # experts that do not fill a device are left out
    placed = np.take_along_axis(loads, order, axis=1)[:, : each * devices].reshape(_DRAWS, devices, each)
    sums = placed.sum(axis=2)
    busiest = placed[np.arange(_DRAWS), sums.argmax(axis=1)]
    return float(sums.max(axis=1).mean()), float(max(1.0, (busiest > 0).sum(axis=1).mean()))
