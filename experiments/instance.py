"""One instance of a model on some cards, split by TP and PP: whether it holds, and how soon it answers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

from hardware_profiles.profile import HardwareProfile
from sim.physics import efficiency as constants
from sim.physics import precision
from sim.physics.collectives import fast_link
from sim.physics.efficiency import Efficiency
from sim.physics.iteration import IterationModel
from sim.physics.memory import kv_blocks
from sim.physics.parallelism import Parallelism, allowed_tensor_sizes
from sim.physics.precision import Precision
from sim.physics.totals import decodes, prompt
from workloads.models.transformer import Transformer

BLOCK_TOKENS = 16
BATCH_TOKENS = 2048
"""New tokens of the largest iteration that memory is set aside for; longer prompts come in chunks."""

CARDS_IN_A_SERVER = 8
NETWORK_BYTES_PER_SECOND = 25e9
NETWORK_SECONDS = 10e-6
"""Between servers, where a profile does not say: 200 Gbit/s per card, and what a message takes beyond that."""


@dataclass(frozen=True)
class Instance:
    """A model in some precision, its layers in `pipeline` stages (PP), each shared by `tensor` cards (TP).

    One request, or one group of them, passes through the stages one after another: stages save memory, not time.
    """

    model: Transformer
    hardware: HardwareProfile
    formats: Precision
    tensor: int = 1
    pipeline: int = 1
    efficiency: Efficiency | None = None

    @property
    def cards(self) -> int:
        """All cards."""
        return self.tensor * self.pipeline

    @property
    def split(self) -> str:
        """How the cards share the model, in words."""
        return f"TP {self.tensor}" + (f" x PP {self.pipeline}" if self.pipeline > 1 else "")

    @cached_property
    def iteration(self) -> IterationModel:
        """All layers on `tensor` cards, the stages aside."""
        split = Parallelism(self.tensor)
        return IterationModel(self.model, self.hardware, self.formats, split, self.efficiency or constants.generic())

    @cached_property
    def stage(self) -> Transformer:
        """The largest stage as a model of its own, with both vocabulary tables though only the ends have one each."""
        layers = math.ceil(self.model.layers / self.pipeline)
        return replace(self.model, layers=layers, window=None, window_layers=0)

    def room(self, context_tokens: int, sequences: int = 1) -> int:
        """Return how many sequences of `context_tokens` fit at once; 0 where not even the weights do.

        Parameters
        ----------
        sequences : how many the engine prepares for, which its runtime sets memory aside for.
        """
        try:
            blocks = kv_blocks(
                self.stage,
                self.hardware,
                self.formats,
                Parallelism(self.tensor),
                block_size=BLOCK_TOKENS,
                max_tokens=BATCH_TOKENS,
                max_samples=sequences,
            )
        except ValueError:
            return 0
        return blocks // math.ceil(context_tokens / BLOCK_TOKENS)

    def tpot_seconds(self, context_tokens: int, sequences: int = 1) -> float:
        """Return the time of a further token while `sequences` decode at `context_tokens` each [s].

        With several stages the sequences go round in as many groups.
        """
        group = math.ceil(sequences / self.pipeline)
        totals = decodes(group, context_tokens, self.model.window)
        return float(self.iteration.seconds(totals)) + self.hop_seconds(group)

    def ttft_seconds(self, prompt_tokens: int) -> float:
        """Return the time of the first token of one prompt, alone [s]."""
        totals = prompt(prompt_tokens, window=self.model.window)
        return float(self.iteration.seconds(totals)) + self.hop_seconds(prompt_tokens)

    def hop_seconds(self, tokens: int) -> float:
        """Return the time to pass activations from stage to stage [s]; each card passes its part on."""
        link = fast_link(self.hardware, self.cards)
        latency, rate = NETWORK_SECONDS, NETWORK_BYTES_PER_SECOND
        if link is not None:
            rate = link.peer_bytes_per_second
        elif self.cards <= CARDS_IN_A_SERVER:
            rate = self.hardware.host_link.bytes_per_second
        elif self.hardware.scale_out is not None:
            rate = self.hardware.scale_out.bytes_per_second
        moved_bytes = tokens * self.model.hidden * 2.0 / self.tensor
        return (self.pipeline - 1) * (latency + moved_bytes / rate)


def eight_bit(hardware: HardwareProfile) -> str:
    """Return in which precision the chip runs 8-bit weights: FP8, else INT8, else on 16-bit activations.

    >>> from hardware_profiles import load
    >>> [eight_bit(load(chip)) for chip in ("l20", "a10", "v100-sxm2-32")]
    ['fp8', 'w8a8', 'w8a16']
    """
    peaks = hardware.peak_flops_per_second
    return "fp8" if "fp8" in peaks else "w8a8" if "int8" in peaks else "w8a16"


def splits(model: Transformer, hardware: HardwareProfile, name: str, cards: int) -> list[Instance]:
    """Return every way to share a model among `cards`: TP within a server or fast domain, PP for the rest."""
    widest = max(CARDS_IN_A_SERVER, hardware.devices_per_domain)
    formats = precision.load(name)
    return [
        Instance(model, hardware, formats, tensor, cards // tensor)
        for tensor in allowed_tensor_sizes(model)
        if tensor <= min(cards, widest) and cards % tensor == 0 and cards // tensor <= model.layers
    ]
