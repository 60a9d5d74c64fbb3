"""Constants fitted to a run of a server, as a calibration file and as a report."""

from __future__ import annotations

import datetime
import json as encoder
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.scoreboard.clientfit import TERMS, ClientFit, at
from experiments.scoreboard.clients import ClientRun
from hardware_profiles.profile import HardwareProfile
from sim import systems
from sim.physics.efficiency import RATES, generic
from sim.physics.roofline import Rate
from sim.scenario import Scenario

LEAST_FRONT_END_SECONDS = 1e-3
"""Where a system says that a request costs nothing before it is scheduled; a factor needs something to start from."""


@dataclass(frozen=True)
class Server:
    """What served the requests; see `experiments.calibrate.run`."""

    model: str | None
    tp: int
    precision: str
    system: str


def scenario(chip: HardwareProfile, seen: ClientRun, server: Server) -> Scenario:
    """Return the server at generic constants, with the requests that it was sent.

    Raises
    ------
    ValueError
        No model is named, or one of the names is unknown.
    """
    model = server.model or seen.model
    if model is None:
        raise ValueError(f"{seen.trace.name}: results of {seen.tool} do not name the model; allowed: --model NAME")
    found = systems.scenario(
        systems.load(server.system),
        seen.trace,
        hardware=chip,
        model=model,
        precision=server.precision,
        tensor=server.tp,
    )
    front_end = max(found.front_end_seconds, LEAST_FRONT_END_SECONDS)
    return replace(found, efficiency=generic(chip), front_end_seconds=front_end)


def document(fit: ClientFit, seen: ClientRun, start: Scenario) -> str:
    """Return the calibration file: every constant that this server uses, and the engine's time for an iteration."""
    import tomli_w

    assert isinstance(start.hardware, HardwareProfile)
    source = f"{fit.requests:,} requests of {seen.trace.name} ({seen.tool}), replayed"
    fitted, *parts = (at(start, factors) for factors in (fit.factors, *fit.fold_factors))
    table: dict[str, Any] = {
        "title": f"{start.hardware.title}, as seen by {seen.tool}",
        "hardware": start.hardware.name,
        "date": datetime.date.today(),
        "server": {
            "requests": fit.requests,
            "factors": dict(zip(TERMS, fit.factors, strict=True)),
            "front_end_seconds": fitted.front_end_seconds,
            "held_out_ttft_pct": [round(error, 2) for error in fit.ttft_held_out_pct],
            "held_out_tpot_pct": [round(error, 2) for error in fit.tpot_held_out_pct],
        },
        "host": {
            "seconds": fitted.host_seconds,
            "source": source,
            "folds": [{"seconds": part.host_seconds} for part in parts],
        },
    }
    for name in used(start):
        numbers = [_numbers(each, name) for each in (fitted, *parts)]
        table[name] = {**numbers[0], "source": source, "rows": fit.requests, "folds": numbers[1:]}
    return tomli_w.dumps(table)


def used(server: Scenario) -> tuple[str, ...]:
    """Return the names of the rates that the server's operators have."""
    model = server.machine.model
    kinds = {kind: rate for kind, (rate, _) in model.rates.items() if kind != "experts" or model.model.mixture}
    mixed = [model.efficiency.mixed_attention] if model.attention.mixed_slopes else []
    rates = [*kinds.values(), model.attention.prefill_rate, model.attention.decode_rate, *mixed]
    return tuple(name for name in RATES if any(getattr(model.efficiency, name) is rate for rate in rates))


def show(fit: ClientFit, seen: ClientRun, start: Scenario, path: Path, *, json: bool) -> None:
    """Print what was found."""
    fitted = at(start, fit.factors)
    found = {"host_seconds": fitted.host_seconds, "front_end_seconds": fitted.front_end_seconds}
    errors = {"ttft": fit.ttft_held_out_pct, "tpot": fit.tpot_held_out_pct}
    if json:
        factors = dict(zip(TERMS, fit.factors, strict=True))
        held_out = {f"held_out_{name}_pct": list(values) for name, values in errors.items()}
        row = {"file": str(path), "requests": fit.requests, "factors": factors, **found, **held_out}
        print(encoder.dumps(row))
        return
    print(f"{fit.requests:,} requests of {seen.trace.name} ({seen.tool}), {seen.trace.duration_seconds:.0f} s")
    for name, factor, *folds in zip(TERMS, fit.factors, *fit.fold_factors, strict=True):
        print(f"{name:12} x {factor:.3g}  [{min(folds):.3g}, {max(folds):.3g} without a fifth of the requests]")
    print(f"host {1e6 * fitted.host_seconds:.0f} us an iteration, front end {1e3 * fitted.front_end_seconds:.3g} ms")
    for name, (median, p90, bias) in errors.items():
        print(f"{name.upper()} of requests left out: median {median:.1f} %, p90 {p90:.0f} %, bias {bias:+.1f} %")
    print("Host and launches cost an iteration alike; a factor that one run does not tell stays near 1.")
    print(f"wrote {path}")


def _numbers(server: Scenario, name: str) -> dict[str, float]:
    assert server.efficiency is not None
    rate: Rate = getattr(server.efficiency, name)
    return {field: float(f"{number:.5g}") for field, number in rate.numbers.items()}
