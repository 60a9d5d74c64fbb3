"""The table of collectives: what adding up and collecting cost between devices of one server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.scoreboard.groups import Floats, Found, Goals, Group, Skipped, by, floats, folds, stack_of
from hardware_profiles.profile import HardwareProfile
from sim.physics.collectives import all_gather_seconds, all_reduce_seconds, fast_link, nccl_all_reduce_seconds
from sim.physics.efficiency import Efficiency

if TYPE_CHECKING:
    import pandas as pd

NVLINK: Goals = (15, 10)
PCIE: Goals = (None, None)
MODELLED = {"all_reduce": all_reduce_seconds, "all_gather": all_gather_seconds}


def comm(frame: pd.DataFrame) -> Found:
    """Collectives by message size."""
    return by("comm", frame, ("op", "backend", "world", "per_node"), _collective)


def _collective(chip: HardwareProfile, rows: pd.DataFrame) -> Found:
    first = rows.iloc[0]
    world, label = int(first.world), f"{first.backend} {first.op} x{first.world}"
    if first.op not in MODELLED:
        reason = f"{first.op} is not modelled; modelled are {', '.join(MODELLED)}"
        return [Skipped("comm", str(first.hw), label, len(rows), reason)]
    if int(first.per_node) != world:
        return [Skipped("comm", str(first.hw), label, len(rows), "between servers; modelled is one server")]
    size, us = floats(rows, "bytes", "us")
    bare = first.op == "all_reduce" and str(first.backend).startswith("nccl")
    collective = MODELLED[str(first.op)]

    def seconds(constants: Efficiency) -> Floats:
        if bare:
            return nccl_all_reduce_seconds(size, world, chip, constants)
        return collective(size, world, chip, constants.links)

    goals = NVLINK if fast_link(chip, world) and first.op == "all_reduce" else PCIE
    # Not fitted: eager calls, which wait for the host, and collectives timed through a profiler (Vidur).
    captured = first.op == "all_reduce" and str(first.backend).startswith(("vllm_graph", "trtllm", "nccl-2"))
    constant = ("nccl" if bare and fast_link(chip, world) else "links") if captured else ""
    shape = folds(rows, ("world", "bytes"))
    stack = stack_of(str(first.backend))
    return [Group("comm", str(first.hw), label, chip, stack, constant, goals, seconds, us / 1e6, shape)]
