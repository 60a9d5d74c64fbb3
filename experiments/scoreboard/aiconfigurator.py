"""The operator tables inside the package aiconfigurator-core (Apache-2.0), read in place as canonical tables."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hardware_profiles.profile import HardwareProfile
from sim.physics.collectives import SERVER_DEVICES

if TYPE_CHECKING:
    import pandas as pd

SYSTEMS = {
    "a100-sxm-80": "a100_sxm",
    "a100-pcie-80": "a100_pcie",
    "h100-sxm": "h100_sxm",
    "h100-pcie": "h100_pcie",
    "h200-sxm": "h200_sxm",
    "b200-sxm": "b200_sxm",
    "b300-sxm": "b300_sxm",
    "gb200-nvl72": "gb200",
    "gb300-nvl72": "gb300",
    "l40s": "l40s",
    "rtx-pro-6000-server": "rtx_pro_6000_server",
}
"""Folder of each chip in the package."""

_ATTENTION = {
    "kv_cache_dtype": "kv_dtype",
    "batch_size": "batch",
    "num_heads": "n_heads",
    "num_key_value_heads": "n_kv",
}
_COMM = {"op_name": "op", "num_gpus": "world", "allreduce_dtype": "dtype", "nccl_dtype": "dtype"}
_FILES = {
    "gemm_perf": ("gemm_grid", {"gemm_dtype": "dtype", "kernel_source": "kernel"}),
    "context_attention_perf": ("attention_grid", _ATTENTION),
    "generation_attention_perf": ("attention_grid", _ATTENTION),
    "moe_perf": (
        "moe_grid",
        {
            **{"moe_dtype": "dtype", "kernel_source": "kernel", "num_tokens": "tokens", "hidden_size": "hidden"},
            **{"inter_size": "inter", "num_experts": "n_experts", "moe_tp_size": "moe_tp", "moe_ep_size": "moe_ep"},
            "distribution": "dist",
        },
    ),
    "custom_allreduce_perf": ("comm", _COMM),
    "nccl_perf": ("comm", _COMM),
}
"""File -> canonical table, and the names of its columns there."""

_BACKENDS = ("vllm", "trtllm", "nccl")
_ELEMENT_BYTES = 2.0
"""Bytes of an element of a message in 16 bits, in which the package counts; others tell the same again."""


def read(chip: HardwareProfile, data: Path | None = None) -> dict[str, pd.DataFrame]:
    """Return the canonical tables of a chip: newest version of every backend.

    Parameters
    ----------
    data : folder ``systems/data`` of the package; None finds the installed one.

    Raises
    ------
    ValueError
        The package is not installed, or has nothing about this chip.
    """
    import pandas as pd

    root = data or _installed()
    system = SYSTEMS.get(chip.name)
    if system is None or not (root / system).is_dir():
        known = ", ".join(name for name, folder in SYSTEMS.items() if (root / folder).is_dir())
        raise ValueError(f"aiconfigurator-core has no tables of {chip.title}; it has those of {known}")
    parts: dict[str, list[pd.DataFrame]] = {}
    for (file, backend), path in _newest(root / system).items():
        table, names = _FILES[file]
        frame = pd.read_parquet(path).rename(columns=names)
        # Of all-reduces vLLM's files tell whether they were called eagerly or from a graph.
        label = frame["backend"] if table == "comm" and "backend" in frame else backend
        frame = frame.assign(hw=chip.name, us=1e3 * frame["latency"]).assign(backend=label)
        frame["backend"] += f"-{path.parent.name}"
        if table == "comm":
            frame = _collectives(frame, chip)
        if table == "attention_grid":
            frame = _attention(frame, decodes=file.startswith("generation"))
        parts.setdefault(table, []).append(frame[frame["us"] > 0])
    return {table: pd.concat(frames, ignore_index=True) for table, frames in parts.items()}


def _attention(frame: pd.DataFrame, *, decodes: bool) -> pd.DataFrame:
    """Add the lengths; a decoding step attends to what came before it and to itself."""
    full = frame[frame["window_size"] == 0] if "window_size" in frame else frame
    length = full["isl"] + full["step"] if decodes else full["isl"]
    phase, new = ("decode", 1) if decodes else ("prefill", full["isl"])
    return full.assign(phase=phase, q_len=new, kv_len=length)


def _collectives(frame: pd.DataFrame, chip: HardwareProfile) -> pd.DataFrame:
    """Add the bytes of every message, and how many devices stand in a server or a wider domain."""
    wide = frame[frame["dtype"].isin(["bfloat16", "half"])]
    together = wide["world"].clip(upper=max(SERVER_DEVICES, chip.devices_per_domain))
    return wide.assign(bytes=_ELEMENT_BYTES * wide["message_size"], per_node=together)


def _newest(system: Path) -> dict[tuple[str, str], Path]:
    """Return (file, backend) -> path of the highest version; folders are ``<operator>/<backend>/<version>``."""
    found: dict[tuple[str, str], Path] = {}
    for file in _FILES:
        for path in sorted(system.glob(f"*/*/*/{file}.parquet"), key=_version):
            found[file, path.parent.parent.name] = path
    return {key: path for key, path in found.items() if key[1] in _BACKENDS}


def _version(path: Path) -> list[tuple[int, str]]:
    pieces = path.parent.name.replace("rc", ".-1.").split(".")
    numbers = [(int(piece), "") if piece.lstrip("-").isdigit() else (0, piece) for piece in pieces]
    return [*numbers, (0, "")]  # behind a release candidate comes the release


def _installed() -> Path:
    spec = find_spec("aiconfigurator_core")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            "aiconfigurator-core is not installed; allowed: a folder, or pip install 'roofserve[calibration]'"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "systems" / "data"
