"""Readers of public trace formats: a path in, a Trace out; the format is recognised from the content of the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from workloads.formats import azure, burstgpt, llmservingsim, mooncake, plain, servegen, sharegpt, splitwise, vidur
from workloads.formats.assembly import finish
from workloads.formats.source import read_head, shorten
from workloads.trace import Trace

FORMATS = (azure, burstgpt, vidur, splitwise, plain, servegen, mooncake, llmservingsim, sharegpt)


def read(
    path: str | Path,
    *,
    spread_ties: bool = True,
    max_tokens: str | int = "auto",
    seed: int = 0,
    name: str | None = None,
) -> Trace:
    """Read a trace file of any known format, plain or gzip.

    Parameters
    ----------
    path : the file. Its name says nothing about its format.
    spread_ties : spread arrivals over their bin where the file's clock is coarse (whole seconds, 3 s). A crowd that
        arrives at one instant is an artefact of rounding, and so are the latency tails it makes.
    max_tokens : what clients declare, see `workloads.declared.declare_max_tokens`; "auto" takes it from the file if
        the file has it.
    seed : of what is drawn: places within a bin, and the realisation of a ServeGen client.
    name : of the trace in tables; the name of the file if None.

    Returns
    -------
    Trace
        Its notes say what was estimated, spread, sorted or left out.

    Raises
    ------
    ValueError
        If the file is missing, of no known format, or wrong; wrong lines are listed by number.
    """
    path = Path(path)
    head = read_head(path)
    for module in FORMATS:
        if module.recognise(head):
            drawing, spreading = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
            columns = module.read(path, head, drawing)
            return finish(columns, path, name or path.name.split(".")[0], spread_ties, max_tokens, spreading)
    known = "\n  ".join(module.KNOWN_AS for module in FORMATS)
    raise ValueError(f"{path}: unknown format; the first line is {shorten(head.line)}; known are\n  {known}")
