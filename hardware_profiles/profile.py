"""What one accelerator is: peaks, memory, links, power and price in SI units, each number with its source."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from hardware_profiles.parts import (
    CONFIDENCES,
    DTYPES,
    GRADES,
    TOPOLOGIES,
    Confidence,
    Evidence,
    Link,
    Memory,
)
from hardware_profiles.plausibility import Figures, highest_half, sparse_looking, twice_a_known_chip
from hardware_profiles.reading import (
    CACHE,
    CAPACITY,
    FLOPS,
    LATENCY,
    LINK_RATE,
    MEMORY_RATE,
    PART,
    POWER,
    PRICE,
    Table,
    read_toml,
)

__all__ = ["Evidence", "HardwareProfile", "Link", "Memory", "available", "load"]

_CHIPS = Path(__file__).with_name("chips")
_EVIDENT_FIELDS = (
    *("devices_per_domain", "power_watts", "usd_per_hour", "matrix_reach", "peak_flops_per_second", "memory"),
    *("scale_up", "host_link", "scale_out"),
)
_FIELDS = (
    *("title", "vendor", "architecture", "form", "year", "confidence", "dense", "flags"),
    *(*_EVIDENT_FIELDS, "article", "evidence"),
)
_MEMORY_FIELDS = (
    *("capacity_bytes", "bandwidth_bytes_per_second", "reported_bytes", "cuda_visible_bytes", "cache_bytes"),
)
_LINK_FIELDS = ("kind", "topology", "bytes_per_second", "peer_bytes_per_second", "latency_seconds", "reduces")
_ARTICLE_FIELDS = (
    *("dense_fp16_tflops", "dense_fp8_tflops", "dense_int8_tops", "memory_gb", "bandwidth_gb_s"),
    *("interconnect", "pcie", "power_w", "domain"),
)
_SHARED_TOPOLOGIES = ("switch", "bridge", "pcie", "direct")  # one pair may use the whole rate


@dataclass(frozen=True)
class HardwareProfile:
    """One accelerator as software sees it; see `load`.

    Attributes
    ----------
    name, title, vendor, architecture, form, year : what it is; `name` is the short one ("l20").
    peak_flops_per_second : dense peak by dtype (fp16, bf16, fp8, int8, int4, fp4) [flop/s]; prefer `peak`.
    memory : see `Memory`.
    scale_up : the fast chip-to-chip link; None where devices meet over PCIe only.
    devices_per_domain : devices that `scale_up` joins; 1 without one.
    host_link : PCIe or the vendor's equivalent, per direction.
    scale_out : the network between servers, where known.
    matrix_reach : part of the 16-bit peak that large matrix products were seen to reach, where somebody measured it:
        boards that lack power for their peak stay far below, those with power to spare come close.
    power_watts : board power limit [W].
    usd_per_hour : rental price, low and high [USD/h per device]; rough, its date stands in `evidence`.
    evidence : source and grade by dotted field, e.g. ``evidence["memory.capacity_bytes"]``.
    article : the row of the January 2024 article this project checks, verbatim; empty where it has none.
    aliases : other names that `load` takes.
    flags : sentences on what to beware of.
    confidence : "high", "medium" or "low", for the profile as a whole.
    """

    name: str
    title: str
    vendor: str
    architecture: str
    form: str
    year: int
    peak_flops_per_second: Mapping[str, float]
    memory: Memory
    scale_up: Link | None
    devices_per_domain: int
    host_link: Link
    scale_out: Link | None = None
    matrix_reach: float | None = None
    power_watts: float | None = None
    usd_per_hour: tuple[float, float] | None = None
    evidence: Mapping[str, Evidence] = field(default_factory=dict)
    article: Mapping[str, str | float | int] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    confidence: Confidence = "high"

    def peak(self, dtype: str) -> float:
        """Return the dense peak of `dtype` [flop/s]; ValueError naming what the chip has if it lacks that unit."""
        try:
            return self.peak_flops_per_second[dtype]
        except KeyError:
            has = ", ".join(self.peak_flops_per_second)
            raise ValueError(f"{self.title} has no {dtype} units: its peaks are {has}") from None


def load(name_or_path: str | Path) -> HardwareProfile:
    """Return a shipped profile by name or alias (in any case), or a user's own from a path to a .toml file.

    A path has a separator in it or ends in ".toml"; the profile is then named after the file. The shortest file:

    >>> own = '''
    ... title = "My accelerator"
    ... vendor = "Example"
    ... architecture = "First"
    ... form = "PCIe"
    ... year = 2026
    ... [peak_flops_per_second]               # dense; fp16 or bf16, and any of fp8, int8, int4, fp4
    ... bf16 = 400e12
    ... [memory]
    ... capacity_bytes = 68_719_476_736       # "64 GB" is 64 * 2**30
    ... bandwidth_bytes_per_second = 2000e9
    ... [host_link]
    ... kind = "PCIe Gen5 x16"
    ... topology = "pcie"
    ... bytes_per_second = 64e9               # one direction
    ... '''
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "mine.toml")
    ...     _ = path.write_text(own)
    ...     load(path).memory.usable_bytes / 2**30
    60.8

    What may be added is in every file of `chips/`: [scale_up] with devices_per_domain, [scale_out], power_watts,
    matrix_reach, usd_per_hour, flags, evidence. ``dense = true`` confirms peaks that look like 2:4 sparsity and are
    not.

    Raises
    ------
    ValueError
        For an unknown name (with the closest ones), and for a file with a missing, misspelt, mistyped, implausible
        or sparse-looking field, naming file, field, value and remedy.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or "\\" in text or text.lower().endswith(".toml"):
        known = ((name, _figures(load(name))) for name in available())
        return _read(Path(text), known)
    name = text.strip().casefold()
    name = _aliases().get(name, name)
    if name not in available():
        near = difflib.get_close_matches(name, [*available(), *_aliases()], n=4, cutoff=0.5)
        hint = f"the closest are {', '.join(near)}" if near else f"shipped are {', '.join(available())}"
        raise ValueError(f"no hardware profile is named {text!r}; {hint}; or give the path of a .toml file")
    return _read(_CHIPS / f"{name}.toml", ())


@cache
def available() -> tuple[str, ...]:
    """Return the names of the shipped profiles, sorted."""
    return tuple(sorted(path.stem for path in _CHIPS.glob("*.toml")))


@cache
def _aliases() -> Mapping[str, str]:
    table = read_toml(_CHIPS.with_name("aliases.toml"))
    return {alias.casefold(): name for name in table.values for alias in table.texts(name)}


def _read(path: Path, known: Iterable[tuple[str, Figures]]) -> HardwareProfile:
    table = read_toml(path)
    table.allow(_FIELDS)
    profile = HardwareProfile(
        name=path.stem,
        title=table.text("title"),
        vendor=table.text("vendor"),
        architecture=table.text("architecture"),
        form=table.text("form"),
        year=table.whole("year"),
        peak_flops_per_second=_peaks(table.table("peak_flops_per_second")),
        memory=_memory(table.table("memory")),
        scale_up=_link(table.table("scale_up")) if "scale_up" in table.values else None,
        devices_per_domain=_devices_per_domain(table),
        host_link=_link(table.table("host_link")),
        scale_out=_link(table.table("scale_out")) if "scale_out" in table.values else None,
        matrix_reach=table.optional_number("matrix_reach", PART),
        power_watts=table.optional_number("power_watts", POWER),
        usd_per_hour=table.pair("usd_per_hour", PRICE),
        evidence=_evidence(table),
        article=_article(table),
        aliases=tuple(alias for alias, name in _aliases().items() if path == _CHIPS / f"{name}.toml"),
        flags=table.texts("flags"),
        confidence=table.choice("confidence", CONFIDENCES) if "confidence" in table.values else "medium",
    )
    if not table.truth("dense"):
        _refuse_sparse_peaks(table.table("peak_flops_per_second"), profile, known)
    return profile


def _peaks(table: Table) -> dict[str, float]:
    table.allow(DTYPES)
    peaks = {dtype: table.number(dtype, FLOPS) for dtype in table.values}
    if not {"fp16", "bf16"} & set(peaks):
        raise table.error("fp16", "is missing, and so is bf16: one of them must be given")
    return peaks


def _memory(table: Table) -> Memory:
    table.allow(_MEMORY_FIELDS)
    memory = Memory(
        capacity_bytes=table.number("capacity_bytes", CAPACITY),
        bandwidth_bytes_per_second=table.number("bandwidth_bytes_per_second", MEMORY_RATE),
        reported_bytes=table.optional_number("reported_bytes", CAPACITY),
        cuda_visible_bytes=table.optional_number("cuda_visible_bytes", CAPACITY),
        cache_bytes=table.optional_number("cache_bytes", CACHE),
    )
    larger = memory.capacity_bytes
    for key in ("reported_bytes", "cuda_visible_bytes"):
        value = getattr(memory, key) or larger
        if value > larger:
            raise table.error(key, f"= {value:.0f} is more than the memory it is part of ({larger:.0f})")
        larger = value
    return memory


def _link(table: Table) -> Link:
    table.allow(_LINK_FIELDS)
    topology = table.choice("topology", TOPOLOGIES)
    rate = table.number("bytes_per_second", LINK_RATE)
    if topology in _SHARED_TOPOLOGIES and "peer_bytes_per_second" not in table.values:
        peer = rate
    else:
        peer = table.number("peer_bytes_per_second", LINK_RATE)
    if peer > rate:
        raise table.error("peer_bytes_per_second", f"= {peer:g} is more than all links together ({rate:g})")
    reduces = table.truth("reduces") or None
    if reduces and topology != "switch":
        raise table.error("reduces", f"= true, with topology = {topology!r}: only a switch adds up")
    return Link(table.text("kind"), topology, rate, peer, table.optional_number("latency_seconds", LATENCY), reduces)


def _devices_per_domain(table: Table) -> int:
    devices = (
        table.whole("devices_per_domain") if "devices_per_domain" in table.values or "scale_up" in table.values else 1
    )
    if (devices > 1) != ("scale_up" in table.values):
        raise table.error("devices_per_domain", f"= {devices}: 2 or more with a [scale_up] link, 1 without")
    return devices


def _article(table: Table) -> dict[str, str | float | int]:
    if "article" not in table.values:
        return {}
    row = table.table("article")
    row.allow(_ARTICLE_FIELDS)
    for key, value in row.values.items():
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise row.error(key, f"must be a number or a text, got {value!r}")
    return dict(row.values)


def _evidence(table: Table) -> dict[str, Evidence]:
    """Give every field its own evidence: that of its name, else of its table, else the default, else the user's."""
    fields = [
        f"{key}.{inner}" if inner else key
        for key in _EVIDENT_FIELDS
        if key in table.values
        for inner in (table.values[key] if isinstance(table.values[key], dict) else ("",))
    ]
    given = table.table("evidence") if "evidence" in table.values else Table(table.file, "evidence", {})
    given.allow(dict.fromkeys(["default", *(name.split(".")[0] for name in fields), *fields]))
    stated = {}
    for key in given.values:
        one = given.table(key)
        one.allow(("source", "grade"))
        stated[key] = Evidence(one.text("source"), one.choice("grade", GRADES))
    own = stated.get("default", Evidence(f"the user's file {table.file}", "user"))
    return {name: stated.get(name, stated.get(name.split(".")[0], own)) for name in fields}


def _figures(profile: HardwareProfile) -> Figures:
    memory = profile.memory
    half = highest_half(profile.peak_flops_per_second)[1]
    return half, memory.bandwidth_bytes_per_second, memory.capacity_bytes


def _refuse_sparse_peaks(table: Table, profile: HardwareProfile, known: Iterable[tuple[str, Figures]]) -> None:
    peaks = profile.peak_flops_per_second
    suspect = sparse_looking(peaks, profile.memory.bandwidth_bytes_per_second)
    if not suspect and (twin := twice_a_known_chip(_figures(profile), known)):
        suspect = highest_half(peaks)[0], f"is twice the dense peak of {twin}, which has the same memory"
    if suspect:
        dtype, reason = suspect
        remedy = f"halve it ({peaks[dtype] / 2e12:.10g}e12), or set dense = true at the top if it is a dense peak"
        raise table.error(dtype, f"= {peaks[dtype] / 1e12:.10g}e12 {reason}: it looks like 2:4 sparsity; {remedy}")
