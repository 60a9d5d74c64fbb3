"""The arithmetic of iterations each of which takes a little longer than the one before."""

from __future__ import annotations

from math import isqrt


def duration(iterations: int, first: int, growth: int) -> int:
    """Return how long so many iterations take, the first one `first` ticks and each further one `growth` more.

    >>> duration(3, 10, 2)
    36
    """
    return iterations * first + growth * (iterations * (iterations - 1) // 2)


def iterations_to_reach(elapsed: int, first: int, growth: int) -> int:
    """Return the least k >= 1 with ``duration(k, first, growth) >= elapsed``.

    >>> [iterations_to_reach(elapsed, 10, 2) for elapsed in (0, 10, 11, 22, 23)]
    [1, 1, 2, 2, 3]
    """
    if growth:
        # The root of growth k^2 + (2 first - growth) k - 2 elapsed, rounded down, is at most one too small.
        b = 2 * first - growth
        k = (isqrt(b * b + 8 * growth * elapsed) - b) // (2 * growth)
        while duration(k, first, growth) < elapsed:
            k += 1
        return max(1, k)
    return max(1, -(-elapsed // first))
