"""LLMServingSim JSON Lines: requests, sessions of requests with tools in between, or the measured requests of a run.

Source: https://github.com/casys-kaist/LLMServingSim (MIT).
"""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import numpy as np

from workloads.formats.assembly import Columns, single_sessions
from workloads.formats.source import Head, collect, number, shorten, whole

KNOWN_AS = "LLMServingSim JSON Lines ({input_toks, output_toks, arrival_time_ns or arrival_time} or {sub_requests})"


def recognise(head: Head) -> bool:
    """Tell whether the objects have token counts and an arrival."""
    return (
        head.line.startswith("{")
        and {"input_toks", "output_toks"} <= head.keys
        and bool({"arrival_time_ns", "arrival_time"} & head.keys)
    )


def read(path: Path, head: Head, random: np.random.Generator) -> Columns:
    """Read requests and sessions.

    A session's first request arrives at its `arrival_time_ns`; each later one follows the end of the one before by
    that one's `tool_duration_ns`. Measured requests carry a wall clock (`arrival_time`, s): they count from the first.
    Token ids, where a file has them, are not read, so nothing is known about shared prefixes.
    """
    rows = _Rows()
    collect(path, rows.add)
    arrival_seconds = np.array(rows.arrival_seconds)
    wall_clock = np.array(rows.wall_clock, dtype=bool)
    if wall_clock.any():
        if not wall_clock.all():
            raise ValueError(
                f"{path}: some requests have arrival_time (a wall clock), others arrival_time_ns; allowed: one"
            )
        arrival_seconds -= arrival_seconds.min()
    in_sessions = rows.sessions > 0
    return Columns(
        arrival_seconds,
        np.array(rows.prompt_tokens),
        np.array(rows.output_tokens),
        previous=np.array(rows.previous) if in_sessions else None,
        think_seconds=np.array(rows.think_seconds) if in_sessions else None,
        session=single_sessions(np.array(rows.session)) if in_sessions else None,
        notes=["token ids in the file are not read: no shared prefixes"] if "input_tok_ids" in head.keys else [],
    )


class _Rows:
    """Columns that grow by an object, which is one request or a session of them, at a time."""

    def __init__(self) -> None:
        self.arrival_seconds, self.think_seconds = array("d"), array("d")
        self.prompt_tokens, self.output_tokens = array("q"), array("q")
        self.previous, self.session = array("q"), array("q")
        self.wall_clock = array("b")
        self.sessions = 0

    def add(self, row: dict[str, Any]) -> None:
        if "sub_requests" not in row:
            measured = "arrival_time_ns" not in row and "arrival_time" in row
            seconds = number(row, "arrival_time") if measured else number(row, "arrival_time_ns") / 1e9
            self._append(seconds, measured, whole(row, "input_toks", 1), whole(row, "output_toks", 1))
            return
        parts = row["sub_requests"]
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise ValueError(f"sub_requests is {shorten(str(parts))}; allowed: a list of objects")
        seconds = number(row, "arrival_time_ns") / 1e9
        # Everything is checked before anything is stored, so that a wrong line leaves no half session.
        lengths = [(whole(part, "input_toks", 1), whole(part, "output_toks", 1)) for part in parts]
        tools = [number(part, "tool_duration_ns") / 1e9 if "tool_duration_ns" in part else 0.0 for part in parts]
        for turn, (prompt_tokens, output_tokens) in enumerate(lengths):
            think = tools[turn - 1] if turn else 0.0
            previous = len(self.previous) - 1 if turn else -1
            self._append(seconds, False, prompt_tokens, output_tokens, previous, think, self.sessions)
        self.sessions += 1

    def _append(
        self,
        seconds: float,
        measured: bool,
        prompt_tokens: int,
        output_tokens: int,
        previous: int = -1,
        think_seconds: float = 0.0,
        session: int = -1,
    ) -> None:
        self.arrival_seconds.append(seconds)
        self.wall_clock.append(measured)
        self.prompt_tokens.append(prompt_tokens)
        self.output_tokens.append(output_tokens)
        self.previous.append(previous)
        self.think_seconds.append(think_seconds)
        self.session.append(session)
