"""What came out of one run, in seconds: a row for each request, and what the replicas did meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sim.engine.clock import seconds, ticks
from sim.engine.log import Iterations
from sim.engine.replay import FINISHED, OUTCOMES, Replay
from sim.scheduling.batch import Limits
from workloads.trace import Trace

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from sim.results.attribution import Attribution
    from sim.results.goodput import Objectives
    from sim.results.runs import Runs

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class Result:
    """One run of one replica, or of several behind a router; a notebook shows it as its key figures.

    Times of requests that were not served are NaN, and so is the time per output token of one-token replies, and of
    those that come all at once.

    Attributes
    ----------
    trace, limits, replay : what was asked, under which limits, and what happened.
    name, title : the scheduler in a word, and the whole scenario in a line.
    flags : sentences that must stand beside every time.
    devices : that a replica consists of.
    limits_by_replica : where there are several; `limits` are then those of the first.
    """

    trace: Trace
    limits: Limits
    replay: Replay
    name: str = "run"
    title: str = ""
    flags: tuple[str, ...] = ()
    devices: int = 1
    limits_by_replica: tuple[Limits, ...] = ()

    @property
    def iterations(self) -> Iterations:
        """The log: a row for each stretch of iterations (ValueError if there are several replicas: see `parts`)."""
        return self.replay.iterations

    @property
    def replicas(self) -> int:
        """How many replicas there are."""
        return len(self.replay.logs)

    @property
    def logs(self) -> tuple[tuple[Iterations, Limits], ...]:
        """What each replica did, and its limits."""
        return tuple(zip(self.replay.logs, self.limits_by_replica or (self.limits,) * self.replicas, strict=True))

    @cached_property
    def parts(self) -> tuple[Result, ...]:
        """The result of each replica, of the requests that it served, in order of their number.

        What says that one request follows another is left out, since they may have been served elsewhere.
        """
        if self.replicas == 1:
            return (self,)
        both = [self.replay.of(number) for number in range(self.replicas)]
        return tuple(
            Result(self.trace.subset(rows), limits, part)
            for (rows, part), (_, limits) in zip(both, self.logs, strict=True)
        )

    @cached_property
    def arrival_seconds(self) -> Floats:
        """When each request arrived (requests,) [s]."""
        return seconds(self.replay.arrival)

    @cached_property
    def finish_seconds(self) -> Floats:
        """When its last token was out (requests,) [s]."""
        return self._since_start(self.replay.finish)

    @cached_property
    def ttft_seconds(self) -> Floats:
        """Time to first token: from arrival to the end of the iteration that computed the prompt (requests,) [s].

        Where replies are not streamed, to the end of the batch.
        """
        served = self.replay.outcome == FINISHED
        return np.where(served, seconds(self.replay.first_token - self.replay.arrival), np.nan)

    @cached_property
    def end_to_end_seconds(self) -> Floats:
        """From arrival to the last token, the article's "last-token latency" (requests,) [s]."""
        served = self.replay.outcome == FINISHED
        return np.where(served, seconds(self.replay.finish - self.replay.arrival), np.nan)

    @cached_property
    def tpot_seconds(self) -> Floats:
        """Time per output token after the first: (end to end - TTFT) / (output tokens - 1) (requests,) [s]."""
        several = (self.trace.output_tokens > 1) & self.replay.streams
        further = np.where(several, self.trace.output_tokens - 1, np.nan)
        served = self.replay.outcome == FINISHED
        return np.where(served, seconds(self.replay.finish - self.replay.first_token) / further, np.nan)

    def inter_token_seconds(self, since: float = 0.0, until: float = np.inf) -> tuple[Floats, npt.NDArray[np.int64]]:
        """Return the gaps between consecutive tokens of a reply as (values [s], how often each occurs).

        Only gaps that end in an iteration which starts between `since` and `until` [s]; none if replies come at once.
        """
        if not self.replay.streams:
            return np.empty(0), np.empty(0, dtype=np.int64)
        last = int(ticks(until)) if np.isfinite(until) else None
        found = [log.inter_token_gaps(int(ticks(since)), last) for log in self.replay.logs]
        return seconds(np.concatenate([gaps for gaps, _ in found])), np.concatenate([counts for _, counts in found])

    def queue_ever_empty(self, since: float, until: float) -> bool:
        """Whether every replica left nobody waiting after some decision between `since` and `until` [s]."""
        return all(_ever_empty(log, int(ticks(since)), int(ticks(until))) for log in self.replay.logs)

    @property
    def makespan_seconds(self) -> float:
        """From the first arrival to the end of the last iteration [s]."""
        ends = [int(log.end[-1]) for log in self.replay.logs if len(log.start)]
        return float(seconds(max(ends) - int(self.replay.arrival.min()))) if ends else 0.0

    @property
    def output_tokens_per_second(self) -> float:
        """Tokens of served requests by the makespan [1/s]."""
        tokens = int(self.trace.output_tokens[self.replay.outcome == FINISHED].sum())
        return tokens / self.makespan_seconds if self.makespan_seconds else 0.0

    @property
    def prefix_hit_share(self) -> float:
        """Prompt tokens found in the cache, of all prompt tokens of served requests."""
        served = self.replay.outcome == FINISHED
        asked = int(self.trace.prompt_tokens[served].sum())
        return self.saved_tokens / asked if asked else 0.0

    @property
    def saved_tokens(self) -> int:
        """Prompt tokens of served requests that were found in the cache and not computed."""
        return int(self.replay.cached_tokens[self.replay.outcome == FINISHED].sum())

    @property
    def evicted_tokens(self) -> int:
        """Tokens that cached blocks had room for when they were given up."""
        return self.replay.evicted_blocks * self.limits.block_tokens

    @property
    def busy_share(self) -> float:
        """Time in iterations by the makespan, on average over the replicas."""
        busy = float(sum(seconds(log.duration.sum()) for log in self.replay.logs)) / self.replicas
        return busy / self.makespan_seconds if self.makespan_seconds else 0.0

    @property
    def padding_share(self) -> float:
        """Tokens computed for nobody (padding, replies that are complete) by all tokens computed."""
        idle = sum(log.idle_tokens for log in self.replay.logs)
        return idle / (idle + sum(log.computed_tokens for log in self.replay.logs)) if idle else 0.0

    @property
    def kv_occupancy(self) -> float:
        """Blocks in use by blocks in the pool, at the start of each stretch, averaged over the time in iterations."""
        used = np.concatenate([1 - log.free_blocks / limits.blocks for log, limits in self.logs])
        weights = np.concatenate([log.duration for log in self.replay.logs])
        return float(np.average(used, weights=weights)) if len(used) else 0.0

    @property
    def outcomes(self) -> dict[str, int]:
        """How many requests ended in each way."""
        counts = np.bincount(self.replay.outcome, minlength=len(OUTCOMES))
        return {name: int(count) for name, count in zip(OUTCOMES, counts, strict=True)}

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences on requests that were given up or stalled, and why."""
        return self.replay.remarks

    @cached_property
    def requests(self) -> pd.DataFrame:
        """One row a request, times in seconds."""
        import pandas as pd

        return pd.DataFrame(
            {
                "request_id": np.arange(len(self.trace)),
                **({"replica": self.replay.replica} if self.replicas > 1 else {}),
                "arrival_seconds": self.arrival_seconds,
                "prompt_tokens": self.trace.prompt_tokens,
                "output_tokens": self.trace.output_tokens,
                "cached_tokens": self.replay.cached_tokens,
                "ttft_seconds": self.ttft_seconds,
                "tpot_seconds": self.tpot_seconds,
                "end_to_end_seconds": self.end_to_end_seconds,
                "preemptions": self.replay.preemptions,
                "outcome": pd.Categorical(np.array(OUTCOMES)[self.replay.outcome], categories=list(OUTCOMES)),
            }
        )

    def iterations_table(self) -> pd.DataFrame:
        """Return a row for each stretch of equal iterations, times in seconds.

        While everybody decodes, a stretch is many iterations, the first of which takes `first_seconds` and each
        further one `growth_seconds` longer, as the contexts grow.
        """
        from sim.results.table import iterations_table

        return iterations_table(self)

    def attribution(self) -> Attribution:
        """Split the time of every served request into named parts that sum to it exactly, in ticks."""
        from sim.results.attribution import attribute, joined

        if self.replicas == 1:
            return attribute(self.limits, self.replay)
        return joined([part.attribution() for part in self.parts], self.replay.replica.astype(np.int64))

    def runs(self, objectives: Objectives | None = None) -> Runs:
        """Return the statistics of this run alone: percentiles, their intervals from five time blocks, the verdict.

        One run tells less than replications (`Scenario.vary`): many intervals are refused.
        """
        from sim.results.goodput import Objectives
        from sim.results.runs import Runs

        return Runs((self,), True, objectives or Objectives(), self.devices)

    def summary(self, objectives: Objectives | None = None) -> pd.Series:
        """Return the verdict, percentiles with 95 % intervals, and rates; units are in the names.

        Latencies are NaN while overloaded, and where there are too few samples to tell; see `sim.results.table`.

        Parameters
        ----------
        objectives : what counts as answered in time; adds `goodput_share`.
        """
        import pandas as pd

        from sim.results.table import figures

        return pd.Series(figures(self.runs(objectives)), name=self.name, dtype=object)

    def plot_latency(self, metric: str = "TTFT") -> Figure:
        """Draw how many waited longer than a time, percentiles and their intervals marked.

        Parameters
        ----------
        metric : "TTFT", "TPOT", "ITL" or "E2E".
        """
        from sim.figures.of_result import latency

        return latency(self, metric)

    def plot_timeline(self, begin_seconds: float | None = None, end_seconds: float | None = None) -> Figure:
        """Draw iterations and tokens between two moments; without them, around the longest pause of a reply."""
        from sim.figures.of_result import around_pause

        return around_pause(self, begin_seconds, end_seconds)

    def __repr__(self) -> str:
        """Return the run in a line."""
        from sim.results.card import line

        return line(self)

    def _repr_html_(self) -> str:
        from sim.results.card import html

        return html(self)

    def _since_start(self, moments: npt.NDArray[np.int64]) -> Floats:
        return np.where(self.replay.outcome == FINISHED, seconds(moments), np.nan)


def _ever_empty(log: Iterations, since: int, until: int) -> bool:
    inside = (log.end > since) & (log.start < until)
    rests = np.concatenate([log.start[1:] > log.end[:-1], [True]])[: len(log.start)]  # who rests has nobody waiting
    return bool(((log.waiting == 0) | rests)[inside].any() or not inside.any())
