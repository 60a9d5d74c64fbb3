from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from experiments.shown import figures
from sim.figures.replica_timeline import DECODE, MIXED, PREFILL, passage
from sim.figures.style import SIZE_INCHES, arm_styles
from sim.figures.words import cache_finding, duration, policy_finding, three_digits
from sim.machine import Machine
from sim.results.percentiles import percentile, percentiles
from sim.results.result import Result
from sim.scenario import COMPARED, Scenario, simulate
from workloads.synthetic.chat import chat

ARMS = tuple(policy + cache for policy in COMPARED for cache in ("", " + prefix cache"))


def parts(figure: Figure, gid: str) -> list[Line2D]:
    return [line for line in figure.axes[0].lines if line.get_gid() == gid]


def title(figure: Figure) -> str:
    return next(text.get_text().replace("\n", " ") for text in figure.texts if text.get_gid() == "title")


def lognormal_curves(factors: dict[str, float], samples: int = 20_000) -> dict[str, tuple[np.ndarray, None]]:
    base = np.random.default_rng(1).lognormal(-2, 0.8, samples)
    return {arm: (base * factor, None) for arm, factor in factors.items()}


FOUR = dict(zip(ARMS, (1.0, 0.6, 0.62, 0.4), strict=True))


# --- words -------------------------------------------------------------------------------------------------


@given(st.floats(1e-6, 1e6))
def test_three_digits_are_right_to_half_a_unit_of_the_third(value: float) -> None:
    assert float(three_digits(value).replace(",", "")) == pytest.approx(value, rel=0.00501)
    assert "e" not in three_digits(value)


def test_a_time_just_below_a_second_does_not_read_as_a_thousand_milliseconds() -> None:
    assert duration(0.99999) == "1.00 s"
    assert duration(0.999) == "999 ms"


@pytest.mark.parametrize(
    ("other", "said"),
    [(0.62, "cuts p99 ITL by 38 %"), (1.04, "raises p99 ITL by 4 %"), (1.01, "by less than 2 %"), (2.5, "by 2.5 at")],
)
def test_a_finding_gives_direction_and_size(other: float, said: str) -> None:
    values = {"prefill_first": 1.0, "inflight_batching": other}
    assert said in policy_finding(values, "p99 ITL", "at 72 % load")


def test_a_finding_admits_that_intervals_overlap_or_are_missing() -> None:
    values = {"prefill_first": 1.0, "inflight_batching": 0.9}
    overlapping = {"prefill_first": (0.8, 1.2), "inflight_batching": (0.7, 1.1)}
    apart = {"prefill_first": (0.98, 1.02), "inflight_batching": (0.88, 0.92)}
    missing = {"prefill_first": (np.nan, np.nan), "inflight_batching": (0.7, 1.1)}
    assert policy_finding(values, "p99", "here", overlapping).endswith("(intervals overlap)")
    assert policy_finding(values, "p99", "here", missing).endswith("(interval unknown)")
    assert policy_finding(values, "p99", "here", apart).endswith("here")


def test_the_cache_is_compared_under_the_same_policy() -> None:
    said = cache_finding(dict(zip(ARMS, (1.0, 0.5, 2.0, 1.5), strict=True)), "p99 TTFT")
    assert said == "The prefix cache cuts p99 TTFT by 50 % (prefill-first) and 25 % (in-flight batching)"
    assert cache_finding({"prefill_first": 1.0}, "p99 TTFT") == ""


# --- style -------------------------------------------------------------------------------------------------


def test_an_arm_looks_the_same_whatever_else_is_shown() -> None:
    alone = arm_styles([ARMS[3]])[ARMS[3]]
    assert alone == arm_styles(ARMS)[ARMS[3]] == arm_styles(["something else", ARMS[3]])[ARMS[3]]


def test_policies_differ_in_hue_and_marker_and_cached_arms_are_dashed() -> None:
    plain, cached, other, _ = arm_styles(ARMS).values()
    assert plain.hue == cached.hue != other.hue
    assert plain.marker == cached.marker != other.marker
    assert plain.line == other.line == "-" != cached.line


def luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_labels_have_the_contrast_that_wcag_asks_of_small_type() -> None:
    for style in arm_styles(ARMS).values():
        assert 1.05 / (luminance(style.ink) + 0.05) >= 4.5


# --- survival ----------------------------------------------------------------------------------------------


def test_survival_falls_from_one_and_is_right_at_every_mark() -> None:
    curves = lognormal_curves(FOUR)
    figure = figures.survival(curves, "TTFT", "at 70 % load")
    drawn = {line.get_label(): line for line in parts(figure, "curve")}
    assert set(drawn) == set(ARMS)
    for arm, line in drawn.items():
        x, y = line.get_data()
        assert (np.diff(x) >= 0).all()
        assert (np.diff(y) < 0).all()
        assert y[0] == 1
        values = curves[str(arm)][0]
        assert np.allclose([(values > value).mean() for value in x[1:]], y[1:], atol=1 / len(values))
    marks = {(float(mark.get_xdata()[0]), round(1 - float(mark.get_ydata()[0]), 4)) for mark in parts(figure, "mark")}
    expected = {(percentile(curves[arm][0], level), level) for arm in ARMS for level in (0.5, 0.9, 0.99, 0.999)}
    assert marks == expected


def test_survival_has_logarithmic_axes_units_and_the_finding_as_title() -> None:
    figure = figures.survival(lognormal_curves(FOUR), "ITL", "at 70 % load")
    (axes,) = figure.axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert title(figure) == "In-flight batching cuts p99 ITL by 38 % at 70 % load"
    assert "ITL [ms or s" in axes.get_xlabel()
    assert "tokens" in axes.get_ylabel()
    assert "[%]" in axes.get_ylabel()


def test_weights_count_like_repeated_samples() -> None:
    rng = np.random.default_rng(3)
    values, weights = rng.lognormal(size=500), rng.integers(1, 40, 500)
    weighted = figures.survival({"prefill_first": (values, weights)}, "ITL", "")
    repeated = figures.survival({"prefill_first": (np.repeat(values, weights), None)}, "ITL", "")
    for one, other in zip(weighted.axes[0].lines, repeated.axes[0].lines, strict=True):
        assert np.array_equal(np.asarray(one.get_xdata()), np.asarray(other.get_xdata()))


def test_percentiles_without_samples_enough_are_neither_marked_nor_named() -> None:
    figure = figures.survival(lognormal_curves(FOUR, samples=500), "TTFT", "at 70 % load")
    assert "p90" in title(figure)
    assert {round(float(mark.get_ydata()[0]), 3) for mark in parts(figure, "mark")} == {0.5, 0.1}
    assert min(float(np.min(line.get_ydata())) for line in parts(figure, "curve")) == pytest.approx(10 / 500)


def test_requests_that_were_not_served_are_left_out() -> None:
    values = np.append(np.random.default_rng(0).lognormal(size=2000), np.full(500, np.nan))
    (line,) = parts(figures.survival({"prefill_first": (values, None)}, "TTFT", ""), "curve")
    assert np.isfinite(line.get_xydata()).all()


def test_the_title_quotes_the_highest_percentile_with_intervals_and_whiskers_show_them() -> None:
    curves = lognormal_curves({ARMS[0]: 1.0, ARMS[2]: 0.5})
    at = {arm: percentile(values, 0.9) for arm, (values, _) in curves.items()}
    intervals = {arm: {0.9: (value * 0.99, value * 1.01), 0.99: (np.nan, np.nan)} for arm, value in at.items()}
    figure = figures.survival(curves, "TTFT", "at 70 % load", intervals)
    assert title(figure) == "In-flight batching cuts p90 TTFT by 50 % at 70 % load"
    ends = {tuple(map(float, whisker.get_xdata())) for whisker in parts(figure, "whisker")}
    assert ends == {found[0.9] for found in intervals.values()}


@pytest.mark.parametrize("curves", [{}, {"prefill_first": (np.ones(19), None)}])
def test_survival_refuses_what_has_no_tail(curves: dict[str, tuple[np.ndarray, None]]) -> None:
    with pytest.raises(ValueError, match=r"survival: .* allowed"):
        figures.survival(curves, "TTFT", "")


# --- labels ------------------------------------------------------------------------------------------------


def label_boxes(axes: Axes) -> list[tuple[float, float, float, float]]:
    notes = [child for child in axes.get_children() if isinstance(child, Text) and child.get_gid() == "label"]
    return [Text.get_window_extent(note).extents for note in notes]


def test_labels_name_every_line_cover_none_and_do_not_touch() -> None:
    figure = figures.survival(lognormal_curves(FOUR), "TTFT", "at 70 % load")
    (axes,) = figure.axes
    figure.canvas.draw()
    boxes = label_boxes(axes)
    assert len(boxes) == 4
    for i, (left, bottom, right, top) in enumerate(boxes):
        for line in parts(figure, "curve"):
            x, y = axes.transData.transform(line.get_xydata()).T
            assert not ((x > left) & (x < right) & (y > bottom) & (y < top)).any()
        for a, b, c, d in boxes[i + 1 :]:
            assert right <= a or c <= left or top <= b or d <= bottom


# --- latency over load -------------------------------------------------------------------------------------


def load_table(overloaded_from: dict[str, float] | None = None) -> pd.DataFrame:
    last = overloaded_from or {}
    rows = [
        {
            "arm": arm,
            "load": load,
            "share_of_capacity": load / 4,
            "metric": metric,
            "level": 0.99,
            "estimate": (estimate := FOUR[arm] / (6 - load)),
            "low": estimate * 0.98,
            "high": estimate * 1.02,
            "verdict": "overloaded (+0.3 req/s backlog)" if load >= last.get(arm, np.inf) else "stable",
        }
        for arm in ARMS
        for load in (1.0, 2.0, 3.0, 4.0, 5.0)
        for metric in ("TTFT", "ITL")
    ]
    return pd.DataFrame(rows)


def test_overloaded_points_are_not_drawn_as_if_steady() -> None:
    figure = figures.load_latency(load_table({ARMS[0]: 4.0}), "TTFT", 0.99)
    drawn = {line.get_label(): line for line in parts(figure, "line")}
    known = {arm: np.isfinite(np.asarray(line.get_ydata(), dtype=float)).tolist() for arm, line in drawn.items()}
    assert known == {arm: [True] * 3 + [arm != ARMS[0]] * 2 for arm in ARMS}
    (tried,) = parts(figure, "overloaded")
    assert list(tried.get_xdata()) == [4.0, 5.0]


def test_the_overloaded_region_is_shaded_from_where_it_begins() -> None:
    figure = figures.load_latency(load_table(dict.fromkeys(ARMS, 5.0) | {ARMS[0]: 4.0}), "TTFT", 0.99)
    shades = [patch for patch in figure.axes[0].patches if patch.get_gid() == "overload"]
    assert [patch.get_x() for patch in shades] == [3.5, 4.5]
    stable = figures.load_latency(load_table(), "TTFT", 0.99)
    assert not [patch for patch in stable.axes[0].patches if patch.get_gid() == "overload"]


def test_the_second_axis_is_the_share_of_capacity() -> None:
    figure = figures.load_latency(load_table(), "ITL", 0.99)
    axes = figure.axes[0]
    figure.canvas.draw()
    (above,) = axes.child_axes
    assert np.allclose(np.array(above.get_xlim()), np.array(axes.get_xlim()) * 25)
    assert axes.get_xlabel() == "load [requests/s]"
    assert above.get_xlabel() == "share of capacity [%]"
    assert axes.get_yscale() == "log"


def test_the_finding_is_taken_at_the_highest_load_that_all_bear() -> None:
    figure = figures.load_latency(load_table({ARMS[0]: 4.0}), "TTFT", 0.99)
    assert title(figure) == "In-flight batching cuts p99 TTFT by 38 % at 75 % load"
    alt = figures.load_latency_alt(load_table({ARMS[0]: 4.0}), "TTFT", 0.99)
    assert "overloaded from 4.00" in alt
    assert "prefill-first: 200 ms at 1.00 requests/s to 333 ms at 3.00" in alt


def test_intervals_are_bands_and_missing_ones_are_told_apart() -> None:
    table = load_table()
    table.loc[table["load"] == 5.0, ["low", "high"]] = np.nan
    figure = figures.load_latency(table, "TTFT", 0.99)
    bands = [band for band in figure.axes[0].collections if band.get_gid() == "band"]
    whiskers = [w for w in figure.axes[0].collections if w.get_gid() == "whisker" and isinstance(w, LineCollection)]
    assert len(bands) == 4
    assert [len(whisker.get_segments()) for whisker in whiskers] == [4] * 4
    assert [list(mark.get_xdata()) for mark in parts(figure, "no interval")] == [[5.0]] * 4
    assert title(figure).endswith("at 100 % load")


def test_nothing_but_overload_can_be_drawn() -> None:
    figure = figures.load_latency(load_table(dict.fromkeys(ARMS, 0.0)), "TTFT", 0.99)
    assert title(figure) == "No arm keeps up at 1.00 requests/s or more"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(columns="low"), "no column 'low'"),
        (lambda table: table[table.metric == "ITL"], "no rows with metric 'TTFT'"),
        (lambda table: table.assign(share_of_capacity=0.5), "not proportional"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(change: Callable[[pd.DataFrame], pd.DataFrame], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        figures.load_latency(change(load_table()), "TTFT", 0.99)


# --- timeline ----------------------------------------------------------------------------------------------


@cache
def machine() -> Machine:
    return scenario("prefill_first").machine


def scenario(policy: str) -> Scenario:
    return Scenario(chat(np.random.default_rng(5), 120, 1.0, context_tokens=4096), policy=policy)


@cache
def run(policy: str, blocks: int | None = None) -> Result:
    limits = machine().limits
    return simulate(scenario(policy), replace(machine(), limits=replace(limits, blocks=blocks or limits.blocks)))


@pytest.mark.parametrize("policy", COMPARED)
def test_every_token_of_a_reply_has_its_mark(policy: str) -> None:
    result = run(policy)
    seen = passage(result, 0.0, result.makespan_seconds + 60)
    assert len(seen.requests) == len(result.trace)
    for request, times in zip(seen.requests, seen.tokens, strict=True):
        assert len(times) == result.trace.output_tokens[request]
        assert times[0] == result.arrival_seconds[request] + result.ttft_seconds[request]
        assert times[-1] == result.finish_seconds[request]


@pytest.mark.parametrize("policy", COMPARED)
def test_gaps_between_marks_are_the_inter_token_latencies(policy: str) -> None:
    result = run(policy)
    seen = passage(result, 0.0, result.makespan_seconds + 60)
    marked = np.concatenate([np.diff(times) for times in seen.tokens])
    values, counts = result.inter_token_seconds()
    levels = [0.01, 0.5, 0.9, 0.99, 1.0]
    assert counts.sum() == len(marked)
    assert np.allclose(percentiles(values, levels, counts), percentiles(marked, levels))


def test_the_iterations_are_those_of_the_policy() -> None:
    kinds = {policy: set(passage(run(policy), 10.0, 30.0).kind.tolist()) for policy in COMPARED}
    assert kinds["prefill_first"] == {PREFILL, DECODE}
    assert MIXED in kinds["inflight_batching"]


def test_tokens_are_not_invented_where_requests_were_preempted() -> None:
    result = run("prefill_first", blocks=300)
    preempted = np.flatnonzero(result.replay.preemptions)
    assert len(preempted)
    seen = passage(result, 0.0, result.makespan_seconds + 60)
    for request, times in zip(seen.requests.tolist(), seen.tokens, strict=True):
        assert len(times) in (0, result.trace.output_tokens[request])
        assert not (request in preempted and len(times))


def test_the_timeline_has_a_panel_a_policy_and_the_longest_pauses_in_its_title() -> None:
    results = {policy: run(policy) for policy in COMPARED}
    figure = figures.timeline(results, 20.0, 24.0)
    assert len(figure.axes) == len(results)
    assert [axes.get_xlim() for axes in figure.axes] == [(20.0, 24.0)] * 2
    assert re.fullmatch(r"Running replies pause for up to .* m?s under .* and .* m?s under .*", title(figure))
    bars = {c.get_gid() for axes in figure.axes for c in axes.collections if len(c.get_paths())}
    assert {"prefill", "prefill and decode", "decode", "pauses"} <= bars
    assert "[s]" in figure.axes[-1].get_xlabel()


def test_the_longest_pause_is_the_longest_gap_of_a_request_that_was_running() -> None:
    result = run("prefill_first")
    begin, end = 20.0, 24.0
    gaps = [np.diff(t)[(t[1:] > begin) & (t[:-1] < end)] for t in passage(result, begin, end).tokens if len(t) > 1]
    alt = figures.timeline_alt({"prefill_first": result}, begin, end)
    assert f"longest gap between tokens {duration(max(map(np.max, filter(len, gaps))))}" in alt


@pytest.mark.parametrize(("start", "end"), [(3.0, 3.0), (4.0, 3.0)])
def test_an_empty_window_is_refused(start: float, end: float) -> None:
    with pytest.raises(ValueError, match="allowed"):
        figures.timeline({"prefill_first": run("prefill_first")}, start, end)


# --- all ---------------------------------------------------------------------------------------------------


def every_figure() -> dict[str, Figure]:
    return {
        "survival": figures.survival(lognormal_curves(FOUR), "TTFT", "at 70 % load"),
        "load": figures.load_latency(load_table({ARMS[0]: 4.0}), "TTFT", 0.99),
        "timeline": figures.timeline({policy: run(policy) for policy in COMPARED}, 20.0, 24.0),
    }


def test_no_type_is_below_eight_points_and_none_leaves_the_figure() -> None:
    for name, figure in every_figure().items():
        figure.canvas.draw()
        for text in figure.findobj(Text):
            assert isinstance(text, Text)
            if not text.get_text() or not text.get_visible():
                continue
            assert text.get_fontsize() >= 8, (name, text.get_text())
            if text.get_gid() in ("title", "subtitle", "label"):
                box = Text.get_window_extent(text)
                assert 0 <= box.x0 <= box.x1 <= figure.bbox.width, (name, text.get_text())
                assert 0 <= box.y0 <= box.y1 <= figure.bbox.height, (name, text.get_text())


def test_saving_is_deterministic_complete_and_leaves_no_scraps(tmp_path: Path) -> None:
    digests = []
    for attempt in ("a", "b"):
        paths = figures.save(every_figure()["load"], tmp_path / attempt / "load")
        assert [path.name for path in paths] == ["load.png", "load.svg"]
        assert sorted(path.name for path in (tmp_path / attempt).iterdir()) == ["load.png", "load.svg"]
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in paths])
    assert digests[0] == digests[1]
    assert "<dc:date>" not in (tmp_path / "a" / "load.svg").read_text(encoding="utf-8")
    header = (tmp_path / "a" / "load.png").read_bytes()[16:24]
    size = [int.from_bytes(header[i : i + 4], "big") for i in (0, 4)]
    assert size == [round(200 * inches) for inches in SIZE_INCHES]


def test_a_name_with_a_dot_keeps_it(tmp_path: Path) -> None:
    paths = figures.save(every_figure()["survival"], tmp_path / "itl_p99.9")
    assert [path.name for path in paths] == ["itl_p99.9.png", "itl_p99.9.svg"]


def test_a_million_weighted_values_are_drawn_quickly_and_thinly() -> None:
    rng = np.random.default_rng(0)
    curves = {arm: (rng.lognormal(-3, 1, 1_000_000), rng.integers(1, 60, 1_000_000)) for arm in ARMS[:2]}
    start = process_time()
    figure = figures.survival(curves, "ITL", "at 70 % load")
    assert process_time() - start < 3  # 0.4 s on an idle machine
    assert sum(len(line.get_xydata()) for line in figure.axes[0].lines) < 1000


def test_alternative_texts_tell_the_numbers() -> None:
    curves = lognormal_curves(FOUR)
    alt = figures.survival_alt(curves, "TTFT", "at 70 % load")
    for arm in ARMS:
        assert duration(percentile(curves[arm][0], 0.99)) in alt
    assert title(figures.survival(curves, "TTFT", "at 70 % load")) in alt
