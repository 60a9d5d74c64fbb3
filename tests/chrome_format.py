"""The Chrome trace format as far as we write it, as a check."""

from __future__ import annotations

from numbers import Real
from typing import Any

REQUIRED = {
    # Trace Event Format, Google, 2016; timestamps are microseconds.
    "M": {"name", "pid", "args"},
    "X": {"name", "pid", "tid", "ts", "dur"},
    "C": {"name", "pid", "ts", "args"},
    "i": {"name", "pid", "tid", "ts", "s"},
    "b": {"name", "cat", "id", "pid", "ts"},
    "e": {"name", "cat", "id", "pid", "ts"},
}


def check_format(trace: dict[str, Any]) -> None:
    """Fail where an object is no Chrome trace that Perfetto shows as meant."""
    assert trace["displayTimeUnit"] in ("ms", "ns")
    bars: dict[tuple[int, int], float] = {}
    opened: dict[tuple[Any, ...], list[str]] = {}
    named: set[int] = set()
    for event in trace["traceEvents"]:
        kind = event["ph"]
        assert REQUIRED[kind] <= set(event), event
        if kind == "M":
            assert event["name"] in ("process_name", "process_sort_index", "thread_name")
            named |= {event["pid"]} if event["name"] == "process_name" else set()
            continue
        assert event["pid"] in named
        assert event["ts"] >= 0
        if kind == "X":
            track = event["pid"], event["tid"]
            assert event["dur"] >= 0
            assert event["ts"] >= bars.get(track, 0.0) - 1e-6, "bars of one thread overlap"
            bars[track] = event["ts"] + event["dur"]
        elif kind == "C":
            assert event["args"]
            assert all(isinstance(value, Real) for value in event["args"].values())
        elif kind == "i":
            assert event["s"] in ("g", "p", "t")
        elif kind == "b":
            opened.setdefault((event["cat"], event["id"]), []).append(event["name"])
        else:
            # Events of one id nest: what ends is what began last.
            assert opened[event["cat"], event["id"]].pop() == event["name"]
    assert not any(opened.values())
