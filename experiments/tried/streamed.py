"""Cards that bring a model's weights from the host, layer by layer, beside cards that hold it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from experiments.tried.instance import BATCH_TOKENS, BLOCK_TOKENS, Instance
from hardware_profiles.profile import HardwareProfile
from sim.physics.efficiency import generic
from sim.physics.iteration import IterationModel
from sim.physics.memory import kv_blocks, resident_weight_bytes_per_device, weight_bytes_per_device
from sim.physics.parallelism import Parallelism
from sim.physics.placement import Placement
from sim.physics.precision import Precision
from sim.physics.streaming import hiding_tokens
from sim.physics.totals import Totals, decodes, prompt
from workloads.models.transformer import Transformer

SEATS = 256
"""Sequences that an engine decodes at once at most."""


@dataclass(frozen=True)
class Streamed:
    """A model of which some cards of one server hold a few layers at a time; the counterpart of `Instance`."""

    model: Transformer
    hardware: HardwareProfile
    formats: Precision
    tensor: int
    placement: Placement

    @property
    def cards(self) -> int:
        """All cards."""
        return self.tensor

    @property
    def split(self) -> str:
        """How the cards share the model, in words."""
        return f"TP {self.tensor}"

    @cached_property
    def iteration(self) -> IterationModel:
        """All layers on these cards."""
        split, constants = Parallelism(self.tensor), generic(self.hardware)
        return IterationModel(self.model, self.hardware, self.formats, split, constants, placement=self.placement)

    def room(self, context_tokens: int, sequences: int = SEATS) -> int:
        """Return how many sequences fit at once; see `Instance.room`."""
        if self.placement.kv_on == "host":
            return sequences
        try:
            blocks = kv_blocks(
                self.model,
                self.hardware,
                self.formats,
                Parallelism(self.tensor),
                block_size=BLOCK_TOKENS,
                max_tokens=BATCH_TOKENS,
                max_samples=sequences,
                placement=self.placement,
            )
        except ValueError:
            return 0
        return blocks // -(-context_tokens // BLOCK_TOKENS)

    def tpot_seconds(self, context_tokens: int, sequences: int = 1) -> float:
        """Return the time of a further token while `sequences` decode at `context_tokens` each [s]."""
        return float(self.iteration.seconds(decodes(sequences, context_tokens, self.iteration.window)))

    def ttft_seconds(self, prompt_tokens: int) -> float:
        """Return the time of the first token of one prompt, alone [s]."""
        return float(self.iteration.seconds(prompt(prompt_tokens, window=self.iteration.window)))


Server = Instance | Streamed


def card_bytes(server: Server) -> float:
    """Return the weights that stay on each card [bytes]."""
    if isinstance(server, Streamed):
        split = Parallelism(server.tensor)
        return resident_weight_bytes_per_device(server.model, server.formats, split, server.placement)
    return weight_bytes_per_device(server.model, server.formats, server.parallelism)


def hiding(server: Server) -> int:
    """Return the new tokens of an iteration of prompts: what hides a transfer, without one the engine's usual batch."""
    return hiding_tokens(server.iteration) if isinstance(server, Streamed) else BATCH_TOKENS


def prompt_tokens_per_second(server: Server, tokens: int, prompts: int) -> float:
    """Return the prompt tokens of so many equal prompts by the time they take together, stages kept busy [token/s]."""
    one = prompt(tokens, window=server.iteration.window)
    seen = None if one.window_pairs is None else prompts * np.asarray(one.window_pairs)
    together = Totals(
        tokens=prompts * tokens,
        samples=prompts,
        prefill_tokens=prompts * tokens,
        prefill_pairs=prompts * np.asarray(one.prefill_pairs),
        window_pairs=seen,
    )
    stages = server.pipeline if isinstance(server, Instance) else 1
    return stages * prompts * tokens / float(server.iteration.seconds(together))
