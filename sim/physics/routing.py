"""How the tokens of an iteration spread over the experts of a layer."""

from __future__ import annotations

import numpy as np

from sim.physics.roofline import Floats


def popularity(experts: int, skew: float) -> Floats:
    """Return the share of the visits that each expert draws, hottest first: a power law, uniform without skew.

    >>> popularity(4, 0.0)
    array([0.25, 0.25, 0.25, 0.25])
    >>> popularity(2, 1.0).round(2)
    array([0.67, 0.33])
    """
    weights = np.arange(1, experts + 1, dtype=np.float64) ** -skew
    shares: Floats = weights / weights.sum()
    return shares


def chances(shares: Floats, experts_per_token: int) -> Floats:
    """Return how likely a token visits each expert: its share of all visits, but never more than once.

    What a hot expert cannot take falls to the others in proportion.

    >>> chances(np.array([0.7, 0.2, 0.1]), 2)
    array([1.        , 0.66666667, 0.33333333])
    """
    chance = np.minimum(1.0, shares * experts_per_token)
    for _ in range(len(shares)):
        full = chance >= 1.0
        left = experts_per_token - np.count_nonzero(full)
        if full.all() or np.isclose(chance.sum(), experts_per_token, rtol=1e-9):
            break
        chance = np.where(full, 1.0, np.minimum(1.0, shares * left / shares[~full].sum()))
    return chance


def experts_hit(experts: int, experts_per_token: int, tokens: Floats, skew: float = 0.0) -> Floats:
    """Return how many different experts that many tokens meet, on average.

    Parameters
    ----------
    skew : exponent of the popularity of experts by rank; 0 is uniform routing.

    >>> experts_hit(8, 2, np.array([0.0, 1.0, 2.0, 1000.0]))
    array([0. , 2. , 3.5, 8. ])
    """
    if skew == 0.0:
        hit: Floats = experts * (1.0 - np.power(1.0 - experts_per_token / experts, tokens))
        return hit
    met = np.zeros_like(tokens, dtype=np.float64)
    for chance in chances(popularity(experts, skew), experts_per_token):
        met = met + (1.0 - np.power(1.0 - chance, tokens))
    return met


def hottest_device(
    experts: int, experts_per_token: int, devices: int, tokens: Floats, skew: float = 0.0
) -> tuple[Floats, Floats]:
    """Return visits and different experts met on the device that has most of both, when experts lie on `devices`.

    Experts are dealt out like cards in order of popularity. How far chance moves visits between devices is left out.

    >>> visits, met = hottest_device(8, 2, 2, np.array([1.0, 1000.0]))
    >>> visits, met
    (array([   1., 1000.]), array([1., 4.]))
    """
    if devices == 1:
        return tokens * experts_per_token, experts_hit(experts, experts_per_token, tokens, skew)
    if skew == 0.0:
        there = -(-experts // devices)
        share = experts_per_token / experts
        return tokens * (there * share), there * (1.0 - np.power(1.0 - share, tokens))
    own = chances(popularity(experts, skew), experts_per_token)[::devices]
    met = np.zeros_like(tokens, dtype=np.float64)
    for chance in own:
        met = met + (1.0 - np.power(1.0 - chance, tokens))
    return tokens * own.sum(), met


def reach_of_hottest(experts: int, experts_per_token: int, devices: int, skew: float = 0.0) -> float:
    """Return how likely a token has to be sent to the device with the most popular experts.

    >>> reach_of_hottest(8, 2, 8)
    0.25
    """
    return float(1.0 - np.prod(1.0 - chances(popularity(experts, skew), experts_per_token)[::devices]))
