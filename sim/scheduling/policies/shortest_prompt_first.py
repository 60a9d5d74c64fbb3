"""Shortest prompt first: the least work before a first token goes first."""

from __future__ import annotations

from sim.scheduling.ledger import Ledger
from sim.scheduling.policies.keyed_order import serve_in_order
from sim.scheduling.sequence import Sequence


def shortest_prompt_first(ledger: Ledger, *, chunked: bool = True) -> None:
    """Everybody who decodes, then prompts from short to long; among equals, who came first.

    The prompt is known and the reply is not, so this is shortest job first for the time to the first token. Long
    prompts may starve: under a lasting overload nothing bounds how long they wait.
    Source: shortest job first (Smith, Naval Research Logistics 3, 1956) with the prompt as the job, as the baseline in
    FastServe (Wu et al., 2023) and in vLLM's discussions of its waiting queue. `serve_in_order` has the rest.
    """
    serve_in_order(ledger, _key, chunked=chunked)


def _key(sequence: Sequence) -> tuple[int, int, int]:
    return sequence.prompt, sequence.arrival, sequence.index
