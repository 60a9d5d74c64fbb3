"""What a format module hands over, and the one way from there to a Trace."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from workloads.declared import SENTENCE, declare_max_tokens
from workloads.formats.ties import spread
from workloads.trace import Floats, Integers, Segments, Trace

NO_ARRIVALS = "the file has no arrival times: every request arrives at 0 s until an arrival process is given"


@dataclass
class Columns:
    """The requests of a file in the order of its lines.

    Attributes
    ----------
    arrival_seconds, prompt_tokens, output_tokens, max_tokens, segments, previous, think_seconds, session, best_of :
        as in `Trace`, but not yet in order of arrival, and requests of 0 tokens may be among them where the format
        records such; `max_tokens` is None where the file does not declare it.
    bin_seconds : width of the bins into which arrival times were rounded [s], None if they are exact.
    notes : sentences that a reader of results must know.
    """

    arrival_seconds: Floats
    prompt_tokens: Integers
    output_tokens: Integers
    max_tokens: Integers | None = None
    segments: Segments | None = None
    previous: Integers | None = None
    think_seconds: Floats | None = None
    session: Integers | None = None
    best_of: Integers | None = None
    bin_seconds: float | None = None
    notes: list[str] = field(default_factory=list)

    def take(self, rows: Integers) -> None:
        """Keep these rows, in this order; `previous` follows (whoever waits must be kept with those it waits for)."""
        if self.previous is not None:
            # One element more than there are rows, so that -1 (waits for nobody) finds -1.
            place = np.full(len(self.previous) + 1, -1, dtype=np.int64)
            place[rows] = np.arange(len(rows))
            self.previous = place[self.previous[rows]]
        whole = ("prompt_tokens", "output_tokens", "max_tokens", "session", "best_of")
        for name in ("arrival_seconds", "think_seconds", *whole):
            column = getattr(self, name)
            if column is not None:
                setattr(self, name, column[rows])
        if self.segments is not None:
            self.segments = _take_segments(self.segments, rows)


def finish(
    columns: Columns, path: Path, name: str, spread_ties: bool, max_tokens: str | int, random: np.random.Generator
) -> Trace:
    """Leave out what is no request, sort, spread coarse time stamps, declare `max_tokens`, and say so in the notes.

    Raises
    ------
    ValueError
        If no request is left, or if `max_tokens` is no rule of `declare_max_tokens` or too short for a reply.
    """
    _keep_requests(columns)
    if len(columns.arrival_seconds) == 0:
        raise ValueError(f"{path}: the file holds no request")
    _sort(columns)
    if columns.bin_seconds is not None:
        _spread(columns, columns.bin_seconds, spread_ties, random)
    if columns.max_tokens is not None and max_tokens == "auto":
        declared, sentence = columns.max_tokens, f"{SENTENCE}as the file declares"
    else:
        declared, sentence = declare_max_tokens(columns.output_tokens, max_tokens)
    return Trace(
        arrival_seconds=columns.arrival_seconds,
        prompt_tokens=columns.prompt_tokens,
        output_tokens=columns.output_tokens,
        max_tokens=declared,
        segments=columns.segments,
        previous=columns.previous,
        think_seconds=columns.think_seconds,
        session=columns.session,
        best_of=columns.best_of,
        name=name,
        notes=(*columns.notes, sentence),
    )


def single_sessions(session: Integers) -> Integers:
    """Give every request without a conversation (-1) a number of its own, behind those of the conversations.

    >>> single_sessions(np.array([-1, 0, -1, 0]))
    array([1, 0, 2, 0])
    """
    alone = session < 0
    numbered = session.copy()
    numbered[alone] = session.max(initial=-1) + 1 + np.arange(alone.sum())
    return numbered


def _keep_requests(columns: Columns) -> None:
    unasked, unanswered = columns.prompt_tokens == 0, columns.output_tokens == 0
    empty = unasked | unanswered
    if empty.any():
        columns.notes.append(
            f"{empty.sum():,} of {len(empty):,} rows are left out, they are no requests: "
            f"{unanswered.sum():,} without a reply, {(unasked & ~unanswered).sum():,} with a reply but no prompt"
        )
        columns.take(np.flatnonzero(~empty))


def _sort(columns: Columns) -> None:
    late = np.diff(columns.arrival_seconds) < 0
    if late.any():
        columns.notes.append(f"{late.sum():,} rows stand behind a later one in the file; rows are sorted by arrival")
        columns.take(np.argsort(columns.arrival_seconds, kind="stable"))


def _spread(columns: Columns, width: float, wanted: bool, random: np.random.Generator) -> None:
    stamps = columns.arrival_seconds
    clock = f"arrival times of the file lie in bins of {width:g} s"
    count = f"{len(np.unique(stamps)):,} distinct for {len(stamps):,} requests"
    if wanted:
        columns.arrival_seconds = spread(stamps, width, random)
        columns.notes.append(f"{clock} ({count}); requests are spread uniformly over their bin, in the order listed")
    else:
        columns.notes.append(f"{clock} ({count}); the requests of a bin arrive at once, at its beginning")


def _take_segments(segments: Segments, rows: Integers) -> Segments:
    counts = np.diff(segments.offsets)[rows]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    index = np.repeat(segments.offsets[rows] - offsets[:-1], counts) + np.arange(offsets[-1])
    return Segments(offsets, segments.key[index], segments.start[index], segments.length[index])
