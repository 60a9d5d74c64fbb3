"""Over how many devices one replica of a model is split, and which splits the model allows."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.models.transformer import Transformer


@dataclass(frozen=True)
class Parallelism:
    """Tensor parallelism after Megatron-LM (Shoeybi et al. 2019): heads and MLP widths are cut, the layers are not.

    Attributes
    ----------
    tensor : devices that share every layer.
    """

    tensor: int = 1

    def __post_init__(self) -> None:
        """Refuse fewer devices than one."""
        if self.tensor < 1:
            raise ValueError(f"tensor={self.tensor} devices; allowed are 1 and more")

    def check(self, model: Transformer) -> None:
        """Raise ValueError, naming the allowed sizes, where the model cannot be cut into even shards."""
        uneven = [name for name, width, fits in _cuts(model, self.tensor) if not fits and width]
        if uneven:
            allowed = ", ".join(str(size) for size in allowed_tensor_sizes(model))
            raise ValueError(
                f"tensor={self.tensor} cuts {' and '.join(uneven)} of {model.title} unevenly; allowed are {allowed}"
            )


def allowed_tensor_sizes(model: Transformer) -> tuple[int, ...]:
    """Return every number of devices that cuts the model evenly, ascending.

    >>> from dataclasses import replace
    >>> from workloads.models import load
    >>> allowed_tensor_sizes(replace(load("llama-2-7b"), query_heads=6, kv_heads=2, intermediate=12))
    (1, 2, 6)
    """
    sizes = range(1, model.query_heads + 1)
    return tuple(size for size in sizes if all(fits for _, _, fits in _cuts(model, size)))


def kv_heads_per_device(model: Transformer, parallelism: Parallelism) -> int:
    """Return the KV heads that one device keeps: its share, or one of them, replicated, if there are too few."""
    return max(1, model.kv_heads // parallelism.tensor)


def _cuts(model: Transformer, tensor: int) -> list[tuple[str, int, bool]]:
    """Return (what is cut, how wide it is, whether it can be) for everything that tensor parallelism cuts."""
    widths = [("query heads", model.query_heads)]
    if model.dense_layers:
        widths.append(("intermediate width", model.intermediate))
    if model.mixture:
        widths.append(("expert width", model.mixture.intermediate))
        widths.append(("shared expert width", model.mixture.shared_intermediate))
    cuts = [(f"{width} {name}", width, width % tensor == 0) for name, width in widths]
    if not model.latent:  # a compressed KV vector has no heads: every device keeps all of it
        heads = model.kv_heads
        cuts.append((f"{heads} KV heads", heads, heads % tensor == 0 or tensor % heads == 0))
    return cuts
