"""Constants of the cost model that explain measured rows best, and how far they are from rows they never saw."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from experiments.scoreboard.groups import Floats, Group
from experiments.scoreboard.kernels import quantise_of
from experiments.scoreboard.score import errors_pct
from hardware_profiles.profile import Link
from sim.physics.calibration import FOLDS
from sim.physics.efficiency import DECODE_RATES, PREFILL_RATES, RATES, Efficiency, generic
from sim.physics.roofline import CACHED, most_memory

RESIDUAL_SCALE = 0.1
"""Relative error from which rows count less and less (soft L1): tables have kernels that switch algorithms."""

DECODE_SCALE = 0.03
"""The same for decoding attention, whose libraries choose between a dozen kernels by batch and context: the typical row
counts, not the mean of what they do at the edges."""

LEAST_ROWS = 20

STEP, WEIGHT_STEP = (1e-13, 1e-6), (1e-16, 1e-9)
"""Between which times a step is sought, and that of a weight of an expert [s]; the least is none."""

EXPERTS = tuple(name for name in RATES if name.startswith("experts"))

TILE = "tile_tokens"

QUANTISE = ("quantise_memory", "quantise_step_seconds")
"""Reached bandwidth of the pass that quantises and its time for a row, fitted together with the products behind it."""

STEPPING = ("gemm_8bit", "gemm_block", "gemm_4bit", "gemm_narrow_weights", "experts_8bit", "experts_narrow_weights")
"""Products whose kernels do not split what they sum over, so that its length shows in their time, and experts, of
which some pad each one's rows to a large tile. Those of 16 bits do neither: a step fitted to them is at most 0.3 ns and
moves no median error on rows left out by half a percent."""

UNGROUPED = "ungrouped_"
"""What the names of the numbers begin with that are fitted to ungrouped heads, together with grouped ones."""

Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Form:
    """What is fitted of one constant: where the numbers start, their bounds, and the constants they make.

    `scale` : relative error from which rows count less and less.
    """

    names: tuple[str, ...]
    start: Numbers
    low: Numbers
    high: Numbers
    apply: Callable[[Efficiency, Numbers], Efficiency]
    scale: float = RESIDUAL_SCALE


@dataclass(frozen=True)
class Fit:
    """One fitted constant.

    Attributes
    ----------
    constant, names : field of `Efficiency`, and the numbers it has.
    numbers, fold_numbers : fitted to all rows, and without each part in turn.
    rows : measured rows, by table.
    held_out_pct : median, 90th percentile and signed median of the error on the parts left out [%].
    apply : puts numbers into constants.
    """

    constant: str
    names: tuple[str, ...]
    numbers: Numbers
    fold_numbers: tuple[Numbers, ...]
    rows: dict[str, int]
    held_out_pct: tuple[float, float, float]
    apply: Callable[[Efficiency, Numbers], Efficiency]


def fit(constant: str, groups: Sequence[Group], base: Efficiency) -> Fit:
    """Return the constant that explains the groups best, by least squares on the logarithm of the time.

    Tables weigh alike however many rows they have: benchmarks of the same kernels differ by more than their rows.

    Parameters
    ----------
    groups : rows of this constant, with folds.
    base : all other constants.

    Raises
    ------
    ValueError
        Too few rows.
    """
    rows = dict.fromkeys((group.table for group in groups), 0)
    for group in groups:
        rows[group.table] += len(group.measured_seconds)
    measured = np.concatenate([group.measured_seconds for group in groups])
    if len(measured) < LEAST_ROWS:
        raise ValueError(f"{constant}: {len(measured)} measured rows; at least {LEAST_ROWS} are needed")
    form = form_of(constant, groups)
    parts_of_rows = np.concatenate([group.folds for group in groups if group.folds is not None])
    kept = [parts_of_rows != part for part in range(-1, FOLDS)]  # no row is in part -1
    everything, *parts = (_solve(form, groups, base, mask) for mask in kept)
    times = np.empty_like(measured)
    for mask, numbers in zip(kept[1:], parts, strict=True):
        times[~mask] = _times(groups, form.apply(base, numbers))[~mask]
    return Fit(constant, form.names, everything, tuple(parts), rows, errors_pct(times, measured), form.apply)


def form_of(constant: str, groups: Sequence[Group]) -> Form:
    """Return what can be fitted of a constant from such rows."""
    if constant == "links":
        return _pcie_form() if all(group.goals[0] is None for group in groups) else _fast_link_form(groups[0].stack)
    if constant == "nccl":
        return _nccl_form(groups[0].chip.scale_up)
    if constant in DECODE_RATES:
        return _decode_form(constant, groups)
    if constant in PREFILL_RATES:
        return _prefill_form(constant)
    if constant == "mixed_attention":
        return _mixed_form()
    if constant.startswith("gemm") and quantise_of(constant) in RATES and _quantise(constant, groups):
        return _quantising_form(constant)
    return _rate_form(constant, memory_only=constant == "elementwise")


def _rate_form(constant: str, *, memory_only: bool) -> Form:
    """Launch, reached parts and sharpness of a `Rate`; arithmetic is left alone where it never binds."""
    assert constant in RATES
    rate = getattr(generic(), constant)
    names: tuple[str, ...] = ("launch_seconds", "memory", *(("cached",) if constant == "elementwise" else ()))
    if not memory_only:
        names = ("launch_seconds", "compute", "memory", "sharpness")
    if constant in STEPPING:
        names = (*names, "step_seconds")
    if constant in EXPERTS:
        names = (*names, "elsewhere")

    def apply(constants: Efficiency, numbers: Numbers) -> Efficiency:
        fitted = replace(getattr(constants, constant), **dict(zip(names, numbers, strict=True)))
        return replace(constants, **{constant: fitted})

    spans = {
        "launch_seconds": (rate.launch_seconds, 1e-7, 3e-4),
        "compute": (rate.compute, 0.02, 1.0),
        "memory": (rate.memory, 0.02, most_memory(constant)),
        "sharpness": (2.0, 1.0, 20.0),
        "step_seconds": (1e-12, *WEIGHT_STEP) if constant in EXPERTS else (1e-9, *STEP),
        "elsewhere": (0.3, 1e-4, 2.0),
        "cached": (rate.cached, 1.0, 2 * CACHED),
    }
    start, low, high = zip(*(spans[name] for name in names), strict=True)
    return Form(names, start, low, high, apply)


def _quantise(constant: str, groups: Sequence[Group]) -> bool:
    """Whether the time of the pass that quantises is in these rows."""
    base = generic()
    passed: dict[str, Any] = {quantise_of(constant): replace(base.quantise_8bit, memory=CACHED)}
    faster = replace(base, **passed)
    return any(bool(np.any(group.seconds(faster) != group.seconds(base))) for group in groups)


def _quantising_form(constant: str) -> Form:
    """All of a `Rate`, and the pass before but its launch: of both launches, only their sum shows."""
    rate_form, before = _rate_form(constant, memory_only=False), quantise_of(constant)

    def apply(constants: Efficiency, numbers: Numbers) -> Efficiency:
        *rate, memory, step = numbers
        fitted = rate_form.apply(constants, tuple(rate))
        passed = replace(getattr(constants, before), memory=memory, step_seconds=step, sharpness=1.0)
        return replace(fitted, **{before: passed})

    start = (*rate_form.start, generic().quantise_8bit.memory, 1e-9)
    low, high = (*rate_form.low, 0.02, STEP[0]), (*rate_form.high, CACHED, STEP[1])
    return Form((*rate_form.names, *QUANTISE), start, low, high, apply)


def _prefill_form(constant: str) -> Form:
    """All of a `Rate`, where memory limits own bytes, and the rows that processors wait for at the end."""
    rate_form = _rate_form(constant, memory_only=False)

    def apply(constants: Efficiency, numbers: Numbers) -> Efficiency:
        *rate, tail = numbers
        fitted = rate_form.apply(constants, tuple(rate))
        whole = replace(getattr(fitted, constant), tail_rows=tail, own_bytes_per_second=math.inf)
        return replace(fitted, **{constant: whole})

    start, low, high = (*rate_form.start, 4000.0), (*rate_form.low, 1.0), (*rate_form.high, 1e6)
    return Form((*rate_form.names, "tail_rows"), start, low, high, apply)


def _decode_form(constant: str, groups: Sequence[Group]) -> Form:
    """Launches, reached bandwidth and least time of grouped heads, and of ungrouped ones where the rows have such."""
    base = generic()
    other = ungrouped(constant)
    slower = replace(base, **{other: replace(getattr(base, other), launch_seconds=1.0)})
    fitted = [constant] if _times(groups, slower).max() < 1 else [constant, other]
    each = ("launch_seconds", "combine_seconds", "memory", "block_seconds")

    def apply(constants: Efficiency, numbers: Numbers) -> Efficiency:
        parts = [dict(zip(each, numbers[4 * place :], strict=False)) for place in range(len(fitted))]
        pairs = zip(fitted, parts, strict=True)
        return replace(constants, **{name: replace(getattr(constants, name), **part) for name, part in pairs})

    def of_each(numbers: Numbers) -> Numbers:
        return numbers * len(fitted)

    names = (*each, *(f"{UNGROUPED}{name}" for name in each))[: 4 * len(fitted)]
    start, low, high = (10e-6, 3e-6, 0.8, 30e-9), (1e-7, 1e-8, 0.02, 1e-10), (3e-4, 1e-4, 1.0, 1e-6)
    return Form(names, of_each(start), of_each(low), of_each(high), apply, DECODE_SCALE)


def ungrouped(constant: str) -> str:
    """Return the constant of the kernels that decode ungrouped heads, of those that decode grouped ones."""
    return constant.replace("attention", "attention_ungrouped")


def _mixed_form() -> Form:
    """All of a `Rate`, and the keys that every query tile costs beyond those it sees."""
    rate_form = _rate_form("mixed_attention", memory_only=False)

    def apply(constants: Efficiency, numbers: Numbers) -> Efficiency:
        *rate, tile = numbers
        return replace(rate_form.apply(constants, tuple(rate)), mixed_tile_tokens=round(tile))

    names = (*rate_form.names, TILE)
    return Form(names, (*rate_form.start, 140.0), (*rate_form.low, 1.0), (*rate_form.high, 2000.0), apply)


def _fast_link_form(stack: str) -> Form:
    """Latency, what each peer adds, rate, and the latency of two shots where the library has them."""
    names = ("one_shot_seconds", "peer_seconds", "one_shot", "two_shot")
    start, low, high = (4e-6, 1e-7, 0.58, 1.8), (1e-7, 1e-9, 0.02, 1.0), (1e-4, 1e-5, 1.0, 20.0)
    known = len(names) if math.isfinite(generic(stack=stack).links.two_shot) else len(names) - 1
    return _links_form(names[:known], start[:known], low[:known], high[:known])


def _pcie_form() -> Form:
    names = ("pcie_seconds", "pcie_step_seconds", "pcie_bytes_per_second")
    return _links_form(names, (5e-6, 1e-6, 16e9), (1e-7, 1e-8, 1e8), (1e-3, 1e-4, 1e12))


def _nccl_form(link: Link | None) -> Form:
    names: tuple[str, ...] = ("launch_seconds", "step_seconds", "low_latency", "simple", "switched")
    start, low, high = (6e-6, 8e-7, 0.34, 0.75, 0.65), (1e-7, 1e-8, 0.02, 0.02, 0.02), (1e-4, 1e-4, 1.0, 1.0, 1.0)
    known = len(names) if link is not None and link.reduces else len(names) - 1
    names = names[:known]

    def apply(constants: Efficiency, numbers: Numbers) -> Efficiency:
        given: dict[str, Any] = dict(zip(names, numbers, strict=True))
        return replace(constants, nccl=replace(constants.nccl, **given))

    return Form(names, start[:known], low[:known], high[:known], apply)


def _links_form(names: tuple[str, ...], start: Numbers, low: Numbers, high: Numbers) -> Form:
    def apply(constants: Efficiency, numbers: Numbers) -> Efficiency:
        given: dict[str, Any] = dict(zip(names, numbers, strict=True))
        measured = constants.links.pcie_measured or "pcie_seconds" in names
        return replace(constants, links=replace(constants.links, **given, pcie_measured=measured))

    return Form(names, start, low, high, apply)


def _times(groups: Sequence[Group], constants: Efficiency) -> Floats:
    return np.concatenate([group.seconds(constants) for group in groups])


def _solve(form: Form, groups: Sequence[Group], base: Efficiency, mask: npt.NDArray[np.bool_]) -> Numbers:
    from scipy.optimize import least_squares

    measured = np.log(np.concatenate([group.measured_seconds for group in groups])[mask])
    tables = np.concatenate([np.full(len(group.measured_seconds), group.table) for group in groups])[mask]
    _, place, rows = np.unique(tables, return_inverse=True, return_counts=True)
    weights = len(tables) / len(rows) / rows[place]

    def residuals(logarithms: Floats) -> Floats:
        numbers = np.clip(np.exp(logarithms), form.low, form.high)
        error: Floats = np.log(_times(groups, form.apply(base, tuple(numbers.tolist())))[mask]) - measured
        return error

    def loss(squares: Floats) -> Floats:  # soft L1
        root = np.sqrt(1 + squares)
        return np.array([2 * (root - 1), 1 / root, -0.5 / root**3]) * weights

    steps = np.full(len(form.start), 1e-2 if TILE in form.names else 1e-6)  # wide enough for a whole key
    found = least_squares(
        residuals,
        np.log(form.start),
        bounds=(np.log(form.low), np.log(form.high) + 1e-9),
        loss=cast("Any", loss),
        f_scale=form.scale,
        diff_step=steps,
    )
    return tuple(np.clip(np.exp(found.x), form.low, form.high).tolist())
