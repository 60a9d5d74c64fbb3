"""What may run: the limits of one replica, and the reasons why a request has to wait."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Refusal(IntEnum):
    """Why the ledger refused the head of the queue."""

    NONE = 0
    SEATS = 1
    TOKENS = 2
    BLOCKS = 3


class Order(IntEnum):
    """What a newcomer, or time, can do to the order in which a policy serves those who wait."""

    ARRIVAL = 0
    """Nothing: while the head of the queue is refused, nobody behind it can be served."""
    KEY = 1
    """A newcomer may go before the head, so that each arrival calls for a decision; otherwise the order stays."""
    CHANGING = 2
    """It may be another one in every iteration."""


@dataclass(frozen=True)
class Limits:
    """What one replica allows.

    Attributes
    ----------
    blocks : KV blocks in the pool.
    block_tokens : tokens in a block.
    sequences : seats: sequences that may run at once (vLLM `max_num_seqs`, TensorRT-LLM `max_batch_size`).
    tokens : new tokens in one iteration (vLLM `max_num_batched_tokens`, TensorRT-LLM `max_num_tokens`).
    context : longest prompt and reply together (`max_model_len`).
    watermark_blocks : blocks that an admission must leave free.
    paddings : most padding in a rectangular prompt batch (vLLM 0.2 pads and counts the rectangle); None if packed.
    window : tokens that are in sight in layers with a window, which the clock charges for; 0 without such layers. It
        frees no blocks: engines keep the whole context of every layer unless they manage such layers apart.
    host_blocks : KV blocks in the memory of the host, for requests that are swapped out.
    """

    blocks: int
    block_tokens: int = 16
    sequences: int = 256
    tokens: int = 8192
    context: int = 4096
    watermark_blocks: int = 0
    paddings: int | None = None
    window: int = 0
    host_blocks: int = 1 << 40

    def __post_init__(self) -> None:
        """Refuse limits under which nothing could run."""
        for name in ("blocks", "block_tokens", "sequences", "tokens", "context"):
            if getattr(self, name) < 1:
                raise ValueError(f"limits: {name} is {getattr(self, name)}; allowed: at least 1")
        if not 0 <= self.watermark_blocks < self.blocks:
            raise ValueError(
                f"limits: watermark_blocks is {self.watermark_blocks}; allowed: from 0 to below blocks ({self.blocks})"
            )

    def blocks_for(self, tokens: int) -> int:
        """Return the KV blocks that hold `tokens` tokens."""
        return -(-tokens // self.block_tokens)
