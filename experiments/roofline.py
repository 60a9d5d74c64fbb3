"""What one iteration consists of, and what bounds each operator: arithmetic, memory, links, or starting kernels."""

from __future__ import annotations

import json as encoder
import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import hardware_profiles
from experiments.shown.table_experiment import Flag, check_folder
from sim.figures.words import three_digits
from sim.physics import calibration, precision
from sim.physics.band import DRAWS, band, tornado
from sim.physics.breakdown import Part, breakdown
from sim.physics.efficiency import Efficiency
from sim.physics.iteration import IterationModel
from sim.physics.parallelism import Parallelism
from sim.physics.totals import Totals, decodes, prompt
from workloads import models

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.console import Console
    from rich.table import Table

BOUND_HUES = {"compute": "#D55E00", "memory": "#0072B2", "launch": "#CC79A7", "link": "#009E73", "host": "#57606a"}
"""Colour of what bounds an operator (Okabe & Ito)."""


@dataclass(frozen=True)
class Question:
    """One iteration on one chip.

    Attributes
    ----------
    prefill : tokens of one prompt in it; 0 for none.
    decode, context : sequences decoding, and how many tokens each has, with the new one.
    tp, pp, ep, dp : see `Parallelism`; the iteration is that of one data rank, from the first stage to the last.
    """

    model: str
    hardware: str
    tp: int
    precision: str
    prefill: int
    decode: int
    context: int
    efficiency: str
    pp: int = 1
    ep: int = 1
    dp: int = 1

    @property
    def split(self) -> Parallelism:
        """How devices share the model."""
        return Parallelism(self.tp, self.pp, self.ep, self.dp)


def run(
    *,
    model: str = "llama-2-13b",
    hardware: str = "l20",
    tp: int = 2,
    pp: int = 1,
    ep: int = 1,
    dp: int = 1,
    precision: str = "w16a16",
    prefill: int = 0,
    decode: int = 32,
    context: int = 1024,
    compare: str | None = None,
    efficiency: str = "generic",
    out: Path | None = None,
    json: Flag = False,
) -> int:
    """Show what one iteration consists of, operator by operator, and what bounds each.

    Parameters
    ----------
    model
        model, or path of a .toml or config.json [default: llama-2-13b]
    hardware
        chip, or path of a .toml [default: l20]
    tp
        devices that share each layer [default: 2]
    pp
        stages of layers, of --tp devices each [default: 1]
    ep
        groups of devices with different experts; divides --tp times --dp [default: 1]
    dp
        ranks with requests of their own that share the experts [default: 1]
    precision
        w16a16, fp8, w8a8, w8a16 or w4a16 [default: w16a16]
    prefill
        tokens of one prompt in the iteration [default: 0, no prompt]
    decode
        sequences that decode in the iteration [default: 32]
    context
        tokens that each decoding sequence has [default: 1024]
    compare
        a second chip, side by side [default: none]
    efficiency
        constants of the cost model: datasheet, generic, calibrated, or the path of a .toml [default: generic]
    out
        new folder for a roofline, a waterfall and a tornado of each chip, and a comparison of two
        [default: no figures]
    json
        print a list of rows and nothing else
    """
    check_folder(out)
    chips = [hardware, *([compare] if compare else [])]
    questions = [
        Question(model, chip, tp, precision, prefill, decode, context, efficiency, pp, ep, dp) for chip in chips
    ]
    tables = {question.hardware: table(question) for question in questions}
    if len(tables) < len(chips):
        raise ValueError(f"--compare is {compare}; allowed: another chip than --hardware")
    if json:
        rows = [row for frame in tables.values() for row in frame.to_dict(orient="records")]
        print(encoder.dumps([{key: _plain(value) for key, value in row.items()} for row in rows]))
    else:
        _show(tables)
    if out:
        _draw(tables, out)
    return 0


def _draw(tables: dict[str, pd.DataFrame], out: Path) -> None:
    from experiments.shown import roofline_compared, tornado
    from experiments.shown.figures import save

    for name, frame in tables.items():
        save(plot(frame), out / f"roofline-{name}")
        save(waterfall(frame), out / f"waterfall-{name}")
        subtitle = f"{frame.attrs['chip']}: {frame.attrs['what']}; constants: {frame.attrs['level']}"
        drawn = tornado.plot(frame.attrs["swings"], frame.attrs["seconds"], "the iteration", subtitle)
        save(drawn, out / f"tornado-{name}")
    if len(tables) == 2:
        save(roofline_compared.plot(*tables.values()), out / f"compared-{'-'.join(tables)}")


def table(question: Question) -> pd.DataFrame:
    """Return the operators of an iteration: work, times, and share of the whole, one row each.

    Raises
    ------
    ValueError
        A name is unknown, the model cannot be cut, the chip lacks the unit, or there is nothing to do.
    """
    import pandas as pd

    for name, least in (("prefill", 0), ("decode", 0), ("context", 1)):
        if getattr(question, name) < least:
            raise ValueError(f"--{name} is {getattr(question, name)}; allowed: {least} and more")
    if not question.prefill and not question.decode:
        raise ValueError("--prefill is 0 and --decode is 0; allowed: at least one of them above 0")
    chip = hardware_profiles.load(question.hardware)
    constants = calibration.load(question.efficiency, chip)
    split, formats = question.split, precision.load(question.precision)
    built = IterationModel(models.load(question.model), chip, formats, split, constants)
    asked = totals(question, built.window)
    parts = breakdown(built, asked)
    whole = math.fsum(part.seconds for part in parts)
    frame = pd.DataFrame([_row(part, whole) for part in parts])
    frame.insert(0, "hardware", chip.name)
    bandwidth = chip.memory.bandwidth_bytes_per_second
    frame.attrs |= {"chip": chip.title, "bandwidth": bandwidth, "level": constants.level, "seconds": whole}
    frame.attrs["peaks"] = sorted({part.peak_flops_per_second for part in parts if part.flops})
    frame.attrs |= {"what": _what(question, built.model.title), "built": built, "question": question}
    if constants.level != "datasheet":  # whose peaks nobody reaches: no number around which others would lie
        frame.attrs["band"] = band(built, asked, DRAWS, np.random.default_rng(1))
    frame.attrs["swings"] = tornado(partial(_seconds, built, asked), constants)
    return frame


def _seconds(model: IterationModel, asked: Totals, constants: Efficiency, host: float) -> float:
    return float(replace(model, efficiency=constants, host_seconds=host * model.host_seconds).seconds(asked))


def totals(question: Question, window: int | None = None) -> Totals:
    """Return what the hardware sees of one prompt and equal decoding sequences."""
    first, further = prompt(question.prefill, window=window), decodes(question.decode, question.context, window)
    return replace(
        first,
        tokens=question.prefill + question.decode,
        samples=question.decode + (question.prefill > 0),
        decode_sequences=further.decode_sequences,
        decode_kv_tokens=further.decode_kv_tokens,
        window_decode_kv_tokens=further.window_decode_kv_tokens,
    )


def plot(frame: pd.DataFrame) -> Figure:
    """Return the roofline: what the chip could do at each intensity, and what each operator reaches."""
    from sim.figures.style import INK, MEDIUM, QUIET, RULE, SMALL, new_figure, plain_axes, top_of_axes

    work = frame[(frame["flops"] > 0) & (frame["bytes"] > 0)]
    reached = work["flops"] / work["seconds"]
    bandwidth, peaks = frame.attrs["bandwidth"], frame.attrs["peaks"]
    counts = [
        f"{(work['bound_by'] == name).sum()} of {len(work)} operators that compute are bound by {name}"
        for name in BOUND_HUES
    ]
    title = f"{frame.attrs['chip']}: " + max(counts, key=lambda text: int(text.split()[0]))
    figure = new_figure(title, f"{frame.attrs['what']}; constants: {frame.attrs['level']}")
    axes = plain_axes(figure, 0.1, 0.13, 0.63, top_of_axes(figure) - 0.17)
    low = min(work["intensity"].min() / 2, 0.5)
    high = max(work["intensity"].max() * 2, 4 * peaks[-1] / bandwidth)
    x = np.geomspace(low, high, 200)
    roofs = [np.column_stack([x, np.minimum(x * bandwidth, peak)]) for peak in peaks]
    axes.set(xscale="log", yscale="log", xlim=(low, high))
    axes.set_ylim(reached.min() / 3, peaks[-1] * 2)
    for roof in roofs:
        axes.plot(roof[:, 0], roof[:, 1], color=INK, lw=1.2)
    axes.set_xlabel("flops per byte of device memory", color=QUIET, size=MEDIUM)
    axes.set_ylabel("flop/s", color=QUIET, size=MEDIUM)
    axes.grid(True, color=RULE, lw=0.4)
    order = work.assign(reached=reached).sort_values("reached", ascending=False).to_dict(orient="records")
    for row, height in zip(order, np.linspace(0.97, 0.35, len(order)), strict=True):
        hue, point = BOUND_HUES[row["bound_by"]], (row["intensity"], row["reached"])
        axes.scatter(*point, s=20 + 500 * row["share"], color=hue, alpha=0.85, linewidths=0)
        label = f"{row['operator']} {100 * row['share']:.0f} %"
        line = {"arrowstyle": "-", "color": hue, "lw": 0.5, "relpos": (0, 0.5)}
        axes.annotate(
            label, point, xytext=(1.04, height), textcoords="axes fraction", size=SMALL, color=INK, arrowprops=line
        )
    _legend(axes, work, (1.02, 0.0))
    return figure


def waterfall(frame: pd.DataFrame) -> Figure:
    """Return where the time goes: one bar an operator, each beginning where the one before it ends."""
    from sim.figures.style import INK, MEDIUM, QUIET, SMALL, new_figure, plain_axes, top_of_axes

    shown = frame[frame["share"] >= 0.002]
    largest = shown.sort_values("share").iloc[-1]
    title = f"{frame.attrs['chip']}: {largest['operator']} takes {100 * largest['share']:.0f} % of the iteration"
    figure = new_figure(title, f"{frame.attrs['what']}; constants: {frame.attrs['level']}")
    axes = plain_axes(figure, 0.2, 0.1, 0.76, top_of_axes(figure) - 0.14)
    start = 0.0
    for place, (_, row) in enumerate(shown.iterrows()):
        milliseconds = 1e3 * float(row["seconds"])
        axes.barh(place, milliseconds, left=start, color=BOUND_HUES[str(row["bound_by"])], height=0.7)
        start += milliseconds
        axes.text(start, place, f" {three_digits(milliseconds)} ms", va="center", size=SMALL, color=INK)
    axes.set_yticks(range(len(shown)), list(shown["operator"]))
    axes.invert_yaxis()
    axes.set_xlim(0, start * 1.12)
    axes.set_xlabel(
        f"time from the start [ms]; the whole iteration takes {three_digits(1e3 * frame.attrs['seconds'])} ms",
        color=QUIET,
        size=MEDIUM,
    )
    _legend(axes, shown, (0.0, 0.0))
    return figure


def _legend(axes: Axes, frame: pd.DataFrame, place: tuple[float, float]) -> None:
    """Say which colour stands for which bound, at a place given in shares of the axes."""
    from matplotlib.lines import Line2D

    from sim.figures.style import SMALL

    shown = [name for name in BOUND_HUES if (frame["bound_by"] == name).any()]
    handles = [Line2D([], [], color=BOUND_HUES[name], marker="s", ls="", label=f"bound by {name}") for name in shown]
    axes.legend(handles=handles, frameon=False, fontsize=SMALL, loc="lower left", bbox_to_anchor=place)


def _row(part: Part, whole: float) -> dict[str, Any]:
    return {
        "operator": part.name,
        "kernels": part.count,
        "flops": part.flops,
        "bytes": part.moved_bytes,
        "intensity": part.intensity,
        "bound_by": part.bound_by,
        "seconds": part.seconds,
        "share": part.seconds / whole if whole else 0.0,
    }


def _what(question: Question, title: str) -> str:
    asked = [f"a prompt of {question.prefill:,} tokens"] if question.prefill else []
    if question.decode:
        asked.append(f"{question.decode:,} sequences decoding at {question.context:,} tokens")
    return f"{title} {question.precision} {question.split.words}, {' and '.join(asked)}"


def _show(tables: dict[str, pd.DataFrame]) -> None:
    from rich.console import Console

    from experiments.shown import roofline_compared

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=140, no_color=True)
    for frame in tables.values():
        console.print(f"{frame.attrs['chip']} · {frame.attrs['what']}", style="bold")
        console.print(
            f"{three_digits(1e3 * frame.attrs['seconds'])} ms{_band(frame)} · evidence: {frame.attrs['level']}"
        )
        if len(tables) == 1:
            console.print(_operators(frame))
            _show_alone(console, frame)
        console.print(_swings(frame), style="dim")
        console.print()
    if len(tables) == 2:
        (first, one), (second, two) = tables.items()
        console.print(roofline_compared.table(first, one, second, two))
        ratio = one.attrs["seconds"] / two.attrs["seconds"]
        console.print(f"{second} takes {1 / ratio:.2f} times as long as {first} for the same iteration.")


def _show_alone(console: Console, frame: pd.DataFrame) -> None:
    """Print what switches would do to the iteration, and what the memory of a card is spent on."""
    from rich.table import Table

    from experiments.tried import roofline_memory, roofline_switches

    built, question = frame.attrs["built"], frame.attrs["question"]
    changes = Table("with one thing changed", "ms", "times as long", box=None, pad_edge=False)
    for row in roofline_switches.table(built, totals(question, built.window)).to_dict(orient="records"):
        changes.add_row(row["switch"], three_digits(1e3 * row["seconds"]), f"{row['times']:.2f}")
    console.print()
    console.print(changes)
    console.print()
    try:
        memory = roofline_memory.table(built, question.context)
    except ValueError as error:  # an iteration can be priced on cards that cannot hold the model
        console.print(str(error), style="dim")
        return
    terms = Table(
        f"memory of a card ({memory.attrs['usable'] / 1e9:.2f} GB usable)", "GB", "share", box=None, pad_edge=False
    )
    for row in memory.to_dict(orient="records"):
        terms.add_row(row["term"], f"{row['bytes'] / 1e9:.2f}", f"{100 * row['share']:.1f} %")
    console.print(terms)
    for note in memory.attrs["notes"]:
        console.print(note, style="dim")
    console.print()


def _operators(frame: pd.DataFrame) -> Table:
    from rich.table import Table

    shown = Table("operator", box=None, pad_edge=False)
    for name in ("kernels", "GFLOP", "MB", "flop/byte", "ms", "share"):
        shown.add_column(name, justify="right")
    shown.add_column("bound by")
    for row in frame.to_dict(orient="records"):
        numbers = (three_digits(row["flops"] / 1e9), three_digits(row["bytes"] / 1e6), _number(row["intensity"]))
        time = three_digits(1e3 * row["seconds"]), f"{100 * row['share']:.1f} %"
        shown.add_row(str(row["operator"]), str(row["kernels"]), *numbers, *time, str(row["bound_by"]))
    return shown


def _band(frame: pd.DataFrame) -> str:
    found = frame.attrs.get("band")
    return f" [{three_digits(1e3 * float(found.low))}, {three_digits(1e3 * float(found.high))}]" if found else ""


def _swings(frame: pd.DataFrame) -> str:
    """Say which uncertain constants matter most."""
    whole = frame.attrs["seconds"]
    parts = [
        f"{swing.name} {100 * (swing.fast / whole - 1):+.0f} to {100 * (swing.slow / whole - 1):+.0f} %"
        for swing in frame.attrs["swings"][:4]
    ]
    return f"brackets: 90 % band of the constants; those that matter most, each on its own: {', '.join(parts)}"


def _number(value: float) -> str:
    return "" if math.isnan(value) else three_digits(value)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
