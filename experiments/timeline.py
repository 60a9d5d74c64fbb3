"""What one replica did, moment by moment: a trace that opens in ui.perfetto.dev, and a figure of a few seconds."""

from __future__ import annotations

import hashlib
import json as encoder
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from experiments.asked.options import NOTHING, Options, as_table
from sim.engine.clock import ticks
from sim.results.result import Result
from sim.results.timeline import MOST_ITERATIONS, MOST_REQUESTS, Event, chrome_events
from sim.scenario import COMPARED

SECONDS = 60.0
FIGURE_SECONDS = 4.0


def timeline(
    *,
    options: Annotated[Options, Parameter(name="*")] = NOTHING,
    policy: Annotated[str, Parameter(help="A,B,..: schedulers, a replica each [default: the two compared]")] = ",".join(
        COMPARED
    ),
    start: Annotated[
        float | None,
        Parameter(
            help="begin of the window [s; default: so that the longest pause of running replies is in its middle]"
        ),
    ] = None,
    seconds: Annotated[float, Parameter(help="length of the window [s; default: 60]")] = SECONDS,
    out: Annotated[Path | None, Parameter(help="new folder for the results [default: results/timeline/DIGEST]")] = None,
    json: Annotated[bool, Parameter(negative="", help="print one JSON object and nothing else")] = False,
) -> int:
    """Write what each replica did as a Chrome trace, and draw the middle of the window.

    Serves what `explain` serves, the first seed. Windows of more than 50,000 iterations are sampled: a bar is then a
    stretch of decoding instead of an iteration.
    """
    from experiments.explain import where
    from experiments.shown import console, figures, files, output
    from experiments.tried.tail import run

    if not seconds > 0 or (start is not None and start < 0):
        raise ValueError(f"--start is {start}, --seconds {seconds:g}; allowed: a start of 0 or more, seconds above 0")
    with console.progress("simulating") as advance:
        tail = run(options, tuple(policy.split(",")))
        advance(1.0)
    results = {name: runs[0] for name, runs in tail.results.items()}
    begin, end = window(next(iter(results.values())), start, seconds)
    content = chrome_trace(results, begin, end, as_table(tail.options))
    digest = hashlib.sha256(f"{as_table(tail.options)}{policy}{begin}{end}".encode()).hexdigest()[:8]
    folder = output.unused(out) if out else output.first_free(Path("results") / "timeline" / digest)
    folder.mkdir(parents=True, exist_ok=True)
    middle, half = (begin + end) / 2, min(FIGURE_SECONDS, end - begin) / 2
    figure = figures.timeline(results, middle - half, middle + half)
    text = encoder.dumps(content, allow_nan=False, separators=(",", ":"))
    written = [
        files.text(folder / "timeline.chrome.json", text + "\n"),
        *figures.save(figure, folder / "timeline"),
    ]
    found = counts(content["traceEvents"])
    if json:
        print(files.json_text({"experiment": "timeline", "from_seconds": begin, "until_seconds": end, **found}
              | {"options": as_table(tail.options), "files": [str(path) for path in written]}))  # fmt: skip
        return 0
    print(f"roofserve timeline · {where(tail)} · {', '.join(results)} · {begin:.2f} to {end:.2f} s")
    print(", ".join(f"{number:,} {name}" for name, number in found.items()))
    if content["otherData"]["sampled"]:
        print("sampled: " + content["otherData"]["sampled"])
    print(f"wrote {folder}: {', '.join(path.name for path in written)}")
    print(f"open {written[0]} in ui.perfetto.dev")
    return 0


def window(result: Result, start: float | None, seconds: float) -> tuple[float, float]:
    """Return from when to when to look [s]: around the longest pause of running replies unless told otherwise."""
    from sim.results.tokens import longest_pause

    if start is None:
        pause = longest_pause(result)
        start = max(0.0, (pause[0] + pause[1] - seconds) / 2)
    latest = result.makespan_seconds + float(result.arrival_seconds.min())
    if start >= latest:
        raise ValueError(f"--start is {start:g}; allowed: 0 to {latest:.1f}, when the last iteration ends")
    return start, min(start + seconds, latest)


def chrome_trace(results: Mapping[str, Result], begin: float, end: float, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object form of the Chrome trace format, a process for each run.

    Parameters
    ----------
    begin, end : the window [s].
    options : what was asked, to be kept beside the events.
    """
    first, last = int(ticks(begin)), int(ticks(end))
    events: list[Event] = []
    sampled = []
    for process, (name, result) in enumerate(results.items()):
        events += chrome_events(result, name, process, first, last)
        log = result.iterations
        inside = (log.end > first) & (log.start < last)
        if log.iterations[inside].sum() > MOST_ITERATIONS:
            sampled.append(f"{name}: a bar is a stretch of decoding, at most {MOST_REQUESTS:,} requests are shown")
    other = {"schema": "roofserve", "sampled": "; ".join(sampled), "options": dict(options)}
    return {"displayTimeUnit": "ms", "otherData": other, "traceEvents": events}


def counts(events: list[Event]) -> dict[str, int]:
    """Return how many iterations, requests and preemptions there are among events."""
    return {
        "iterations": sum(event["ph"] == "X" for event in events),
        "requests": sum(event["ph"] == "b" and event["name"].startswith("request") for event in events),
        "preemptions": sum(event["ph"] == "i" for event in events),
    }
