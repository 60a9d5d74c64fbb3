"""Earliest deadline first, where a longer prompt may take longer."""

from __future__ import annotations

from sim.scheduling.ledger import Ledger
from sim.scheduling.policies.keyed_order import serve_in_order
from sim.scheduling.sequence import Sequence

TICKS_PER_TOKEN = 1 << 30
"""About a millisecond for a prompt token: a tick is 2**-40 s."""


def earliest_deadline(ledger: Ledger, *, ticks_per_token: int = TICKS_PER_TOKEN, chunked: bool = True) -> None:
    """Everybody who decodes, then prompts in the order in which their first token is due.

    A request is due at its arrival plus a constant plus `ticks_per_token` for each token of its prompt. The constant
    part of an objective moves all deadlines alike, so it has no effect on the order and is no parameter; with
    `ticks_per_token` 0 this is first come, first served, and with a huge one shortest prompt first. In between nobody
    starves: whoever arrives later than the deadline of a request goes behind it. A deadline that has passed still
    counts: nothing is dropped.
    Source: Liu and Layland, Journal of the ACM 20, 1973. An objective in proportion to the unloaded time, as in
    Splitwise (Patel et al., ISCA 2024: first token within 2, 3 and 6 times that for p50, p90 and p99), grows with the
    prompt; the default is six times the prompt time of a machine that computes 6,000 tokens a second.

    Parameters
    ----------
    ticks_per_token : how much later a prompt may be answered for each of its tokens [ticks].
    chunked : see `serve_in_order`.
    """

    def deadline(sequence: Sequence) -> tuple[int, int, int]:
        return sequence.arrival + ticks_per_token * sequence.prompt, sequence.arrival, sequence.index

    serve_in_order(ledger, deadline, chunked=chunked)
