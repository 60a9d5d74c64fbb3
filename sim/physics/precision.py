"""In how many bytes weights, activations and the KV cache are kept, and which unit of a chip computes with them."""

from __future__ import annotations

from dataclasses import dataclass

from hardware_profiles.profile import HardwareProfile

SIXTEEN_BIT = ("bf16", "fp16")
"""Units for 16-bit arithmetic; attention and the output head use them whatever the weights are kept in."""


@dataclass(frozen=True)
class Precision:
    """How a model is quantised.

    The residual stream, and with it every result, all-reduce and the two vocabulary tables, stays 16-bit: common
    quantised checkpoints leave them alone. An 8-bit KV cache is ``dataclasses.replace(precision, kv_bytes=1.0)``.

    Attributes
    ----------
    name : key of `PRECISIONS`, e.g. ``"w16a16"``.
    weight_bytes, activation_bytes : bytes per element that a matrix product reads of its weights and of its input.
    kv_bytes : bytes per cached element.
    compute : units that can do the product, in order of preference among equally fast ones.
    """

    name: str
    weight_bytes: float = 2.0
    activation_bytes: float = 2.0
    kv_bytes: float = 2.0
    compute: tuple[str, ...] = SIXTEEN_BIT

    @property
    def quantises_activations(self) -> bool:
        """Whether a pass before each matrix product turns 16-bit activations into narrower ones."""
        return self.activation_bytes < 2.0


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("w16a16"),
        Precision("fp8", weight_bytes=1.0, activation_bytes=1.0, compute=("fp8",)),
        Precision("w8a8", weight_bytes=1.0, activation_bytes=1.0, compute=("int8",)),
        Precision("w8a16", weight_bytes=1.0),
        # Four bits, and one 16-bit scale for every 128 weights (GPTQ and AWQ as usually shipped).
        Precision("w4a16", weight_bytes=0.5 + 2.0 / 128.0),
    )
}
"""The precisions known by name."""


def load(name: str) -> Precision:
    """Return the precision of that name; ValueError lists the names there are.

    >>> load("fp8").weight_bytes
    1.0
    """
    try:
        return PRECISIONS[name.lower()]
    except KeyError:
        raise ValueError(f"precision {name!r} is unknown; allowed are {', '.join(PRECISIONS)}") from None


def compute_unit(precision: Precision, hardware: HardwareProfile) -> str:
    """Return the fastest unit of the chip that computes in this precision.

    Raises
    ------
    ValueError
        The chip has none; the message names what it can do.
    """
    peaks = hardware.peak_flops_per_second
    units = [unit for unit in precision.compute if unit in peaks]
    if not units:
        possible = [other.name for other in PRECISIONS.values() if any(unit in peaks for unit in other.compute)]
        raise ValueError(
            f"precision {precision.name!r} computes in {' or '.join(precision.compute)}, which {hardware.title} "
            f"lacks (it has {', '.join(peaks)}); allowed on this chip are {', '.join(possible) or 'none'}"
        )
    return max(units, key=lambda unit: peaks[unit])  # the first of equals


def sixteen_bit_unit(hardware: HardwareProfile) -> str:
    """Return the fastest 16-bit unit of the chip, bf16 among equals; see `compute_unit`."""
    return compute_unit(PRECISIONS["w16a16"], hardware)
