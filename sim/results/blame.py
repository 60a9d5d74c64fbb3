"""Who made a request wait: its waiting and its stalls, charged to the requests that were computed meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.engine.replay import Replay
from sim.results.attribution import Rows, States, decodes_of_unserved
from sim.results.percentiles import Floats, Integers
from sim.scheduling.batch import Limits

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Entries = list[tuple[Integers, Integers, Integers]]


@dataclass(frozen=True)
class Blame:
    """Charges among requests.

    The rule: time in which a request waits or stalls belongs to the requests whose work fills the iteration that runs,
    in proportion to the device time that each would take alone (its piece of a prompt; its part of the decodes). A
    stall of decoding belongs to the prompts alone, and one by blocks on the move to those who are swapped. A request
    charges itself only where nobody else is computed (after a preemption). So what a request is charged for is what it
    did, not the memory that it held: a counterfactual without it tells the rest.

    Attributes
    ----------
    victims : (victims,) requests that waited.
    charged : (victims, requests) sparse, ticks; a row sums to the parts of the victim that are not its own work.
    """

    victims: Integers
    charged: csr_array

    def by_offender(self) -> Floats:
        """Return what each request is charged for by all victims but itself (requests,) [ticks]."""
        total = np.asarray(self.charged.sum(axis=0)).ravel()
        own = _at(self.charged, np.arange(len(self.victims)), self.victims)
        return np.asarray(total - np.bincount(self.victims, own, len(total)), dtype=np.float64)


def blame(limits: Limits, replay: Replay, victims: Integers) -> Blame:
    """Charge the waiting and the stalls of some requests to others.

    Parameters
    ----------
    victims : requests that were served, each once.
    """
    rows, states = Rows(replay.iterations, limits, replay.clock), States(replay)
    place = np.full(len(replay.arrival), -1, dtype=np.int64)
    place[victims] = np.arange(len(victims))
    shape = len(victims), len(rows.start)
    owed = zip(_waits(rows, states, place), _shares(rows, replay, states), strict=True)
    return Blame(victims, sum(_charge(_sparse(times, shape), shares, victims) for times, shares in owed))


def _sparse(entries: Entries, shape: tuple[int, int]) -> Any:
    """Return the sums of (row, column, value) entries."""
    from scipy.sparse import coo_array

    row, column, value = (np.concatenate(columns) for columns in zip(*entries, strict=True))
    matrix = coo_array((value.astype(np.float64), (row, column)), shape=shape).tocsr()
    matrix.eliminate_zeros()
    return matrix


def _at(matrix: Any, row: Integers, column: Integers) -> Floats:
    """Return single values of a compressed matrix as an array, whatever the version of SciPy makes of an index."""
    from scipy.sparse import csr_array

    marks = csr_array(matrix)
    marks.sum_duplicates()
    width = matrix.shape[1]
    known = np.repeat(np.arange(matrix.shape[0]), np.diff(marks.indptr)) * width + marks.indices
    wanted = np.asarray(row, dtype=np.int64) * width + column
    place = np.minimum(np.searchsorted(known, wanted), max(len(known) - 1, 0))
    if not len(known):
        return np.zeros(len(wanted))
    return np.where(known[place] == wanted, marks.data[place], 0.0)


def _shares(rows: Rows, replay: Replay, states: States) -> tuple[Any, Any, Any]:
    """Return whose work fills each row: shares of everybody, of prompts, of those swapped; rows sum to 1 or 0."""
    row, request, cached, tokens, ends = rows.log.chunks.astype(np.int64).T
    weight = np.maximum(rows.alone(cached, tokens, ends) - rows.clock.base, 1)
    shape = len(rows.start), len(replay.arrival)
    prompts: Entries = [(row, request, weight)]
    # Decodes share what they take together; the smallest weight keeps a row from having none.
    device = rows.own_decoding.sum(axis=0) - rows.clock.base * rows.log.iterations
    each = np.maximum(device // np.maximum(rows.log.decodes, 1), 1) * (rows.log.decodes > 0)
    stretches, *pauses = map(
        np.concatenate,
        zip((states.decoding, states.held, states.returned), decodes_of_unserved(replay), strict=True),
    )
    owner, at = _spread(stretches[:, 1], stretches[:, 2])
    decodes: Entries = [(at, stretches[owner, 0], each[at])]
    for sign, (row, request) in zip((-1, 1, 1), (rows.T for rows in (*pauses, states.wasted)), strict=True):
        decodes.append((row, request, sign * each[row]))
    moving = np.flatnonzero(np.isin(rows.log.pauses[:, 0], rows.log.moves[:, 0]) & (rows.log.pauses[:, 2] % 2 == 1))
    row, request = rows.log.pauses[moving, :2].T
    swapped: Entries = [(row, request, np.ones(len(row), dtype=np.int64))]
    everybody, those, moved = (_normalised(_sparse(work, shape)) for work in (prompts + decodes, prompts, swapped))
    return everybody, those, moved


def _normalised(weights: Any) -> Any:
    total = np.asarray(weights.sum(axis=1)).ravel()
    weights.data /= np.repeat(total, np.diff(weights.indptr))
    return weights


def _waits(rows: Rows, states: States, place: Integers) -> tuple[Entries, Entries, Entries]:
    """Return (victim, row, ticks) of waiting for everybody, of stalls by prompts, and of stalls by those swapped."""
    waits: Entries = []
    mine = place[states.requests] >= 0
    arrival, admitted, computed = states.queued[mine], states.admitted[mine], states.computed[mine]
    victim = place[states.requests[mine]]
    here = np.searchsorted(rows.end, arrival, side="right")
    owner, at = _spread(here, admitted)
    waits.append((victim[owner], at, rows.end[at] - np.maximum(rows.start[at], arrival[owner])))
    owner, at = _spread(admitted, computed)
    waits.append((victim[owner], at, rows.duration[at]))
    row, request, cached, tokens, ends = states.chunks[place[states.chunks[:, 1]] >= 0].T
    own = np.minimum(rows.duration[row], rows.alone(cached, tokens, ends))
    waits.append((place[request], row, -own))
    lost = states.preempted[place[states.preempted[:, 0]] >= 0]
    owner, at = _spread(lost[:, 1], lost[:, 2])
    waits.append((place[lost[owner, 0]], at, rows.duration[at]))
    row, request = states.held[place[states.held[:, 1]] >= 0].T
    waits.append((place[request], row, rows.duration[row]))
    decoding = states.decoding[place[states.decoding[:, 0]] >= 0]
    owner, at = _spread(decoding[:, 1], decoding[:, 2])
    stalls, moves = (
        [(place[request], row, -time[row]), (place[decoding[owner, 0]], at, time[at])]
        for time in (rows.decoding[1], rows.moved)
    )
    return waits, stalls, moves


def _spread(begin: Integers, end: Integers) -> tuple[Integers, Integers]:
    """Return every row of the ranges from `begin` up to `end`, as number of the range and row."""
    length = np.maximum(end - begin, 0)
    owner = np.repeat(np.arange(len(begin)), length)
    return owner, begin[owner] + np.arange(len(owner)) - np.repeat(np.cumsum(length) - length, length)


def _charge(times: Any, shares: Any, victims: Integers) -> Any:
    """Return the times (victims, rows) charged by the shares (rows, requests) of all but the victim itself."""
    from scipy.sparse import coo_array

    own = shares[:, victims].T.tocsr()
    entry = times.tocoo()
    self_share = _at(own, entry.row, entry.col)
    known = np.asarray(shares.sum(axis=1)).ravel()[entry.col] > 0
    others = known & (self_share < 1 - 1e-12)
    scaled = np.where(others, entry.data / np.where(others, 1 - self_share, 1), 0)
    # What is left to the victim itself: where nobody else is computed, less what the product gives it below.
    kept = np.where(others, -scaled * self_share, entry.data)
    size = len(victims), shares.shape[1]
    itself = coo_array((np.bincount(entry.row, kept, size[0]), (np.arange(size[0]), victims)), shape=size)
    return (coo_array((scaled, (entry.row, entry.col)), shape=times.shape).tocsr() @ shares + itself).tocsr()
