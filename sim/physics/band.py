"""How far a time may be off on a chip that nobody calibrated: constants drawn from intervals, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from sim.physics.efficiency import Efficiency, Links
from sim.physics.iteration import IterationModel, Totals
from sim.physics.roofline import CACHED, Floats, Rate

COMPUTE = (0.50, 0.97)
MEMORY = (0.70, 0.98)
LAUNCH_SECONDS = (0.5e-6, 25e-6)
"""Where the constants of matrix products lie on the measured GPUs: reached parts of peak and bandwidth, and launch [s].

Ranges over six GPUs (aiconfigurator-core 0.12.0, Apache-2.0): compute .61-.91, memory .77-.97, launch .65-23 us; wider
here, since the next GPU may be outside.
"""

SPREAD = {"experts": 2.5, "prefill_attention": 1.8, "decode_attention": 1.6, "mixed_attention": 1.6, "elementwise": 4.0}
"""Factor by which the constants of other operators are off either way; 8-bit kernels share that of their kind.

Chosen so that the band holds most measurements of a chip that is left out (`experiments.scoreboard.coverage`): kernels
differ between libraries as much as between chips. Reached parts stay below 1, except in the cache (elementwise).
"""

HOST_FACTOR = 2.0
LINKS_FACTOR = 1.5
PCIE_FACTOR = 3.0
"""The same for the engine's time, for links like NVLink, and over PCIe, where datasheets are off by 3 to 10 times."""


@dataclass(frozen=True)
class Band:
    """What lies between the 5th and the 95th percentile of the draws [s], shape of the totals."""

    low: Floats
    high: Floats


def band(model: IterationModel, totals: Totals, samples: int, rng: np.random.Generator) -> Band:
    """Return between which times an iteration lies with 90 % of the constants that are plausible.

    Equal generators give equal constants whatever the model and the totals, so that differences between two chips or
    two batches are not blurred by the draws (common random numbers).

    Parameters
    ----------
    model : with the constants in the middle; those of a calibrated operator are drawn all the same.
    samples : draws.
    """
    if samples < 2:
        raise ValueError(f"samples={samples}; allowed are 2 and more")
    times = [
        replace(model, efficiency=constants, host_seconds=model.host_seconds * host).seconds(totals)
        for constants, host in draws(model.efficiency, samples, rng)
    ]
    low, high = np.percentile(np.array(times), [5, 95], axis=0)
    return Band(low, high)


def draws(centre: Efficiency, samples: int, rng: np.random.Generator) -> Iterator[tuple[Efficiency, float]]:
    """Yield constants and a factor on the engine's own time, `samples` of each."""
    for _ in range(samples):
        gemm = _drawn_gemm(centre.gemm, rng)
        factors = {kind: _factor(rng, spread) for kind, spread in SPREAD.items()}
        launches = _factor(rng, 2.0)
        rates: dict[str, Any] = {"gemm": gemm}
        for field in fields(centre):
            rate = getattr(centre, field.name)
            if isinstance(rate, Rate) and field.name != "gemm":
                kind = field.name.removesuffix("_8bit")
                if kind in factors:
                    rates[field.name] = _scaled(rate, factors[kind], launches, CACHED if kind == "elementwise" else 1.0)
                else:  # other matrix products are off as the 16-bit ones are
                    rates[field.name] = _like(rate, centre.gemm, gemm)
        fast, pcie = _factor(rng, LINKS_FACTOR), _factor(rng, PCIE_FACTOR)
        links = _scaled_links(centre.links, fast, pcie)
        yield replace(centre, **rates, links=links), _factor(rng, HOST_FACTOR)


def _drawn_gemm(rate: Rate, rng: np.random.Generator) -> Rate:
    low, high = np.log(LAUNCH_SECONDS)
    launch = float(np.exp(rng.uniform(low, high)))
    compute, memory = float(rng.uniform(*COMPUTE)), float(rng.uniform(*MEMORY))
    return replace(rate, launch_seconds=launch, compute=compute, memory=memory)


def _factor(rng: np.random.Generator, spread: float) -> float:
    return float(spread ** rng.uniform(-1.0, 1.0))


def _scaled(rate: Rate, factor: float, launches: float, most: float) -> Rate:
    compute, memory = min(1.0, rate.compute * factor), min(most, rate.memory * factor)
    return replace(rate, launch_seconds=rate.launch_seconds * launches, compute=compute, memory=memory)


def _like(rate: Rate, before: Rate, after: Rate) -> Rate:
    """Return a rate changed in the proportions of another."""
    launch = rate.launch_seconds * after.launch_seconds / before.launch_seconds if before.launch_seconds else 0.0
    compute = min(1.0, rate.compute * after.compute / before.compute)
    return replace(
        rate, launch_seconds=launch, compute=compute, memory=min(1.0, rate.memory * after.memory / before.memory)
    )


def _scaled_links(links: Links, fast: float, pcie: float) -> Links:
    rate = links.pcie_bytes_per_second
    return replace(
        links,
        one_shot_seconds=links.one_shot_seconds / fast,
        one_shot=min(1.0, links.one_shot * fast),
        ring_seconds=links.ring_seconds / fast,
        ring=min(1.0, links.ring * fast),
        pcie_seconds=links.pcie_seconds / pcie,
        pcie_bytes_per_second=rate and rate * pcie,
    )
