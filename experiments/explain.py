"""Why was this request slow: where the time of the slowest requests goes, under each policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from experiments.asked.options import NOTHING, Options, as_table
from experiments.shown.words import BANDS
from experiments.tried.offenders import Offenders, offenders
from experiments.tried.tail import METRICS, TAIL, Tail, findings, run
from sim.engine.clock import seconds
from sim.engine.replay import FINISHED
from sim.engine.spending import SPENT_ON
from sim.figures.words import capitalised, duration, listed, percent, readable
from sim.physics import calibration
from sim.results.attribution import OWN, PARTS
from sim.scenario import COMPARED

if TYPE_CHECKING:
    import pandas as pd

    from experiments.shown.pictures import Picture

RERUNS = 16
NOTES = (
    "Every latency is split to the tick; the parts are defined in sim/results/attribution.py. Prompts of others count "
    "as a stall of decoding by what an iteration takes longer than the same decodes would without them.",
    "Waiting and stalls are charged to the requests computed meanwhile, by the device time that each would take alone. "
    "Leaving one out can gain more than its charge: smaller batches make everybody's own iterations shorter, and what "
    "moves ahead moves others; or less, where somebody else takes its place.",
    "The slowest are chosen anew for each policy and metric, among the requests that arrive neither while the server "
    "fills nor while it empties.",
)


def explain(
    *,
    options: Annotated[Options, Parameter(name="*")] = NOTHING,
    policy: Annotated[str, Parameter(help="A,B,..: schedulers to explain [default: the two compared]")] = ",".join(
        COMPARED
    ),
    request: Annotated[
        int | None,
        Parameter(
            help="number of a request of the first seed [default: the one that lost most under the first policy]"
        ),
    ] = None,
    reruns: Annotated[
        int | None,
        Parameter(help="offenders to leave out, one a rerun, under each policy [default: 16; a recorded trace: 0]"),
    ] = None,
    out: Annotated[Path | None, Parameter(help="new folder for the results [default: results/explain/DIGEST]")] = None,
    json: Annotated[bool, Parameter(negative="", help="print one JSON object and nothing else")] = False,
) -> int:
    """Say where the time of the slowest 1 % goes under each policy, and explain one request from arrival to end.

    Serves the default scenario of `sched_compare` at 70 % of the capacity, or at the first load or speed given. The
    requests that the slowest charge most for their waiting are then left out, one at a time, to see what that changes.
    """
    from experiments.shown import console
    from experiments.shown.table_experiment import check_folder, deliver

    check_folder(out)
    if reruns is not None and reruns < 0:
        raise ValueError(f"--reruns is {reruns}; allowed: 0 or more")
    with console.progress("simulating") as advance:
        tail = run(options, tuple(policy.split(",")))
        advance(0.5)
        times = (0 if tail.options.is_recorded else RERUNS) if reruns is None else reruns
        found = answer(tail, request, times)
        advance(1.0)
    return deliver(found, out, json)


def answer(tail: Tail, request: int | None = None, reruns: int = 0) -> Any:
    """Return the finding, its tables and its figures, as `table_experiment.Answer`.

    Parameters
    ----------
    request : of the first run; None for the one that lost most under the first policy.
    reruns : offenders of the first run to leave out, one at a time, under each policy.

    Raises
    ------
    ValueError
        If there is no such request, or it was not served.
    """
    import pandas as pd

    from experiments.shown.table_experiment import Answer

    first = next(iter(tail.results))
    chosen = tail.slowest(first) if request is None else request
    for policy, runs in tail.results.items():
        count = len(runs[0].trace)
        if not 0 <= chosen < count:
            raise ValueError(f"--request is {chosen}; allowed: 0 to {count - 1}")
        if runs[0].replay.outcome[chosen] != FINISHED:
            raise ValueError(f"--request is {chosen}, which was not served under {policy}; allowed: one that was")
    sentences = [told(tail, chosen, policy) for policy in tail.results]
    accused = [offenders(runs[0], policy, TAIL, reruns) for policy, runs in tail.results.items()]
    asked = as_table(tail.options)
    asked |= {name: ",".join(f"{x:g}" for x in v) for name, v in asked.items() if isinstance(v, tuple)}
    level = calibration.load(str(tail.options.efficiency), str(tail.options.hardware)).level
    return Answer(
        name="explain",
        evidence=BANDS.get(level, level),
        question=f"Where the time of the slowest {100 * TAIL:g} % of the requests goes · {where(tail)}",
        finding=" ".join(f"{sentence}." for sentence in findings(tail)),
        options=asked | {"policy": ",".join(tail.results), "request": chosen, "reruns": reruns},
        tables={
            "tail": tail.table,
            "request": of_request(tail, chosen),
            "own_work": tail.own_table,
            "offenders": pd.concat([found.table for found in accused], ignore_index=True),
        },
        shown=[
            ("The slowest, mean time by part", _shares(tail.table)),
            ("Own work of the slowest by last token, mean time by what device and host spend it on", _spent(tail)),
            (f"Request {chosen}", of_request(tail, chosen)),
        ],
        notes=[*sentences, *(found.sentence for found in accused), *NOTES],
        draw=lambda: [*pictures(tail, chosen), accusation(accused)],
    )


def where(tail: Tail) -> str:
    """Return what was served, in words."""
    options = tail.options
    pace = f"speed {(options.speed or (1.0,))[0]:g}" if options.is_recorded else f"{(options.load or (0,))[0]:g} req/s"
    return f"{options.model} on {options.devices} x {options.hardware}, {options.trace} at {pace}"


def headings(tail: Tail) -> tuple[str, str]:
    """Return title and subtitle of a figure: the findings, or where policies are many, only the extremes."""
    if len(tail.results) <= 2:
        return findings(tail)
    totals = tail.table.groupby(["metric", "policy"], sort=False).seconds.sum()
    said = []
    for metric, what in zip(METRICS, ("first tokens", "replies"), strict=True):
        of_policy = totals[metric].sort_values(kind="stable")
        ends = [f"{duration(of_policy.iloc[i])} ({readable(str(of_policy.index[i]))})" for i in (0, -1)]
        said.append(f"The slowest {100 * TAIL:g} % of {what} take {' to '.join(ends)} on average")
    return said[0], said[1]


def told(tail: Tail, request: int, policy: str) -> str:
    """Return what happened to one request of the first run, in two sentences."""
    result = tail.results[policy][0]
    parts = parts_of(tail, policy, request)
    whole = sum(parts.values())
    own = sum(parts[name] for name in OWN)
    lost = sorted(((value, part) for part, value in parts.items() if part not in OWN and value), reverse=True)[:2]
    causes = [f"{duration(value)} {PARTS[part]}" for value, part in lost]
    asked = f"{result.trace.prompt_tokens[request]:,} prompt and {result.trace.output_tokens[request]:,} output tokens"
    return (
        f"Request {request} ({asked}) takes {duration(float(result.ttft_seconds[request]))} to its first and "
        f"{duration(whole)} to its last token under {readable(policy)}. Its own work is {duration(own)} of that "
        f"({percent(own / whole)})" + (f"; most of the rest is {listed(causes)}." if causes else ".")
    )


def parts_of(tail: Tail, policy: str, request: int) -> dict[str, float]:
    """Return the parts of the end-to-end time of a request of the first run [s]."""
    column = seconds(tail.attributions[policy][0].end_to_end[:, request]).tolist()
    return dict(zip(PARTS, column, strict=True))


def of_request(tail: Tail, request: int) -> pd.DataFrame:
    """Return the parts of one request as rows, a column in seconds for each policy, without parts that none has."""
    import pandas as pd

    columns = {f"{policy} [s]": parts_of(tail, policy, request) for policy in tail.results}
    table = pd.DataFrame({"part": list(PARTS), "meaning": list(PARTS.values())})
    for name, parts in columns.items():
        table[name] = [parts[part] for part in PARTS]
    return table[(table[list(columns)] > 0).any(axis=1)].reset_index(drop=True)


def _shares(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table of the tail for people: a row a part, two columns for each metric and policy."""
    import pandas as pd

    shown = pd.DataFrame({"part": list(PARTS.values())})
    for (metric, policy), rows in table.groupby(["metric", "policy"], sort=False):
        cells = zip(rows.seconds, rows.share, strict=True)
        shown[f"{metric} {readable(str(policy))}"] = [f"{duration(s)} ({percent(x)})" if s else "-" for s, x in cells]
    return shown[(shown.drop(columns="part") != "-").any(axis=1)].reset_index(drop=True)


def _spent(tail: Tail) -> pd.DataFrame:
    """Return the table of own work for people: a row a resource, a column a policy."""
    import pandas as pd

    shown = pd.DataFrame({"spent on": list(SPENT_ON.values())})
    for policy, rows in tail.own_table.groupby("policy", sort=False):
        cells = zip(rows.seconds, rows.share, strict=True)
        shown[readable(str(policy))] = [f"{duration(s)} ({percent(x)})" if s else "-" for s, x in cells]
    return shown


def accusation(accused: Sequence[Offenders]) -> Picture:
    """Draw what offenders are charged for, and what the victims gain without them."""
    from experiments.shown.figures.offender_charges import offender_charges
    from experiments.shown.pictures import Picture

    said = " ".join(found.sentence for found in accused)
    return Picture(
        "offenders",
        offender_charges(accused),
        f"A panel for each policy: bars of what requests are charged for, dots of what their absence gains. {said}",
        "Bars are charges by the stated rule, dots what the victims gain in a rerun without that request.",
    )


def pictures(tail: Tail, request: int) -> list[Picture]:
    """Draw where the tail's time goes, and a waterfall of one request under each policy."""
    from experiments.shown.figures.latency_parts import tail_parts, waterfall
    from experiments.shown.pictures import Picture

    waits, stalls = findings(tail)
    drawn = [
        Picture(
            "tail",
            tail_parts(tail.table, *headings(tail)),
            f"Stacked bars, a bar for each policy. {waits}. {stalls}.",
            "Mean latency of the slowest 1 % by first and by last token, split into parts that sum to it.",
        )
    ]
    for policy, runs in tail.results.items():
        story = told(tail, request, policy)
        title, subtitle = story.split(". ", 1)
        figure = waterfall(runs[0], request, parts_of(tail, policy, request), capitalised(title), subtitle)
        sentence = "Parts of one request one behind the other; above, what the replica computed at each moment."
        drawn.append(Picture(f"waterfall_{policy}", figure, f"Waterfall of one request. {story}", sentence))
    return drawn
