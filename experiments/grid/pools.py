"""Who computes the batches of a sweep: this process, processes beside it, or a Dask cluster, all through joblib."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pickle import PicklingError
from typing import Any

from experiments.grid import identity
from experiments.grid.batches import Batches, Done, Task, compute, failure

WORTH_SECONDS = 8.0
"""What must be left to do before processes are started unasked [s]: they take two or three to start."""

PATIENCE_SECONDS = 10.0
"""How long a scheduler, and then its first worker, may take to answer [s]."""


def on_cores(function: Callable[..., Any], batches: Batches, workers: int | None) -> Iterator[Done]:
    """Yield points as they are computed, by `workers` processes; None for as many as there are cores.

    Then the first points are computed here, and processes are started if there is more to do than starting them costs.
    """
    from joblib import cpu_count

    count = workers or int(cpu_count())
    while batches.left and (count == 1 or (workers is None and batches.seconds_left < WORTH_SECONDS)):
        (done,) = compute(function, batches.take(1))
        batches.note(done)
        yield done
    batches.workers = count
    if batches.left:
        yield from _outliving(function, batches, {"backend": "loky", "n_jobs": count})


def on_cluster(
    function: Callable[..., Any], batches: Batches, workers: int | None = None, *, address: str
) -> Iterator[Done]:
    """Yield points as they are computed by the workers of the Dask scheduler at `address`.

    Raises
    ------
    ValueError
        If Dask is missing, nobody answers, or a worker runs other code.
    """
    client = _client(address)
    with client:
        for worker, other in client.run(identity.version).items():
            if other != identity.version():
                raise ValueError(
                    f"--cluster is {address}: its worker {worker} has another version of roofserve, Python, numpy or "
                    "scipy; allowed: workers that run the same code"
                )
        batches.workers = max(1, sum(client.ncores().values()))
        yield from _outliving(function, batches, {"backend": "dask", "client": client})


def _client(address: str) -> Any:
    """Return a connection to a Dask scheduler that has workers."""
    try:
        import distributed
    except ImportError:
        raise ValueError(
            f"--cluster is {address}; allowed where Dask is installed: pip install 'roofserve[cluster]'"
        ) from None
    connect: Any = distributed.Client
    try:
        client = connect(address, timeout=PATIENCE_SECONDS, set_as_default=False)
        client.wait_for_workers(1, timeout=PATIENCE_SECONDS)
    except (OSError, TimeoutError, ValueError) as error:
        raise ValueError(
            f"--cluster is {address}: {error or 'nobody answers'}; allowed: a Dask scheduler that runs and has workers"
        ) from None
    return client


def _outliving(function: Callable[..., Any], batches: Batches, backend: dict[str, Any]) -> Iterator[Done]:
    """Yield points as they are computed, whatever becomes of the workers.

    If one dies, e.g. for want of memory, the points that were on their way are tried one at a time, and one that
    takes its worker along again is recorded as failed.
    """
    while batches.left:
        try:
            yield from _parallel(function, batches, batches, backend)
        except _deaths():
            suspects = list(batches.out.values())
            for task in suspects:
                try:
                    yield from _parallel(function, batches, [[task]], backend)
                except _deaths() as error:
                    done = Done(task.place, failure(f"the worker died: {type(error).__name__}"), True, 0.0)
                    batches.note(done)
                    yield done


def _parallel(
    function: Callable[..., Any], batches: Batches, tasks: Batches | Sequence[Sequence[Task]], backend: dict[str, Any]
) -> Iterator[Done]:
    from joblib import Parallel, delayed, parallel_config

    call = delayed(_in_worker)
    with parallel_config(**backend):
        pool = Parallel(return_as="generator_unordered", batch_size=1, max_nbytes=None)
        try:
            for finished in pool(call(function, batch) for batch in tasks):
                for done in finished:
                    batches.note(done)
                    yield done
        except (BrokenProcessPool, PicklingError) as error:
            if isinstance(error, _deaths()):
                raise
            raise ValueError(
                f"{function!r} cannot be sent to another process: {error}; allowed: a function, and what it remembers, "
                "at the top of a module that can be imported"
            ) from error


def _in_worker(function: Callable[..., Any], tasks: Sequence[Task]) -> list[Done]:
    """Compute a batch; Ctrl-C is left to the process that asked, which stops this one."""
    import signal

    if threading.current_thread() is threading.main_thread():
        with suppress(ValueError):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    return compute(function, tasks)


def _deaths() -> tuple[type[BaseException], ...]:
    """Return what is raised when a worker dies."""
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    try:
        from distributed import KilledWorker
    except ImportError:
        return (TerminatedWorkerError,)
    return (TerminatedWorkerError, KilledWorker)
