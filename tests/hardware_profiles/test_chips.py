"""The shipped chips: every number is the public one, has a source, and is found under the names people use."""

from __future__ import annotations

import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from hardware_profiles import Link, Memory, available, load

MIB = 2**20

# One row of the article's table (zhuanlan.zhihu.com/p/678763741, January 2024) a line, verbatim: dense FP16, FP8, INT8
# in T(FL)OPS, memory GB, bandwidth GB/s, chip link GB/s, PCIe GB/s, W, cards per fast domain. None where it prints "-".
ARTICLE = {
    "h800": (989, 1979, 1979, 80, "~3350", "NVLink 400", "Gen5 128", 700, 8),
    "a800": (312, None, 624, 80, 2039, "NVLink 400", "Gen4 64", 400, 8),
    "h20": (148, 296, 296, 96, "~4000", "NVLink 900", "Gen5 128", 400, 8),
    "l20": (119.5, 239, 239, 48, 864, None, "Gen4 64", 275, 1),
    "a10": (125, None, 250, 24, 600, None, "Gen4 64", 150, 1),
    "a30": (165, None, 330, 24, 933, "NVLink 200", "Gen4 64", 165, 2),
    "v100": (125, None, None, 32, 900, "NVLink 300", "Gen4 64", 300, 4),
    "ascend-910b": (376, None, 752, 64, "~1600", "HCCS 392", "Gen5 128", 400, 8),
    "dtu2": (160, None, 320, 64, "~1800", "LARE 300", "Gen4 64", 400, 4),
    "xpu2": (128, None, 256, 32, 512, "200", "Gen4 64", 150, 4),
}
# Where our numbers differ from the article's, and ours (sources in the profiles).
CONTESTED = {
    ("ascend-910b", "fp16"): 353.9e12,
    ("ascend-910b", "int8"): 707.8e12,
    ("v100", "pcie"): 32e9,
}
# The pair rates in which the profiles depart from tables that give a pair the sum of all links:
# one 25 GB/s link of the DGX-1 cube mesh, one of the four links of a Trainium2.
PAIR_RATES = {"v100-sxm2-32": 25e9, "trainium2": 160e9}
# Chips of public measurements that the facts do not list.
ADDED = {"rtx-3090"}
LISTED = [name for name in available() if name not in ADDED]


@pytest.fixture(scope="session")
def facts(shared: Path) -> dict[str, dict[str, Any]]:
    from ruamel.yaml import YAML

    chips = YAML(typ="safe").load((shared / "facts" / "hardware.yaml").read_text(encoding="utf-8"))["chips"]
    return {chip["id"]: chip for chip in chips}


def test_every_known_chip_is_shipped(facts):
    assert set(available()) == set(facts) | ADDED


@pytest.mark.parametrize("name", LISTED)
def test_identity_peaks_memory_power_and_price_equal_the_facts(name, facts):
    chip, fact = load(name), facts[name]
    peaks = {key: tera * 1e12 for key, tera in fact["peak_dense_tflops"].items() if key != "fp16_fp16_accumulate"}
    assert chip.peak_flops_per_second == pytest.approx(peaks, rel=1e-12)
    assert chip.memory.capacity_bytes == fact["memory"]["bytes"]
    assert chip.memory.bandwidth_bytes_per_second == fact["memory_bandwidth_bytes_per_s"]
    if "reported_bytes" in fact["memory"]:
        assert chip.memory.reported_bytes == fact["memory"]["reported_bytes"]
    assert chip.power_watts == fact.get("power_w")
    price = fact.get("rental_usd_per_hour")
    assert chip.usd_per_hour == ((price["low"], price["high"]) if price else None)
    assert (chip.title, chip.vendor, chip.year, chip.confidence) == (
        *(fact["name"], fact["vendor"], fact["year"], fact["confidence"]),
    )


@pytest.mark.parametrize("name", LISTED)
def test_links_equal_the_facts_in_one_direction(name, facts):
    chip, fact = load(name), facts[name]
    link = fact["interconnect"]
    assert chip.devices_per_domain == link["cards_per_domain"]
    assert chip.host_link.bytes_per_second == fact["host_link"]["per_direction_gb_s"] * 1e9
    if chip.scale_up is None:
        assert link["cards_per_domain"] == 1
    else:
        assert chip.scale_up.bytes_per_second == link["per_direction_gb_s"] * 1e9
        pair = PAIR_RATES.get(name, link["peer_to_peer_per_direction_gb_s"] * 1e9)
        assert chip.scale_up.peer_bytes_per_second == pair


@pytest.mark.parametrize("name", ARTICLE)
def test_the_article_row_is_kept_verbatim(name):
    keys = ("dense_fp16_tflops", "dense_fp8_tflops", "dense_int8_tops", "memory_gb", "bandwidth_gb_s")
    keys += ("interconnect", "pcie", "power_w", "domain")
    printed = {key: value for key, value in zip(keys, ARTICLE[name], strict=True) if value is not None}
    assert load(name).article == printed


@pytest.mark.parametrize("name", ARTICLE)
def test_our_numbers_are_the_articles_except_where_contested(name):
    fp16, fp8, int8, gigabytes, bandwidth, link, pcie, watts, domain = ARTICLE[name]
    chip = load(name)
    peaks = {"fp16": fp16, "fp8": fp8, "int8": int8}
    ours = {key: value for key, value in chip.peak_flops_per_second.items() if key in peaks}
    assert ours == {
        key: pytest.approx(CONTESTED.get((name, key), tera * 1e12), rel=1e-12) for key, tera in peaks.items() if tera
    }
    assert chip.memory.capacity_bytes == gigabytes * 2**30
    assert chip.memory.bandwidth_bytes_per_second == float(str(bandwidth).strip("~")) * 1e9
    both_ways = float(link.split()[-1]) * 1e9 if link else 0.0
    assert 2 * (chip.scale_up.bytes_per_second if chip.scale_up else 0.0) == both_ways
    assert 2 * chip.host_link.bytes_per_second == CONTESTED.get((name, "pcie"), float(pcie.split()[-1]) * 1e9)
    assert (chip.power_watts, chip.devices_per_domain) == (watts, domain)


def test_only_the_articles_ten_chips_have_an_article_row():
    assert {name for name in available() if load(name).article} == {load(name).name for name in ARTICLE}


# What nvidia-smi prints, in MiB: vendors' systems files and, for the second half, public reports
# (modal-labs/modal-client pull request 2797; vllm-project/vllm issue 7553; noonghunna/club-3090 issue 1261).
REPORTED_MIB = {
    **{"h20": 97871, "l40s": 46068, "h200": 143771, "gb200": 189471, "b300": 275040, "gb300": 284208, "a40": 46068},
    **{"RTXPRO6000": 97887, "rtx-pro-6000-bw": 97887},
    **{"h100": 81559, "a100-80": 81920, "a100-40": 40960, "a10": 23028, "l4": 23034, "t4": 15360},
    **{"rtx-4090": 24564, "rtx-5090": 32607},
}


def test_reported_memory_is_what_the_driver_prints():
    known = {load(name).name: mib * MIB for name, mib in REPORTED_MIB.items()}
    assert {name: load(name).memory.reported_bytes for name in available() if load(name).memory.reported_bytes} == known


def test_usable_memory_is_the_closest_known_figure():
    assert load("rtx-4090").memory.cuda_visible_bytes == 25_250_627_584 == load("rtx-4090").memory.usable_bytes
    assert load("h20").memory.usable_bytes == 97871 * MIB
    assert load("l20").memory.usable_bytes == 0.95 * 48 * 2**30


@pytest.mark.parametrize(
    ("topology", "names"),
    [
        ("switch", "h800 a800 h20 a100 a100-40 h100 h200 b200 b300 gb200 gb300"),
        ("bridge", "a30 a100-pcie-40 a100-pcie-80 h100-pcie h100-nvl rtx-a6000 a40 rtx-3090"),
        ("mesh", "v100 ascend-910b dtu2 xpu2 mi250x mi300x mi325x mi355x gaudi2 gaudi3"),
        ("torus", "tpu-v5e tpu-v5p tpu-v6e trainium2"),
        ("ring", "inferentia2"),
    ],
)
def test_topologies(topology, names):
    found = {name for name in available() if (link := load(name).scale_up) and link.topology == topology}
    assert found == {load(name).name for name in names.split()}


def test_a_pair_on_a_switch_or_bridge_may_use_the_whole_rate():
    for name in available():
        link = load(name).scale_up
        if link and link.topology in ("switch", "bridge"):
            assert link.peer_bytes_per_second == link.bytes_per_second


@pytest.mark.parametrize("name", available())
def test_every_number_has_a_source_and_a_grade(name):
    chip = load(name)
    needed = {f"peak_flops_per_second.{dtype}" for dtype in chip.peak_flops_per_second}
    needed |= {f"memory.{part.name}" for part in fields(Memory) if getattr(chip.memory, part.name) is not None}
    needed |= {"host_link.bytes_per_second"}
    if chip.scale_up:
        needed |= {f"scale_up.{part.name}" for part in fields(Link) if getattr(chip.scale_up, part.name) is not None}
        needed |= {"devices_per_domain"}
    needed |= {part for part in ("matrix_reach", "power_watts", "usd_per_hour") if getattr(chip, part) is not None}
    assert needed <= set(chip.evidence)
    assert all(one.source and one.grade != "user" for one in chip.evidence.values())
    assert chip.matrix_reach is None or chip.evidence["matrix_reach"].grade == "measured"
    assert chip.usd_per_hour is None or chip.evidence["usd_per_hour"].source.startswith("looked up 20")


NAMES = {
    "A100-SXM-80G": "a100-sxm-80",
    "A100-DGX": "a100-sxm-80",
    "A100-pairNVL": "a100-pcie-80",
    "A40": "a40",
    "A6000": "rtx-a6000",
    "RTX4090": "rtx-4090",
    "RTXPRO6000": "rtx-pro-6000-server",
    "H100-SXM": "h100-sxm",
    "H100-DGX": "h100-sxm",
    "H200-SXM": "h200-sxm",
    "B200-SXM": "b200-sxm",
    "GB200": "gb200-nvl72",
    "L40S": "l40s",
    "TPU-v6e-1": "tpu-v6e",
    "h800": "h800-sxm",
    "a800": "a800-sxm",
    "h20": "h20-96",
    "v100": "v100-sxm2-32",
    "ascend-910b": "ascend-910b2",
    "dtu2": "enflame-ss2",
    "xpu2": "kunlun-xpu2",
    "邃思2.0": "enflame-ss2",
}


@pytest.mark.parametrize("alias", NAMES)
def test_names_of_the_article_and_of_measured_tables_are_understood_in_any_case(alias):
    assert load(alias).name == load(alias.upper()).name == load(alias.lower()).name == NAMES[alias]


def test_a_name_means_one_chip_only():
    names = [name for chip in available() for name in (chip, *load(chip).aliases)]
    assert len(names) == len(set(names))
    assert all(load(alias).name == chip for chip in available() for alias in load(chip).aliases)


def test_a_missing_unit_is_refused_with_what_the_chip_has():
    assert load("l20").peak("fp8") == 239e12
    with pytest.raises(ValueError, match=r"A800.* has no fp8 units: its peaks are fp16, bf16, int8"):
        load("a800").peak("fp8")


def test_loading_takes_under_three_milliseconds():
    def once() -> float:
        start = time.process_time()
        load("gb200")
        return time.process_time() - start

    assert min(once() for _ in range(20)) < 3e-3
