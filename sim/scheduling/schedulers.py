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


@dataclass(frozen=True)
class Scheduler:
    """A policy and its surroundings.

    Attributes
    ----------
    policy : what runs next.
    system : the system and version whose rules these are.
    cuts_prompts : whether a prompt may be longer than the tokens of one iteration.
    late_release : whether blocks of a finished request come back only with the next iteration.
    pads : whether every prompt, and every context, is computed as if it were as long as the longest of its batch.
    to_end : whether nobody leaves a batch before its last reply is complete: those that are done compute on for
        nothing, keep their memory, and get their reply, all of it at once, when the batch ends.
    """

    policy: Policy
    system: str
    cuts_prompts: bool = False
    late_release: bool = False
    pads: bool = False
    to_end: bool = False

    @property
    def streams(self) -> bool:
        """Whether clients see a token when it has been computed."""
        return not self.to_end


SCHEDULERS = {
    "prefill_first": Scheduler(prefill_first, "vLLM 0.2 to 0.4"),
    "inflight_batching": Scheduler(inflight_batching, "TensorRT-LLM, GUARANTEED_NO_EVICT (reconstructed for 2024)"),
    "inflight_chunked": Scheduler(
        partial(inflight_batching, chunking="FIRST_COME_FIRST_SERVED"),
        "TensorRT-LLM, GUARANTEED_NO_EVICT with chunked context",
        cuts_prompts=True,
    ),
    "max_utilization": Scheduler(max_utilization, "TensorRT-LLM, MAX_UTILIZATION"),
    "chunked_prefill": Scheduler(chunked_prefill, "vLLM V1 (0.33)", cuts_prompts=True),
    "decode_first": Scheduler(decode_first, "Sarathi-Serve", cuts_prompts=True),
    "dynamic_splitfuse": Scheduler(dynamic_splitfuse, "DeepSpeed-MII", cuts_prompts=True, late_release=True),
    "orca": Scheduler(orca, "Orca"),
    "static_batching": Scheduler(static_batching, "request-level batching, packed, as Sarathi-Serve reproduces it"),
    "static_padded": Scheduler(static_batching, "request-level batching, padded, members leave", pads=True),
    "static_to_end": Scheduler(static_batching, "TensorRT-LLM V1 batching with packed input", to_end=True),
    "static_padded_to_end": Scheduler(static_batching, "FasterTransformer", pads=True, to_end=True),
    "shortest_prompt_first": Scheduler(shortest_prompt_first, "shortest job first", cuts_prompts=True),
    "priority": Scheduler(priority, "vLLM V1, --scheduling-policy priority", cuts_prompts=True),
    "longest_prefix_first": Scheduler(longest_prefix_first, "SGLang, lpm", cuts_prompts=True),
    "earliest_deadline": Scheduler(earliest_deadline, "earliest deadline first", cuts_prompts=True),
}
