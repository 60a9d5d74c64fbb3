"""How many cards should share a model: latency against tensor parallelism, and what the links take of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import hardware_profiles
from experiments.article.table import article_chips
from experiments.shown.table_experiment import Answer, Flag, Names, check_counts, check_folder, deliver, records
from experiments.tried.instance import CARDS_IN_A_SERVER, Instance
from hardware_profiles.profile import HardwareProfile
from sim.physics import precision as formats
from sim.physics.collectives import fast_link
from sim.physics.parallelism import allowed_tensor_sizes
from workloads import models
from workloads.models.transformer import Transformer

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CARDS = (1, 2, 4, 8, 16)
MODELS = ("llama-2-13b", "llama-2-70b")
BATCHES = (1, 8, 32, 128)
PAIR = ("l20", "h20-96")
"""The two chips of the figure: PCIe against NVLink."""
HUES = {"l20": "#D55E00", "h20-96": "#0072B2"}

NOTES = (
    "Only splits within a server that hold weights, runtime and the KV cache of the batch compete for the best; the "
    "others, with 16 cards and with stages too, are in the csv with their times. Communication is all-reduce, "
    "gathering of logits, and hops between stages.",
    "Beyond the fast domain cards meet over PCIe, beyond the server over a network adapter each, 200 Gbit/s where the "
    "profile says nothing: sums are formed in the server, across, and collected again. Stages (PP) pass activations on "
    "only. Over PCIe and between servers the constants are unmeasured: there the best TP is a guess within a factor "
    "of two.",
)


def tp_scaling(
    *,
    model: Names = MODELS,
    chip: Names = (),
    precision: str = "w16a16",
    context: int = 1024,
    prompt: int = 1024,
    quick: Flag = False,
    out: Path | None = None,
    json: Flag = False,
) -> int:
    """Show latency against the number of cards that share a model, and the best number for each chip and batch.

    Parameters
    ----------
    model
        models, one or more [default: llama-2-13b llama-2-70b]
    chip
        chips, one or more [default: those of the article]
    precision
        number formats [default: w16a16]
    context
        tokens of each decoding sequence [default: 1024]
    prompt
        tokens of the prompt whose first token is timed [default: 1024]
    quick
        tables only, neither figure nor report
    out
        new folder for the results [default: under results/tp_scaling]
    json
        print one JSON object and nothing else
    """
    check_folder(out)
    table = run(model, chip or None, precision, context, prompt)
    asked = {"model": " ".join(model), "chip": " ".join(chip) or None, "precision": precision}
    best = best_splits(table)
    answers = {
        "Best TP within a server by latency, and the share of its time that communication takes": shown(best),
        f"{CARDS[-1]} cards for the largest model: TP over the network, or stages of TP": beyond(table),
    }
    answer = Answer(
        name="tp_scaling",
        question=f"How many cards should share {', '.join(model)}? {context:,} tokens each, prompts of {prompt:,}.",
        finding=headline(table),
        options=asked | {"context": context, "prompt": prompt},
        tables={"tp_scaling": table, "best": best},
        shown=[(title, rows) for title, rows in answers.items() if len(rows)],
        notes=NOTES,
        draw=lambda: _pictures(table),
        last=[headline(table)] if json else [],
        quick=quick,
    )
    return deliver(answer, out, json)


def run(
    names: Sequence[str] = MODELS,
    chips: Sequence[str] | None = None,
    precision: str = "w16a16",
    context: int = 1024,
    prompt: int = 1024,
    batches: Sequence[int] = BATCHES,
) -> pd.DataFrame:
    """Return a row for each model, chip, split and batch, and one for the prompt (phase "prefill", batch 1).

    Columns: seconds of an iteration, and of it what the links take; `holds` if it fits.

    Raises
    ------
    ValueError
        If a name is unknown or a chip cannot compute in this precision.
    """
    import pandas as pd

    check_counts(context=context, prompt=prompt)
    hardware = [hardware_profiles.load(name) for name in chips] if chips else list(article_chips().values())
    rows: list[dict[str, Any]] = []
    for model in map(models.load, names):
        for chip in hardware:
            for instance in _instances(model, chip, precision):
                rows += _rows(instance, context, prompt, batches)
    return pd.DataFrame(rows)


def best_splits(table: pd.DataFrame) -> pd.DataFrame:
    """Return the fastest TP within a server that holds, for each model, chip, phase and batch; of equals the fewest."""
    able = table[table["holds"] & table["one_server"]].sort_values(["seconds", "cards"], kind="stable")
    keys = ["model", "chip", "phase", "batch"]
    best = able.drop_duplicates(keys).sort_values(keys, kind="stable")
    return best.reset_index(drop=True)


def shown(best: pd.DataFrame) -> pd.DataFrame:
    """Return the best splits for people, a row for each model and chip."""
    return _for_people(best, ("model", "chip"), lambda row: f"{row['split']}: {_time(row)}")


def beyond(table: pd.DataFrame) -> pd.DataFrame:
    """Return the splits of the largest model over more than a server, a row for each chip and split."""
    most = table[table["cards"] == CARDS[-1]]
    largest = max(set(most["model"]), key=lambda name: models.load(name).parameters, default="")
    return _for_people(most[most["model"] == largest], ("chip", "split"), _time)


def _for_people(table: pd.DataFrame, keys: tuple[str, ...], text: Callable[[dict[str, Any]], str]) -> pd.DataFrame:
    """Return a row for each place, with what is to say of a prompt and of each batch beside one another."""
    import pandas as pd

    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for row in records(table):
        what = "prompt" if row["phase"] == "prefill" else f"batch {row['batch']}"
        place = tuple(str(row[key]) for key in keys)
        rows.setdefault(place, dict(zip(keys, place, strict=True)))[what] = text(row)
    return pd.DataFrame(list(rows.values())).fillna("-")


def _time(row: dict[str, Any]) -> str:
    return f"{1e3 * row['seconds']:.3g} ms, {100 * row['communication_share']:.0f} %"


def headline(table: pd.DataFrame) -> str:
    """Return whether more cards are always faster, in a sentence computed from the table."""
    slower, all_cases = slower_with_more(table)
    within = table.loc[table["one_server"], "communication_share"]
    return (
        f"Within a server more cards are somewhere slower than fewer in {len(slower)} of {len(all_cases)} cases; "
        f"communication takes up to {100 * within.max():.0f} % of the time"
    )


def slower_with_more(table: pd.DataFrame) -> tuple[list[tuple[str, str, str, int]], list[tuple[str, str, str, int]]]:
    """Return the cases (model, chip, phase, batch) in which a larger TP takes longer than a smaller, and all cases."""
    slower, every = [], []
    flat = table[table["one_server"]].sort_values("tensor")
    for case, group in flat.groupby(["model", "chip", "phase", "batch"], sort=False):
        model, chip, phase, batch = case
        key = (str(model), str(chip), str(phase), int(str(batch)))
        every.append(key)
        if (np.diff(group["seconds"].to_numpy(dtype=float)) > 0).any():
            slower.append(key)
    return slower, every


def plot(table: pd.DataFrame, model: str | None = None) -> Figure:
    """Return prompt and decoding time against TP over PCIe and over NVLink, with the share that the links take."""
    from sim.figures.style import new_figure, top_of_axes

    chosen = model or str(table["model"].iloc[0])
    batch = int(sorted(set(table["batch"]))[-2]) if table["batch"].nunique() > 1 else 1
    chips = [chip for chip in PAIR if (table["chip"] == chip).any()] or list(dict.fromkeys(table["chip"]))[:2]
    rows = table[(table["model"] == chosen) & table["one_server"] & table["chip"].isin(chips)]
    figure = new_figure(_finding(rows, batch), f"{chosen}; beside the points the share that communication takes")
    top = top_of_axes(figure)
    for place, (phase, size, name) in enumerate(
        (("prefill", 1, "first token of one prompt"), ("decode", batch, f"a token of {batch} sequences"))
    ):
        part = rows[(rows["phase"] == phase) & (rows["batch"] == size)]
        _panel(figure, (0.09 + 0.48 * place, top - 0.2), part, name)
    return figure


def _instances(model: Transformer, chip: HardwareProfile, precision: str) -> Iterator[Instance]:
    """Yield TP over each number of cards, and beyond the fast domain, or the server, also stages of it."""
    widest = chip.devices_per_domain if chip.devices_per_domain > 1 else CARDS_IN_A_SERVER
    allowed, loaded = allowed_tensor_sizes(model), formats.load(precision)
    for cards in CARDS:
        if cards in allowed:
            yield Instance(model, chip, loaded, cards)
        if cards > widest and widest in allowed:
            yield Instance(model, chip, loaded, widest, cards // widest)


def _rows(instance: Instance, context: int, prompt: int, batches: Sequence[int]) -> Iterator[dict[str, Any]]:
    iteration = instance.iteration
    widest = max(CARDS_IN_A_SERVER, instance.hardware.devices_per_domain)
    head = {
        "model": instance.model.name,
        "chip": instance.hardware.name,
        "cards": instance.cards,
        "tensor": instance.tensor,
        "pipeline": instance.pipeline,
        "split": instance.split,
        "one_server": instance.pipeline == 1 and instance.tensor <= widest,
        "fast_link": instance.tensor == 1 or fast_link(instance.hardware, instance.tensor) is not None,
    }

    def links(tokens: int, samples: int) -> float:
        messages = iteration.communication
        moved = messages.token_seconds(np.array(float(tokens))) + messages.gather_seconds(np.array(float(samples)))
        return float(moved)

    for batch in batches:
        group = -(-batch // instance.pipeline)
        seconds, moved = instance.tpot_seconds(context, batch), links(group, group)
        holds = instance.room(context, batch) >= batch
        yield {**head, "phase": "decode", "batch": batch, "seconds": seconds, **_share(moved, seconds), "holds": holds}
    seconds, moved = instance.ttft_seconds(prompt), links(prompt, 1)
    holds = instance.room(prompt) >= 1
    yield {**head, "phase": "prefill", "batch": 1, "seconds": seconds, **_share(moved, seconds), "holds": holds}


def _share(moved: float, seconds: float) -> dict[str, float]:
    return {"communication_seconds": moved, "communication_share": moved / seconds}


def _finding(rows: pd.DataFrame, batch: int) -> str:
    """Return how much faster the largest TP is than the smallest on each chip."""
    part = rows[(rows["phase"] == "prefill")].sort_values("tensor")
    said = []
    for chip, group in part.groupby("chip", sort=False):
        first, last = group.iloc[0], group.iloc[-1]
        speedup = float(first["seconds"]) / float(last["seconds"])
        share = 100 * float(last["communication_share"])
        said.append(
            f"{last['tensor'] // first['tensor']} times the cards answer a prompt {speedup:.1f} times as fast "
            f"on {chip} ({share:.0f} % communication)"
        )
    return "; ".join(said).replace(f"; {rows['tensor'].max()} times the cards answer a prompt", ",")


def _panel(figure: Figure, place: tuple[float, float], rows: pd.DataFrame, name: str) -> Axes:
    from sim.figures.style import MEDIUM, QUIET, SMALL, plain_axes, time_scale

    left, height = place
    axes = plain_axes(figure, left, 0.12, 0.39, height)
    time_scale(axes, "y", float(rows["seconds"].min()) / 1.5, float(rows["seconds"].max()) * 1.5)
    axes.set_xscale("log", base=2)
    ticks = sorted(set(rows["tensor"]))
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlim(min(ticks) / 1.2, max(ticks) * 1.9)
    for chip, group in rows.groupby("chip", sort=False):
        group, hue = group.sort_values("tensor"), HUES.get(str(chip), "#009E73")
        axes.plot(group["tensor"], group["seconds"], color=hue, marker="o", lw=1.6)
        for row in records(group)[1:]:
            label = f"{100 * row['communication_share']:.0f} %"
            axes.annotate(
                label, (row["tensor"], row["seconds"]), (3, 4), textcoords="offset points", size=SMALL, color=hue
            )
        end = group.iloc[-1]
        axes.annotate(
            str(chip),
            (end["tensor"], end["seconds"]),
            (5, -10),
            textcoords="offset points",
            size=SMALL,
            weight="bold",
            color=hue,
        )
    axes.set_title(name, size=MEDIUM, color=QUIET, loc="left")
    axes.set_xlabel("cards (TP)", size=MEDIUM, color=QUIET)
    return axes


def _pictures(table: pd.DataFrame) -> list[Any]:
    from experiments.shown.pictures import Picture

    pictures = []
    for model in dict.fromkeys(table["model"]):
        figure = plot(table, str(model))
        title = next(text.get_text().replace("\n", " ") for text in figure.texts if text.get_gid() == "title")
        sentence = f"Time against cards for {model}, over PCIe and over a fast link; axes are logarithmic."
        pictures.append(Picture(f"tp_scaling_{model}", figure, title, sentence))
    return pictures
