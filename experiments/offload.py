"""What weights in the memory of the host cost against more cards: ZeRO-Inference for models that no card holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import hardware_profiles
from experiments.shown.table_experiment import Answer, Flag, Names, check_counts, check_folder, deliver, records
from experiments.tried.instance import BATCH_TOKENS, Instance, splits
from experiments.tried.streamed import SEATS, Server, Streamed, card_bytes, hiding, prompt_tokens_per_second
from hardware_profiles.profile import HardwareProfile
from sim.physics import precision as formats
from sim.physics.memory import weight_bytes_per_device
from sim.physics.parallelism import Parallelism, allowed_tensor_sizes
from sim.physics.placement import NVME_BYTES_PER_SECOND, Placement
from sim.physics.precision import Precision
from sim.physics.streaming import hiding_tokens
from workloads import models
from workloads.models.transformer import Transformer

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MODELS = ("gpt3-175b", "bloom-176b", "llama-3.1-405b", "mt-nlg-530b", "palm-540b")
CHIPS = ("h800-sxm",)
STREAMING_CARDS = (1, 8)
HOLDING_CARDS = (1, 2, 4, 8, 16, 32, 64, 128)
HOLD, HOST, KV_TOO, NVME = "on the cards", "on the host", "on the host, KV too", "on a drive"
HUES = {HOLD: "#009E73", HOST: "#D55E00", KV_TOO: "#0072B2", NVME: "#CC79A7"}

NOTES = (
    "Weights on the host: layers are brought over the host link of every card, each its shard, while the layer before "
    "computes; an iteration takes the longer of the two. KV too: all keys are read over the same link in every "
    f"iteration. On a drive: {NVME_BYTES_PER_SECOND / 1e9:g} GB/s for the server.",
    f"Batch: as many sequences as memory has room for, at most {SEATS}. Prompt tokens: iterations of prompts alone, as "
    "many as hide the transfer if their keys and values have room; "
    f"{BATCH_TOKENS:,} tokens where the cards hold the model.",
    "Published runs of ZeRO-Inference (RTX A6000, 30B to 176B in 4 bits) reach 63 to 87 % of the tokens per second "
    "that this model gives them: their copies come from memory that is not pinned.",
)


def offload(
    *,
    model: Names = MODELS,
    chip: Names = CHIPS,
    precision: str = "w16a16",
    context: int = 2048,
    prompt: int = 1024,
    quick: Flag = False,
    out: Path | None = None,
    json: Flag = False,
) -> int:
    """Compare weights that are streamed from the host with as many cards as hold them: latency, throughput, cards.

    Parameters
    ----------
    model
        models, one or more [default: gpt3-175b bloom-176b llama-3.1-405b mt-nlg-530b palm-540b]
    chip
        chips, one or more [default: h800-sxm]
    precision
        number formats [default: w16a16]
    context
        tokens of each decoding sequence [default: 2048]
    prompt
        tokens of the prompt whose first token is timed [default: 1024]
    quick
        tables only, neither figure nor report
    out
        new folder for the results [default: under results/offload]
    json
        print one JSON object and nothing else
    """
    check_folder(out)
    table, curves = run(model, chip, precision, context, prompt)
    asked = {"model": " ".join(model), "chip": " ".join(chip), "precision": precision}
    answer = Answer(
        name="offload",
        question=f"Stream the weights of a model that no card holds, or buy more cards? {context:,} tokens each.",
        finding=headline(table),
        options=asked | {"context": context, "prompt": prompt},
        tables={"offload": table, "throughput": curves},
        shown=[("Where the weights are", shown(table))],
        notes=NOTES,
        draw=lambda: _pictures(table, curves),
        quick=quick,
    )
    return deliver(answer, out, json)


def run(
    names: Sequence[str] = MODELS,
    chips: Sequence[str] = CHIPS,
    precision: str = "w16a16",
    context: int = 2048,
    prompt: int = 1024,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a row for each model, chip and way to keep the weights, and tokens per second and card by batch.

    Raises
    ------
    ValueError
        If a name is unknown, a chip cannot compute in this precision, or a model is too large for all splits.
    """
    import pandas as pd

    check_counts(context=context, prompt=prompt)
    rows, curves = [], []
    for shape in map(models.load, names):
        for hardware in map(hardware_profiles.load, chips):
            for where, server in _servers(shape, hardware, formats.load(precision), context):
                rows.append(_row(where, server, context, prompt))
                curves.append(_curve(where, server, context, rows[-1]["batch"]))
    return pd.DataFrame(rows), pd.concat(curves, ignore_index=True)


def headline(table: pd.DataFrame) -> str:
    """Return what streaming costs in time and in tokens per card, and what would hide it, in a sentence."""
    chip = table["chip"].iloc[0]
    mine = table[table["chip"] == chip]
    alone = mine[(mine["weights"] == HOST) & (mine["cards"] == mine.loc[mine["weights"] == HOST, "cards"].min())]
    held = mine[mine["weights"] == HOLD].set_index("model")
    faster = _span(alone.set_index("model")["tpot_1_seconds"] / held["tpot_1_seconds"], "{:,.0f}")
    best = mine[mine["weights"].isin([HOST, KV_TOO])].groupby("model")["tokens_per_second_per_card"].max()
    more = _span(held["tokens_per_second_per_card"] / best, "{:,.0f}")
    hides = int(alone["hiding_tokens"].min())
    most = int(mine.loc[mine["weights"].isin([HOST, KV_TOO]), "batch"].max())
    hidden = "hides" if most >= hides else "never hides"
    prompts = mine[mine["weights"].isin([HOST, KV_TOO])].groupby("model")["prompt_tokens_per_second_per_card"].max()
    return (
        f"{chip}: {_span(held['cards'], '{:.0f}')} cards that hold a model decode {faster} times as fast as one that "
        f"streams it, with {more} times the tokens per card; decoding {hidden} the transfer, which takes "
        f"{hides:,} tokens an iteration; on prompts alone a streaming card computes "
        f"{_span(prompts / held['prompt_tokens_per_second_per_card'], '{:.1f}')} times as many"
    )


def _span(values: Any, form: str) -> str:
    least, most = form.format(float(min(values))), form.format(float(max(values)))
    return least if least == most else f"{least}-{most}"


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table for people."""
    import pandas as pd

    return pd.DataFrame(
        {
            "model": table["model"],
            "chip": table["chip"],
            "weights": table["weights"],
            "cards": table["cards"].astype(str) + " (" + table["split"] + ")",
            "on a card [GB]": table["card_bytes"] / 1e9,
            "TTFT [s]": table["ttft_seconds"],
            "TPOT alone [s]": table["tpot_1_seconds"],
            "batch": table["batch"],
            "TPOT in it [s]": table["tpot_seconds"],
            "tokens/s": table["tokens_per_second"],
            "per card": table["tokens_per_second_per_card"],
            "prompt tokens/s per card": table["prompt_tokens_per_second_per_card"],
        }
    )


def plot(table: pd.DataFrame, curves: pd.DataFrame, model: str) -> Figure:
    """Return tokens per second and card against the batch, each line as far as memory reaches."""
    from sim.figures.labels import Label, label_lines
    from sim.figures.style import MEDIUM, QUIET, new_figure, plain_axes, top_of_axes

    mine, lines = table[table["model"] == model], curves[curves["model"] == model]
    figure = new_figure(_title(mine), f"{mine['chip'].iloc[0]}; lines end where memory does, or at {SEATS} sequences")
    axes = plain_axes(figure, 0.1, 0.13, 0.86, top_of_axes(figure) - 0.17)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    labels, drawn = [], {}
    for row in records(lines.drop_duplicates(["weights", "cards"])):
        where, cards = str(row["weights"]), int(row["cards"])
        if where == KV_TOO and cards > 1:
            continue  # a card gives as much however many there are
        group = lines[(lines["weights"] == where) & (lines["cards"] == cards)]
        points = group[["batch", "tokens_per_second_per_card"]].to_numpy(dtype=float)
        style = "-" if cards == 1 or where == HOLD else "--"
        axes.plot(points[:, 0], points[:, 1], color=HUES[where], lw=1.6, ls=style)
        axes.plot(*points[-1], color=HUES[where], marker="o", ms=4)
        name = f"{cards} cards, weights {where}" if cards > 1 else f"1 card, weights {where}"
        labels.append(Label(name, name, HUES[where], points))
        drawn[name] = [points]
    axes.set_xlim(1, SEATS)
    ticks = [2**power for power in range(9)]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlabel("sequences decoding", color=QUIET, size=MEDIUM)
    axes.set_ylabel("tokens per second and card", color=QUIET, size=MEDIUM)
    label_lines(axes, labels, drawn)
    return figure


def _title(mine: pd.DataFrame) -> str:
    """Return what streaming costs one model, in a sentence."""
    from sim.figures.words import three_digits

    held = mine[mine["weights"] == HOLD].iloc[0]
    streamed = mine[mine["weights"].isin([HOST, KV_TOO])]
    alone = streamed.iloc[0]
    prompts = streamed["prompt_tokens_per_second_per_card"].max() / held["prompt_tokens_per_second_per_card"]
    faster = alone["tpot_1_seconds"] / held["tpot_1_seconds"]
    tokens = three_digits(held["tokens_per_second_per_card"] / streamed["tokens_per_second_per_card"].max())
    cards = f"{held['cards']} cards that hold it"
    return (
        f"{held['model']}: {cards} decode {faster:,.0f} times as fast as one that streams it, "
        f"at most {tokens} times the tokens per card; "
        f"on prompts alone a card that streams does {prompts:.1f} times as many"
    )


def _servers(
    model: Transformer, hardware: HardwareProfile, number_formats: Precision, context: int
) -> Iterator[tuple[str, Server]]:
    """Yield the fewest cards that hold the model, and those that stream it."""
    yield HOLD, _smallest(model, hardware, number_formats, context)
    allowed = allowed_tensor_sizes(model)
    streaming = [cards for cards in STREAMING_CARDS if cards in allowed]
    for where, placement in ((HOST, Placement("host")), (KV_TOO, Placement("host", "host")), (NVME, Placement("nvme"))):
        for cards in streaming[:1] if where == NVME else streaming:
            server = Streamed(model, hardware, number_formats, cards, placement)
            if server.room(context) >= 1:
                yield where, server


def _smallest(model: Transformer, hardware: HardwareProfile, number_formats: Precision, context: int) -> Instance:
    """Return the fewest cards that hold the model and one sequence; of their splits the fastest."""
    for cards in HOLDING_CARDS:
        able = [one for one in splits(model, hardware, number_formats.name, cards) if one.room(context, SEATS) >= 1]
        if able:
            return min(able, key=lambda one: one.tpot_seconds(context))
    raise ValueError(
        f"model {model.name!r} does not fit {HOLDING_CARDS[-1]} x {hardware.title}; allowed: models that do"
    )


def _row(where: str, server: Server, context: int, prompt_tokens: int) -> dict[str, Any]:
    room = server.room(context, SEATS)
    batch = min(SEATS, room)
    tpot = server.tpot_seconds(context, batch)
    placement = server.iteration.placement
    at_once = max(prompt_tokens, min(hiding(server), room * context)) // prompt_tokens
    return {
        "model": server.model.name,
        "chip": server.hardware.name,
        "precision": server.formats.name,
        "weights": where,
        "cards": server.cards,
        "split": server.split,
        "card_bytes": card_bytes(server),
        "host_bytes": 0.0 if where == HOLD else weight_bytes_per_device(server.model, server.formats, Parallelism()),
        "room_sequences": room,
        "hiding_tokens": hiding_tokens(server.iteration) if placement.weights_from != "device" else 0,
        "ttft_seconds": server.ttft_seconds(prompt_tokens),
        "tpot_1_seconds": server.tpot_seconds(context),
        "batch": batch,
        "tpot_seconds": tpot,
        "tokens_per_second": batch / tpot,
        "tokens_per_second_per_card": batch / tpot / server.cards,
        "card_seconds_per_token": server.cards * tpot / batch,
        "prompts_at_once": at_once,
        "prompt_tokens_per_second_per_card": prompt_tokens_per_second(server, prompt_tokens, at_once) / server.cards,
    }


def _curve(where: str, server: Server, context: int, most: int) -> pd.DataFrame:
    import pandas as pd

    batches = np.unique(np.append(np.round(np.geomspace(1, most, 25)), most)).astype(int)
    rates = [batch / server.tpot_seconds(context, int(batch)) / server.cards for batch in batches]
    head = {"model": server.model.name, "chip": server.hardware.name, "weights": where, "cards": server.cards}
    return pd.DataFrame({**head, "batch": batches, "tokens_per_second_per_card": rates})


def _pictures(table: pd.DataFrame, curves: pd.DataFrame) -> list[Any]:
    from experiments.shown.pictures import Picture

    pictures = []
    for row in records(table.drop_duplicates(["model", "chip"])):
        part = table[(table["model"] == row["model"]) & (table["chip"] == row["chip"])]
        lines = curves[(curves["model"] == row["model"]) & (curves["chip"] == row["chip"])]
        figure = plot(part, lines, row["model"])
        sentence = f"What a card gives while {row['model']} decodes on {row['chip']}; both axes are logarithmic."
        pictures.append(Picture(f"offload_{row['model']}_{row['chip']}", figure, _title(part), sentence))
    return pictures
