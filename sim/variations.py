"""What-ifs side by side: one scenario with some of its fields varied, simulated, and put into one table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any

from sim.asked import is_generated
from sim.results.goodput import Objectives
from sim.results.runs import Runs
from sim.scenario import Scenario, simulate

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Variations:
    """Scenarios that differ in some fields; simulated when first looked at, on the same requests each.

    Attributes
    ----------
    scenarios : every combination, the last field changing fastest.
    varied : the names of the fields.
    replications : runs of each scenario, with consecutive seeds.
    """

    scenarios: tuple[Scenario, ...]
    varied: tuple[str, ...]
    replications: int = 1

    def __len__(self) -> int:
        """Return the number of scenarios."""
        return len(self.scenarios)

    def __iter__(self) -> Iterator[Scenario]:
        """Iterate over the scenarios."""
        return iter(self.scenarios)

    def __getitem__(self, place: int) -> Scenario:
        """Return one scenario."""
        return self.scenarios[place]

    @property
    def labels(self) -> tuple[str, ...]:
        """What is special about each scenario, in words.

        >>> Scenario().vary(hardware=["l20"], load=[0.5, 1]).labels
        ('hardware l20, load 0.5', 'hardware l20, load 1')
        """
        return tuple(", ".join(f"{name} {value}" for name, value in row.items()) for row in self.values)

    @property
    def values(self) -> list[dict[str, Any]]:
        """What is special about each scenario, field by field; objects by their names."""
        return [{name: _shown(getattr(scenario, name)) for name in self.varied} for scenario in self.scenarios]

    @cached_property
    def runs(self) -> tuple[Runs, ...]:
        """The statistics of each scenario; the runs themselves are their `results`.

        Raises
        ------
        ValueError
            If a scenario cannot be simulated; the message says which and why.
        """
        return tuple(map(self._simulated, self.scenarios, self.labels))

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row for each scenario: what is varied, then `Result.summary` over all replications."""
        return self.summary()

    def summary(self, objectives: Objectives | None = None) -> pd.DataFrame:
        """Return `table` with `goodput_share`, the share of requests answered within the objectives, as well."""
        import pandas as pd

        from sim.results.table import figures

        asked = objectives or Objectives()
        rows = [figures(replace(runs, objectives=asked)) for runs in self.runs]
        return pd.DataFrame([chosen | row for chosen, row in zip(self.values, rows, strict=True)])

    def plot(
        self,
        metric: str = "TTFT",
        level: float = 0.99,
        across: str | None = None,
        objectives: Objectives | None = None,
        title: str | None = None,
    ) -> Figure:
        """Draw a percentile of a latency, or the goodput, across one of the fields, a line for each of the others.

        Parameters
        ----------
        metric : "TTFT", "TPOT", "ITL", "E2E", or "goodput", which needs objectives.
        level : of the percentile.
        across : the field along the bottom; None for the last.
        objectives : drawn as a line where the metric is theirs.
        title : the finding; None for one computed from the figures.
        """
        from sim.figures.across import across_field

        return across_field(self, metric, level, across or self.varied[-1], objectives, title)

    def __repr__(self) -> str:
        """Return what is varied."""
        runs = f", {self.replications} replications each" if self.replications > 1 else ""
        return f"Variations({len(self)} scenarios: {', '.join(self.varied)}{runs})"

    def _repr_html_(self) -> str:
        columns = [name for name in map(str, self.table) if name.endswith(("p50_seconds", "p99_seconds"))]
        shown = self.table[[*self.varied, "verdict", *columns]]
        return str(shown.to_html(index=False, float_format=lambda value: f"{value:.3g}", na_rep="–"))

    def _simulated(self, scenario: Scenario, label: str) -> Runs:
        try:
            machine = scenario.machine
            seeds = range(scenario.seed, scenario.seed + self.replications)
            results = tuple(simulate(replace(scenario, seed=seed), machine) for seed in seeds)
        except ValueError as error:
            raise ValueError(f"{label}: {error}") from None
        return Runs(results, self.replications == 1, Objectives(), machine.devices)


def varied(scenario: Scenario, replications: int, values: Mapping[str, Iterable[Any]]) -> Variations:
    """Return every combination; see `Scenario.vary`."""
    known = [each.name for each in fields(Scenario)]
    for name in values:
        if name not in known:
            near = get_close_matches(name, known, n=2)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise ValueError(f"a scenario has no {name!r}; {hint}allowed: {', '.join(known)}")
    tried = {name: [value] if isinstance(value, str) else list(value) for name, value in values.items()}
    empty = [name for name, value in tried.items() if not value]
    if not tried or empty:
        raise ValueError(f"vary: nothing to try{f' for {empty[0]}' if empty else ''}; allowed: field=[value, ...]")
    scenarios = tuple(replace(scenario, **dict(zip(tried, row, strict=True))) for row in product(*tried.values()))
    fixed = [each for each in scenarios if not is_generated(each.trace)]
    if replications < 1 or (replications > 1 and fixed):
        why = "a recorded trace cannot be replicated" if replications > 1 else "runs of each scenario"
        raise ValueError(f"replications is {replications}; allowed: {'1, ' if fixed else '1 or more, '}{why}")
    return Variations(scenarios, tuple(tried), replications)


def _shown(value: Any) -> Any:
    """Return the name of an object, or the value itself."""
    return getattr(value, "name", None) or getattr(value, "system", None) or value
