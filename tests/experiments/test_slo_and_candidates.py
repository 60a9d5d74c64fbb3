"""What can be promised and who could serve it, as read from the command line; and what counts as kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.asked import candidates, slo
from experiments.asked.candidates import Candidate, parse_prices, total_watts
from experiments.asked.slo import Clause
from sim.engine.replay import FINISHED, REJECTED
from sim.results.percentiles import percentile

TIMES = st.lists(st.floats(0.01, 100), min_size=1, max_size=60).map(np.array)


@dataclass(frozen=True)
class FakeSection:
    """Only what a clause looks at."""

    times: np.ndarray
    served: np.ndarray
    output_tokens: np.ndarray | None = None
    gaps: Any = None

    @property
    def counted(self) -> np.ndarray:
        return np.arange(len(self.times))

    @property
    def result(self) -> Any:
        outcome = np.where(self.served, FINISHED, REJECTED)
        trace = SimpleNamespace(output_tokens=self.output_tokens)
        return SimpleNamespace(replay=SimpleNamespace(outcome=outcome), trace=trace)

    def latency(self, metric: str) -> np.ndarray:
        return np.where(self.served, self.times, np.nan)


def served(times: np.ndarray) -> FakeSection:
    return FakeSection(times, np.ones(len(times), dtype=bool))


def test_clauses_are_read_with_their_units() -> None:
    assert slo.parse("ttft p99 <= 2 s, tpot p95 <= 50 ms,E2E p99.9<=1min, itl p50 ≤ 1e3us") == (
        Clause("TTFT", 0.99, 2.0),
        Clause("TPOT", 0.95, 0.05),
        Clause("E2E", pytest.approx(0.999), 60.0),
        Clause("ITL", 0.5, pytest.approx(1e-3)),
    )


@given(st.sampled_from(["TTFT", "TPOT", "ITL", "E2E"]), st.integers(1, 99), st.integers(1, 5_000))
def test_a_clause_reads_as_it_is_written(metric: str, level: int, milliseconds: int) -> None:
    (again,) = slo.parse(str(Clause(metric, level / 100, milliseconds / 1000)))
    assert (again.metric, again.level) == (metric, pytest.approx(level / 100))
    assert again.seconds == pytest.approx(milliseconds / 1000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ttft p99 < 2 s", "clause 'ttft p99 < 2 s' cannot be read; allowed: METRIC pLEVEL <= BOUND UNIT"),
        ("", "cannot be read"),
        ("latency p99 <= 2 s", "'latency' is no latency; allowed: ttft, tpot, itl, e2e"),
        ("ttft p99 <= 2", "the unit is ''; allowed: s, ms, us, min"),
        ("ttft p99 <= 2 h", "the unit is 'h'"),
        ("ttft p100 <= 2 s", "the percentile is p100; allowed: above p0, below p100"),
        ("ttft p9.9.9 <= 2 s", "'9.9.9' is no number"),
        ("ttft p99 <= 0 s", "the bound is 0 s; allowed: a positive time"),
        ("ttft p99 <= 2 s, ttft p99 <= 3 s", "ttft p99 twice"),
    ],
)
def test_promises_that_cannot_be_read_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="--slo") as error:
        slo.parse(text)
    assert message in str(error.value)


@given(TIMES, st.floats(0.01, 100), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_a_percentile_is_within_its_bound_exactly_when_enough_requests_are(times, bound: float, level: float) -> None:
    share = Clause("TTFT", level, bound).met_share(served(times))
    assert (share >= level - 1e-12) == (percentile(times, level) <= bound)


@given(TIMES, st.floats(0.01, 100), st.integers(1, 20))
def test_requests_that_are_not_served_count_as_late_ones_do(times: np.ndarray, bound: float, lost: int) -> None:
    clause = Clause("E2E", 0.99, bound)
    late = served(np.append(times, np.full(lost, bound + 1)))
    rejected = FakeSection(np.append(times, np.zeros(lost)), np.arange(len(times) + lost) < len(times))
    assert clause.met_share(rejected) == clause.met_share(late)


def test_a_reply_of_one_token_has_no_time_per_token_to_miss() -> None:
    section = FakeSection(np.array([0.01, np.nan, 0.2, 0.0]), np.array([True, True, True, False]))
    assert Clause("TPOT", 0.9, 0.1).met_share(section) == pytest.approx(1 / 3)  # within, none, late, lost


def test_gaps_are_weighted_and_tokens_never_written_count_against() -> None:
    gaps = np.array([0.01, 0.3]), np.array([90, 5])
    section = FakeSection(np.zeros(2), np.array([True, False]), np.array([96, 6]), gaps)
    assert Clause("ITL", 0.9, 0.1).met_share(section) == pytest.approx(90 / 100)


def test_ten_requests_must_lie_beyond_a_percentile() -> None:
    assert Clause("TTFT", 0.99, 1.0).least_requests(4, 1.0) == 250
    assert Clause("TTFT", 0.999, 1.0).least_requests(4, 0.85) == int(np.ceil(10 / (0.001 * 4 * 0.85)))


def test_candidates_are_read_field_by_field() -> None:
    assert candidates.parse("l20:2:w16a16,h20:1:fp8,system=vllm-0.33,chip=l4:tp=2:policy=chunked_prefill:cache=on") == (
        Candidate("l20", 2, "w16a16"),
        Candidate("h20-96", 1, "fp8"),
        Candidate(system="vllm-0.33"),
        Candidate("l4", 2, policy="chunked_prefill", cache=True),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("l21", "no hardware profile is named 'l21'"),
        ("l20:two", "tp is 'two'; allowed: a whole number, at least 1"),
        ("l20:2:w9a9", "w9a9"),
        ("l20:2:fp8:fast", "'fast' has no place; allowed: CHIP:TP:PRECISION, then KEY=VALUE"),
        ("system=vllm-0.33:l20", "'l20' has no place"),
        ("l20:chip=l20", "'chip' is given twice"),
        ("l20:speed=9", "'speed' is unknown; allowed: chip, tp, precision, pp, ep, dp, system, policy, cache, util"),
        ("l20:pp=0", "pp is '0'; allowed: a whole number, at least 1"),
        ("l20:ep=3", "expert=3 does not divide tensor * data = 2"),
        ("l20:system=", "system is empty"),
        ("system=vllm-9", "system 'vllm-9' is unknown"),
        ("policy=random", "policy is 'random'; allowed: "),
        ("cache=yes", "cache is 'yes'; allowed: on, off"),
        ("utilisation=1.5", "utilisation is '1.5'; allowed: above 0, at most 1"),
        ("system=vllm-0.33:cache=on", "policy or cache beside a system"),
        ("l20,l20:2", "2 x l20 W16A16, in-flight batching twice"),
    ],
)
def test_candidates_that_cannot_be_read_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="--candidates") as error:
        candidates.parse(text)
    assert message in str(error.value)


def test_stages_count_as_cards_and_are_named() -> None:
    (staged,) = candidates.parse("l20:2:pp=2:system=vllm-0.33")
    assert staged.cards == 4
    assert staged.name == "4 x l20 (TP 2 x PP 2) W16A16, vLLM 0.33"
    scenario = staged.scenario("llama-2-13b")
    assert (scenario.tensor, scenario.pipeline, scenario.machine.devices) == (2, 2, 4)
    assert total_watts(staged) == 4 * total_watts(Candidate(tp=1))


def test_prices_and_watts_are_by_card() -> None:
    assert parse_prices(["l20=0.9", "h20=1.8,l4=0.5"]) == {"l20": 0.9, "h20-96": 1.8, "l4": 0.5}
    four, two = total_watts(Candidate(tp=4)), total_watts(Candidate(tp=2))
    assert four == 2 * two > 0
    for text in ("l20", "l20=free", "l20=-1", "l20=0"):
        with pytest.raises(ValueError, match="--price is"):
            parse_prices([text])


def test_a_candidate_is_the_scenario_it_says() -> None:
    scenario = Candidate("h20-96", 4, "fp8", policy="prefill_first", cache=True, utilisation=0.8).scenario(
        "llama-2-70b"
    )
    assert (scenario.tensor, scenario.precision, scenario.policy, scenario.prefix_cache) == (
        4,
        "fp8",
        "prefill_first",
        True,
    )
    assert scenario.utilisation == 0.8
    product = replace(Candidate(), system="vllm-0.2.7").scenario("llama-2-13b")
    assert product.paddings == 256  # one of that system's own limits
