"""Longest prefix first: whose prompt begins with the most cached tokens (SGLang)."""

from __future__ import annotations

from sim.scheduling.batch import Order
from sim.scheduling.ledger import Ledger
from sim.scheduling.policies.keyed_order import arrival, serve_in_order
from sim.scheduling.sequence import Sequence


def longest_prefix_first(ledger: Ledger, *, longest_queue: int = 128, chunked: bool = True) -> None:
    """Everybody who decodes, then prompts by how many of their leading tokens are cached, most first.

    Going through a shared tree depth first keeps what is cached in use. What is cached changes while others decode, so
    that the order is found anew for every iteration in which somebody waits. Without a prefix cache this is first come,
    first served. Requests that share nothing may starve behind a stream of those that do.
    Source: SGLang (Zheng et al., NeurIPS 2024), python/sglang/srt/managers/schedule_policy.py, `lpm`; there, too, a
    queue longer than 128 is served in order of arrival. SGLang also holds back requests that share a prefix with one
    another and not with the cache, which is not done here. Its own cache is ``sglang``, to the token.

    Parameters
    ----------
    longest_queue : most requests that are looked up in the cache.
    chunked : see `serve_in_order`.
    """
    if len(ledger.waiting) > longest_queue:
        serve_in_order(ledger, arrival, chunked=chunked, order=Order.CHANGING)
        return
    waiting = set(ledger.waiting)

    def key(sequence: Sequence) -> tuple[int, int, int]:
        cached = ledger.pool.match(sequence)[0] if sequence in waiting else 0
        return -cached, *arrival(sequence)

    serve_in_order(ledger, key, chunked=chunked, order=Order.CHANGING)
