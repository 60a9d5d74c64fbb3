"""How many cards does a model need: by the article's rule, and with room for KV cache and a time to answer in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hardware_profiles
from experiments.article.table import COLUMNS, FEWEST, SizeClass, article_chips, cards_by_rule, size_classes
from experiments.shown.table_experiment import Flag, check_folder, deliver
from experiments.tried.instance import Instance, eight_bit, splits
from hardware_profiles.profile import HardwareProfile
from sim.physics import precision as formats
from workloads import models
from workloads.models.transformer import Transformer

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COUNTS = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of cards that are tried."""


@dataclass(frozen=True)
class Need:
    """What an instance has to do.

    Attributes
    ----------
    context, concurrency : sequences that decode at once, and the tokens of each with its prompt.
    prompt : tokens of the prompt whose first token is timed.
    slo_ttft, slo_tpot : objectives [s].
    """

    context: int = 4096
    concurrency: int = 1
    prompt: int = 1024
    slo_ttft: float = 2.0
    slo_tpot: float = 0.2

    def __post_init__(self) -> None:
        """Refuse what cannot be asked."""
        for name, value in asdict(self).items():
            if not value > 0:
                raise ValueError(f"--{name.replace('_', '-')} is {value}; allowed: numbers above 0")
        if self.prompt > self.context:
            raise ValueError(f"--prompt is {self.prompt}; allowed: at most the context, {self.context} tokens")


def sizing(
    *,
    model: str | None = None,
    chip: str | None = None,
    precision: str | None = None,
    context: int = 4096,
    concurrency: int = 1,
    prompt: int = 1024,
    slo_ttft: float = 2.0,
    slo_tpot: float = 0.2,
    quick: Flag = False,
    out: Path | None = None,
    json: Flag = False,
) -> int:
    """Find the smallest instance for every class of models and every chip, beside what the article recommends.

    With --model: every chip for this model, ranked by price, then by power.

    Parameters
    ----------
    model
        a model, or the path of a .toml or config.json [default: the classes of the article]
    chip
        one chip, or the path of a .toml [default: the article's; with --model every one known]
    precision
        with --model: w16a16, fp8, w8a8, w8a16, w4a16 ... [default: w16a16, and 8 bits as the chip has them]
    context
        tokens of each sequence, prompt and reply together [default: 4096]
    concurrency
        sequences that decode at once [default: 1, the article's]
    prompt
        tokens of the prompt whose first token is timed [default: 1024]
    slo_ttft
        objective for the first token [s; default: 2, the article's]
    slo_tpot
        objective for each further token [s; default: 0.2, MLPerf Inference Llama-2-70B server]
    quick
        tables only, neither figure nor report
    out
        new folder for the results [default: under results/sizing]
    json
        print one JSON object and nothing else
    """
    check_folder(out)
    need = Need(context, concurrency, prompt, slo_ttft, slo_tpot)
    asked = {"model": model, "chip": chip, "precision": precision, **asdict(need)}
    if model is None and precision is not None:
        raise ValueError(f"--precision is {precision!r} without --model; allowed: both, or neither")
    from experiments.shown import sizing_answer

    answer = (
        sizing_answer.article(run(need, chip), need, asked, quick)
        if model is None
        else sizing_answer.own_case(rank(need, model, chip, precision), need, asked, quick)
    )
    return deliver(answer, out, json)


def run(need: Need | None = None, chip: str | None = None) -> pd.DataFrame:
    """Return the article's table computed anew: a row for every class, column (fp16, 8bit) and chip.

    Raises
    ------
    ValueError
        If `chip` is unknown.
    """
    import pandas as pd

    need, chips = need or Need(), _article_chips(chip)
    rows = [
        _article_row(size_class, column, name, hardware, need)
        for size_class in size_classes()
        for column in COLUMNS
        for name, hardware in chips.items()
    ]
    return pd.DataFrame(rows)


def rank(need: Need, model: str, chip: str | None = None, precision: str | None = None) -> pd.DataFrame:
    """Return the smallest instance of each chip for one model, best first.

    Those that meet the objectives come first; among them the cheapest by the hour, in the
    middle of the prices known, then, where no price is known,
    those that draw the least power.
    """
    import pandas as pd

    shape = models.load(model)
    names = [chip] if chip else hardware_profiles.available()
    rows, problem = [], ""
    for hardware in map(hardware_profiles.load, names):
        for name in [precision] if precision else ["w16a16", eight_bit(hardware)]:
            try:
                rows.append(_row(shape, hardware, name, need))
            except ValueError as error:
                if chip:
                    raise
                problem = str(error)
    if not rows:
        formats.load(str(precision))  # the name itself may be the mistake
        raise ValueError(f"no known chip serves {shape.title} in {precision}: {problem}")
    table = pd.DataFrame(rows)
    table["usd_per_hour_mean"] = (table["usd_per_hour"] + table["usd_per_hour_high"]) / 2
    order = ["meets", "usd_per_hour_mean", "watts", "cards", "tpot_seconds"]
    table = table.sort_values(order, ascending=[False, True, True, True, True], kind="stable", na_position="last")
    return table.reset_index(drop=True)


def _article_chips(chip: str | None) -> dict[str, HardwareProfile]:
    """Return the article's chips, or the one asked for, by the article's name if it has one."""
    if chip is None:
        return article_chips()
    asked = hardware_profiles.load(chip)
    known = {name: hardware for name, hardware in article_chips().items() if hardware.name == asked.name}
    return known or {asked.name: asked}


def _article_row(
    size_class: SizeClass, column: str, chip: str, hardware: HardwareProfile, need: Need
) -> dict[str, Any]:
    width = COLUMNS[column]
    article = size_class.cards.get((column, chip))
    by_rule = cards_by_rule(size_class.upper_billion, width, hardware.memory.capacity_bytes)
    name = "w16a16" if column == "fp16" else eight_bit(hardware)
    row = _row(models.load(size_class.model), hardware, name, need)
    bandwidth = by_rule * hardware.memory.bandwidth_bytes_per_second
    return {
        "class": size_class.name,
        "column": column,
        "article_chip": chip,
        "article_cards": article,
        "rule_cards": by_rule,
        "rule_floor_seconds": size_class.upper_billion * 1e9 * width / bandwidth,
        "reproduced": None if article is None else article == by_rule,
        **row,
        "differs": article is not None and article != row["cards"],
        "why": _why(size_class, article, row, need),
    }


def _why(size_class: SizeClass, article: int | None, row: dict[str, Any], need: Need) -> str:
    """Return why our number of cards is not the article's; empty where it is, or where the article has none."""
    if article is None or article == row["cards"]:
        return ""
    if not row["cards"]:
        return f"up to {COUNTS[-1]} cards do not meet the objectives"
    if row["cards"] < article:
        billion = models.load(size_class.model).parameters / 1e9
        if row["cards"] < FEWEST:
            return "one card is enough; the article counts from two"
        if billion < 0.95 * size_class.upper_billion:
            return f"{size_class.model} has {billion:.0f}B parameters, not the class's {size_class.upper_billion:g}B"
        return "fewer hold it and answer in time"
    if row["holding_cards"] > article:
        return f"no room for {need.concurrency} x {need.context:,} tokens of KV cache beside weights and runtime"
    return str(row["missed_by_fewer"])


def _row(model: Transformer, hardware: HardwareProfile, name: str, need: Need) -> dict[str, Any]:
    """Return the smallest instance that holds what is needed, and the smallest that is also fast enough."""
    holding = list(_holding(model, hardware, name, need))
    fast = next((best for best in holding if not missed(best, need)), None)
    shown = fast or (holding[-1] if holding else None)
    price = hardware.usd_per_hour or (float("nan"), float("nan"))
    numbers = _numbers(shown, need) if shown else {}
    cards = shown.cards if shown else 0
    return {
        "model": model.name,
        "chip": hardware.name,
        "precision": name,
        "holding_cards": holding[0].cards if holding else 0,
        "missed_by_fewer": missed(holding[-2], need) if len(holding) > 1 and fast else "",
        "cards": fast.cards if fast else 0,
        "meets": fast is not None,
        "split": shown.split if shown else "",
        **{key: numbers.get(key, float("nan")) for key in _NUMBERS},
        "usd_per_hour": cards * price[0] if cards else float("nan"),
        "usd_per_hour_high": cards * price[1] if cards else float("nan"),
        "watts": cards * hardware.power_watts if hardware.power_watts and cards else float("nan"),
    }


_NUMBERS = ("room_sequences", "ttft_seconds", "tpot_batch_1_seconds", "tpot_seconds")


def _numbers(instance: Instance, need: Need) -> dict[str, float]:
    return {
        "room_sequences": float(instance.room(need.context, need.concurrency)),
        "ttft_seconds": instance.ttft_seconds(need.prompt),
        "tpot_batch_1_seconds": instance.tpot_seconds(need.context),
        "tpot_seconds": instance.tpot_seconds(need.context, need.concurrency),
    }


def missed(instance: Instance, need: Need) -> str:
    """Return which objectives an instance misses, in words; empty if none."""
    found = (
        ("TTFT", instance.ttft_seconds(need.prompt), need.slo_ttft),
        ("TPOT", instance.tpot_seconds(need.context, need.concurrency), need.slo_tpot),
    )
    return "; ".join(
        f"{name} of {instance.cards} cards is {seconds:.3g} s, above {limit:g} s"
        for name, seconds, limit in found
        if seconds > limit
    )


def _holding(model: Transformer, hardware: HardwareProfile, name: str, need: Need) -> Iterator[Instance]:
    """Yield, for each number of cards that holds what is needed, the split that decodes fastest, up to one in time."""
    for cards in COUNTS:
        able = [
            (bool(missed(instance, need)), instance.tpot_seconds(need.context, need.concurrency), instance)
            for instance in splits(model, hardware, name, cards)
            if instance.room(need.context, need.concurrency) >= need.concurrency
        ]
        if able:
            late, _, best = min(able, key=lambda one: one[:2])
            yield best
            if not late:
                return


def plot(table: pd.DataFrame) -> Figure:
    """Return the heatmap of `run`, or the bars of `rank`."""
    from experiments.shown import sizing_answer

    return sizing_answer.heatmap(table) if "class" in table else sizing_answer.bars(table)
