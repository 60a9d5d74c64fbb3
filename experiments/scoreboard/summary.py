"""The scoreboard in a few lines, for a README: one for each kind of measurement, every group of rows counted."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable

import numpy as np

from experiments.scoreboard.score import Row
from experiments.scoreboard.servers import TABLE

CAPTION = (
    "Rows of one chip, kernel library and number format (or one percentile of a replayed server) form a group with a "
    "median absolute error; shown are the median of these and the worst. What is not modelled is left out, and "
    "`validate` lists it. The generic constants were partly chosen looking at these tables; calibrated ones are scored "
    "on shapes they never saw. Nothing was fitted to whole iterations or servers but what the host of an eager engine "
    "of 2023 takes: 45 ms at least, 65 with prompts, of which 14, and 0.2 for each sequence, while its devices wait."
)

REASONS = {
    "matrix products": "what stays in a large cache is not modelled, nor the clock of a board that lacks power",
    "attention": "TensorRT-LLM splits contexts between thread blocks by rules of its own, and on A100 its tables read "
    "grouped keys up to 1.7 times as fast as the memory can bring them",
    "attention, mixed batches": "which processor takes which tile is not modelled",
    "experts": "four-bit floats on 8-bit activations have kernels of their own, of which no table of the fit tells",
    "collectives": "times under Vidur's profiler come in two heaps; TensorRT-LLM's kernel takes twice NCCL's time for "
    "1 MiB on 8 A100",
    "operators of a layer": "cuBLAS changes kernels with the shape",
    "whole iterations": "cuBLAS of 2023 likes 512 rows better than those around them; above 2,048 tokens this stack "
    "takes up to twice as long as its operators do, probably since collectives then hold more memory than is free",
    "server replay, end to end": "one chip, and overload adds up what every step is off",
}
"""Why goals are missed, as far as anybody knows."""


def _table(name: str) -> Callable[[Row], bool]:
    return lambda row: row.table == name


def _replay(quantity: str) -> Callable[[Row], bool]:
    return lambda row: row.table == TABLE and f" {quantity}" in row.model


KINDS: dict[str, Callable[[Row], bool]] = {
    "matrix products": _table("gemm_grid"),
    "attention": _table("attention_grid"),
    "attention, mixed batches": _table("attention_mixed"),
    "experts": _table("moe_grid"),
    "collectives": _table("comm"),
    "operators of a layer": _table("layer_ops"),
    "whole iterations": _table("iteration"),
    "server replay, KV blocks": _replay("KV blocks"),
    "server replay, TTFT": _replay("TTFT"),
    "server replay, TPOT": _replay("TPOT"),
    "server replay, end to end": _replay("end to end"),
}


def markdown(rows: Iterable[Row]) -> str:
    """Return the scoreboard as a short table for a README, a line for each kind of measurement that was scored."""
    scored = [row for row in rows if row.level != "skipped"]
    lines = [
        "| median / worst error of | rows | datasheet | generic | goal | met | calibrated | goal | met |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for kind, belongs in KINDS.items():
        mine = [row for row in scored if belongs(row)]
        if mine:
            cells = [kind, f"{_measured(mine):,}", _errors(_at(mine, "datasheet"))]
            for level in ("generic", "calibrated"):
                found = _at(mine, level)
                cells += [_errors(found), _goals(found), _met(found)]
            lines.append(f"| {' | '.join(cells)} |")
    why = [f"- {kind}: {reason}." for kind, reason in missed(scored).items()]
    text = [*textwrap.wrap(CAPTION, 120), *(["", "Goals are missed where this is not modelled:", ""] if why else [])]
    text += [
        line for reason in why for line in textwrap.wrap(reason, 120, subsequent_indent="  ", break_on_hyphens=False)
    ]
    return "\n".join((*lines, "", *text))


def missed(rows: Iterable[Row]) -> dict[str, str]:
    """Return why goals are missed, by kind of measurement; only of kinds in which one is."""
    short = [row for row in rows if row.met is False]
    return {kind: REASONS[kind] for kind, belongs in KINDS.items() if kind in REASONS and any(map(belongs, short))}


def _at(rows: list[Row], level: str) -> list[Row]:
    return [row for row in rows if row.level == level]


def _measured(rows: list[Row]) -> int:
    """Return how many rows were measured; of a replay each request counts once, not once for every statistic."""
    generic = _at(rows, "generic")
    if generic[0].table != TABLE:
        return sum(row.n for row in generic)
    runs = {(row.hardware, row.model.split(",")[0]): row.n for row in generic}
    return sum(runs.values())


def _errors(rows: list[Row]) -> str:
    medians = [row.median_abs_pct for row in rows if row.median_abs_pct is not None]
    return f"{np.median(medians):.0f} / {max(medians):.0f} %" if medians else "–"


def _goals(rows: list[Row]) -> str:
    goals = sorted({row.goal_pct for row in rows if row.goal_pct is not None})
    return f"{'–'.join(f'{goal:g}' for goal in dict.fromkeys((goals[0], goals[-1])))} %" if goals else "–"


def _met(rows: list[Row]) -> str:
    judged = [row for row in rows if row.met is not None]
    return f"{sum(bool(row.met) for row in judged)} of {len(judged)}" if judged else "–"
