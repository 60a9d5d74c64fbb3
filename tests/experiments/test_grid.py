"""Sweeps: the same bytes whoever computes and however often they were killed; failures are results."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import grid
from experiments.grid import identity, pools, stored
from experiments.grid.batches import SECONDS, Batches, Task, compute
from tests.experiments.sweep_example import POINTS, answer, waits

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def expected() -> bytes:
    return answer(grid.Where(workers=1))


def doubled(x: int) -> dict[str, int]:
    return {"twice": 2 * x}


def drawn(x: int, arm: str, seed: np.random.SeedSequence) -> dict[str, float]:
    return {"draw": np.random.default_rng(seed).random()}


def dies(x: int) -> dict[str, int]:
    if x == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"twice": 2 * x}


def noted(x: int, log: str) -> dict[str, int]:
    with Path(log).with_suffix(".log").open("a") as lines:
        lines.write(f"{x}\n")
    if x == 2:
        raise RuntimeError("not today")
    return {"x": x}


def stops(x: int) -> dict[str, int]:
    if x == 4:
        raise KeyboardInterrupt
    return {"x": x}


def test_outcomes_are_in_the_order_of_the_points_and_failures_are_among_them() -> None:
    outcomes = grid.sweep(waits, POINTS, grid.Where(workers=1), seed=5)
    assert [outcome.point for outcome in outcomes] == POINTS
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    assert [(outcome.point, outcome.rows) for outcome in failed] == [({"chip": "b", "load": 7}, [])]
    assert failed[0].error == "ValueError: chip b does not like 7"
    with pytest.raises(ValueError, match=r"^chip b does not like 7 \(at chip b, load 7\)$"):
        _ = failed[0].row
    table = grid.table(outcomes)
    assert len(table) == 2 * (len(POINTS) - 1) + 1
    assert table["error"].notna().sum() == 1
    assert list(table.columns) == ["chip", "load", "seen", "mean", "sample", "name", "part", "odd", "error"]


def test_two_processes_give_the_same_bytes(expected: bytes) -> None:
    assert answer(grid.Where(workers=2)) == expected


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=":0", silence_logs=50
    ) as two:
        yield two.scheduler_address


def test_two_dask_workers_give_the_same_bytes(cluster: str, expected: bytes, tmp_path: Path) -> None:
    assert answer(grid.Where(cluster=cluster, resume=tmp_path)) == expected
    assert len(list(tmp_path.iterdir())) == len(POINTS)


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "PATIENCE_SECONDS", 0.2)
    with pytest.raises(ValueError, match=r"--cluster is tcp://127.0.0.1:9: .*allowed"):
        grid.sweep(doubled, [{"x": 1}], grid.Where(cluster="tcp://127.0.0.1:9"))


@pytest.mark.parametrize(("workers", "kills"), [(1, 3), (2, 1)])
def test_a_sweep_killed_at_random_moments_continues_and_ends_with_the_same_bytes(
    workers: int, kills: int, expected: bytes, tmp_path: Path
) -> None:
    folder, out = tmp_path / "points", tmp_path / "out.json"
    program = "from tests.experiments import sweep_example; sweep_example.main()"
    command = [sys.executable, "-c", program, str(folder), str(workers), str(out)]
    moments = np.random.default_rng(workers)
    kept: list[int] = []
    while len(kept) < kills:
        # Until something new is finished, then a random moment more; workers are of the same group and die too.
        running = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
        before, deadline = len(list(folder.glob("*.parquet"))), time.monotonic() + 60
        while len(list(folder.glob("*.parquet"))) == before and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.05))
        assert running.poll() is None
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        kept.append(len(list(folder.glob("*.parquet"))))
    assert kept == sorted({0, *kept})[1:]
    assert kept[-1] < len(POINTS)
    subprocess.run(command, cwd=ROOT, check=True)
    assert out.read_bytes() == expected
    again = tmp_path / "again"
    assert answer(grid.Where(workers=1, resume=again)) == expected
    assert {path.name for path in again.iterdir()} == {path.name for path in folder.glob("*.parquet")}
    assert all(path.read_bytes() == (folder / path.name).read_bytes() for path in again.iterdir())


def test_what_is_finished_is_not_computed_again_but_what_failed_is(tmp_path: Path) -> None:
    log = tmp_path / "calls"
    points = [{"x": x, "log": str(log)} for x in range(4)]
    where = grid.Where(workers=1, resume=tmp_path / "points")
    first = grid.sweep(noted, points, where)
    again = grid.sweep(noted, points, where)
    assert first == again
    assert [outcome.error for outcome in again] == [None, None, "RuntimeError: not today", None]
    assert log.with_suffix(".log").read_text().split() == ["0", "1", "2", "3", "2"]
    grid.sweep(noted, [*points, {"x": 9, "log": str(log)}], where)
    assert log.with_suffix(".log").read_text().split()[5:] == ["2", "9"]


def test_a_damaged_file_is_computed_again(tmp_path: Path) -> None:
    where = grid.Where(workers=1, resume=tmp_path)
    grid.sweep(doubled, [{"x": 1}], where)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert grid.sweep(doubled, [{"x": 1}], where)[0].row == {"twice": 2}
    assert path.read_bytes() == whole


def test_a_point_that_kills_its_worker_is_recorded_and_the_others_are_computed(tmp_path: Path) -> None:
    outcomes = grid.sweep(dies, [{"x": x} for x in range(8)], grid.Where(workers=2, resume=tmp_path))
    assert [outcome.rows for outcome in outcomes] == [[{"twice": 2 * x}] if x != 3 else [] for x in range(8)]
    assert outcomes[3].error == "the worker died: TerminatedWorkerError"


def test_what_cannot_be_sent_to_another_process_is_named() -> None:
    held = threading.Lock()
    with pytest.raises(ValueError, match=r"cannot be sent to another process: .*; allowed: a function"):
        grid.sweep(lambda x: {"x": x, "lock": held.locked()}, [{"x": 1}], grid.Where(workers=2))


def test_ctrl_c_gives_what_was_finished() -> None:
    with pytest.raises(grid.Interrupted) as ended:
        grid.sweep(stops, [{"x": x} for x in range(6)], grid.Where(workers=1))
    assert [outcome.row for outcome in ended.value.outcomes] == [{"x": x} for x in range(4)]


@given(order=st.permutations(range(6)))
def test_random_numbers_belong_to_the_point_not_to_its_place(order: list[int]) -> None:
    points = [{"x": x, "arm": arm} for x in range(3) for arm in ("a", "b")]
    known = {tuple(o.point.values()): o.row for o in grid.sweep(drawn, points, grid.Where(workers=1), seed=1)}
    shuffled = grid.sweep(drawn, [points[place] for place in order], grid.Where(workers=1), seed=1)
    assert {tuple(outcome.point.values()): outcome.row for outcome in shuffled} == known
    assert len({row["draw"] for row in known.values()}) == 6
    paired = grid.sweep(drawn, points, grid.Where(workers=1), seed=1, seeded_by=["x"])
    assert len({outcome.row["draw"] for outcome in paired}) == 3
    other = grid.sweep(drawn, points, grid.Where(workers=1), seed=2)
    assert {outcome.row["draw"] for outcome in other}.isdisjoint(row["draw"] for row in known.values())


def test_a_point_is_known_by_function_parameters_seed_files_and_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chip = tmp_path / "chip.toml"
    chip.write_text("a = 1")

    def key(function: object = doubled, x: object = 1, seed: int | None = None) -> str:
        made = None if seed is None else np.random.SeedSequence(seed)
        return identity.key(identity.of_function(function), {"x": x}, made)  # type: ignore[arg-type]

    def adding(much: int) -> object:
        return lambda x: {"y": x + much}

    first = [key(), key(dies), key(x=2), key(x=1.5), key(x=True), key(seed=1), key(seed=2), key(x=str(chip))]
    first += [
        key(functools.partial(doubled, x=1)),
        key(functools.partial(doubled, x=2)),
        key(adding(1)),
        key(adding(2)),
    ]
    assert len(set(first)) == len(first)
    assert key(x=np.int64(1)) == key()
    chip.write_text("a = 2")
    assert key(x=str(chip)) != first[7]
    monkeypatch.setattr(identity, "version", lambda: "another")
    assert key() != first[0]
    with pytest.raises(ValueError, match="a parameter is <object"):
        key(x=object())


ROWS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "a": st.integers(-(2**63), 2**63 - 1),
            "b": st.floats(),
            "c": st.text(st.characters(codec="utf-8")),
            "d": st.lists(st.floats(allow_nan=False)).map(np.array),
            "e": st.booleans(),
        },
    ),
    max_size=4,
)


@given(rows=ROWS)
def test_rows_come_back_as_they_were(rows: list[dict[str, object]]) -> None:
    back, error = stored.decode(stored.encode(rows))
    names = list(dict.fromkeys(name for row in rows for name in row))
    assert error is None
    if names:
        assert len(back) == len(rows)
    for old, new in zip(rows, back, strict=bool(names)):
        assert list(new) == names
        for name in names:
            np.testing.assert_array_equal(np.array(new[name]), np.array(old.get(name)))


def test_a_result_that_is_no_row_is_a_failure_that_names_the_column() -> None:
    (done,) = compute(lambda: {"x": object()}, [Task(0, {}, None)])  # type: ignore[list-item]
    assert stored.decode(done.content)[1] == (
        "ValueError: column 'x' of a result holds object; allowed: numbers, texts or one-dimensional arrays, one kind "
        "a column"
    )


@given(seconds=st.floats(1e-5, 30), tasks=st.integers(1, 300), workers=st.integers(1, 8), machines=st.integers(1, 4))
def test_batches_take_about_a_second_never_cross_machines_and_lose_nobody(
    seconds: float, tasks: int, workers: int, machines: int
) -> None:
    batches = Batches([Task(place, {}, None, place * machines // tasks) for place in range(tasks)], workers)
    batches.times = [seconds] * 10
    taken = list(batches)
    assert [task.place for batch in taken for task in batch] == list(range(tasks))
    assert all(len({task.machine for task in batch}) == 1 for batch in taken)
    assert all(len(batch) == 1 or (len(batch) - 1) * seconds < SECONDS for batch in taken)
    even = machines == 1 and tasks > 2 * workers * (SECONDS / seconds + 1)
    assert not even or len(taken[0]) * seconds >= SECONDS


@pytest.mark.parametrize(
    ("given_values", "message"),
    [
        ({"workers": 0}, "--workers is 0; allowed"),
        ({"cluster": "localhost"}, "--cluster is localhost; allowed"),
        ({"workers": 2, "cluster": "tcp://a:1"}, "--workers is 2 beside --cluster; allowed"),
        ({"resume": Path(__file__)}, "a file; allowed: a folder"),
    ],
)
def test_bad_values_are_named(given_values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grid.Where(**given_values)  # type: ignore[arg-type]


def test_points_are_kept_until_the_command_has_ended(tmp_path: Path) -> None:
    asked, folder = grid.Where(workers=1), tmp_path / "points"
    kept = grid.keeping(asked, folder)
    grid.sweep(doubled, [{"x": 1}, {"x": 2}], kept)
    assert len(list(folder.iterdir())) == 2
    grid.forget(asked, kept)
    assert not folder.exists()
    own = grid.Where(workers=1, resume=tmp_path / "own")
    assert grid.keeping(own, folder) == own
    grid.sweep(doubled, [{"x": 1}], own)
    grid.forget(own, own)
    assert len(list((tmp_path / "own").iterdir())) == 1
