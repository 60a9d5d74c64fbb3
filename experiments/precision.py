"""What each number format is worth, and from which batch on weight-only formats stop paying."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import hardware_profiles
from experiments.shown.table_experiment import Answer, Flag, Names, check_counts, check_folder, deliver, records
from experiments.tried.instance import Instance
from sim.physics.memory import weight_bytes_per_device
from sim.physics.parallelism import Parallelism
from sim.physics.precision import Precision, possible
from sim.physics.totals import decodes
from workloads import models

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

CHIPS = ("l20", "a800-sxm", "h800-sxm", "b200-sxm")
BASE = "w16a16"
MOST_BATCH = 1024
SEATS = 256
"""Sequences that an engine decodes at once at most, for the throughput."""

HUES = {
    "fp8": "#0072B2",
    "fp8_block": "#000000",
    "w8a8": "#D55E00",
    "w8a16": "#009E73",
    "w4a16": "#CC79A7",
    "w4a8": "#E69F00",
    "w4a4": "#56B4E9",
    "mxfp4": "#888888",
}
"""A format keeps its colour on every chip."""
DASHED = (0, (4, 3))
"""Of what lies on another line: both are seen."""
NOTES = (
    "Stops paying: the smallest batch from which decoding takes no less than in 16 bits, contexts equal; weight-only "
    "formats widen weights on the way and compute in 16 bits, so that they save reading alone. Memory is left aside "
    "there: batches that 16-bit weights leave no room for are compared too.",
    f"Throughput: tokens per second while as many sequences decode as fit, at most {SEATS}.",
    "One set of constants prices all 8-bit activations, fitted on FP8: INT8 is less certain; that of 4-bit ones is "
    "fitted on B200 alone.",
)


def precision(
    *,
    model: str = "llama-2-13b",
    chip: Names = CHIPS,
    tp: int = 2,
    context: int = 1024,
    prompt: int = 1024,
    quick: Flag = False,
    out: Path | None = None,
    json: Flag = False,
) -> int:
    """Compare number formats: memory, first token, further tokens, throughput, and when weight-only stops paying.

    Parameters
    ----------
    model
        a model, or the path of a .toml or config.json [default: llama-2-13b]
    chip
        chips, one or more; formats that a chip has no unit for are left out [default: l20 a800-sxm h800-sxm
        b200-sxm]
    tp
        devices that share the model [default: 2]
    context
        tokens of each decoding sequence [default: 1024]
    prompt
        tokens of the prompt whose first token is timed [default: 1024]
    quick
        tables only, neither figure nor report
    out
        new folder for the results [default: under results/precision]
    json
        print one JSON object and nothing else
    """
    check_folder(out)
    table, curves = run(model, chip, tp, context, prompt)
    answer = Answer(
        name="precision",
        question=f"What is each number format worth for {model} on {tp} cards? {context:,} tokens each.",
        finding=headline(table),
        options={"model": model, "chip": " ".join(chip), "tp": tp, "context": context, "prompt": prompt},
        tables={"precision": table, "speedup": curves},
        shown=[("Formats by chip", shown(table))],
        notes=NOTES,
        draw=lambda: _pictures(table, curves),
        quick=quick,
    )
    return deliver(answer, out, json)


def run(
    name: str = "llama-2-13b",
    chips: Sequence[str] = CHIPS,
    tensor: int = 2,
    context: int = 1024,
    prompt: int = 1024,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a row for each chip and format, and the speed-up of decoding over 16 bits by batch.

    Raises
    ------
    ValueError
        If a name is unknown, or the model cannot be cut.
    """
    import pandas as pd

    check_counts(context=context, prompt=prompt)
    model = models.load(name)
    rows, curves = [], []
    for chip in map(hardware_profiles.load, chips):
        able = possible(chip, has_experts=model.mixture is not None)
        whole = {one.name: Instance(model, chip, one, tensor) for one in able}
        batches = np.arange(1, MOST_BATCH + 1)
        times = {name: _decoding(instance, batches, context) for name, instance in whole.items()}
        for formats in able:
            speedup = times[BASE] / times[formats.name]
            rows.append(_row(whole[formats.name], context, prompt) | {"stops_paying": _stops(formats, speedup)})
            curves.append(
                pd.DataFrame({"chip": chip.name, "precision": formats.name, "batch": batches, "speedup": speedup})
            )
    return pd.DataFrame(rows), pd.concat(curves, ignore_index=True)


def _from(batch: float) -> str:
    if batch != batch:
        return "at no batch"
    return "at any batch" if batch == 1 else f"from batch {batch:.0f}"


def headline(table: pd.DataFrame) -> str:
    """Return when weight-only formats stop paying on the first chip, and what halves the prompt, in a sentence."""
    rows = records(table[table["chip"] == table["chip"].iloc[0]])
    base = next(row for row in rows if row["precision"] == BASE)
    said = [
        f"{row['precision'].upper()} " + _from(row["stops_paying"])
        for row in rows
        if row["precision"] in ("w8a16", "w4a16")
    ]
    fastest = min(rows, key=lambda row: row["ttft_seconds"])
    return (
        f"On {base['chip']} weight-only formats stop paying: {', '.join(said)}; the first token comes soonest in "
        f"{fastest['precision'].upper()}, {100 * (1 - fastest['ttft_seconds'] / base['ttft_seconds']):.0f} % sooner"
    )


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table for people."""
    import pandas as pd

    return pd.DataFrame(
        {
            "chip": table["chip"],
            "precision": table["precision"],
            "weights per card [GB]": table["weight_bytes"] / 1e9,
            "sequences that fit": table["room_sequences"],
            "TTFT [ms]": 1e3 * table["ttft_seconds"],
            "TPOT at batch 1 [ms]": 1e3 * table["tpot_1_seconds"],
            "TPOT at batch 32 [ms]": 1e3 * table["tpot_32_seconds"],
            "tokens/s": table["tokens_per_second"],
            "stops paying at batch": ["-" if n != n else int(n) for n in table["stops_paying"]],
        }
    )


def plot(curves: pd.DataFrame, title: str) -> Figure:
    """Return the speed-up of decoding over 16 bits against the batch, on one chip."""
    from sim.figures.labels import Label, label_lines
    from sim.figures.style import INK, MEDIUM, QUIET, new_figure, plain_axes, top_of_axes

    figure = new_figure(title, f"{curves['chip'].iloc[0]}: decoding against 16 bits, contexts equal")
    axes = plain_axes(figure, 0.1, 0.13, 0.86, top_of_axes(figure) - 0.17)
    axes.set_xscale("log", base=2)
    axes.axhline(1.0, color=INK, lw=1.0)
    labels: list[Label] = []
    lines: dict[str, list[np.ndarray[Any, Any]]] = {}
    for name, group in curves[curves["precision"] != BASE].groupby("precision", sort=False):
        points = group[["batch", "speedup"]].to_numpy(dtype=float)
        hue, hides = HUES[str(name)], any(np.allclose(points, other[0]) for other in lines.values())
        axes.plot(points[:, 0], points[:, 1], color=hue, lw=1.6, ls=DASHED if hides else "-")
        anchors = points[[2, 9, 31, 127, 511]] if len(points) > 511 else points
        labels.append(Label(str(name), str(name).upper(), hue, anchors))
        lines[str(name)] = [points]
    axes.set_xlim(1, MOST_BATCH)
    ticks = [2**power for power in range(0, 11, 2)]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlabel("sequences decoding", color=QUIET, size=MEDIUM)
    axes.set_ylabel("times as fast as 16 bits", color=QUIET, size=MEDIUM)
    label_lines(axes, labels, lines)
    return figure


def _decoding(instance: Instance, batches: np.ndarray[Any, Any], context: int) -> np.ndarray[Any, Any]:
    return np.asarray(instance.iteration.seconds(decodes(batches, context, instance.model.window)))


def _stops(formats: Precision, speedup: np.ndarray[Any, Any]) -> float:
    """Return the smallest batch from which a format is never faster again; NaN if it still is at the largest."""
    slower = np.flatnonzero(speedup > 1.0)
    if formats.name == BASE or (len(slower) and slower[-1] == len(speedup) - 1):
        return float("nan")
    return float(slower[-1] + 2) if len(slower) else 1.0


def _row(instance: Instance, context: int, prompt: int) -> dict[str, Any]:
    seats = min(SEATS, instance.room(context, SEATS))
    rate = seats / instance.tpot_seconds(context, seats) if seats else 0.0
    return {
        "model": instance.model.name,
        "chip": instance.hardware.name,
        "precision": instance.formats.name,
        "tensor": instance.tensor,
        "weight_bytes": weight_bytes_per_device(instance.model, instance.formats, Parallelism(instance.tensor)),
        "room_sequences": instance.room(context, SEATS),
        "ttft_seconds": instance.ttft_seconds(prompt),
        "tpot_1_seconds": instance.tpot_seconds(context),
        "tpot_32_seconds": instance.tpot_seconds(context, 32),
        "tokens_per_second": rate,
    }


def _pictures(table: pd.DataFrame, curves: pd.DataFrame) -> list[Any]:
    from experiments.shown.pictures import Picture

    pictures = []
    for chip in dict.fromkeys(table["chip"]):
        title = headline(table[table["chip"] == chip])
        figure = plot(curves[curves["chip"] == chip], title)
        sentence = f"Speed of decoding against 16 bits on {chip}: what is below 1 costs time instead of saving it."
        pictures.append(Picture(f"precision_{chip}", figure, title, sentence))
    return pictures
