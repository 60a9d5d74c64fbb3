"""The scenario that options describe."""

from __future__ import annotations

import hardware_profiles
from experiments.asked.options import Options
from sim.physics import calibration
from sim.scenario import Scenario
from workloads.trace import Trace


def scenario_of(options: Options, trace: Trace | None) -> Scenario:
    """Return the scenario of an arm, its policy aside; without a trace it serves to build the machine.

    Raises
    ------
    ValueError
        If the chip is unknown, or there are no constants of that level for it.
    """
    chip, level = hardware_profiles.load(str(options.hardware)), str(options.efficiency)
    try:
        constants = calibration.load(level, chip)
    except ValueError as error:
        raise ValueError(f"--efficiency is {level}: {error}") from None
    return Scenario(
        trace,
        hardware=str(options.hardware),
        model=str(options.model),
        precision=str(options.precision),
        tensor=int(options.tp or 1),
        pipeline=int(options.pp or 1),
        expert=int(options.ep or 1),
        data=int(options.dp or 1),
        utilisation=float(options.utilisation or 0),
        context=options.context,
        efficiency=constants,
    )
