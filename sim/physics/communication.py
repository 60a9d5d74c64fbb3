"""What the devices of one replica tell each other in an iteration, and how long that takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from hardware_profiles.profile import HardwareProfile
from sim.physics.collectives import (
    all_gather_seconds,
    all_reduce_seconds,
    all_to_all_seconds,
    fast_link,
    send_seconds,
    servers_of,
)
from sim.physics.efficiency import Efficiency
from sim.physics.operators import STREAM_BYTES
from sim.physics.parallelism import Parallelism
from sim.physics.roofline import Floats
from sim.physics.routing import reach_of_hottest
from workloads.models.transformer import Transformer

Exchange = Literal["all-gather", "all-to-all"]


@dataclass(frozen=True)
class Communication:
    """The messages of some layers, as functions from tokens to seconds; 0 where a device is alone.

    Devices are numbered as in vLLM: neighbours share a layer (TP), then come stages (PP), then data ranks (DP).

    Attributes
    ----------
    layers : of one stage, or all; see `Stage`.
    parallelism, hardware, constants : who talks over what, and how well.
    boundaries : stages whose results go on to the next.
    exchange : how data ranks bring tokens to experts: ``"all-gather"``, every device gets all tokens and the results
        are summed and scattered (`allgather_reducescatter`, the default of vLLM); or ``"all-to-all"``, each token goes
        to the devices that have its experts and back (DeepEP).
    routing_skew : see `sim.physics.routing.popularity`.
    """

    layers: Transformer
    parallelism: Parallelism
    hardware: HardwareProfile
    constants: Efficiency
    boundaries: range
    exchange: Exchange = "all-gather"
    routing_skew: float = 0.0

    @property
    def flags(self) -> tuple[str, ...]:
        """Sentences that must stand beside every time that rests on these links."""
        split, chip = self.parallelism, self.hardware
        found = []
        groups = {split.tensor: split.tensor, split.data: split.data * split.tensor * split.pipeline}
        for devices, span in groups.items():
            if devices > 1 and not (fast_link(chip, span) or self.constants.links.pcie_measured):
                found.append(f"unmeasured: all-reduce of {devices} x {chip.title} without a common fast link")
        if servers_of(chip, split.devices)[1] > 1:
            found.append(f"unmeasured: the network between servers of {chip.title}")
        return tuple(found)

    def token_seconds(self, tokens: Floats) -> Floats:
        """Return the time of all messages that depend on the new tokens, of each data rank alike [s]."""
        everybody = self.parallelism.data * tokens
        return self.all_reduce_seconds(tokens) + self.hop_seconds(tokens) + self.exchange_seconds(everybody)

    def all_reduce_seconds(self, tokens: Floats) -> Floats:
        """Return the time to add up partial results behind attention and behind the MLP of every layer [s]."""
        per_layer = 1 if self.layers.parallel_block else 2
        message_bytes = tokens * self.layers.hidden * STREAM_BYTES
        devices = self.parallelism.tensor
        return (
            self.layers.layers * per_layer * all_reduce_seconds(message_bytes, devices, self.hardware, self.constants)
        )

    def gather_seconds(self, samples: Floats) -> Floats:
        """Return the time to collect the logits that every device has a part of [s]."""
        logit_bytes = samples * self.layers.vocabulary * STREAM_BYTES
        return all_gather_seconds(logit_bytes, self.parallelism.tensor, self.hardware, self.constants)

    def exchange_seconds(self, all_tokens: Floats) -> Floats:
        """Return the time to bring the tokens of all data ranks to their experts and back, in every layer [s].

        With one data rank every device has all tokens already, and the sum behind the MLP is counted with the others.
        """
        split, mixture = self.parallelism, self.layers.mixture
        if split.data == 1 or mixture is None:
            return np.zeros_like(all_tokens)
        stream_bytes = all_tokens * self.layers.hidden * STREAM_BYTES
        if self.exchange == "all-gather":
            stride = split.tensor * split.pipeline
            once = all_gather_seconds(stream_bytes, split.data, self.hardware, self.constants, stride)
        else:
            devices = split.expert_devices
            reach = reach_of_hottest(mixture.experts, mixture.experts_per_token, split.expert, self.routing_skew)
            received_bytes = stream_bytes * (reach * (devices - 1) / devices)
            once = all_to_all_seconds(received_bytes, devices, self.hardware, self.constants, split.pipeline)
        return self.layers.mixture_layers * 2 * once

    def hop_seconds(self, tokens: Floats) -> Floats:
        """Return the time to pass the residual stream on to the next stage, at every boundary [s].

        Each device sends its part to its counterpart; those of the next stage then collect the whole.
        Source: `send_tensor_dict` in vllm/distributed/parallel_state.py.
        """
        tensor, stream_bytes = self.parallelism.tensor, tokens * self.layers.hidden * STREAM_BYTES
        seconds = np.zeros_like(tokens)
        for stage in self.boundaries:
            first = stage * tensor
            ways = [
                send_seconds(stream_bytes / tensor, sender, sender + tensor, self.hardware, self.constants)
                for sender in (first, first + tensor - 1)  # a server ends between these, or between neither
            ]
            collected = all_gather_seconds(stream_bytes, tensor, self.hardware, self.constants)
            seconds = seconds + np.maximum(*ways) + collected
        return seconds
