"""Which constants explain what was measured on one chip, and how far are they from rows they never saw?"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from experiments.scoreboard import aiconfigurator, client_document, clientfit, clients, tables
from experiments.scoreboard.client_document import Server
from experiments.scoreboard.clients import ClientRun
from experiments.scoreboard.fit import QUANTISE, TILE, UNGROUPED, Fit, fit, ungrouped
from experiments.scoreboard.groups import Found, Group
from experiments.scoreboard.kernels import quantise_of
from experiments.scoreboard.score import READERS
from experiments.shown.table_experiment import Flag
from hardware_profiles import load as load_hardware
from hardware_profiles.profile import HardwareProfile
from sim.physics import calibration
from sim.physics.efficiency import KIN, STACKS, Efficiency, generic
from sim.physics.roofline import Rate

if TYPE_CHECKING:
    import pandas as pd

TABLES = ("gemm_grid", "attention_grid", "moe_grid", "comm", "layer_ops", "attention_mixed")
"""What constants are fitted to."""

LICENCES = {
    "gemm_grid": "aiconfigurator-core 0.12.0, Apache-2.0",
    "attention_grid": "aiconfigurator-core 0.12.0, Apache-2.0",
    "moe_grid": "aiconfigurator-core 0.12.0, Apache-2.0",
    "comm": "aiconfigurator-core 0.12.0, Apache-2.0",
    "attention_mixed": "casys-kaist/LLMServingSim, MIT",
    "layer_ops": "microsoft/vidur and casys-kaist/LLMServingSim, MIT",
}
"""Where the canonical tables come from; a user's own file is named instead."""


def run(
    hardware: str = "a100-sxm-80",
    source: Annotated[str, Parameter(name="--from")] = "measured",
    *,
    stack: str | None = None,
    model: str | None = None,
    tp: int = 1,
    precision: str = "w16a16",
    system: str = "vllm-0.33",
    out: Path | None = None,
    json: Flag = False,
) -> int:
    """Fit the constants of one chip and write them as a TOML file for `--efficiency <file>`.

    Parameters
    ----------
    hardware
        chip, as the tables or this project name it, or the path of its .toml, whose rows go by its name
        [default: a100-sxm-80]
    source
        a folder of canonical tables, one such table, ``aiconfigurator`` for those in the installed package, or what a
        load generator saw of your server: the result of ``vllm bench serve --save-detailed``, aiperf
        (profile_export.jsonl), guidellm or inference-perf (per_request_lifecycle_metrics.json) [default: measured]
    stack
        of tables: whose kernels, vllm, trtllm or pytorch (eager, of 2023) [default: the first that the tables have]
    model
        of a server: model, or path of a .toml or config.json [default: the one that the file names]
    tp
        of a server: devices that share the model [default: 1]
    precision
        of a server: number format [default: w16a16]
    system
        of a server: as which system it serves, or the path of a system's .toml [default: vllm-0.33]
    out
        new file for the constants [default: CHIP-STACK.toml or CHIP-SYSTEM.toml here]
    json
        print one JSON object and nothing else

    Raises
    ------
    ValueError
        The source cannot be read, or says nothing about this chip.
    """
    if out is not None and out.exists():
        raise ValueError(f"--out is {out}, which exists already and is not overwritten; allowed: a new file")
    chip = load_hardware(hardware)
    if clients.is_result(Path(source)):
        return _of_server(chip, clients.read(Path(source)), Server(model, tp, precision, system), out, json=json)
    found, licences = _groups(chip, hardware, source)
    chosen = stack or next((name for name in STACKS if any(group.stack == name for group in found)), None)
    if chosen is None or not any(group.stack == chosen for group in found):
        raise ValueError(f"{source}: nothing was measured on {chip.title} with the kernels of {stack or 'any stack'}")
    fits = calibrated([group for group in found if group.stack == chosen or group.constant == "nccl"], chosen)
    path = out or Path(f"{chip.name}-{chosen}.toml")
    path.write_text(_document(chip, chosen, fits, licences), encoding="utf-8")
    _show(fits, path, json)
    return 0


def _of_server(chip: HardwareProfile, seen: ClientRun, server: Server, out: Path | None, *, json: bool) -> int:
    scenario = client_document.scenario(chip, seen, server)
    result = clientfit.fit(seen, scenario)
    path = out or Path(f"{chip.name}-{Path(server.system).stem}.toml")
    path.write_text(client_document.document(result, seen, scenario), encoding="utf-8")
    client_document.show(result, seen, scenario, path, json=json)
    return 0


def calibrated(groups: Sequence[Group], stack: str) -> list[Fit]:
    """Fit every constant that the groups of a kernel library, and of NCCL, tell of."""
    fits: list[Fit] = []
    base = generic(groups[0].chip, stack)
    for constant in dict.fromkeys(group.constant for group in groups if group.constant):
        mine = [group for group in groups if group.constant == constant]
        result = fit(constant, mine, base)
        base = result.apply(base, result.numbers)  # prompts read cached keys at the rate of decoding
        fits.append(result)
    return fits


def _groups(chip: HardwareProfile, hardware: str, source: str) -> tuple[list[Group], dict[str, str]]:
    path = Path(source)
    frames: dict[str, pd.DataFrame]
    if source == "aiconfigurator":
        frames, licences = aiconfigurator.read(chip), LICENCES
    elif path.is_file():
        name = tables.name_of(path)
        frames, licences = {name: tables.read_table(path, name)}, {name: path.name}
    else:
        frames, licences = tables.read(path), LICENCES
    found: Found = []
    for name in TABLES:
        if name in frames:
            frame = frames[name]
            rows = frame[frame["hw"].astype(str).map(lambda label: _is(label, chip))]
            found += READERS[name](rows.assign(hw=hardware))  # a chip of one's own is found by its path, not its name
    return [group for group in found if isinstance(group, Group) and group.constant], licences


def _is(label: str, chip: HardwareProfile) -> bool:
    return label.casefold() in (chip.name, *chip.aliases)


def _document(chip: HardwareProfile, stack: str, fits: list[Fit], licences: dict[str, str]) -> str:
    import tomli_w

    table: dict[str, Any] = {
        "title": f"{chip.title}, kernels of {stack}",
        "hardware": chip.name,
        "stack": stack,
        "date": datetime.date.today(),
    }
    if (rest := f"{chip.name}-{KIN.get(stack)}") in calibration.available():
        table["rest"] = rest
    for result in fits:
        median, p90, bias = (round(error, 2) for error in result.held_out_pct)
        entry = {
            "source": "; ".join(f"{n:,} rows of {name} ({licences[name]})" for name, n in result.rows.items()),
            "rows": sum(result.rows.values()),
            "held_out_median_pct": median,
            "held_out_p90_pct": p90,
            "held_out_bias_pct": bias,
        }
        table |= _entries(result, entry, generic(chip, stack))
        if TILE in result.names:
            tiles = [round(numbers[-1]) for numbers in (result.numbers, *result.fold_numbers)]
            parts = [{"tokens": tile} for tile in tiles[1:]]
            table[calibration.TILES] = {"tokens": tiles[0], "source": entry["source"], "folds": parts}
    return tomli_w.dumps(table)


def _entries(result: Fit, entry: dict[str, Any], base: Efficiency) -> dict[str, Any]:
    """Return a constant as it stands in the file, and the other kernel if one was fitted with it."""
    whole, *parts = (result.apply(base, numbers) for numbers in (result.numbers, *result.fold_numbers))
    constants = [result.constant]
    if result.names[-2:] == QUANTISE:
        constants.append(quantise_of(result.constant))
    if any(name.startswith(UNGROUPED) for name in result.names):
        constants.append(ungrouped(result.constant))
    return {
        constant: _numbers(constant, result, whole)
        | entry
        | {"folds": [_numbers(constant, result, each) for each in parts]}
        for constant in constants
    }


def _numbers(constant: str, result: Fit, constants: Efficiency) -> dict[str, Any]:
    """Return the numbers of a constant as they stand in the file, to five digits."""
    value = getattr(constants, constant)
    names: tuple[str, ...] = result.names
    if isinstance(value, Rate):
        unset = {field.name: field.default for field in fields(value) if field.name != "sharpness"}
        names = tuple(name for name, number in value.numbers.items() if number != unset.get(name))
    numbers: dict[str, Any] = {name: float(f"{getattr(value, name):.5g}") for name in names}
    if constant == "links" and value.pcie_measured:
        numbers["pcie_measured"] = True
    return numbers


def _show(fits: list[Fit], path: Path, json: bool) -> None:
    if json:
        import json as encoder

        rows = [
            {"constant": result.constant, "tables": list(result.rows), "rows": sum(result.rows.values())}
            | dict(zip(result.names, result.numbers, strict=True))
            | dict(
                zip(("held_out_median_pct", "held_out_p90_pct", "held_out_bias_pct"), result.held_out_pct, strict=True)
            )
            for result in fits
        ]
        print(encoder.dumps({"file": str(path), "constants": rows}))
        return
    for result in fits:
        numbers = ", ".join(f"{key} {value:.3g}" for key, value in zip(result.names, result.numbers, strict=True))
        median, p90, bias = result.held_out_pct
        evidence = ", ".join(f"{n} rows of {name}" for name, n in result.rows.items())
        print(f"{result.constant:24} {evidence:32} {numbers}")
        print(f"{'':24} held out: median {median:.1f} %, p90 {p90:.0f} %, bias {bias:+.1f} %")
    print(f"wrote {path}")
