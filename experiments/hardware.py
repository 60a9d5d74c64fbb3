"""What the chips are: all of them in a table, or one with the source of every number."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

import hardware_profiles
from hardware_profiles import HardwareProfile, Link

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

DTYPES = ("fp16", "bf16", "fp8", "int8", "int4", "fp4")


def hardware(
    name: Annotated[str | None, Parameter(help="a chip, or the path of a .toml; all of them if left out")] = None,
    *,
    json: Annotated[bool, Parameter(negative="", help="print JSON and nothing else")] = False,
) -> None:
    """List the chips, or show one with the source of every number and the article's own where it differs.

    Peaks are dense [TFLOPS, TOPS], memory GB = 2**30 bytes, rates GB/s = 10**9 bytes per second in one direction.
    """
    from experiments.shown import files

    names = hardware_profiles.available() if name is None else (name,)
    profiles = [hardware_profiles.load(one) for one in names]
    if json:
        found = {profile.name: asdict(profile) for profile in profiles}
        print(files.json_text(found if name is None else found[profiles[0].name]))
        return
    from rich.console import Console

    terminal = sys.stdout.isatty()
    console = Console(highlight=False) if terminal else Console(highlight=False, no_color=True, width=160)
    if name is None:
        console.print(_overview(profiles))
        console.print("dense peaks; one direction; `roofserve hardware NAME` shows every source", style="dim")
    else:
        _one(console, profiles[0])


def _overview(profiles: list[HardwareProfile]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("name", no_wrap=True)
    for heading in ("FP16\nTFLOPS", "FP8\nTFLOPS", "INT8\nTOPS", "4-bit\nTFLOPS", "memory\nGB", "bandwidth\nGB/s"):
        table.add_column(heading, justify="right")
    table.add_column("link\nGB/s, one direction")
    table.add_column("TP\ndomain", justify="right")
    table.add_column("W", justify="right")
    table.add_column("evidence\nconfidence")
    for profile in profiles:
        peaks = profile.peak_flops_per_second
        half, four = peaks.get("fp16", peaks.get("bf16")), peaks.get("fp4", peaks.get("int4"))
        table.add_row(
            profile.name,
            *(_scaled(value, 1e12) for value in (half, peaks.get("fp8"), peaks.get("int8"), four)),
            _scaled(profile.memory.capacity_bytes, 2**30),
            _scaled(profile.memory.bandwidth_bytes_per_second, 1e9),
            _link(profile.scale_up or profile.host_link),
            str(profile.devices_per_domain),
            _scaled(profile.power_watts, 1.0),
            f"{_grade(profile)}, {profile.confidence}",
        )
    return table


def _one(console: Console, profile: HardwareProfile) -> None:
    from rich import box
    from rich.table import Table

    title = f"{profile.title} · {profile.vendor} {profile.architecture}, {profile.form}, {profile.year}"
    console.print(f"{title} · confidence {profile.confidence}", style="bold")
    if profile.aliases:
        console.print(f"also: {', '.join(profile.aliases)}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for heading in ("what", "value", "grade", "source"):
        table.add_column(heading, overflow="fold")
    for field, value in _fields(profile).items():
        evidence = profile.evidence.get(field)
        table.add_row(field, value, evidence.grade if evidence else "", evidence.source if evidence else "")
    console.print(table)
    for words in article_differences(profile):
        console.print(words)
    for flag in profile.flags:
        console.print(f"beware: {flag}", style="yellow")


def _fields(profile: HardwareProfile) -> dict[str, str]:
    """Return every number in words, by the dotted name under which its evidence stands."""
    shown = {
        f"peak_flops_per_second.{dtype}": f"{profile.peak_flops_per_second[dtype] / 1e12:g} T/s"
        for dtype in DTYPES
        if dtype in profile.peak_flops_per_second
    }
    memory = profile.memory
    for field in ("capacity_bytes", "reported_bytes", "cuda_visible_bytes"):
        if (value := getattr(memory, field)) is not None:
            shown[f"memory.{field}"] = f"{value / 2**30:.4g} GB"
    shown["memory.bandwidth_bytes_per_second"] = f"{memory.bandwidth_bytes_per_second / 1e9:g} GB/s"
    for name in ("scale_up", "host_link", "scale_out"):
        link: Link | None = getattr(profile, name)
        if link is None:
            continue
        shown[f"{name}.kind"] = f"{link.kind} ({link.topology})"
        shown[f"{name}.bytes_per_second"] = f"{link.bytes_per_second / 1e9:g} GB/s"
        shown[f"{name}.peer_bytes_per_second"] = f"{link.peer_bytes_per_second / 1e9:g} GB/s between two"
        if link.latency_seconds is not None:
            shown[f"{name}.latency_seconds"] = f"{link.latency_seconds * 1e6:g} us"
        if link.reduces:
            shown[f"{name}.reduces"] = "adds up in the switch"
    shown["devices_per_domain"] = str(profile.devices_per_domain)
    if profile.matrix_reach is not None:
        shown["matrix_reach"] = f"{100 * profile.matrix_reach:.3g} % of the 16-bit peak"
    if profile.power_watts is not None:
        shown["power_watts"] = f"{profile.power_watts:g} W"
    if profile.usd_per_hour is not None:
        low, high = profile.usd_per_hour
        shown["usd_per_hour"] = f"{low:g}-{high:g} USD/h"
    return shown


def article_differences(profile: HardwareProfile) -> list[str]:
    """Return a sentence for each number of the January 2024 article that differs from the profile's.

    The article sums both directions of a link, so its links are compared with twice the rate of one.
    """
    peaks, memory = profile.peak_flops_per_second, profile.memory
    ours: dict[str, tuple[float | None, str]] = {
        "dense_fp16_tflops": (_tera(peaks.get("fp16")), "TFLOPS FP16"),
        "dense_fp8_tflops": (_tera(peaks.get("fp8")), "TFLOPS FP8"),
        "dense_int8_tops": (_tera(peaks.get("int8")), "TOPS INT8"),
        "memory_gb": (memory.capacity_bytes / 2**30, "GB"),
        "bandwidth_gb_s": (memory.bandwidth_bytes_per_second / 1e9, "GB/s"),
        "power_w": (profile.power_watts, "W"),
        "domain": (float(profile.devices_per_domain), "devices in the fast domain"),
    }
    links = {"interconnect": (profile.scale_up, "chip link"), "pcie": (profile.host_link, "PCIe")}
    sentences = []
    for key, stated in profile.article.items():
        own, unit = ours.get(key, (None, ""))
        if key in links:
            link, unit = links[key]
            own = 2 * link.bytes_per_second / 1e9 if link else None
            unit = f"GB/s {unit}, both directions"
        theirs = _number(stated)
        if theirs is not None and (own is None or abs(theirs - own) > 0.005 * abs(own)):
            has = "it has none" if own is None else f"this profile {own:.4g}"
            sentences.append(f"the article says {stated} ({unit or key}); {has}")
    return sentences


def _number(stated: str | float | int) -> float | None:
    """Return the last number of what the article says: "Gen4 64", "~3350", "NVLink 400"."""
    if not isinstance(stated, str):
        return float(stated)
    words = [word.lstrip("~") for word in stated.replace(",", "").split()]
    numbers = [float(word) for word in words if word.replace(".", "", 1).isdigit()]
    return numbers[-1] if numbers else None


def _tera(value: float | None) -> float | None:
    return None if value is None else value / 1e12


def _scaled(value: float | None, unit: float) -> str:
    return "-" if value is None else f"{value / unit:,.4g}" if value / unit < 1e4 else f"{value / unit:,.0f}"


def _link(link: Link) -> str:
    return f"{link.kind} {link.bytes_per_second / 1e9:g}"


def _grade(profile: HardwareProfile) -> str:
    """Return how the bandwidth of the memory is known, which most latencies hang on."""
    evidence: Any = profile.evidence.get("memory.bandwidth_bytes_per_second")
    return str(evidence.grade) if evidence else "-"
