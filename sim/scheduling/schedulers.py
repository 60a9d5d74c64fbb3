"""The schedulers that can be asked for by name: a policy, and what it assumes of the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from sim.scheduling.ledger import Policy
from sim.scheduling.policies.chunked_prefill import chunked_prefill
from sim.scheduling.policies.decode_first import decode_first
from sim.scheduling.policies.dynamic_splitfuse import dynamic_splitfuse
from sim.scheduling.policies.earliest_deadline import earliest_deadline
from sim.scheduling.policies.inflight_batching import inflight_batching
from sim.scheduling.policies.longest_prefix_first import longest_prefix_first
from sim.scheduling.policies.max_utilization import max_utilization
from sim.scheduling.policies.orca import orca, static_batching
from sim.scheduling.policies.prefill_first import prefill_first
from sim.scheduling.policies.priority import priority
from sim.scheduling.policies.shortest_prompt_first import shortest_prompt_first

PREEMPTIONS = {
    "none": "nobody is preempted: memory for the longest reply is promised, or reserved, at admission",
    "recompute": "its tokens are computed anew when it comes back, from the front of the queue",
    "swap": "its blocks go to the memory of the host and come back, over the host link",
    "pause": "it keeps its place and is computed anew when blocks are free",
}
"""Where a request goes whose blocks are taken. Several replies to one prompt (`best_of`) are never recomputed."""


@dataclass(frozen=True)
class Scheduler:
    """A policy and its surroundings.

    Attributes
    ----------
    policy : what runs next.
    system : the system and version whose rules these are.
    cuts_prompts : whether a prompt may be longer than the tokens of one iteration.
    late_release : whether blocks of a finished request come back only with the next iteration.
    checks_memory : whether the server refuses on arrival what the machine can never hold; if not, its scheduler deals
        with it.
    several_replies : whether it knows requests with several replies (`Sequence.best_of`).
    preemption : what becomes of a request that has to leave, a key of `PREEMPTIONS`.
    pads : whether every prompt, and every context, is computed as if it were as long as the longest of its batch.
    to_end : whether nobody leaves a batch before its last reply is complete: those that are done compute on for
        nothing, keep their memory, and get their reply, all of it at once, when the batch ends.
    """

    policy: Policy
    system: str
    cuts_prompts: bool = False
    late_release: bool = False
    checks_memory: bool = True
    several_replies: bool = False
    preemption: str = "recompute"
    pads: bool = False
    to_end: bool = False

    @property
    def streams(self) -> bool:
        """Whether clients see a token when it has been computed."""
        return not self.to_end


SCHEDULERS = {
    "prefill_first": Scheduler(prefill_first, "vLLM 0.2 to 0.4", checks_memory=False, several_replies=True),
    "prefill_first_swap": Scheduler(
        prefill_first,
        "vLLM 0.4.3, --preemption-mode swap",
        checks_memory=False,
        several_replies=True,
        preemption="swap",
    ),
    "inflight_batching": Scheduler(
        inflight_batching, "TensorRT-LLM, GUARANTEED_NO_EVICT (reconstructed for 2024)", preemption="none"
    ),
    "inflight_chunked": Scheduler(
        partial(inflight_batching, chunking="FIRST_COME_FIRST_SERVED"),
        "TensorRT-LLM, GUARANTEED_NO_EVICT with chunked context",
        cuts_prompts=True,
        preemption="none",
    ),
    "max_utilization": Scheduler(max_utilization, "TensorRT-LLM, MAX_UTILIZATION", preemption="pause"),
    "chunked_prefill": Scheduler(chunked_prefill, "vLLM V1 (0.33)", cuts_prompts=True),
    "chunked_prefill_0.11": Scheduler(
        partial(chunked_prefill, reserve_whole_prompt=False, skip_long_prompts=True, lone_chunk_is_free=False),
        "vLLM V1 (0.11)",
        cuts_prompts=True,
    ),
    "decode_first": Scheduler(decode_first, "Sarathi-Serve", cuts_prompts=True),
    "dynamic_splitfuse": Scheduler(dynamic_splitfuse, "DeepSpeed-MII", cuts_prompts=True, late_release=True),
    "orca": Scheduler(orca, "Orca", preemption="none"),
    "static_batching": Scheduler(
        static_batching, "request-level batching, packed, as Sarathi-Serve reproduces it", preemption="none"
    ),
    "static_padded": Scheduler(
        static_batching, "request-level batching, padded, members leave", preemption="none", pads=True
    ),
    "static_to_end": Scheduler(
        static_batching, "TensorRT-LLM V1 batching with packed input", preemption="none", to_end=True
    ),
    "static_padded_to_end": Scheduler(static_batching, "FasterTransformer", preemption="none", pads=True, to_end=True),
    "shortest_prompt_first": Scheduler(shortest_prompt_first, "shortest job first", cuts_prompts=True),
    "priority": Scheduler(priority, "vLLM V1, --scheduling-policy priority", cuts_prompts=True),
    "longest_prefix_first": Scheduler(longest_prefix_first, "SGLang, lpm", cuts_prompts=True),
    "earliest_deadline": Scheduler(earliest_deadline, "earliest deadline first", cuts_prompts=True),
}
