"""Pages of the site that are made from the project itself, and equations that need no script."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]


def on_files(files: Files, config: Any) -> Files:
    """Add what is generated."""
    for name, text in _pages():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_content(content: str, **_: Any) -> str:
    """Turn equations into MathML, which browsers show offline."""

    def math(found: re.Match[str]) -> str:
        return convert(html.unescape(found[2]), display="block" if found[1] == "[" else "inline")

    return re.sub(r"\\([(\[])(.+?)\\[)\]]", math, content, flags=re.S)


def _pages() -> Iterator[tuple[str, str]]:
    yield "reference/cli.md", _command_line()
    yield "reference/chips.md", _chips()
    yield "reference/models.md", _models()
    yield "reference/systems.md", _systems()
    yield "reference/scoreboard.md", _scoreboard()
    yield "contributing.md", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    yield "changelog.md", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def _command_line() -> str:
    from experiments.run import app

    text = app.generate_docs(output_format="markdown", heading_level=1)
    return text.replace("# roofserve\n", "# Command line\n", 1)


def _chips() -> str:
    from hardware_profiles.profile import available, load

    heads = ("name", "chip", "16-bit", "of it seen", "FP8", "INT8", "memory", "bandwidth", "fast link", "W", "grade")
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in available():
        chip = load(name)
        peaks = chip.peak_flops_per_second
        sixteen = max((peaks[kind] for kind in ("bf16", "fp16") if kind in peaks), default=None)
        link = f"{chip.scale_up.bytes_per_second / 1e9:g} GB/s x {chip.devices_per_domain}" if chip.scale_up else "–"
        cells = (
            f"`{name}`",
            chip.title,
            _tera(sixteen),
            f"{100 * chip.matrix_reach:.0f} %" if chip.matrix_reach else "–",
            _tera(peaks.get("fp8")),
            _tera(peaks.get("int8")),
            f"{chip.memory.capacity_bytes / 2**30:.4g} GiB",
            f"{chip.memory.bandwidth_bytes_per_second / 1e9:,.5g} GB/s",
            link,
            f"{chip.power_watts:g}" if chip.power_watts else "–",
            chip.confidence,
        )
        rows.append(f"| {' | '.join(cells)} |")
    return (
        "# Chips\n\nDense peaks in T(FL)OPS, and what large 16-bit products were seen to reach of theirs; links in one "
        "direction. Every number stands with its source in "
        "`hardware_profiles/chips`; `python -m experiments.run hardware NAME` shows them.\n\n" + "\n".join(rows) + "\n"
    )


def _tera(value: float | None) -> str:
    return f"{value / 1e12:,.4g}" if value else "–"


def _models() -> str:
    from workloads import models

    rows = ["| name | model | parameters | KV cache of a token | context |", "|---|---|---:|---:|---:|"]
    for name in models.available():
        model = models.load(name)
        rows.append(
            f"| `{name}` | {model.title} | {model.parameters / 1e9:,.4g} B | "
            f"{model.kv_bytes_per_token() / 1024:,.4g} KiB | {model.context:,} |"
        )
    return "# Models\n\nThe KV cache is in 16 bits.\n\n" + "\n".join(rows) + "\n"


def _systems() -> str:
    from sim import systems

    parts = ["# Systems\n"]
    for name in systems.available():
        system = systems.load(name)
        parts.append(f"## {system.title} (`{name}`) {{ #{name.replace('.', '-')} }}\n")
        parts.append(f"{system.version}, {system.date}; schedules: {system.evidence}.\n")
        parts += [f"- {remark}" for remark in (*system.remarks, *(f"source: {source}" for source in system.sources))]
        parts.append("")
    return "\n".join(parts)


def _scoreboard() -> str:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"## Scoreboard\n(.*?)(?=\n## )", readme, flags=re.S)
    return f"# Scoreboard\n{found[1] if found else ''}\n"
