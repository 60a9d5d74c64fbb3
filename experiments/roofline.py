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
        w16a16, fp8, w8a8, w8a16, w4a16, mxfp4 ... [default: w16a16]
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
    from experiments.shown import roofline_answer

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
        roofline_answer.tell(tables)
    if out:
        _draw(tables, out)
        if not json:
            print(f"wrote {out}: {', '.join(path.name for path in sorted(out.glob('*.svg')))}")
    return 0


def _draw(tables: dict[str, pd.DataFrame], out: Path) -> None:
    from experiments.shown import roofline_answer, roofline_compared, tornado
    from experiments.shown.figures import save

    for name, frame in tables.items():
        save(roofline_answer.plot(frame), out / f"roofline-{name}")
        save(roofline_answer.waterfall(frame), out / f"waterfall-{name}")
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
    frame.attrs |= {
        "what": _what(question, built.model.title),
        "built": built,
        "totals": asked,
        "context": question.context,
    }
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


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
