"""Peaks that count 2:4 sparsity as speed are refused; dense peaks, however odd, are not."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

import hardware_profiles
from hardware_profiles import available, load
from hardware_profiles.plausibility import sparse_looking

CHIPS = Path(hardware_profiles.__file__).with_name("chips")
# GeForce boards run FP32 accumulation at half rate, so that their dense INT8 is four times FP16.
DECLARED_DENSE = {"rtx-3090", "rtx-4090", "rtx-5090"}


def raw(name: str, **peaks: float) -> dict[str, Any]:
    """Return the shipped file of a chip as a user would copy it, with other peaks."""
    document = tomllib.loads((CHIPS / f"{name}.toml").read_text(encoding="utf-8"))
    document["peak_flops_per_second"] |= peaks
    return document


def read(folder: Path, document: dict[str, Any]) -> hardware_profiles.HardwareProfile:
    path = folder / "copy.toml"
    path.write_text(tomli_w.dumps(document), encoding="utf-8")
    return load(path)


@pytest.mark.parametrize("name", available())
def test_a_copy_of_a_shipped_chip_is_accepted(name, tmp_path):
    assert read(tmp_path, raw(name)).peak_flops_per_second == load(name).peak_flops_per_second


def test_only_geforce_boards_declare_odd_peaks_as_dense():
    assert {name for name in available() if "dense" in raw(name)} == DECLARED_DENSE
    for name in available():
        chip = load(name)
        looks = sparse_looking(chip.peak_flops_per_second, chip.memory.bandwidth_bytes_per_second)
        assert bool(looks) == (name in DECLARED_DENSE)


@pytest.mark.parametrize("name", available())
def test_a_chip_with_every_peak_doubled_is_refused_unless_declared_dense(name, tmp_path):
    document = raw(name)
    document["peak_flops_per_second"] = {dtype: 2 * peak for dtype, peak in document["peak_flops_per_second"].items()}
    document.pop("dense", None)
    with pytest.raises(ValueError, match=r"copy\.toml: peak_flops_per_second\.\w+ = .*2:4 sparsity; halve it"):
        read(tmp_path, document)
    assert read(tmp_path, document | {"dense": True}).name == "copy"


@pytest.mark.parametrize(
    ("name", "peaks", "field", "remedy"),
    [
        # Figures that public tables really carry (the sparse column of a datasheet, or half of it).
        ("l40s", {"fp8": 1466e12}, "fp8 = 1466e12 is 4.0 x the 16-bit peak", "halve it (733e12)"),
        ("l40s", {"int8": 1466e12}, "int8 = 1466e12 is 4.0 x the 16-bit peak", "halve it (733e12)"),
        ("l40s", {"fp16": 733e12}, "fp16 = 733e12 is about twice the peak of bf16", "halve it (366.5e12)"),
        ("l40s", {"fp16": 733e12, "bf16": 733e12}, "fp16 = 733e12 is as high as both 8-bit peaks", "(366.5e12)"),
        (
            "h100-sxm",
            {"fp16": 1979e12, "bf16": 1979e12, "fp8": 3958e12, "int8": 3958e12},
            "fp16 = 1979e12 is 591 flops per byte of memory bandwidth",
            "halve it (989.5e12)",
        ),
        (
            "a100-sxm-80",
            {"fp16": 624e12, "bf16": 624e12, "int8": 1248e12, "int4": 2496e12},
            "fp16 = 624e12 is twice the dense peak of a100-",
            "halve it (312e12)",
        ),
        ("b200-sxm", {"fp4": 18000e12}, "fp4 = 18000e12 is 8.0 x the 16-bit peak", "halve it (9000e12)"),
        ("a10", {"int4": 1000e12}, "int4 = 1000e12 is 8.0 x the 16-bit peak", "halve it (500e12)"),
    ],
)
def test_the_sparse_field_is_named_with_the_remedy(name, peaks, field, remedy, tmp_path):
    with pytest.raises(ValueError, match="copy") as caught:
        read(tmp_path, raw(name, **peaks))
    message = str(caught.value)
    assert f"peak_flops_per_second.{field}" in message
    assert remedy in message
    assert "dense = true" in message
