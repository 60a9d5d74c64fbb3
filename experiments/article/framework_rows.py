"""The article's framework table beside products that were simulated, and what those of today have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments.article.finding import DOES_NOT_HOLD, HOLDS, article
from experiments.article.framework_checks import SYSTEMS, capabilities_verdict
from experiments.shown.table_experiment import records
from sim import systems
from sim.systems import CAPABILITIES

if TYPE_CHECKING:
    import pandas as pd

TODAY = ("vllm-0.33", "tensorrt-llm", "sglang")


def article_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Return the article's framework table with a verdict for each row, and what the products of today have."""
    import pandas as pd

    rows = []
    for row in article()["rows"]:
        verdict, remarks = capabilities_verdict(row["capabilities"])
        if row.get("measure") == "first_token":
            verdict, found = first_token(table)
            remarks = [found, *remarks]
        said = "; ".join(f"{systems.load(SYSTEMS[name]).title}: {text}" for name, text in row["says"].items())
        rows.append(
            {
                "row": row["title"],
                "the article": said,
                "verdict": verdict,
                "found": "; ".join(remarks) or "as it says",
                "today": _today(row["capabilities"]),
            }
        )
    return pd.DataFrame(rows)


def first_token(table: pd.DataFrame) -> tuple[str, str]:
    """Return whether prefill-first answered sooner and ended later than mixing, as engines, and the times."""
    found = {row["system"]: row for row in records(table) if row["as"] == "engine"}
    mixing, first = (found.get(name) for name in SYSTEMS.values())
    if mixing is None or first is None:
        return "not decidable: both products of that date are needed", "not compared"
    sooner = first["mean_ttft_seconds"] < mixing["mean_ttft_seconds"]
    later = first["mean_end_to_end_seconds"] > mixing["mean_end_to_end_seconds"]
    times = (
        f"mean TTFT {first['mean_ttft_seconds']:.3g} s with vLLM, {mixing['mean_ttft_seconds']:.3g} s with "
        f"TensorRT-LLM; last token {first['mean_end_to_end_seconds']:.3g} s and "
        f"{mixing['mean_end_to_end_seconds']:.3g} s, host overheads included"
    )
    if sooner and later:
        return HOLDS, times
    reasons = ((sooner, "first tokens come no sooner"), (later, "last ones no later"))
    wrong = [text for is_so, text in reasons if not is_so]
    return f"{DOES_NOT_HOLD}: {' and '.join(wrong)}", times


def _today(capabilities: Sequence[str]) -> str:
    products = [systems.load(name) for name in TODAY]
    if not capabilities:
        mixing = [product.title for product in products if product.rules.policy != "prefill_first"]
        return f"prompts and decodes run mixed, as simulated: {_who(mixing)}"
    said = []
    for name in capabilities:
        having = [product.title for product in products if product.has(name)]
        said.append(f"{CAPABILITIES[name]}: {_who(having)}")
        if having:
            lacking = [(one.title, one.capabilities[name].checked) for one in products if not one.has(name)]
            said += [f"{title}: {checked}" for title, checked in lacking if checked]
    return "; ".join(said)


def _who(titles: list[str]) -> str:
    return "all" if len(titles) == len(TODAY) else ", ".join(titles) or "none"
