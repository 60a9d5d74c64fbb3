"""What a comparison of schedulers may be asked: the same fields on the command line, in a file, and beside results."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, get_args, get_type_hints

from cyclopts import Parameter, Token

CHAT = "chat"
SHARES = (0.3, 0.5, 0.7, 0.85, 0.95, 1.1)
"""Default loads, as shares of the computed capacity: from light to just past saturation."""
QUICK_SHARES = (0.5, 0.85, 1.1)

_ARTICLE: dict[str, Any] = {"hardware": "l20", "model": "llama-2-13b", "tp": 2}
_LONG_CONTEXT: dict[str, Any] = {"hardware": "h200-sxm", "model": "llama-3.1-70b", "tp": 8}
_MACHINES = {
    "mooncake-": _LONG_CONTEXT,
    "bailian-": _LONG_CONTEXT,
    "azure-": _LONG_CONTEXT | {"hardware": "h800-sxm", "context": 16384},
}
"""What serves a recorded trace unless said otherwise, by the beginning of its name: prompts must fit the context."""


def _numbers(_: type, tokens: Sequence[Token]) -> tuple[float, ...]:
    """Read ``1,2.5,4`` from the command line."""
    try:
        return tuple(float(number) for token in tokens for number in token.value.split(","))
    except ValueError:
        raise ValueError("allowed: numbers with commas between, e.g. 0.5,1,2") from None


def _names(_: type, tokens: Sequence[Token]) -> tuple[str, ...]:
    """Read ``A,B`` from the command line."""
    return tuple(name.strip() for token in tokens for name in token.value.split(","))


_Numbers = Parameter(converter=_numbers, n_tokens=1, accepts_keys=False, negative="")
_Names = Parameter(converter=_names, n_tokens=1, accepts_keys=False, negative="")
MOST_SYSTEMS = 7
"""More lines cannot be told apart in a figure."""


@dataclass(frozen=True)
class Options:
    """One comparison; None stands for the default that the help text names, which may depend on the trace."""

    trace: Annotated[
        str | None,
        Parameter(
            help="chat (generated), a public trace such as azure-conv-2023 or mooncake-conversation, or the path of a "
            "trace file [default: chat]"
        ),
    ] = None
    hardware: Annotated[
        str | None,
        Parameter(
            help="chip, or path of a .toml; `hardware` lists them [default: l20; azure: h800-sxm; "
            "mooncake, bailian: h200-sxm]"
        ),
    ] = None
    model: Annotated[
        str | None,
        Parameter(
            help="model, or path of a .toml or config.json [default: llama-2-13b; azure, mooncake, bailian: "
            "llama-3.1-70b]"
        ),
    ] = None
    precision: Annotated[str | None, Parameter(help="w16a16, fp8, w8a8, w8a16, w4a16, mxfp4 ... [default: w16a16]")] = (
        None
    )
    tp: Annotated[int | None, Parameter(help="devices that share the model [default: 2; 8 where the model is 70B]")] = (
        None
    )
    pp: Annotated[int | None, Parameter(help="stages of layers, of --tp devices each [default: 1]")] = None
    ep: Annotated[
        int | None, Parameter(help="groups of devices with different experts; divides --tp times --dp [default: 1]")
    ] = None
    dp: Annotated[
        int | None, Parameter(help="ranks with requests of their own that share the experts [default: 1]")
    ] = None
    efficiency: Annotated[
        str | None,
        Parameter(
            help="constants of the cost model: datasheet (no prediction), generic, calibrated (on that chip), or the "
            "path of a .toml that `calibrate` wrote [default: generic]"
        ),
    ] = None
    systems: Annotated[
        tuple[str, ...] | None,
        _Names,
        Parameter(
            help="A,B,..: compare these products, each with its own limits and overheads, instead of policies on one "
            "machine; `systems` lists them, a path of a .toml is one too [default: the policies]"
        ),
    ] = None
    load: Annotated[
        tuple[float, ...] | None,
        _Numbers,
        Parameter(
            help="A,B,..: arrivals per second of a generated workload [requests/s; default: 30, 50, 70, 85, 95 and "
            "110 % of the computed capacity]"
        ),
    ] = None
    speed: Annotated[
        tuple[float, ...] | None,
        _Numbers,
        Parameter(help="F,G,..: how many times as fast a recorded trace arrives [default: 1, its natural pace]"),
    ] = None
    requests: Annotated[
        int | None,
        Parameter(help="requests of each run [default: 3000, quick: 600; a recorded trace: all, quick: 2000]"),
    ] = None
    seeds: Annotated[
        int | None, Parameter(help="replications of a generated workload, seeds 1 to R [default: 5; recorded: 1]")
    ] = None
    band: Annotated[
        int | None,
        Parameter(
            help="N: serve the load that is shown again at N draws of the constants of a chip that nobody calibrated, "
            "the same ones for every arm [default: 0, no band]"
        ),
    ] = None
    slo_ttft: Annotated[
        float | None, Parameter(help="objective for the first token [s; default: 2, the article's]")
    ] = None
    slo_tpot: Annotated[
        float | None,
        Parameter(help="objective for each further token [s; default: 0.2, MLPerf Inference Llama-2-70B server]"),
    ] = None
    utilisation: Annotated[
        float | None,
        Parameter(help="part of the memory that the server may use [0 to 1; default: 0.9; systems: each its own]"),
    ] = None
    max_tokens: Annotated[
        str | None,
        Parameter(
            help="longest reply a client declares: auto, a number, xF (F times the real one) or oracle [default: auto]"
        ),
    ] = None
    context: Annotated[
        int | None, Parameter(help="longest prompt and reply together [tokens; default: the model's; azure: 16384]")
    ] = None
    system_prompt: Annotated[
        int | None,
        Parameter(help="tokens of one text in front of every prompt [default: 512 for chat, 0 for recorded traces]"),
    ] = None
    spread_ties: Annotated[
        bool | None,
        Parameter(
            negative="--no-spread-ties",
            help="spread arrivals over their bin where the clock of a trace is coarse [default: yes]",
        ),
    ] = None
    quick: Annotated[
        bool | None,
        Parameter(negative="", help="fewer loads, requests and replications: a first look [default: no]"),
    ] = None

    @property
    def devices(self) -> int:
        """Devices of the replica."""
        return (self.tp or 1) * (self.pp or 1) * (self.dp or 1)

    @property
    def is_recorded(self) -> bool:
        """Whether the trace is recorded, so that it cannot be replicated."""
        return self.trace not in (None, CHAT)

    @property
    def shares(self) -> tuple[float, ...]:
        """Default loads as shares of the capacity."""
        return QUICK_SHARES if self.quick else SHARES


NOTHING = Options()
"""Of which every default holds."""


def merged(base: Options, given: Options) -> Options:
    """Return `base` with every field that `given` sets."""
    return replace(base, **as_table(given))


def as_table(options: Options) -> dict[str, Any]:
    """Return the fields that are set, as they stand in a file."""
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    return {name: value for name, value in values.items() if value is not None}


def completed(options: Options) -> Options:
    """Fill in every default but the loads of a generated workload (they need the capacity), and check the values.

    Raises
    ------
    ValueError
        Naming the option, its value and what is allowed.
    """
    recorded, quick = options.is_recorded, bool(options.quick)
    name = options.trace or CHAT
    machine = next((machine for prefix, machine in _MACHINES.items() if name.startswith(prefix)), _ARTICLE)
    defaults = Options(
        trace=CHAT,
        **machine,
        precision="w16a16",
        efficiency="generic",
        requests=(2000 if quick else None) if recorded else (600 if quick else 3000),
        seeds=1 if recorded else (3 if quick else 5),
        speed=(1.0,) if recorded else None,
        slo_ttft=2.0,
        slo_tpot=0.2,
        utilisation=None if options.systems else 0.9,
        max_tokens="auto",
        system_prompt=0 if recorded else 512,
        spread_ties=True if recorded else None,
        quick=False,
    )
    full = merged(defaults, options)
    _check(full)
    return replace(full, load=_ascending(full.load), speed=_ascending(full.speed))


def read(path: Path) -> Options:
    """Read options from a TOML file, e.g. the `config.toml` beside earlier results.

    Raises
    ------
    ValueError
        If the file cannot be read, or a field is unknown or of the wrong type; the message names file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); allowed: a TOML file of options") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is not TOML: {error}") from None
    kinds = {name: get_args(hint)[0] for name, hint in get_type_hints(Options).items()}
    for name, value in table.items():
        place = f"{path}, line {_line(text, name)}"
        if name not in kinds:
            raise ValueError(f"{place}: unknown option {name!r}; allowed: {', '.join(kinds)}")
        table[name] = _converted(value, kinds[name], f"{place}: {name}")
    return Options(**table)


def _converted(value: Any, kind: type | UnionType, place: str) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and is_number:
        return float(value)
    if kind is str and isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)
    if kind in (int, bool) and type(value) is kind:
        return value
    texts = value if isinstance(value, list) else [value]
    if kind == tuple[str, ...] and all(isinstance(text, str) for text in texts):
        return tuple(texts)
    if kind == tuple[float, ...]:
        numbers = value if isinstance(value, list) else [value]
        if numbers and all(isinstance(x, int | float) and not isinstance(x, bool) for x in numbers):
            return tuple(float(number) for number in numbers)
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    lists = "a list of texts" if kind == tuple[str, ...] else "a list of numbers"
    allowed = next((words for known, words in names.items() if kind is known), lists)
    raise ValueError(f"{place} is {value!r}; allowed: {allowed}")


def _line(text: str, name: str) -> int:
    pattern = re.compile(rf"\s*\[*[\"']?{re.escape(name)}[\"']?\s*[=.\]]")
    return next((n for n, line in enumerate(text.splitlines(), 1) if pattern.match(line)), 1)


def _check(options: Options) -> None:
    recorded = options.is_recorded
    finite = 1e12
    at_least = {"tp": 1, "pp": 1, "ep": 1, "dp": 1, "requests": 20, "seeds": 1, "context": 2, "system_prompt": 0}
    for name, least in at_least.items():
        value = getattr(options, name)
        _require(value is None or value >= least, name, value, f"a whole number, at least {least}")
    for name in ("slo_ttft", "slo_tpot"):
        _require(getattr(options, name) > 0, name, getattr(options, name), "a positive number of seconds")
    share = options.utilisation
    _require(share is None or 0 < share <= 1, "utilisation", share, "above 0, at most 1")
    _require(options.band is None or options.band == 0 or options.band >= 2, "band", options.band, "0, or 2 and more")
    systems = options.systems
    several = systems is None or 2 <= len(systems) == len(set(systems)) <= MOST_SYSTEMS
    _require(
        several, "systems", ",".join(systems or ()), f"2 to {MOST_SYSTEMS} different ones, as `systems` lists them"
    )
    for name, unit in (("load", "positive numbers of requests/s"), ("speed", "positive numbers")):
        values = getattr(options, name) or (1.0,)
        _require(all(0 < value < finite for value in values), name, getattr(options, name), unit)
    _require(not (recorded and options.load), "load", options.load, "only for generated workloads; use --speed")
    _require(recorded or not options.speed, "speed", options.speed, "only for recorded traces; use --load")
    _require(not recorded or options.seeds == 1, "seeds", options.seeds, "1, a recorded trace cannot be replicated")


def _require(good: bool, name: str, value: object, allowed: str) -> None:
    if not good:
        shown = ",".join(f"{number:g}" for number in value) if isinstance(value, tuple) else value
        raise ValueError(f"--{name.replace('_', '-')} is {shown}; allowed: {allowed}")


def _ascending(values: tuple[float, ...] | None) -> tuple[float, ...] | None:
    return tuple(sorted(set(values))) if values else None
