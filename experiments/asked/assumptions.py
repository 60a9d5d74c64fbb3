"""What a decision rests on: assumptions about hardware, memory and requests, and between which values they lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from sim.physics.band import ABSOLUTE, HIGH, INTERVALS, LOW, constants_at
from sim.physics.efficiency import generic
from sim.physics.iteration import IterationModel
from sim.physics.totals import Totals
from sim.scenario import Scenario
from sim.uncertainty import at
from workloads.declared import with_max_tokens
from workloads.synthetic.arrivals import gamma
from workloads.synthetic.chat import chat
from workloads.trace import Integers, Segments, Trace

SYSTEM_PROMPT = 512


@dataclass(frozen=True)
class Case:
    """Everything that is assumed; the default is the base.

    Attributes
    ----------
    constant, position : one uncertain constant of `sim.physics.band.INTERVALS`, and where in its distribution it is, 0
        to 1; None for all where they are.
    utilisation : what share of the memory the server may use, in units of the base: the rest is reserved.
    reply : length of replies in units of the base.
    spread : exponent on the ratio of every length to the mean: 0 makes all requests alike, 1 is the base.
    burstiness : shape of the gaps between arrivals, as in ``vllm bench serve``: below 1 arrivals bunch, 1 is Poisson.
    shared : tokens at the beginning of every prompt that all have in common; prompts stay as long as they are.
    """

    constant: str | None = None
    position: float = 0.5
    utilisation: float = 1.0
    reply: float = 1.0
    spread: float = 1.0
    burstiness: float = 1.0
    shared: int = SYSTEM_PROMPT

    def scenario(self, base: Scenario) -> Scenario:
        """Return how the base serves under this case."""
        changed = replace(base, utilisation=min(0.99, base.utilisation * self.utilisation))
        if self.constant is None:
            return changed
        return at(changed, *constants_at(base.machine.model.efficiency, {self.constant: self.position}))

    def trace(self, requests: int, rate: float, seed: int, context: int) -> Trace:
        """Return the requests of one replication; equal seeds differ in nothing but what the case changes."""
        rng = np.random.default_rng(np.random.SeedSequence(seed))
        trace = chat(rng, requests, rate, system_prompt_tokens=SYSTEM_PROMPT, context_tokens=context)
        if self.burstiness != 1.0:
            own = np.random.default_rng(np.random.SeedSequence([seed, 1]))
            trace = replace(trace, arrival_seconds=gamma(own, requests, rate, burstiness=self.burstiness))
        prompt = np.minimum(_spread(trace.prompt_tokens, self.spread), context - 1)
        reply = np.rint(self.reply * _spread(trace.output_tokens, self.spread)).astype(np.int64)
        reply = np.clip(reply, 1, context - prompt)
        segments = _shared(prompt, self.shared)
        changed = replace(trace, prompt_tokens=prompt, output_tokens=reply, max_tokens=reply, segments=segments)
        return with_max_tokens(changed, "auto")


@dataclass(frozen=True)
class Assumption:
    """One thing that is assumed, and between which values it may lie.

    Attributes
    ----------
    name : of the row.
    field : of `Case`; "position" for a constant of the cost model.
    low, high, base : values.
    logarithmic : whether the middle between two values is their geometric mean.
    unit : words in front of a value.
    """

    name: str
    field: str
    low: float
    high: float
    base: float
    logarithmic: bool = False
    unit: str = ""

    def case(self, value: float) -> Case:
        """Return the base with this assumption at a value."""
        if self.field == "position":
            return Case(constant=self.name, position=value)
        if self.field == "shared":
            return Case(shared=round(value))
        values: dict[str, float] = {self.field: value}
        return replace(Case(), **values)  # type: ignore[arg-type]

    def between(self, one: float, other: float) -> float:
        """Return the middle between two values."""
        return float(np.sqrt(one * other)) if self.logarithmic else (one + other) / 2

    def words(self, value: float) -> str:
        """Return a value in words.

        >>> ASSUMPTIONS["PCIe"].words(0.95), ASSUMPTIONS["shared prompt"].words(1024)
        ('x3', 'tokens 1024')
        """
        if self.field != "position":
            return f"{self.unit}{value:.3g}" if value < 1000 else f"{self.unit}{value:.0f}"
        shown = INTERVALS[self.name].at(value)
        if self.name not in ABSOLUTE:
            return f"x{shown:.2g}"
        return f"{1e6 * shown:.3g} us" if ABSOLUTE[self.name] == "launch_seconds" else f"{shown:.2g} of peak"


def _constants() -> dict[str, Assumption]:
    """Return every uncertain constant of the cost model between the ends of its 90 % interval."""
    middle = generic().gemm
    found = {}
    for name, interval in INTERVALS.items():
        value = getattr(middle, ABSOLUTE[name]) if name in ABSOLUTE else 1.0
        share = np.log(value / interval.low) / np.log(interval.high / interval.low)
        if not interval.logarithmic:
            share = (value - interval.low) / (interval.high - interval.low)
        found[name] = Assumption(name, "position", LOW, HIGH, LOW + float(share) * (HIGH - LOW))
    return found


ASSUMPTIONS: Mapping[str, Assumption] = MappingProxyType(
    _constants()
    | {
        one.name: one
        for one in (
            Assumption("memory for the server", "utilisation", 0.9, 1.05, 1.0, False, "x"),
            Assumption("reply length", "reply", 0.7, 1.4, 1.0, True, "x"),
            Assumption("spread of lengths", "spread", 0.0, 1.3, 1.0, False, "power "),
            Assumption("burstiness", "burstiness", 0.25, 4.0, 1.0, True, "shape "),
            Assumption("shared prompt", "shared", 0, 1024, SYSTEM_PROMPT, False, "tokens "),
        )
    }
)
"""By name. Constants: see `sim.physics.band.INTERVALS`; the others are what planners are usually off by."""


def touches(assumption: Assumption, model: IterationModel) -> bool:
    """Tell whether a constant changes the time of any iteration of a machine; what is no constant may always matter."""
    if assumption.field != "position":
        return True
    prompt = Totals(tokens=512, samples=1, prefill_tokens=512, prefill_pairs=512 * 513 / 2)
    decode = Totals(tokens=32, samples=32, decode_sequences=32, decode_kv_tokens=32 * 1024)
    both = replace(prompt, tokens=544, samples=33, decode_sequences=32, decode_kv_tokens=32 * 1024)

    def seconds(position: float) -> list[float]:
        constants, host = constants_at(model.efficiency, {assumption.name: position})
        moved = replace(model, efficiency=constants, host_seconds=model.host_seconds * host)
        return [float(moved.seconds(totals)) for totals in (prompt, decode, both)]

    return seconds(assumption.low) != seconds(assumption.high)


def _spread(tokens: Integers, exponent: float) -> Integers:
    """Return lengths whose ratios to the mean are raised to a power, the mean kept, at least 1."""
    if exponent == 1.0:
        return tokens
    mean = tokens.mean()
    raised = (tokens / mean) ** exponent
    return np.asarray(np.maximum(1, np.rint(mean * raised / raised.mean())), dtype=np.int64)


def _shared(prompt_tokens: Integers, shared: int) -> Segments | None:
    """Return the first tokens of every prompt as one text; None if nothing is shared."""
    if not shared:
        return None
    count = len(prompt_tokens)
    nothing = np.zeros(count, dtype=np.int64)
    return Segments(np.arange(count + 1), nothing, nothing, np.minimum(prompt_tokens, shared))
