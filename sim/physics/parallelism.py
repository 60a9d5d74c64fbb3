"""Over how many devices one replica of a model is split, and which splits the model allows."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.models.transformer import Transformer


@dataclass(frozen=True)
class Parallelism:
    """How one replica is cut: heads and widths, layers, experts, and sequences.

    A rank of `data` has its own sequences and KV cache and a whole copy of attention (on ``tensor`` devices of each
    stage); all ranks share the experts of a mixture, which lie on ``tensor * data`` devices: `expert` groups of them
    have different experts, and within a group every expert is cut by its width. `expert = tensor * data` is expert
    parallelism as vLLM and DeepSeek know it, `expert = 1` cuts every expert over all devices, as vLLM does by default.
    Sources: Megatron-LM (Shoeybi et al. 2019); docs.vllm.ai, "Data Parallel Deployment" and "Expert Parallel
    Deployment".

    Attributes
    ----------
    tensor : devices that share every layer (TP).
    pipeline : stages, each with some of the layers (PP).
    expert : groups of devices with different experts (EP).
    data : ranks with sequences of their own that share the experts (DP). Replicas that share nothing are several
        servers, not one.
    """

    tensor: int = 1
    pipeline: int = 1
    expert: int = 1
    data: int = 1

    def __post_init__(self) -> None:
        """Refuse fewer devices than one, and experts that do not divide their devices."""
        for name in ("tensor", "pipeline", "expert", "data"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} devices; allowed are 1 and more")
        if self.expert_devices % self.expert:
            allowed = ", ".join(str(n) for n in range(1, self.expert_devices + 1) if self.expert_devices % n == 0)
            raise ValueError(
                f"expert={self.expert} does not divide tensor * data = {self.expert_devices} devices; "
                f"allowed are {allowed}"
            )

    @property
    def devices(self) -> int:
        """All devices of the replica."""
        return self.tensor * self.pipeline * self.data

    @property
    def expert_devices(self) -> int:
        """Devices of a stage that hold its experts."""
        return self.tensor * self.data

    @property
    def expert_tensor(self) -> int:
        """Devices over which each expert is cut."""
        return self.expert_devices // self.expert

    @property
    def words(self) -> str:
        """The split as people write it.

        >>> Parallelism(2, pipeline=4).words, Parallelism(data=2, expert=2).words
        ('TP 2 x PP 4', 'TP 1 x EP 2 x DP 2')
        """
        named = (("PP", self.pipeline), ("EP", self.expert), ("DP", self.data))
        return " x ".join([f"TP {self.tensor}", *(f"{name} {size}" for name, size in named if size > 1)])

    def check(self, model: Transformer) -> None:
        """Raise ValueError, naming what is allowed, where the model cannot be cut like that.

        Layers need not divide into stages nor experts over devices: the fullest stage and device are priced, as
        engines run them. KV heads fewer than `tensor` are replicated.
        """
        uneven = [name for name, width, fits in _cuts(model, self) if not fits and width]
        if uneven:
            allowed = ", ".join(str(size) for size in allowed_tensor_sizes(model, self.expert, self.data)) or "none"
            beside = f" beside expert={self.expert}, data={self.data}" if self.data * self.expert > 1 else ""
            raise ValueError(
                f"tensor={self.tensor}{beside} cuts {' and '.join(uneven)} of {model.title} unevenly; "
                f"allowed are {allowed}"
            )
        if self.pipeline > model.layers:
            raise ValueError(
                f"pipeline={self.pipeline} stages for {model.layers} layers of {model.title}; "
                f"allowed are 1 to {model.layers}"
            )
        experts = model.mixture.experts if model.mixture else 1
        if self.expert > experts:
            raise ValueError(
                f"expert={self.expert} groups of devices for {_experts(model)}; allowed are 1 to {experts}"
            )
        if self.data > 1 and model.mixture is None:
            raise ValueError(
                f"data={self.data} ranks of {model.title} share no experts; allowed is 1, and several replicas"
            )


def allowed_tensor_sizes(model: Transformer, expert: int = 1, data: int = 1) -> tuple[int, ...]:
    """Return every number of devices that cuts the model evenly, ascending, beside `expert` and `data`.

    >>> from dataclasses import replace
    >>> from workloads.models import load
    >>> allowed_tensor_sizes(replace(load("llama-2-7b"), query_heads=6, kv_heads=2, intermediate=12))
    (1, 2, 6)
    """
    able = (size for size in range(1, model.query_heads + 1) if size * data % expert == 0)
    splits = (Parallelism(size, expert=expert, data=data) for size in able)
    return tuple(split.tensor for split in splits if all(fits for _, _, fits in _cuts(model, split)))


def kv_heads_per_device(model: Transformer, parallelism: Parallelism) -> int:
    """Return the KV heads that one device keeps: its share, or one of them, replicated, if there are too few."""
    return max(1, model.kv_heads // parallelism.tensor)


def experts_per_device(experts: int, parallelism: Parallelism) -> int:
    """Return the experts of the fullest device; where they do not divide, the first devices have one more.

    Source: `determine_expert_map` in vllm/model_executor/layers/fused_moe/layer.py.

    >>> experts_per_device(10, Parallelism(4, expert=4))
    3
    """
    return -(-experts // parallelism.expert)


def _experts(model: Transformer) -> str:
    return f"{model.mixture.experts} experts of {model.title}" if model.mixture else f"{model.title}, which has none"


def _cuts(model: Transformer, split: Parallelism) -> list[tuple[str, int, bool]]:
    """Return (what is cut, how wide it is, whether it can be) for everything that is cut by width."""
    tensor = split.tensor
    cuts = [("query heads", model.query_heads, tensor)]
    if model.dense_layers:
        cuts.append(("intermediate width", model.intermediate, tensor))
    if model.mixture:
        cuts.append(("expert width", model.mixture.intermediate, split.expert_tensor))
        cuts.append(("shared expert width", model.mixture.shared_intermediate, tensor))
    found = [(f"{width} {name}", width, width % devices == 0) for name, width, devices in cuts]
    if not model.latent:  # a compressed KV vector has no heads: every device keeps all of it
        heads = model.kv_heads
        found.append((f"{heads} KV heads", heads, heads % tensor == 0 or tensor % heads == 0))
    return found
