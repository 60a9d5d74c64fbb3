"""How arms, numbers and findings read in a title, a label, or an alternative text."""

from __future__ import annotations

from collections.abc import Mapping
from math import floor, isfinite, isnan, log10

from sim import systems
from sim.results.intervals import Interval
from sim.results.runs import Runs

CACHED = " + prefix cache"
"""How the name of an arm ends whose prefix cache is on (`sim.scenario.arms`)."""

NEGLIGIBLE_PERCENT = 2.0
"""Smaller differences are not given as a number in a title."""

_NAMES = {"prefill_first": "prefill-first", "inflight_batching": "in-flight batching"}


def policy_of(arm: str) -> str:
    """Return the policy in the name of an arm.

    >>> policy_of("prefill_first + prefix cache")
    'prefill_first'
    """
    return arm.removesuffix(CACHED)


def readable(arm: str) -> str:
    """Return the name of an arm as prose.

    >>> readable("inflight_batching + prefix cache")
    'in-flight batching + cache'
    >>> readable("vllm-0.33")
    'vLLM 0.33'
    """
    policy = policy_of(arm)
    if policy in systems.available():
        return systems.load(policy).title
    return _NAMES.get(policy, policy.replace("_", " ")) + (" + cache" if arm.endswith(CACHED) else "")


def three_digits(value: float) -> str:
    """Return a number with three significant digits, never in powers of ten.

    >>> three_digits(0.012345), three_digits(99.96), three_digits(12345)
    ('0.0123', '100', '12,300')
    """
    if not isfinite(value) or value == 0:
        return f"{value:g}"
    places = 2 - floor(log10(abs(value)))
    places = 2 - floor(log10(abs(round(value, places))))  # rounding 99.96 makes it one digit longer
    return f"{round(value, places):,.{max(0, places)}f}"


def duration(seconds: float) -> str:
    """Return a time with three significant digits, in milliseconds below a second.

    >>> duration(0.2117), duration(1.9), duration(0.0001)
    ('212 ms', '1.90 s', '0.100 ms')
    """
    return f"{three_digits(seconds)} s" if round(seconds, 4) >= 1 else f"{three_digits(1000 * seconds)} ms"


def percent(share: float) -> str:
    """Return a share in whole percent.

    >>> percent(0.312), percent(0.002), percent(0.0)
    ('31 %', '<1 %', '0 %')
    """
    return "<1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def percentile_name(level: float) -> str:
    """Return the name of a percentile.

    >>> percentile_name(0.999)
    'p99.9'
    """
    return f"p{100 * level:g}"


def capitalised(sentence: str) -> str:
    """Return the sentence with a capital first letter and the rest as it is; names such as vLLM stay.

    >>> capitalised("no decode waits"), capitalised("vLLM 0.33 cuts")
    ('No decode waits', 'vLLM 0.33 cuts')
    """
    return sentence if sentence[1:2].isupper() else sentence[:1].upper() + sentence[1:]


def listed(parts: list[str]) -> str:
    """Join the parts of an enumeration.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def with_bounds(interval: Interval, unit: str, scale: float = 1.0) -> str:
    """Return ``1.94 s [1.81, 2.11]``, or what stands for a number that would mean nothing.

    >>> with_bounds(Interval(0.212, 0.204, 0.221, "t over 5 replications", 2000), "ms", 1e3)
    '212 ms [204, 221]'
    >>> with_bounds(Interval(float("nan"), float("nan"), float("nan"), "n too small: ...", 20), "s")
    'n too small'
    """
    if isnan(interval.estimate):
        return "n too small" if "too small" in interval.method else "-"
    value = f"{three_digits(interval.estimate * scale)} {unit}".rstrip()
    if interval.refused:
        return value if interval.samples == 1 else f"{value} [n too small]"
    return f"{value} [{three_digits(interval.low * scale)}, {three_digits(interval.high * scale)}]"


def verdict(runs: Runs) -> str:
    """Return whether a replica keeps up, in a word."""
    if not runs.verdict.stable:
        return "overloaded"
    return "unclear" if runs.verdict.reason.startswith("too few") else "stable"


def overload(runs: Runs) -> str:
    """Return what an overloaded replica has instead of percentiles.

    A backlog that grew before and then stays is named as such.
    """
    found = runs.verdict
    if found.growth_per_second <= 0:
        return f"overloaded: {found.reason} of {found.horizon_seconds:,.0f} s"
    return f"overloaded: backlog {found.growth_per_second:+.2g} req/s over {found.horizon_seconds:,.0f} s"


Bounds = Mapping[str, tuple[float, float]]


def policy_finding(values: Mapping[str, float], what: str, where: str, bounds: Bounds | None = None) -> str:
    """Say in one sentence what the policy changes, at equal cache; with one policy, how large the value is.

    Parameters
    ----------
    values : arm -> latency [s].
    what : its name, as "p99 ITL".
    where : at what load, as "at 70 % load".
    bounds : arm -> interval [s], NaN if there is none; a sentence about intervals that overlap or are missing says so.
        (Arms that served the same traces may differ for sure although their intervals overlap.)

    Examples
    --------
    >>> policy_finding({"prefill_first": 0.2, "inflight_batching": 0.1}, "p99 ITL", "at 70 % load")
    'In-flight batching cuts p99 ITL by 50 % at 70 % load'
    """
    plain = {arm: value for arm, value in values.items() if not arm.endswith(CACHED)} or dict(values)
    if len(plain) == 1:
        ((arm, value),) = plain.items()
        return capitalised(f"{readable(arm)}: {what} is {duration(value)} {where}")
    if len(plain) == 2:
        base, other = plain
        return capitalised(
            f"{readable(other)} {_change(what, base, other, values)} {where}{_doubt(base, other, bounds)}"
        )
    best, worst = min(plain, key=plain.__getitem__), max(plain, key=plain.__getitem__)
    gain = f"{readable(best)} has the lowest {what}, {_percent(plain[worst], plain[best])} % below {readable(worst)}"
    return capitalised(f"{gain} {where}{_doubt(best, worst, bounds)}")


def cache_finding(values: Mapping[str, float], what: str, bounds: Bounds | None = None) -> str:
    """Say in one sentence what the prefix cache changes under each policy; empty if no arm has both.

    >>> cache_finding({"prefill_first": 2.0, "prefill_first + prefix cache": 1.0}, "p99 TTFT")
    'The prefix cache cuts p99 TTFT by 50 % (prefill-first)'
    """
    said: list[tuple[str, str]] = []
    for arm in values:
        if arm + CACHED in values:
            verb, amount = _change(what, arm, arm + CACHED, values).rsplit(" by ", 1)
            doubt = _doubt(arm, arm + CACHED, bounds).replace(" (", ", ").rstrip(")")
            said.append((verb, f"{amount} ({readable(arm)}{doubt})"))
    if not said:
        return ""
    amounts = [amount for _, amount in said]
    if len({verb for verb, _ in said}) == 1:
        return f"The prefix cache {said[0][0]} by {listed(amounts)}"
    return "The prefix cache " + listed([f"{verb} by {amount}" for verb, amount in said])


def _change(what: str, base: str, other: str, values: Mapping[str, float]) -> str:
    ratio = values[other] / values[base]
    if abs(100 * (ratio - 1)) < NEGLIGIBLE_PERCENT:
        return f"changes {what} by less than {NEGLIGIBLE_PERCENT:g} %"
    if ratio >= 2:
        return f"multiplies {what} by {ratio:.2g}"
    return f"{'cuts' if ratio < 1 else 'raises'} {what} by {_percent(values[base], values[other])} %"


def _percent(base: float, other: float) -> str:
    """Return how much two values differ, without decimals unless that would say 0 or 100."""
    percent = abs(100 * (other / base - 1))
    return f"{percent:.0f}" if 1 <= percent < 99 else f"{percent:.2g}" if percent < 1 else f"{percent:.3g}"


def _doubt(one: str, other: str, bounds: Bounds | None) -> str:
    if bounds is None:
        return ""
    (low, high), (other_low, other_high) = bounds[one], bounds[other]
    if not all(map(isfinite, (low, high, other_low, other_high))):
        return " (interval unknown)"
    return "" if high < other_low or other_high < low else " (intervals overlap)"
