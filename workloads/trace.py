"""What a workload is: when requests arrive, how long they are, and which of their tokens are the same."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Self

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Segments:
    """Which prompt tokens are equal, as runs of symbols rather than text (compressed rows, one row a request).

    A segment ``(key, start, length)`` stands for the tokens ``(key, start), (key, start + 1), ...``; the segments of
    a request lie end to end from position 0 of its prompt. Equal symbols are equal tokens. Prompt positions behind
    the last segment, and every generated token, are the request's own: position ``p`` of request ``i`` is the symbol
    ``(-1 - i, p)``. A later turn of a conversation contains an earlier reply by naming that key.

    Attributes
    ----------
    offsets : (requests + 1,) row ``i`` is ``offsets[i]:offsets[i + 1]`` of the other three.
    key, start, length : (segments,) shared texts have ``key >= 0``; ``length`` in tokens.
    """

    offsets: Integers
    key: Integers
    start: Integers
    length: Integers

    @classmethod
    def from_lists(cls, rows: list[list[tuple[int, int, int]]]) -> Self:
        """Build from one list of ``(key, start, length)`` per request.

        >>> Segments.from_lists([[(7, 0, 32)], []]).offsets
        array([0, 1, 1])
        """
        flat = np.array([segment for row in rows for segment in row], dtype=np.int64).reshape(-1, 3)
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)]).astype(np.int64)
        return cls(offsets, flat[:, 0].copy(), flat[:, 1].copy(), flat[:, 2].copy())

    def row(self, request: int) -> list[tuple[int, int, int]]:
        """Return the segments of one request as ``(key, start, length)`` tuples."""
        rows = slice(int(self.offsets[request]), int(self.offsets[request + 1]))
        return list(zip(self.key[rows].tolist(), self.start[rows].tolist(), self.length[rows].tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class Trace:
    """A workload as columns, one element a request, in order of arrival; equal only to itself, so it can be a key.

    Attributes
    ----------
    arrival_seconds : (requests,) since the start of the trace. For a request that follows another (see `previous`)
        the earliest time at which it may arrive.
    prompt_tokens, output_tokens : (requests,) what is really asked and really answered, at least 1 each.
    max_tokens : (requests,) the longest reply the client declares, which a scheduler may reserve: it knows no other.
    segments : which prompt tokens are equal, or None if the source says nothing about it.
    previous : (requests,) the request whose end releases this one, or -1; None if nobody waits for anybody.
    think_seconds : (requests,) between the end of `previous` and the arrival of this request.
    priority : (requests,) the smaller, the more urgent; None if all are equal.
    best_of : (requests,) replies to generate at once, of which one is returned, at least 1; None for one each.
    session : (requests,) conversation to which a request belongs, a number of its own if to none; None if unknown.
    name : what to call the workload in tables.
    notes : sentences that a reader of results must know (estimated lengths, spread time stamps, skipped lines ...).
    """

    arrival_seconds: Floats
    prompt_tokens: Integers
    output_tokens: Integers
    max_tokens: Integers
    segments: Segments | None = None
    previous: Integers | None = None
    think_seconds: Floats | None = None
    session: Integers | None = None
    priority: Integers | None = None
    best_of: Integers | None = None
    name: str = "trace"
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        """Check what every consumer relies on; errors name the column, the request and the value."""
        n = len(self.arrival_seconds)
        for column in fields(self):
            values = getattr(self, column.name)
            if isinstance(values, np.ndarray) and values.shape != (n,):
                raise ValueError(f"trace {self.name!r}: {column.name} has shape {values.shape}, expected ({n},)")
        self._require(
            "arrival_seconds", np.isfinite(self.arrival_seconds) & (self.arrival_seconds >= 0), "finite, >= 0"
        )
        self._require("arrival_seconds", np.diff(self.arrival_seconds, prepend=-np.inf) >= 0, "in order of arrival")
        self._require("prompt_tokens", self.prompt_tokens >= 1, "at least 1")
        self._require("output_tokens", self.output_tokens >= 1, "at least 1")
        self._require("max_tokens", self.max_tokens >= self.output_tokens, "at least output_tokens")
        if self.best_of is not None:
            self._require("best_of", self.best_of >= 1, "at least 1")
        if self.previous is not None:
            self._require("previous", self.previous < np.arange(n), "an earlier request or -1")
        if self.think_seconds is not None:
            self._require("think_seconds", np.isfinite(self.think_seconds) & (self.think_seconds >= 0), "finite, >= 0")
        if self.segments is not None:
            self._check_segments(self.segments)

    def _require(self, column: str, good: npt.NDArray[np.bool_], allowed: str) -> None:
        if not good.all():
            at = int(np.argmin(good))
            value = getattr(self, column)[at]
            raise ValueError(f"trace {self.name!r}: {column} of request {at} is {value}; allowed: {allowed}")

    def _check_segments(self, segments: Segments) -> None:
        if segments.offsets.shape != (len(self) + 1,):
            raise ValueError(f"trace {self.name!r}: segments cover {len(segments.offsets) - 1} of {len(self)} requests")
        ends = np.concatenate([[0], np.cumsum(segments.length)])
        covered = ends[segments.offsets[1:]] - ends[segments.offsets[:-1]]
        self._require("prompt_tokens", self.prompt_tokens >= covered, "at least the tokens of its segments")

    def __len__(self) -> int:
        """Return the number of requests."""
        return len(self.arrival_seconds)

    @property
    def duration_seconds(self) -> float:
        """From the first to the last arrival [s]."""
        return float(self.arrival_seconds[-1] - self.arrival_seconds[0]) if len(self) else 0.0

    def sped_up(self, speed: float) -> Trace:
        """Return the same requests arriving `speed` times as fast (think times stay: people do not hurry).

        Raises
        ------
        ValueError
            If `speed` is not positive and finite.
        """
        if not (speed > 0 and np.isfinite(speed)):
            raise ValueError(f"speed is {speed}; allowed: a positive number")
        return replace(self, arrival_seconds=self.arrival_seconds / speed)

    def head(self, requests: int) -> Trace:
        """Return the first `requests` requests (all of them if there are fewer)."""
        n = min(requests, len(self))
        cut = {c.name: getattr(self, c.name)[:n] for c in fields(self) if isinstance(getattr(self, c.name), np.ndarray)}
        if self.segments is not None:
            last = int(self.segments.offsets[n])
            cut["segments"] = Segments(
                self.segments.offsets[: n + 1],
                self.segments.key[:last],
                self.segments.start[:last],
                self.segments.length[:last],
            )
        return replace(self, **cut)

    def subset(self, requests: Integers) -> Trace:
        """Return some requests (indices, ascending); each is free to come at its `arrival_seconds`, nobody follows.

        What is equal in their prompts stays equal, also where the request that it quotes is left out.
        """
        cut = {
            c.name: getattr(self, c.name)[requests]
            for c in fields(self)
            if isinstance(getattr(self, c.name), np.ndarray)
        }
        cut |= {"previous": None, "think_seconds": None}
        if self.segments is not None:
            cut["segments"] = _chosen(self.segments, requests)
        return replace(self, **cut)


def _chosen(segments: Segments, requests: Integers) -> Segments:
    lengths = np.diff(segments.offsets)[requests]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    row = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths) + np.repeat(segments.offsets[requests], lengths)
    key = segments.key[row].copy()
    # Requests are renumbered; the text of one that is left out becomes a text of its own.
    own = np.flatnonzero(key < 0)
    quoted = -1 - key[own]
    place = np.minimum(np.searchsorted(requests, quoted), max(0, len(requests) - 1))
    is_here = requests[place] == quoted
    key[own] = np.where(is_here, -1 - place, segments.key.max(initial=-1) + 1 + quoted)
    return Segments(offsets, key, segments.start[row], segments.length[row])
