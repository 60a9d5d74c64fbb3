"""ServeGen clients: rates and gaps by ten-minute window in a CSV, lengths as distributions in a JSON file beside it.

Source: https://github.com/alibaba/ServeGen (Apache-2.0), folder data: chunk-N-trace.csv and chunk-N-dataset.json.
A workload of many clients is the sum of their traces.
"""

from __future__ import annotations

import ast
import bisect
import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from workloads.formats.assembly import Columns
from workloads.formats.source import Head, Problems, open_file, read_blocks, shorten
from workloads.trace import Floats, Integers

KNOWN_AS = "ServeGen client CSV (no titles: window start, rate, cv, Weibull or Gamma or nothing, shape, scale)"

LINE = re.compile(r"\d+,[0-9.eE+-]+,[0-9.eE+-]+,(Weibull|Gamma)?,[0-9.eE+-]+,[0-9.eE+-]+")
WINDOW_SECONDS = 600
SMALLEST_SHAPE = 0.01
LARGEST_RATE = 1e5


class Window(NamedTuple):
    """A stretch of time in which a client's gaps are alike."""

    start: int
    requests_per_second: float
    pattern: str
    shape: float


class Lengths(NamedTuple):
    """A distribution of a length."""

    tokens: Integers
    probability: Floats


def recognise(head: Head) -> bool:
    """Tell whether the first line is a window."""
    return LINE.fullmatch(head.line) is not None


def read(path: Path, head: Head, random: np.random.Generator) -> Columns:
    """Draw one realisation of the client.

    Gaps follow the window's pattern and shape, scaled so that their mean is one over the window's measured rate (the
    fitted scale alone may miss the rate by half); each window begins anew. Prompt and reply are drawn independently
    from the latest distributions that begin no later than the window; a draw of 0 tokens is no request.

    Raises
    ------
    ValueError
        If the JSON file with the lengths is missing or wrong, or no distribution covers a window.
    """
    windows = _windows(path)
    lengths_path = _lengths_path(path)
    starts, distributions = _distributions(lengths_path)
    arrivals: list[Floats] = []
    prompts: list[Integers] = []
    outputs: list[Integers] = []
    for index, window in enumerate(windows):
        if not window.pattern:
            continue
        end = windows[index + 1].start if index + 1 < len(windows) else window.start + WINDOW_SECONDS
        times = _arrivals(window, end - window.start, random)
        place = bisect.bisect_right(starts, window.start) - 1
        if place < 0:
            raise ValueError(f"{lengths_path}: no distribution begins by {window.start} s, when requests arrive")
        prompt, output = distributions[place]
        arrivals.append(times)
        prompts.append(random.choice(prompt.tokens, size=len(times), p=prompt.probability))
        outputs.append(random.choice(output.tokens, size=len(times), p=output.probability))
    none = np.zeros(0, dtype=np.int64)
    note = "one random realisation of a ServeGen client: gaps scaled to the measured rates, lengths independent"
    return Columns(
        np.concatenate([*arrivals, none]),
        np.concatenate([*prompts, none]),
        np.concatenate([*outputs, none]),
        notes=[note],
    )


def _windows(path: Path) -> list[Window]:
    problems = Problems(path)
    windows: list[Window] = []
    text = b"".join(block for _, block in read_blocks(path)).decode("utf-8-sig", errors="replace")
    for line, row in enumerate(text.splitlines(), 1):
        if not row.strip():
            continue
        try:
            window = _window(row)
            if windows and window.start <= windows[-1].start:
                raise ValueError(f"window starts at {window.start} s; allowed: after {windows[-1].start} s")
            windows.append(window)
        except ValueError as error:
            problems.add(line, str(error))
    problems.check()
    return windows


def _window(row: str) -> Window:
    if LINE.fullmatch(row.strip()) is None:
        raise ValueError(f"{shorten(row)}; allowed: {KNOWN_AS}")
    start, rate, _, pattern, shape, _ = row.strip().split(",")
    window = Window(int(start), float(rate), pattern, float(shape))
    if pattern and not (0 < window.requests_per_second <= LARGEST_RATE and SMALLEST_SHAPE <= window.shape < math.inf):
        allowed = f"rate from above 0 to {LARGEST_RATE:g}, shape of at least {SMALLEST_SHAPE:g}"
        raise ValueError(f"rate is {rate}, shape {shape}; allowed: {allowed}")
    return window


def _arrivals(window: Window, seconds: float, random: np.random.Generator) -> Floats:
    expected = window.requests_per_second * seconds
    batch = 16 + int(1.2 * expected)
    end = 0.0
    parts: list[Floats] = []
    while end < seconds:
        if window.pattern == "Weibull":
            gaps = random.weibull(window.shape, size=batch) / math.gamma(1 + 1 / window.shape)
        else:
            gaps = random.gamma(window.shape, size=batch) / window.shape
        parts.append(end + np.cumsum(gaps) / window.requests_per_second)
        end = float(parts[-1][-1])
    times = np.concatenate(parts)
    return np.asarray(window.start + times[times < seconds])


def _lengths_path(path: Path) -> Path:
    before, found, after = path.name.rpartition("trace")
    beside = path.with_name(before + "dataset" + after.removesuffix(".gz").removesuffix(".csv") + ".json")
    if not found or not beside.is_file():
        wanted = f"a file {beside.name!r}" if found else "a name like chunk-0-trace.csv, and chunk-0-dataset.json"
        raise ValueError(f"{path}: a ServeGen trace has no lengths by itself; expected {wanted} in {path.parent}")
    return beside


def _distributions(path: Path) -> tuple[list[int], list[tuple[Lengths, Lengths]]]:
    try:
        with open_file(path) as file:
            windows = json.load(file)
        pairs = {int(start): (fields["input_tokens"], fields["output_tokens"]) for start, fields in windows.items()}
        # A window without requests has empty distributions; the one before stays in force.
        starts = sorted(start for start, pair in pairs.items() if all(text.strip("{} ") for text in pair))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        expected = '{"0": {"input_tokens": "{224: 0.01, ...}", "output_tokens": "{...}"}, ...}'
        raise ValueError(f"{path}: not a ServeGen dataset ({error!r}); expected {expected}") from None
    return starts, [(_lengths(path, s, pairs[s][0]), _lengths(path, s, pairs[s][1])) for s in starts]


def _lengths(path: Path, start: int, text: Any) -> Lengths:
    """Parse a distribution, which the format stores as text that holds a Python dictionary."""
    try:
        table = ast.literal_eval(text)
        tokens = np.array(list(table), dtype=np.int64)
        probability = np.array(list(table.values()), dtype=np.float64)
        good = bool((tokens >= 0).all() and (probability >= 0).all() and probability.sum() > 0)
    except (ValueError, SyntaxError, TypeError, AttributeError):
        good = False
    if not good:
        raise ValueError(f"{path}: window {start} has {shorten(str(text))}; allowed: '{{tokens: probability, ...}}'")
    return Lengths(tokens, probability / probability.sum())
