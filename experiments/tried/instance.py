"""One instance of a model on some cards, split by TP and PP: whether it holds, and how soon it answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from hardware_profiles.profile import HardwareProfile
from sim.physics import precision
from sim.physics.collectives import SERVER_DEVICES
from sim.physics.efficiency import Efficiency, generic
from sim.physics.iteration import IterationModel
from sim.physics.memory import kv_blocks
from sim.physics.parallelism import Parallelism, allowed_tensor_sizes
from sim.physics.precision import Precision
from sim.physics.totals import decodes, prompt
from workloads.models.transformer import Transformer

BLOCK_TOKENS = 16
BATCH_TOKENS = 2048
"""New tokens of the largest iteration that memory is set aside for; longer prompts come in chunks."""

CARDS_IN_A_SERVER = SERVER_DEVICES


@dataclass(frozen=True)
class Instance:
    """A model in some precision, its layers in `pipeline` stages (PP), each shared by `tensor` cards (TP).

    One request passes through the stages one after another; several go round in as many groups as there are stages.
    """

    model: Transformer
    hardware: HardwareProfile
    formats: Precision
    tensor: int = 1
    pipeline: int = 1
    efficiency: Efficiency | None = None

    @property
    def parallelism(self) -> Parallelism:
        """How the cards share the model."""
        return Parallelism(self.tensor, self.pipeline)

    @property
    def cards(self) -> int:
        """All cards."""
        return self.parallelism.devices

    @property
    def split(self) -> str:
        """How the cards share the model, in words."""
        return self.parallelism.words

    @cached_property
    def iteration(self) -> IterationModel:
        """All layers, one stage after another."""
        constants = self.efficiency or generic(self.hardware)
        return IterationModel(self.model, self.hardware, self.formats, self.parallelism, constants)

    def room(self, context_tokens: int, sequences: int = 1) -> int:
        """Return how many sequences of `context_tokens` fit at once; 0 where not even the weights do.

        Parameters
        ----------
        sequences : how many the engine prepares for, which its runtime sets memory aside for.
        """
        try:
            blocks = kv_blocks(
                self.model,
                self.hardware,
                self.formats,
                self.parallelism,
                block_size=BLOCK_TOKENS,
                max_tokens=BATCH_TOKENS,
                max_samples=sequences,
            )
        except ValueError:
            return 0
        return blocks // math.ceil(context_tokens / BLOCK_TOKENS)

    def tpot_seconds(self, context_tokens: int, sequences: int = 1) -> float:
        """Return the time of a further token while `sequences` decode at `context_tokens` each [s].

        With several stages the sequences go round in as many groups: a round takes the way of one group through all
        stages, or as long as the slowest stage needs for all groups.
        """
        groups = min(self.pipeline, sequences)
        group = math.ceil(sequences / groups)
        totals = decodes(group, context_tokens, self.model.window)
        slowest = max(float(stage.seconds(totals)) for stage in self.iteration.stages)
        return max(float(self.iteration.seconds(totals)), groups * slowest)

    def ttft_seconds(self, prompt_tokens: int) -> float:
        """Return the time of the first token of one prompt, alone [s]."""
        return float(self.iteration.seconds(prompt(prompt_tokens, window=self.model.window)))


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
