"""The scoreboard of collectives, on rows made up from constants that are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.calibrate import run
from experiments.scoreboard.groups import Group
from experiments.scoreboard.score import READERS
from hardware_profiles import load
from sim.physics import calibration
from sim.physics.collectives import all_reduce_seconds, nccl_all_reduce_seconds
from sim.physics.efficiency import Efficiency, generic

SIZES = 2.0 ** np.arange(8, 31)
HOST_SECONDS = 21e-6


def measured(hardware: str, backend: str, constants: Efficiency) -> pd.DataFrame:
    """All-reduces as long as the constants say."""
    chip, tables = load(hardware), []
    for world in (2, 4, 8):
        seconds = (
            nccl_all_reduce_seconds(SIZES, world, chip, constants)
            if backend.startswith("nccl")
            else all_reduce_seconds(SIZES, world, chip, constants)
        )
        labels = {"hw": hardware, "op": "all_reduce", "backend": backend, "world": world, "per_node": world}
        tables.append(pd.DataFrame(labels | {"bytes": SIZES, "us": 1e6 * seconds, "src": "me"}))
    return pd.concat(tables)


def groups(table: pd.DataFrame) -> list[Group]:
    return [found for found in READERS["comm"](table) if isinstance(found, Group)]


def test_the_constants_that_made_the_rows_are_found(tmp_path: Path) -> None:
    base = generic()
    links = replace(base.links, one_shot_seconds=3e-6, peer_seconds=0.2e-6, one_shot=0.5, two_shot=1.5)
    nccl = replace(base.nccl, launch_seconds=7e-6, step_seconds=1e-6, low_latency=0.3, simple=0.85, switched=0.6)
    true = replace(base, links=links, nccl=nccl)
    table = pd.concat([measured("h200-sxm", backend, true) for backend in ("vllm_graph-1.0", "nccl-2.99")])
    table.to_csv(tmp_path / "comm.csv", index=False)
    assert run("h200-sxm", str(tmp_path), out=tmp_path / "fitted.toml") == 0
    for found in calibration.read(tmp_path / "fitted.toml"):
        for name in ("one_shot_seconds", "peer_seconds", "one_shot", "two_shot"):
            assert getattr(found.links, name) == pytest.approx(getattr(links, name), rel=0.02)
        for name in ("launch_seconds", "step_seconds", "low_latency", "simple", "switched"):
            assert getattr(found.nccl, name) == pytest.approx(getattr(nccl, name), rel=0.02)


def test_eager_calls_copy_the_message_and_wait_for_the_host() -> None:
    chip = load("h200-sxm")
    constants = generic(chip, "vllm")
    captured, eager = (
        np.concatenate([each.seconds(constants) for each in groups(measured("h200-sxm", backend, constants))])
        for backend in ("vllm_graph-1.0", "vllm_eager-1.0")
    )
    copy = constants.elementwise
    moved = 2 * np.tile(SIZES, 3) / (copy.memory * chip.memory.bandwidth_bytes_per_second)
    assert eager == pytest.approx(np.maximum(captured + copy.launch_seconds + moved, HOST_SECONDS))
    assert (eager[:10] == HOST_SECONDS).all()


@pytest.mark.parametrize("backend", ["vllm_eager-1.0", "nccl-vidur"])
def test_an_older_host_is_slower_and_no_large_message_waits_for_it(backend: str) -> None:
    small, large = [], []
    for hardware in ("a100-sxm-80", "h100-sxm"):
        constants = generic(load(hardware))
        times = groups(measured(hardware, backend, constants))[0].seconds(constants)
        small.append(times[0])
        large.append(times[-1])
    assert small[0] > small[1] > 10e-6
    assert large[0] / large[1] == pytest.approx(450 / 300, rel=0.05)  # of their links


def test_calls_that_waited_say_nothing_about_the_link() -> None:
    constants = generic()
    for backend, fitted in (
        ("vllm_eager-1.0", ""),
        ("nccl-vidur", ""),
        ("vllm_graph-1.0", "links"),
        ("nccl-2", "nccl"),
    ):
        assert {each.constant for each in groups(measured("h100-sxm", backend, constants))} == {fitted}
