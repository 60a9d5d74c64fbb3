"""What a notebook types: a scenario in a line, what-ifs, and a result that shows itself."""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import fields, replace

import numpy as np
import pytest

from sim import Objectives, Result, Scenario, simulate
from sim.results.card import in_system
from sim.results.percentiles import percentile
from sim.results.warmup import steady
from workloads.synthetic.chat import chat
from workloads.trace import Trace

LIGHT = Scenario(requests=300)


@pytest.fixture(scope="module")
def result():
    return simulate(Scenario(requests=1500))


@pytest.fixture(scope="module")
def what_if():
    return LIGHT.vary(policy=["prefill_first", "inflight_batching"], load=[0.5, 3.0], replications=2)


def few(requests):
    ones = np.ones(requests, dtype=np.int64)
    return Trace(np.arange(float(requests)), 100 * ones, 2 * ones, 4 * ones)


def test_nothing_said_is_the_chat_workload_at_one_request_per_second():
    by_hand = chat(np.random.default_rng(np.random.SeedSequence(1)), 2000, 1.0, context_tokens=4096)
    assert (simulate(Scenario()).ttft_seconds == simulate(Scenario(by_hand)).ttft_seconds).all()


def test_a_seed_is_the_same_requests_at_every_load():
    slow, fast = (replace(LIGHT, load=load).workload for load in (0.5, 2.0))
    assert (slow.prompt_tokens == fast.prompt_tokens).all()
    assert np.allclose(slow.arrival_seconds, 4 * fast.arrival_seconds)
    assert (replace(LIGHT, seed=2).workload.prompt_tokens != slow.prompt_tokens).any()


def test_a_trace_keeps_its_pace_unless_a_load_is_asked(tmp_path):
    path = tmp_path / "mine.csv"
    rows = "\n".join(f"{second},100,{2 + second % 3}" for second in range(50))
    path.write_text(f"arrival_seconds,prompt_tokens,output_tokens\n{rows}\n")
    natural = Scenario(path).workload
    assert len(natural) == 50
    assert natural.duration_seconds == pytest.approx(49)
    hurried = Scenario(str(path), load=10, requests=20).workload
    assert len(hurried) == 20
    assert len(hurried) / hurried.duration_seconds == pytest.approx(10)
    same = few(3)
    assert Scenario(same).workload is same
    assert (Scenario(same, load=np.inf).workload.arrival_seconds == 0).all()


def test_a_public_trace_goes_by_its_name(shared):
    scenario = Scenario("mooncake-conversation", requests=50)
    assert scenario.workload.segments is not None
    assert len(scenario.workload) == 50


@pytest.mark.parametrize(
    ("scenario", "says"),
    [
        (Scenario("none.csv"), "trace is 'none.csv': no such file, and no such trace; allowed: .*azure-conv-2023"),
        (Scenario(load=0), "load is 0; allowed: a positive number"),
        (Scenario(requests=0), "requests is 0; allowed: 1 or more"),
        (Scenario(seed=-1), "seed is -1; allowed"),
        (Scenario(few(1), load=2), "all 1 requests of trace arrive at one instant"),
        (Scenario(policy="fcfs"), "policy is 'fcfs'; allowed: prefill_first"),
        (Scenario(hardware="l21"), "no hardware profile is named 'l21'; the closest are l20"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(scenario, says):
    with pytest.raises(ValueError, match=says):
        simulate(scenario)


def test_a_what_if_of_two_thousand_requests_takes_less_than_a_fifth_of_a_second():
    taken = []
    for seed in range(4):
        begin = time.process_time()
        simulate(Scenario(seed=seed, load=1.2))
        taken.append(time.process_time() - begin)
    assert min(taken) < 0.2


def test_a_scenario_shows_what_is_not_the_default():
    assert repr(Scenario()) == "Scenario()"
    assert repr(Scenario(few(2), load=2.0)) == "Scenario(trace='<trace, 2 requests>', load=2.0)"


def test_completion_offers_what_a_user_needs_and_all_of_it_is_explained():
    offered = {name for name in dir(simulate(LIGHT)) if not name.startswith("_")}
    assert {"requests", "iterations", "summary", "plot_latency", "plot_timeline", "attribution"} <= offered
    columns = {each.name for each in fields(Result)}
    assert all(getattr(Result, name).__doc__ for name in offered - columns)


def test_variations_are_every_combination_in_order(what_if):
    assert [(each.policy, each.load) for each in what_if] == [
        (policy, load) for policy in ("prefill_first", "inflight_batching") for load in (0.5, 3.0)
    ]
    assert what_if.labels[0] == "policy prefill_first, load 0.5"
    assert len(what_if) == 4
    assert what_if[3].load == 3.0
    assert repr(what_if) == "Variations(4 scenarios: policy, load, 2 replications each)"


def test_the_table_pools_replications_that_one_gets_by_hand(what_if):
    row = what_if.table.iloc[2]
    assert (row.policy, row.load, row.verdict) == ("inflight_batching", 0.5, "stable")
    by_hand = [simulate(replace(LIGHT, policy="inflight_batching", load=0.5, seed=seed)) for seed in (1, 2)]
    counted = np.concatenate([run.ttft_seconds[steady(run.arrival_seconds)] for run in by_hand])
    assert row.ttft_p50_seconds == percentile(counted, 0.5)
    assert row.ttft_p50_low_seconds < row.ttft_p50_seconds < row.ttft_p50_high_seconds
    assert row.requests == row.served == 600


def test_a_row_that_is_overloaded_shows_no_latency(what_if):
    row = what_if.table.iloc[1]
    assert row.verdict == "overloaded"
    assert np.isnan(row.ttft_p50_seconds)
    assert "overloaded" in what_if._repr_html_()


def test_goodput_needs_objectives_and_falls_with_the_load(what_if):
    found = what_if.summary(Objectives(ttft_seconds=1.0))
    assert "goodput_share" not in what_if.table
    assert found.goodput_share[0] > 0.9
    with pytest.raises(ValueError, match="goodput needs objectives"):
        what_if.plot("goodput")


def test_a_run_alone_takes_its_intervals_from_time_blocks():
    one = replace(LIGHT, requests=1000).vary(tensor=[2])
    assert "within this trace" in one.runs[0].percentiles["TTFT"][0].method


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda: LIGHT.vary(hardwear=["l20"]), "a scenario has no 'hardwear'; did you mean hardware"),
        (lambda: LIGHT.vary(load=[]), "nothing to try for load"),
        (LIGHT.vary, "nothing to try"),
        (lambda: LIGHT.vary(load=[1], replications=0), "replications is 0; allowed: 1 or more"),
        (lambda: Scenario(few(5)).vary(replications=2, tensor=[2]), "a recorded trace cannot be replicated"),
        (lambda: LIGHT.vary(hardware=["l20", "l21"]).table, "hardware l21: no hardware profile is named 'l21'"),
        (lambda: LIGHT.vary(load=[1]).plot("TTFX"), "metric is 'TTFX'; allowed: TTFT, TPOT, ITL, E2E, goodput"),
        (lambda: LIGHT.vary(load=[1]).plot(across="tensor"), "across is 'tensor', which is not varied; allowed: load"),
        (lambda: LIGHT.vary(load=[1]).plot(level=0.98), "level is 0.98; allowed: 0.5"),
    ],
)
def test_what_cannot_be_varied_or_drawn_is_said(ask, says):
    with pytest.raises(ValueError, match=says):
        ask()


def test_the_summary_is_that_of_the_requests_that_count(result):
    found = result.summary(Objectives(ttft_seconds=2.0))
    counted = steady(result.arrival_seconds)
    assert found["ttft_p99_seconds"] == percentile(result.ttft_seconds[counted], 0.99)
    assert found["e2e_p50_seconds"] == percentile(result.end_to_end_seconds[counted], 0.5)
    assert found["goodput_share"] == pytest.approx(np.mean(result.ttft_seconds[counted] <= 2.0), abs=1e-3)
    assert found["verdict"] == "stable"


def test_the_card_is_well_formed_and_says_the_verdict_and_the_intervals(result):
    card = ElementTree.fromstring(result._repr_html_())
    text = "".join(card.itertext())
    assert "✓ stable" in text
    assert re.search(r"TTFT[\d.]+ m?s \[[\d.]+, [\d.]+\]", text)
    assert "Beware: unmeasured" in text
    assert [element.get("role") for element in card.iter("svg")] == ["img"]
    # Legible in light and in dark: no colour but that of the text around it.
    colours = {element.get(name) for element in card.iter() for name in ("fill", "stroke")} - {None, "none"}
    assert colours == {"currentColor"}


def test_the_card_of_an_overloaded_run_has_no_percentiles():
    overloaded = simulate(replace(LIGHT, load=4.0))
    text = "".join(ElementTree.fromstring(overloaded._repr_html_()).itertext())
    assert "▲ overloaded" in text
    assert "No percentiles" in text
    assert "overloaded" in repr(overloaded)


def test_the_sparkline_obeys_littles_law(result):
    moments, inside = in_system(result, 40_000)
    area = float(np.trapezoid(inside, moments))
    assert area == pytest.approx(float(result.end_to_end_seconds.sum()), rel=0.01)


@pytest.mark.parametrize("requests", [1, 2, 3, 30])
def test_a_short_run_shows_itself_too(requests):
    short = simulate(Scenario(few(requests)))
    assert repr(short).startswith(f"Result(prefill_first, {requests} requests")
    ElementTree.fromstring(short._repr_html_())
    assert short.summary()["served"] == requests


def test_a_run_in_which_nobody_is_served_shows_itself_too():
    huge = few(40)
    unserved = simulate(Scenario(replace(huge, prompt_tokens=huge.prompt_tokens * 100)))
    assert unserved.outcomes["rejected"] == 40
    ElementTree.fromstring(unserved._repr_html_())
    assert unserved.summary()["served"] == 0


def test_the_table_of_iterations_adds_up(result):
    table = result.iterations_table()
    assert (table.start_seconds.diff().dropna() > 0).all()
    assert table.end_seconds.iloc[-1] == result.finish_seconds.max()
    k = table.iterations
    spent = k * table.first_seconds + table.growth_seconds * k * (k - 1) / 2
    assert np.allclose(spent, table.end_seconds - table.start_seconds)
    assert table.prompt_tokens.sum() == result.trace.prompt_tokens.sum()


def test_figures_show_themselves_with_their_finding_in_words(result, what_if):
    drawn = [result.plot_latency(), result.plot_latency("ITL"), result.plot_timeline(), result.plot_timeline(10.0)]
    drawn += [what_if.plot(), what_if.plot("goodput", objectives=Objectives(2.0, 0.2)), what_if.plot(across="policy")]
    for figure in drawn:
        shown = figure._repr_html_()
        assert re.match(r'<img alt="[^"]{60,}" ', shown)
        assert "data:image/png;base64," in shown


def test_a_figure_across_loads_marks_what_is_overloaded_and_ends_there(what_if):
    (axes,) = what_if.plot("E2E", 0.5).axes
    curves = [line for line in axes.lines if line.get_gid() == "curve"]
    assert [list(np.isfinite(line.get_ydata())) for line in curves] == [[True, False]] * 2
    marks = [line.get_xdata().tolist() for line in axes.lines if line.get_gid() == "overloaded"]
    assert marks == [[3.0], [3.0]]


def test_an_unknown_metric_is_refused(result):
    with pytest.raises(ValueError, match="metric is 'latency'; allowed: TTFT, TPOT, ITL, E2E"):
        result.plot_latency("latency")
