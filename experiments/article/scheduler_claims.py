"""Whether the article's claims about schedulers held here, in words computed from the paired differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.tried.comparison import SATURATED, Comparison

if TYPE_CHECKING:
    import pandas as pd

FIRST_TOKEN = (("TTFT", 0.5), ("TTFT", 0.99), ("mean_ttft_seconds", None))
LAST_TOKEN = (("E2E", 0.5), ("E2E", 0.99), ("mean_end_to_end_seconds", None))
GOODPUT = (("goodput_share", None),)
WORK = (("busy_share", None), ("gpu_seconds_per_request", None))
MARGIN = 0.01  # of all requests: a loss of goodput that surely is smaller leaves the balance
RULE = (
    "A difference is shown where the 95 % interval of a paired difference excludes zero (each interval by itself); "
    "first- and last-token latency are judged by mean, median and p99: one shown and none against it. Mixing balances "
    "if the last token is shown to come sooner and the goodput surely falls by less than 1 % of the requests."
)
NAMES = {
    "mean_ttft_seconds": "mean TTFT",
    "mean_end_to_end_seconds": "mean E2E",
    "goodput_share": "goodput",
    "gpu_seconds_per_request": "GPU-seconds per request",
    "busy_share": "GPU busy",
}
OPPOSITE = {"lower": "higher", "higher": "lower"}


@dataclass(frozen=True)
class Claim:
    """A claim of the article about one pair of arms, and what became of it.

    Attributes
    ----------
    says : the claim, in a clause.
    scope : what both arms have in common, a policy or a cache.
    answer : at which loads it held, with the effect, in words.
    held : whether it held at one load at least and was refuted at none.
    held_at : the loads at which it held [requests/s].
    """

    says: str
    scope: str
    answer: str
    held: bool
    held_at: tuple[float, ...] = ()

    def __str__(self) -> str:
        """Return the claim and its fate as one sentence."""
        return f"{self.says} ({self.scope}): {self.answer}."


def claims(comparison: Comparison) -> list[Claim]:
    """Return the article's claims with what the data say, for every pair of policies that tells."""
    table = comparison.differences
    if not (table.effect == "policy").any():
        return []  # the article's claims are about policies
    found = []
    scopes = ("no cache", "prefix cache") if _shares(comparison) else ("no cache",)
    for scope in scopes:
        pair = table[(table.effect == "policy") & (table.within == scope)]
        first = {load: _direction(pair, load, FIRST_TOKEN) for load in _loads(comparison)}
        last = {load: _direction(pair, load, LAST_TOKEN) for load in _loads(comparison)}
        balance = {load: _balance(last[load], _row(pair, load, *GOODPUT[0])) for load in last}
        for says, verdicts, quantity in (
            ("Prefill first optimises the first-token latency", _judged(first, "higher"), FIRST_TOKEN[-1:]),
            ("Prefill first worsens the last-token latency", _judged(last, "lower"), LAST_TOKEN[-1:]),
            ("In-flight mixing balances first- and last-token latency", balance, (*LAST_TOKEN[-1:], *GOODPUT)),
        ):
            found.append(_claim(comparison, pair, says, scope, verdicts, tuple(name for name, _ in quantity)))
    if not _shares(comparison):
        answer = "cannot be told: the prompts of this workload share nothing that the cache could find"
        return [*found, Claim("Prefix sharing saves GPU work", "either policy", answer, False)]
    for policy in ("prefill_first", "inflight_batching"):
        pair = table[(table.effect == "cache") & (table.within == policy)]
        first = {load: _direction(pair, load, FIRST_TOKEN) for load in _loads(comparison)}
        busy = {load: _direction(pair, load, WORK) for load in _loads(comparison)}
        says = "Prefix sharing brings the first token sooner"
        found.append(_claim(comparison, pair, says, policy, _judged(first, "lower"), ("mean_ttft_seconds",)))
        found.append(_saved_work(comparison, pair, policy, _judged(busy, "lower")))
    return found


def _shares(comparison: Comparison) -> bool:
    return any(section.prefix_hit_share > 0 for cell in comparison.cells.values() for section in cell.sections)


def _loads(comparison: Comparison) -> list[float]:
    return [load.requests_per_second for load in comparison.loads]


def _row(table: pd.DataFrame, load: float, metric: str, level: float | None) -> Any:
    """Return the row of one number of a pair of arms at one load; its columns are attributes."""
    same = (table.load == load) & (table.metric == metric)
    return next(table[same & (table.level.isna() if level is None else table.level == level)].itertuples())


def _direction(table: pd.DataFrame, load: float, metrics: tuple[tuple[str, float | None], ...]) -> str:
    """Return `lower`, `higher` (the second arm, shown and uncontradicted), `mixed`, `same` or `unknown`."""
    lower = higher = known = False
    for metric, level in metrics:
        row = _row(table, load, metric, level)
        known |= bool(np.isfinite(row.low))
        lower |= bool(row.high < 0)
        higher |= bool(row.low > 0)
    if lower and higher:
        return "mixed"
    return "lower" if lower else "higher" if higher else "same" if known else "unknown"


def _judged(directions: dict[float, str], claimed: str) -> dict[float, str]:
    words = {claimed: "holds", OPPOSITE[claimed]: "does not hold: the opposite is shown", "mixed": "holds in part only"}
    words |= {"same": "no difference shown", "unknown": "cannot be told"}
    return {load: words[direction] for load, direction in directions.items()}


def _balance(last: str, goodput: Any) -> str:
    """Mixing balances where the last token comes sooner and as many requests are answered in time, or nearly."""
    if last == "unknown" or np.isnan(goodput.low):
        return "cannot be told"
    if goodput.low <= -MARGIN and goodput.high < 0:
        return "does not hold: fewer requests are answered within the objectives"
    if last != "lower":
        return "no difference shown" if last == "same" else "does not hold: the last token comes no sooner"
    return "holds" if goodput.low > -MARGIN else "goodput is too uncertain to tell"


def _claim(
    comparison: Comparison,
    pair: pd.DataFrame,
    says: str,
    scope: str,
    verdicts: dict[float, str],
    quantities: tuple[str, ...],
) -> Claim:
    words = set(verdicts.values())
    held = "holds" in words and not any(word.startswith("does not hold") for word in words)
    held_at = tuple(load for load, word in verdicts.items() if word == "holds")
    return Claim(says, scope, _answer(comparison, pair, verdicts, quantities), held, held_at)


def _answer(comparison: Comparison, pair: pd.DataFrame, verdicts: dict[float, str], quantities: tuple[str, ...]) -> str:
    """Return which verdict applies to which loads, each with the effect there."""
    parts = []
    for verdict in dict.fromkeys(verdicts.values()):
        loads = [load for load, word in verdicts.items() if word == verdict]
        effects = [effect for quantity in quantities if (effect := _effect(pair, loads, quantity))]
        detail = f" ({', '.join(effects)})" if effects else _why_not(pair, loads, verdict)
        parts.append(f"{verdict} {_range(comparison, loads, list(verdicts))}{detail}")
    return "; ".join(parts)


def _saved_work(comparison: Comparison, pair: pd.DataFrame, policy: str, verdicts: dict[float, str]) -> Claim:
    row = _row(pair, np.inf, SATURATED, None)
    change = f"GPU-seconds per request {signed(row.percent, row.percent_low, row.percent_high)} when saturated"
    saved = bool(row.difference < 0 if np.isnan(row.low) else row.high < 0)
    if np.isnan(row.low):
        answer = f"{change} (one run, no interval)"
    else:
        answer = f"{'holds' if saved else 'does not hold' if row.low > 0 else 'no difference shown'}: {change}"
    below = _answer(comparison, pair, verdicts, ("gpu_seconds_per_request", "busy_share"))
    return Claim("Prefix sharing saves GPU work", policy, f"{answer}; otherwise {below}", saved)


def _effect(pair: pd.DataFrame, loads: list[float], quantity: str) -> str:
    rows = [_row(pair, load, quantity, None) for load in loads]
    percents = [float(row.percent) for row in rows if np.isfinite(row.percent)]
    if not percents:
        return ""
    low, high = _plus(min(percents)), _plus(max(percents))
    second = {"policy": "in-flight", "cache": "cached"}[str(pair.effect.iloc[0])]
    return f"{second} {NAMES[quantity]} {low if low == high else f'{low} to {high}'} %"


def _why_not(pair: pd.DataFrame, loads: list[float], verdict: str) -> str:
    if verdict != "cannot be told":
        return ""
    reasons = pair[pair.load.isin(loads)].method.dropna()
    return " (overloaded)" if reasons.str.contains("overloaded").any() else " (n too small)"


def signed(percent: float, low: float = np.nan, high: float = np.nan) -> str:
    """Return a change with its interval.

    >>> signed(-38.04, -41.2, -35.1), signed(190.0)
    ('-38 % [-41, -35]', '+190 %')
    """
    return f"{_plus(percent)} %" + ("" if np.isnan(low) else f" [{_plus(low)}, {_plus(high)}]")


def _plus(percent: float) -> str:
    """Return a signed number of two digits, or a whole one."""
    if abs(percent) < 0.005:
        return "0"
    return f"{percent:+.2g}" if abs(percent) < 10 else f"{percent:+.0f}"


def _range(comparison: Comparison, loads: list[float], every: list[float]) -> str:
    """Return the loads in words, neighbours joined: "at 30 and 70-95 % load"."""
    groups: list[list[float]] = []
    for load in loads:
        if groups and every.index(load) == every.index(groups[-1][-1]) + 1:
            groups[-1].append(load)
        else:
            groups.append([load])
    by_rate = {load.requests_per_second: load for load in comparison.loads}
    if comparison.recorded:
        names = {rate: f"{load.speed:g}" for rate, load in by_rate.items()}
    else:
        names = {rate: f"{100 * load.share_of_capacity:.0f}" for rate, load in by_rate.items()}
    text = [names[group[0]] + (f"-{names[group[-1]]}" if len(group) > 1 else "") for group in groups]
    joined = " and ".join([", ".join(text[:-1]), text[-1]] if len(text) > 1 else text)
    return f"at speed {joined}" if comparison.recorded else f"at {joined} % load"
