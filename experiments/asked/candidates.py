"""What could serve: candidates read from a compact line, and the scenario of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import hardware_profiles
from sim import systems
from sim.figures.words import readable
from sim.physics import calibration
from sim.physics import precision as precisions
from sim.physics.parallelism import Parallelism
from sim.scenario import Scenario
from sim.scheduling.schedulers import SCHEDULERS

EXAMPLE = "l20:2:w16a16,h20:1:fp8,l20:2:system=vllm-0.33"
POSITIONS = ("chip", "tp", "precision")
KEYS = (*POSITIONS, "pp", "ep", "dp", "system", "policy", "cache", "utilisation")
POLICY = "inflight_batching"


@dataclass(frozen=True)
class Candidate:
    """One way to serve a model.

    Attributes
    ----------
    chip, tp, precision : cards that share the model (TP), and its number formats.
    pp, ep, dp : further ways to share it; see `sim.physics.parallelism.Parallelism`.
    system : the product, with its own policy, limits and overheads; None for a policy on a machine without any.
    policy, cache : without a system: the policy, and whether there is a prefix cache.
    utilisation : share of the memory that the server may use; None for 0.9, or what the system takes.
    """

    chip: str = "l20"
    tp: int = 2
    precision: str = "w16a16"
    pp: int = 1
    ep: int = 1
    dp: int = 1
    system: str | None = None
    policy: str = POLICY
    cache: bool = False
    utilisation: float | None = None

    @property
    def name(self) -> str:
        """The candidate in few words.

        >>> Candidate("h20-96", 1, "fp8").name, Candidate(system="vllm-0.33").name
        ('1 x h20-96 FP8, in-flight batching', '2 x l20 W16A16, vLLM 0.33')
        """
        how = readable(self.system or self.policy) + (" + cache" if self.cache and not self.system else "")
        split = f" ({self.split.words})" if self.cards > self.tp else ""
        return f"{self.cards} x {self.chip}{split} {self.precision.upper()}, {how}"

    @property
    def cards(self) -> int:
        """Cards of the replica."""
        return self.split.devices

    @property
    def split(self) -> Parallelism:
        """How the cards share the model."""
        return Parallelism(self.tp, self.pp, self.ep, self.dp)

    def scenario(self, model: str, efficiency: str = "generic", context: int | None = None) -> Scenario:
        """Return how it serves, without a trace.

        Raises
        ------
        ValueError
            If the system cannot do what is asked.
        """
        chip = hardware_profiles.load(self.chip)
        kernels = systems.load(self.system).kernels if self.system else None
        constants = calibration.load(efficiency, chip, kernels)
        if self.system is None:
            return Scenario(
                hardware=chip,
                model=model,
                precision=self.precision,
                tensor=self.tp,
                pipeline=self.pp,
                expert=self.ep,
                data=self.dp,
                policy=self.policy,
                prefix_cache=self.cache,
                utilisation=self.utilisation or 0.9,
                context=context,
                efficiency=constants,
            )
        whole = systems.scenario(
            self.system,
            None,
            hardware=chip,
            model=model,
            precision=self.precision,
            tensor=self.tp,
            context=context,
            utilisation=self.utilisation,
        )
        return replace(whole, efficiency=constants, pipeline=self.pp, expert=self.ep, data=self.dp)


def parse(text: str, base: Candidate | None = None) -> tuple[Candidate, ...]:
    """Read candidates with commas between; each is CHIP:TP:PRECISION and KEY=VALUE fields, colons between.

    What is left out is taken from `base`. Chips are checked here, whether they hold the model is not.

    Raises
    ------
    ValueError
        Naming the candidate, what is wrong, and what is allowed.

    >>> [one.name for one in parse("l20:4,system=vllm-0.33")]
    ['4 x l20 W16A16, in-flight batching', '2 x l20 W16A16, vLLM 0.33']
    """
    found = tuple(_candidate(part, base or Candidate()) for part in text.split(","))
    twice = next((one for one in found if found.count(one) > 1), None)
    if twice:
        raise ValueError(f"--candidates has {twice.name} twice; allowed: each once, as in {EXAMPLE!r}")
    return found


def _candidate(text: str, base: Candidate) -> Candidate:
    shown = f"--candidates, {text.strip()!r}"
    given: dict[str, str] = {}
    for place, part in enumerate(text.strip().split(":")):
        key, equals, value = part.strip().partition("=")
        if not equals:
            if place >= len(POSITIONS) or list(given) != list(POSITIONS[:place]):
                raise ValueError(f"{shown}: {part!r} has no place; allowed: CHIP:TP:PRECISION, then KEY=VALUE")
            key, value = POSITIONS[place], key
        if key not in KEYS or key in given:
            what = "is given twice" if key in given else "is unknown"
            raise ValueError(f"{shown}: {key!r} {what}; allowed: {', '.join(KEYS)}, as in {EXAMPLE!r}")
        if not value:
            raise ValueError(f"{shown}: {key} is empty; allowed: a value, as in {EXAMPLE!r}")
        given[key] = value
    try:
        return _checked(replace(base, **{key: _READ[key](value) for key, value in given.items()}))
    except ValueError as error:
        raise ValueError(f"{shown}: {error}") from None


def _checked(candidate: Candidate) -> Candidate:
    precisions.load(candidate.precision)
    _ = candidate.split  # refuses what cannot be divided so
    if candidate.system is not None:
        systems.load(candidate.system)
        if candidate.policy != POLICY or candidate.cache:
            raise ValueError("policy or cache beside a system; allowed: one of them, a system has its own")
    elif candidate.policy not in SCHEDULERS:
        raise ValueError(f"policy is {candidate.policy!r}; allowed: {', '.join(SCHEDULERS)}")
    return candidate


def _count(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) >= 1):
        raise ValueError(f"{name} is {text!r}; allowed: a whole number, at least 1")
    return int(text)


def _cache(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError(f"cache is {text!r}; allowed: on, off")
    return text == "on"


def _utilisation(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise ValueError(f"utilisation is {text!r}; allowed: above 0, at most 1")
    return share


_READ: dict[str, Callable[[str], Any]] = {
    "chip": lambda text: hardware_profiles.load(text).name,
    "tp": partial(_count, "tp"),
    "pp": partial(_count, "pp"),
    "ep": partial(_count, "ep"),
    "dp": partial(_count, "dp"),
    "precision": str,
    "system": str,
    "policy": str,
    "cache": _cache,
    "utilisation": _utilisation,
}


def total_watts(candidate: Candidate) -> float:
    """Return what all cards may draw [W]; NaN where the profile does not say."""
    watts = hardware_profiles.load(candidate.chip).power_watts
    return candidate.cards * watts if watts else float("nan")


def parse_prices(texts: Sequence[str]) -> dict[str, float]:
    """Read ``CHIP=PRICE`` items, the price of a card for an hour.

    Raises
    ------
    ValueError
        If a chip is unknown, or a price is not a positive number.

    >>> parse_prices(["l20=0.9,h20=1.8"])
    {'l20': 0.9, 'h20-96': 1.8}
    """
    prices: dict[str, float] = {}
    for text in (part for given in texts for part in given.split(",")):
        chip, _, number = text.strip().partition("=")
        try:
            price = float(number)
        except ValueError:
            price = -1.0
        if not 0 < price < 1e9:
            raise ValueError(f"--price is {text.strip()!r}; allowed: CHIP=PRICE of a card for an hour, as in l20=0.9")
        prices[hardware_profiles.load(chip).name] = price
    return prices
