"""`batching`: the search, the memory kept, and the order in which history went, against arithmetic by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from experiments.batching import SLO, STAGES, headline, mean_batch, plot, run, shown
from experiments.run import main
from experiments.tried.kept_memory import stored_token_seconds, stranded_share
from experiments.tried.load_search import Service, highest_load, normalised_latency
from sim import Scenario
from sim.engine.clock import TICKS_PER_SECOND, uniform_clock
from sim.engine.replay import replay
from sim.results.result import Result
from sim.scheduling.batch import Limits
from sim.scheduling.schedulers import SCHEDULERS
from workloads.synthetic.chat import chat
from workloads.trace import Trace

LIMITS = Limits(blocks=100, context=100)


def served(name: str, prompts: list[int], replies: list[int], declared: int = 40) -> Result:
    n = len(prompts)
    trace = Trace(np.zeros(n), np.array(prompts), np.array(replies), np.full(n, declared))
    return Result(trace, LIMITS, replay(trace, LIMITS, SCHEDULERS[name], uniform_clock(1000, 1, 9000)))


def test_tokens_are_stored_from_the_iteration_that_computes_them_to_the_end_of_the_reply() -> None:
    found = stored_token_seconds(served("orca", [10, 20], [3, 1])) * TICKS_PER_SECOND
    assert found == pytest.approx([10 * 1030 + 10 * 1001 + 11 * 1001, 20 * 1030])


@pytest.mark.parametrize(("keeps", "room"), [("context", 112), ("reply", 64), ("blocks", 16)])
def test_stranded_is_what_is_kept_and_holds_nothing(keeps: str, room: int) -> None:
    # 10 tokens, then 10, 11 and 12; 112 tokens are the blocks of the context, 64 those of 10 + 40 tokens.
    result = served("orca" if keeps == "context" else "prefill_first", [10], [4])
    time = 1010 + 3 * 1001
    assert stranded_share(result, keeps) == pytest.approx(1 - (10 * 1010 + (10 + 11 + 12) * 1001) / (room * time))


def test_a_member_that_waits_for_its_batch_to_end_strands_what_it_keeps() -> None:
    alone = served("static_to_end", [10], [4])
    waited = served("static_to_end", [10, 10], [4, 1])
    stored = stored_token_seconds(waited) * TICKS_PER_SECOND
    assert stored[1] == pytest.approx(10 * 1020), "nothing once its reply is complete"
    assert stranded_share(waited, "context") > stranded_share(alone, "context")


def test_the_batch_is_averaged_over_iterations_that_decode() -> None:
    assert mean_batch(served("prefill_first", [10, 10], [4, 2])) == pytest.approx((2 + 1 + 1) / 3)


def test_the_search_finds_the_load_that_one_seat_can_bear() -> None:
    n, reply = 40, 20
    trace = Trace(np.arange(n) * 1.0, np.full(n, 100), np.full(n, reply), np.full(n, reply))
    service = Service.of(Scenario(trace, policy="orca", sequences=1))
    alone = service.serve(trace.head(1)).end_to_end_seconds[0]
    # Beyond one request each `alone` seconds request i waits i (alone - 1 / load): (n - 1) / 2 times that on average.
    bound = 1.5 * alone / reply
    expected = 1 / (alone - (bound * reply - alone) * 2 / (n - 1))
    found = highest_load(service, trace, normalised_latency, bound, steps=16)
    assert found == pytest.approx(expected, rel=1e-3)
    assert highest_load(service, trace, normalised_latency, 0.9 * alone / reply) == 0.0


def test_a_request_that_is_not_served_is_infinitely_late() -> None:
    trace = Trace(np.zeros(2), np.array([10, 9000]), np.array([2, 2]), np.array([2, 2]))
    assert normalised_latency(Service.of(Scenario(trace)).serve(trace)) == float("inf")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return run(Scenario(Trace(np.zeros(1), *(np.array([1]),) * 3)), quick=True)


def test_history_went_the_way_it_is_told(table: pd.DataFrame) -> None:
    found = table.set_index("stage")
    load = found.requests_per_second
    assert list(found.index) == [stage.name for stage in STAGES]
    assert load["static, padded"] < load["static, packed"] < load["Orca"]
    assert load["prefill first, paged"] > 1.2 * load["prefill first, not paged"]
    assert found.idle_share["static, padded"] > found.idle_share["static, packed"] > 0
    assert (found.idle_share[2:] == 0).all()
    # Kwon et al. 2023, figure 2: 20.4 % of what Orca reserves for the longest context holds tokens, 96.3 % of vLLM's.
    assert 0.6 < found.stranded_share["Orca"] < 0.85
    assert found.stranded_share["prefill first, paged"] < 0.04
    assert found.stranded_share["prefill first, paged"] < found.stranded_share["in-flight"]
    assert (table.low <= load.to_numpy()).all()


def test_loads_are_the_highest_that_keep_the_latency(table: pd.DataFrame) -> None:
    row = table.set_index("stage").loc["prefill first, paged"]
    service = Service.of(Scenario(Trace(np.zeros(1), *(np.array([1]),) * 3)))
    context = {"system_prompt_tokens": 0, "context_tokens": 4096}
    traces = [chat(np.random.default_rng(seed), 250, 1.0, **context) for seed in (1, 2)]
    below, above = (
        np.mean([normalised_latency(service.serve(trace.sped_up(pace))) for trace in traces])
        for pace in (0.8 * row.requests_per_second, 1.3 * row.requests_per_second)
    )
    assert below < SLO < above


def test_an_objective_that_nobody_keeps_is_said(table: pd.DataFrame) -> None:
    never = replace_loads(table, 0.0)
    assert "No two ways" in headline(never)
    assert (shown(never)["requests/s [95 % CI]"] == "not at any load").all()
    plot(never)


def replace_loads(table: pd.DataFrame, load: float) -> pd.DataFrame:
    changed = table.copy()
    changed[["requests_per_second", "low", "high"]] = load
    return changed


def test_the_title_computes_its_ratios(table: pd.DataFrame) -> None:
    changed = table.copy()
    changed["requests_per_second"] = [1.0, 2.0, 8.0, 8.0, 9.0, 9.5, 10.0, 9.0]
    expected = (
        "Dynamic SplitFuse serves 10.0 times the requests of static, padded batches at equal latency; Orca alone "
    )
    assert headline(changed).startswith(expected + "brought 4.0 times")


def test_an_objective_of_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["batching", "--slo", "0"])
    assert ended.value.code == 2
    assert "--slo is 0" in capsys.readouterr().err
