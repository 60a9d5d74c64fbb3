"""A user's own file: what may be left out, and that every mistake is named with its file, field, value and remedy."""

from __future__ import annotations

import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from hardware_profiles import Evidence, HardwareProfile, available, load

SMALLEST: dict[str, Any] = {
    "title": "My accelerator",
    "vendor": "Example",
    "architecture": "First",
    "form": "PCIe",
    "year": 2026,
    "peak_flops_per_second": {"bf16": 400e12},
    "memory": {"capacity_bytes": 64 * 2**30, "bandwidth_bytes_per_second": 2000e9},
    "host_link": {"kind": "PCIe Gen5 x16", "topology": "pcie", "bytes_per_second": 64e9},
}
LARGEST: dict[str, Any] = {
    **SMALLEST,
    "confidence": "low",
    "devices_per_domain": 8,
    "matrix_reach": 0.78,
    "power_watts": 500,
    "usd_per_hour": [1.0, 2.5],
    "dense": False,
    "flags": ["Invented."],
    "peak_flops_per_second": {"fp16": 400e12, "bf16": 400e12, "fp8": 800e12, "int8": 800e12},
    "memory": {
        **SMALLEST["memory"],
        "reported_bytes": 63 * 2**30,
        "cuda_visible_bytes": 62 * 2**30,
        "cache_bytes": 40 * 2**20,
    },
    "scale_up": {
        "kind": "Fabric",
        "topology": "mesh",
        "bytes_per_second": 350e9,
        "peer_bytes_per_second": 50e9,
        "latency_seconds": 2e-6,
    },
    "scale_out": {"kind": "NDR InfiniBand", "topology": "switch", "bytes_per_second": 50e9},
    "evidence": {"memory.reported_bytes": {"source": "the driver", "grade": "measured"}},
}
REQUIRED = [
    *("title", "vendor", "architecture", "form", "year", "peak_flops_per_second", "memory", "host_link"),
    *("memory.capacity_bytes", "memory.bandwidth_bytes_per_second", "host_link.kind", "host_link.topology"),
    *("host_link.bytes_per_second", "scale_up.kind", "scale_up.topology", "scale_up.bytes_per_second"),
    *("scale_up.peer_bytes_per_second", "scale_out.kind", "scale_out.topology", "scale_out.bytes_per_second"),
    *("devices_per_domain", "evidence.memory.reported_bytes.source", "evidence.memory.reported_bytes.grade"),
]
NUMBERS = [
    *(
        "matrix_reach",
        "power_watts",
        "year",
        "devices_per_domain",
        "peak_flops_per_second.fp16",
        "peak_flops_per_second.int8",
    ),
    *("memory.capacity_bytes", "memory.bandwidth_bytes_per_second", "memory.reported_bytes"),
    *("memory.cuda_visible_bytes", "memory.cache_bytes", "scale_up.bytes_per_second", "scale_up.peer_bytes_per_second"),
    *("scale_up.latency_seconds", "host_link.bytes_per_second", "scale_out.bytes_per_second"),
]
TEXTS = ["title", "vendor", "architecture", "form", "confidence", "host_link.kind", "scale_up.topology"]


def read(document: dict[str, Any] | str) -> HardwareProfile:
    text = document if isinstance(document, str) else tomli_w.dumps(document)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mine.toml")
        path.write_text(text, encoding="utf-8")
        return load(path)


def changed(field: str, value: Any = None) -> dict[str, Any]:
    """Return the largest profile with one field set to `value`, or taken out."""
    document = deepcopy(LARGEST)
    table, key = document, field
    if field.startswith("evidence."):
        table, key = document["evidence"]["memory.reported_bytes"], field.rsplit(".", 1)[1]
    elif "." in field:
        outer, key = field.split(".")
        table = document[outer]
    if value is None:
        del table[key]
    else:
        table[key] = value
    return document


def complaint(document: dict[str, Any] | str) -> str:
    with pytest.raises(ValueError, match=r"mine\.toml") as caught:
        read(document)
    return str(caught.value)


def test_the_smallest_file_is_enough():
    chip = read(SMALLEST)
    assert (chip.name, chip.scale_up, chip.devices_per_domain, chip.power_watts) == ("mine", None, 1, None)
    assert (chip.usd_per_hour, chip.scale_out, chip.article, chip.flags) == (None, None, {}, ())
    assert chip.host_link.peer_bytes_per_second == 64e9
    assert {one.grade for one in chip.evidence.values()} == {"user"}


def test_the_largest_file_keeps_every_field():
    chip = read(LARGEST)
    assert chip.scale_up is not None
    assert chip.scale_up.latency_seconds == 2e-6
    assert chip.scale_out is not None
    assert chip.scale_out.peer_bytes_per_second == 50e9
    assert (chip.usd_per_hour, chip.confidence, chip.flags) == ((1.0, 2.5), "low", ("Invented.",))
    assert chip.memory.usable_bytes == 62 * 2**30
    assert chip.evidence["memory.reported_bytes"] == Evidence("the driver", "measured")
    assert chip.evidence["memory.capacity_bytes"].grade == "user"


def test_the_closest_evidence_counts():
    one = {"grade": "measured", "source": "field"}
    evidence = {"default": one | {"source": "all"}, "memory": one | {"source": "table"}, "memory.capacity_bytes": one}
    sources = {name: stated.source for name, stated in read(SMALLEST | {"evidence": evidence}).evidence.items()}
    assert sources["memory.capacity_bytes"] == "field"
    assert sources["memory.bandwidth_bytes_per_second"] == "table"
    assert sources["peak_flops_per_second.bf16"] == "all"


@pytest.mark.parametrize("given_as", [str, Path])
def test_a_path_is_read_and_names_the_profile(tmp_path, given_as):
    path = tmp_path / "l20.toml"
    path.write_text(tomli_w.dumps(SMALLEST))
    assert load(given_as(path)).title == "My accelerator"
    assert load(given_as(path)).aliases == ()


@given(st.sampled_from(REQUIRED))
def test_a_missing_field_is_named(field):
    message = complaint(changed(field))
    assert "mine.toml" in message
    assert f"{field} is missing" in message


@given(st.sampled_from(NUMBERS), st.sampled_from([0, -1, -864e9, float("nan"), float("inf"), True, "864e9", [1]]))
def test_a_number_that_is_none_or_not_above_zero_is_named_with_its_value(field, value):
    message = complaint(changed(field, value))
    assert "mine.toml" in message
    assert f"{field} must be" in message
    assert repr(value) in message


@given(st.sampled_from(TEXTS), st.sampled_from([7, True, "", ["a"]]))
def test_a_text_that_is_none_is_named_with_its_value(field, value):
    message = complaint(changed(field, value))
    assert f"{field} must be" in message
    assert repr(value) in message


@given(st.sampled_from([*REQUIRED, *NUMBERS]), st.data())
def test_a_misspelt_field_is_named_and_the_right_one_suggested(field, data):
    key = field.split(".")[-1]
    at = data.draw(st.integers(1, len(key) - 1))
    document = changed(field, 1e12)
    table = document
    if field.startswith("evidence."):
        table = document["evidence"]["memory.reported_bytes"]
    elif "." in field:
        table = document[field.split(".")[0]]
    del table[key]
    wrong = key[:at] + "_x" + key[at:]
    table[wrong] = 1e12
    message = complaint(document)
    assert f"{field.removesuffix(key)}{wrong} is not a field" in message
    assert "allowed here: " in message
    assert key in message


def test_a_slip_of_the_pen_gets_the_nearest_name():
    document = changed("memory.bandwidth_bytes_per_second")
    document["memory"]["bandwith_bytes_per_second"] = 2000e9
    assert "did you mean memory.bandwidth_bytes_per_second?" in complaint(document)


@pytest.mark.parametrize(
    ("field", "value", "hint"),
    [
        ("memory.bandwidth_bytes_per_second", 864, "looks like GB/s; write bytes per second, e.g. 864e9"),
        ("memory.bandwidth_bytes_per_second", 3.35, "looks like TB/s; write bytes per second, e.g. 3.35e12"),
        ("memory.capacity_bytes", 48, "looks like GB; write bytes, e.g. 51539607552"),
        ("memory.reported_bytes", 46068, "looks like MiB; write bytes, e.g. 48305799168"),
        ("peak_flops_per_second.fp16", 119.5, "looks like TFLOPS; write flops per second, e.g. 119.5e12"),
        ("peak_flops_per_second.fp8", 1.979, "looks like PFLOPS; write flops per second, e.g. 1.979e15"),
        ("host_link.bytes_per_second", 32, "looks like GB/s; write bytes per second, e.g. 32e9"),
        ("scale_up.peer_bytes_per_second", 28, "looks like GB/s; write bytes per second, e.g. 28e9"),
        ("scale_up.latency_seconds", 5, "looks like microseconds; write seconds, e.g. 5e-6"),
        ("memory.bandwidth_bytes_per_second", 864e15, "is out of any range; write bytes per second"),
        ("matrix_reach", 78.5, "looks like per cent; write a part of the peak, e.g. 78.5e-2"),
        ("power_watts", 10**400, "is out of any range; write watts"),
    ],
)
def test_a_number_in_another_unit_is_recognised(field, value, hint):
    message = complaint(changed(field, value))
    assert f"{field} = {value!r} {hint}" in message


@pytest.mark.parametrize(
    ("field", "value", "hint"),
    [
        ("scale_up.topology", "star", "must be one of switch, mesh, torus, ring, bridge, pcie, direct, got 'star'"),
        ("confidence", "certain", "must be one of high, medium, low, got 'certain'"),
        ("evidence.memory.reported_bytes.grade", "rumour", "must be one of datasheet, measured, article"),
        ("usd_per_hour", [2.5, 1.0], "must be [low, high], got the higher first"),
        ("usd_per_hour", [1.0], "must be [low, high] in US dollars per hour, got [1.0]"),
        ("usd_per_hour", [-1.0, 1.0], "must be a finite number above zero"),
        ("flags", "careful", "must be a list of texts, got 'careful'"),
        ("dense", "yes", "must be true or false, got 'yes'"),
        ("devices_per_domain", 1, "= 1: 2 or more with a [scale_up] link, 1 without"),
        ("devices_per_domain", 2.5, "must be a whole number, 1 or more, got 2.5"),
        ("memory", 48, "must be a table [memory], got 48"),
        ("memory.reported_bytes", 65 * 2**30, "is more than the memory it is part of"),
        ("memory.cuda_visible_bytes", 64 * 2**30, "is more than the memory it is part of"),
        ("scale_up.peer_bytes_per_second", 400e9, "is more than all links together"),
        ("scale_up.reduces", True, "only a switch adds up"),
        ("scale_up.reduces", 1, "must be true or false, got 1"),
        ("article", {"power_w": True}, "power_w must be a number or a text, got True"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_what_is_allowed(field, value, hint):
    message = complaint(changed(field, value))
    assert field in message
    assert hint in message


def test_a_profile_needs_a_16_bit_peak():
    peaks = {"int8": 800e12}
    assert "peak_flops_per_second.fp16 is missing, and so is bf16" in complaint(
        SMALLEST | {"peak_flops_per_second": peaks}
    )


def test_evidence_for_a_field_that_is_not_there_is_refused():
    stated = {"memory.capacity": {"source": "x", "grade": "measured"}}
    message = complaint(SMALLEST | {"evidence": stated})
    assert "evidence.memory.capacity is not a field; did you mean evidence.memory.capacity_bytes?" in message


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ("title = ", "is not valid TOML: Invalid value (at end of document)"),
        ('title = "a"\ntitle = "b"\n', "is not valid TOML: Cannot overwrite a value (at line 2"),
        ("title = [" * 5000, "is not valid TOML"),
        ("year = " + "9" * 5000, "is not valid TOML"),
    ],
)
def test_a_file_that_is_not_toml_is_named(content, hint):
    message = complaint(content)
    assert "mine.toml" in message
    assert hint in message


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"binary\.toml: cannot be read: not a text in UTF-8"):
        load(tmp_path / "binary.toml")
    with pytest.raises(ValueError, match=r"absent\.toml: cannot be read: No such file"):
        load(tmp_path / "absent.toml")
    with pytest.raises(ValueError, match=r"cannot be read: Is a directory"):
        load(tmp_path)


@pytest.mark.parametrize(("name", "near"), [("h10", "h100"), ("A80", "a800"), ("L4OS", "l40s"), ("asend-910b", "910b")])
def test_an_unknown_name_gets_the_closest_ones(name, near):
    with pytest.raises(ValueError, match=rf"no hardware profile is named '{name}'; the closest are .*{near}"):
        load(name)


def test_a_hopeless_name_gets_all_of_them():
    with pytest.raises(ValueError, match="shipped are " + ", ".join(available())):
        load("?!")
