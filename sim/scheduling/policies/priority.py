"""Priority: the most urgent first."""

from __future__ import annotations

from sim.scheduling.ledger import Ledger
from sim.scheduling.policies.keyed_order import serve_in_order
from sim.scheduling.sequence import Sequence


def priority(ledger: Ledger, *, chunked: bool = True) -> None:
    """Everybody who decodes, then prompts from urgent (small numbers) to not; among equals, who came first.

    Under a shortage of KV blocks the least urgent running request gives up its own. Without priorities in the trace
    this is first come, first served. The less urgent may starve.
    Source: vLLM V1, ``--scheduling-policy priority`` (vllm/v1/core/sched/scheduler.py and request_queue.py): the same
    order for the queue and, reversed, for preemption; there, running requests are served in order of admission.
    """
    serve_in_order(ledger, _key, chunked=chunked)


def _key(sequence: Sequence) -> tuple[int, int, int]:
    return sequence.priority, sequence.arrival, sequence.index
