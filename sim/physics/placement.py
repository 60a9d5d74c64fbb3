"""Where a replica keeps its weights and its KV cache: on the devices, or beside them (ZeRO-Inference)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

WeightsFrom = Literal["device", "host", "nvme"]
KvOn = Literal["device", "host"]

NVME_BYTES_PER_SECOND = 5.6e9
"""Sequential reads of one drive with four lanes of PCIe Gen4, the PNY CS3040 of DeepSpeed's published runs
(github.com/deepspeedai/DeepSpeedExamples, inference/huggingface/zero_inference). Servers may have several."""

BUFFERED_LAYERS = 2
"""Layers whose weights a device holds at a time: one computes while the next arrives."""


@dataclass(frozen=True)
class Placement:
    """Where a replica keeps what does not stay on its devices.

    While a layer computes, the next one is brought, also from one iteration to the next. With layers that are all alike
    an iteration so takes the longer of what all layers compute and what all transfers take; where they differ, buffers
    for a few layers even that out. Every device brings its own shard over its own link; the drives, and the memory of
    the host, which is taken to be fast enough, are shared. Vocabulary tables stay on the device.
    Sources: deepspeed.ai, "ZeRO-Inference: Democratizing massive model inference" (2022); Aminabadi et al. 2022,
    arXiv:2207.00032, section 6.

    Attributes
    ----------
    weights_from : ``"device"`` where they stay, ``"host"`` for the memory of the host, ``"nvme"`` for its drives.
    kv_on : ``"host"`` for a KV cache in the memory of the host; all keys in sight are brought in every iteration.
    nvme_bytes_per_second : what all drives of the server deliver together.
    """

    weights_from: WeightsFrom = "device"
    kv_on: KvOn = "device"
    nvme_bytes_per_second: float = NVME_BYTES_PER_SECOND

    def __post_init__(self) -> None:
        """Refuse places that there are not (ValueError)."""
        for name, allowed in (("weights_from", get_args(WeightsFrom)), ("kv_on", get_args(KvOn))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        if not self.nvme_bytes_per_second > 0:
            raise ValueError(f"nvme_bytes_per_second is {self.nvme_bytes_per_second}; allowed: above 0")

    @property
    def is_off(self) -> bool:
        """Whether everything stays on the device."""
        return self.weights_from == "device" and self.kv_on == "device"


ON_DEVICE = Placement()
