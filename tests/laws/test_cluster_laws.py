"""Laws of replicas behind a router: those of one engine, and that every replica is one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.engine.clock import IterationClock, uniform_clock
from sim.engine.cluster import Cluster
from sim.engine.replay import FINISHED, IGNORED, STALLED, Replay, replay, serve_cluster
from sim.engine.replica import Server
from sim.engine.routers import ROUTERS, Fleet
from sim.results.result import Result
from sim.results.tokens import has_token_times, token_times
from sim.scheduling.batch import Limits
from sim.scheduling.schedulers import SCHEDULERS
from tests import strategies
from tests.strategies import clocks, half_as_fast, in_step, metronome, servers, traces
from workloads.trace import Trace

COLUMNS = ("arrival", "queued", "first_token", "finish", "cached_tokens", "preemptions", "outcome", "replica")


@dataclass(frozen=True)
class Drawn:
    """Replicas, equal or different, each with a clock, behind a router."""

    servers: tuple[Server, ...]
    router: str
    seed: int

    def serve(self, trace: Trace, **changes: Any) -> Replay:
        return serve_cluster(trace, self.servers, self.router, seed=self.seed, **changes)


@st.composite
def clusters(draw: st.DrawFn, *, least: int = 2) -> Drawn:
    """Draw up to four replicas; half of the time all are equal."""
    count = draw(st.integers(least, 4))
    kinds = [_server(draw(servers()), draw(clocks(windows=True)))]
    while draw(st.booleans()) and len(kinds) < count:
        other = _server(draw(servers()), draw(clocks(windows=True)))
        kinds += [other] if other.scheduler.streams == kinds[0].scheduler.streams else []
    each = tuple(kinds[number % len(kinds)] for number in range(count))
    return Drawn(each, draw(st.sampled_from(sorted(ROUTERS))), draw(st.integers(0, 3)))


def _server(drawn: strategies.Server, clock: IterationClock) -> Server:
    if not drawn.bounds.window:
        clock = replace(clock, window_ticks=0, window_prompt_ticks=None)
    return Server(drawn.bounds, drawn.scheduler, clock, drawn.cache, drawn.asynchronous)


def same(one: Replay, other: Replay, columns: tuple[str, ...] = COLUMNS) -> None:
    for column in columns:
        np.testing.assert_array_equal(getattr(one, column), getattr(other, column), err_msg=column)


def gaps(outcome: Replay) -> np.ndarray:
    pairs = [log.inter_token_gaps() for log in outcome.logs]
    return np.sort(np.concatenate([np.repeat(values, counts) for values, counts in pairs]))


@given(trace=traces(), cluster=clusters())
def test_coasting_changes_nothing(trace, cluster):
    coasted, stepped = cluster.serve(trace), cluster.serve(trace, coast=False)
    same(coasted, stepped)
    np.testing.assert_array_equal(gaps(coasted), gaps(stepped))
    for ours, theirs in zip(coasted.logs, stepped.logs, strict=True):
        assert ours.duration.sum() == theirs.duration.sum()


@given(trace=traces(), cluster=clusters(least=1), instants=st.integers(1, 3), ticks=st.integers(1, 3))
def test_coasting_changes_nothing_though_engines_keep_step(trace, cluster, instants, ticks):
    # Replies end, and release followers, at the very instants at which other replicas decide.
    trace = in_step(trace, instants, ticks)
    servers = tuple(replace(server, clock=metronome(ticks)) for server in cluster.servers)
    for some in (servers, servers[:1]):
        coasted, stepped = (serve_cluster(trace, some, cluster.router, coast=coast) for coast in (True, False))
        same(coasted, stepped)
        np.testing.assert_array_equal(gaps(coasted), gaps(stepped))


@given(trace=traces(), cluster=clusters(least=1), router=st.sampled_from(sorted(ROUTERS)))
def test_a_cluster_of_one_is_a_single_replica(trace, cluster, router):
    (one, *_) = cluster.servers
    alone = replay(
        trace, one.limits, one.scheduler, one.clock, prefix_cache=one.prefix_cache, asynchronous=one.asynchronous
    )
    clustered = serve_cluster(trace, [one], router)
    same(alone, clustered)
    np.testing.assert_array_equal(alone.iterations.start, clustered.logs[0].start)
    assert (alone.replica == 0).all()


@given(trace=traces(), cluster=clusters())
def test_every_replica_is_a_replica_alone_with_the_requests_it_was_sent(trace, cluster):
    if any(server.prefix_cache == "belady" for server in cluster.servers):
        return  # exception: who knows the future knows who comes, not to which replica
    free = replace(trace, previous=None, think_seconds=None)
    outcome = cluster.serve(free)
    for number, server in enumerate(cluster.servers):
        rows, part = outcome.of(number)
        alone = serve_cluster(free.subset(rows), [server])
        same(part, alone)
        np.testing.assert_array_equal(part.iterations.start, alone.iterations.start)
        np.testing.assert_array_equal(part.iterations.chunks, alone.iterations.chunks)
        np.testing.assert_array_equal(part.iterations.pauses, alone.iterations.pauses)


@given(trace=traces(), cluster=clusters())
def test_everybody_leaves_once_and_tokens_are_conserved(trace, cluster):
    outcome = cluster.serve(trace)
    assert (outcome.replica[outcome.outcome != STALLED] >= 0).all()
    served = outcome.outcome == FINISHED
    assert (outcome.finish[served] >= outcome.first_token[served]).all()
    assert (outcome.first_token[served] > outcome.arrival[served]).all()
    assert (outcome.finish[~served] == -1).all()
    if np.isin(outcome.outcome, (IGNORED, STALLED)).any():
        return
    emitted = sum(int((log.decodes * log.iterations - log.wasted).sum() + log.samples.sum()) for log in outcome.logs)
    assert emitted == trace.output_tokens[served].sum()
    assert len(gaps(outcome)) == (trace.output_tokens[served] - 1).sum()


@given(trace=traces(), cluster=clusters())
def test_littles_law_holds_exactly(trace, cluster):
    outcome = cluster.serve(trace)
    served = outcome.outcome == FINISHED
    for number in range(len(cluster.servers)):
        mine = served & (outcome.replica == number)
        arrival, finish = outcome.arrival[mine], outcome.finish[mine]
        times = np.concatenate([arrival, finish])
        steps = np.concatenate([np.ones(len(arrival), dtype=int), -np.ones(len(finish), dtype=int)])
        order = np.argsort(times, kind="stable")
        assert (np.diff(times[order]) * np.cumsum(steps[order])[:-1]).sum() == (finish - arrival).sum()


@given(trace=traces(), cluster=clusters())
def test_followers_come_when_those_before_them_have_left_wherever_they_were(trace, cluster):
    outcome = cluster.serve(trace)
    think = np.round(trace.think_seconds * 2**40).astype(np.int64)
    for request in np.flatnonzero(trace.previous >= 0):
        earlier = trace.previous[request]
        if outcome.outcome[earlier] == FINISHED:
            earliest = round(float(trace.arrival_seconds[request]) * 2**40)
            assert outcome.arrival[request] == max(earliest, outcome.finish[earlier] + think[request])


@given(trace=traces(), cluster=clusters())
def test_a_router_forgets_nobody_and_remembers_nobody_who_has_left(trace, cluster):
    running = Cluster(trace, cluster.servers, cluster.router, seed=cluster.seed)
    running.env.run()
    fleet = running._fleet
    waiting = np.frombuffer(running.books.state, dtype=np.int8) == STALLED
    for number in range(fleet.replicas):
        mine = waiting & (np.frombuffer(running.books.replica, dtype=np.int32) == number)
        started = mine & (np.frombuffer(running.books.first_token, dtype=np.int64) >= 0)
        assert fleet.requests[number] == mine.sum()
        assert fleet.tokens[number] == 2 * trace.prompt_tokens[mine].sum() - trace.prompt_tokens[started].sum()


@given(trace=traces(), cluster=clusters())
def test_latencies_are_split_to_the_tick(trace, cluster):
    outcome = cluster.serve(trace)
    limits = tuple(server.limits for server in cluster.servers)
    result = Result(trace, limits[0], outcome, limits)
    found, served = result.attribution(), outcome.outcome == FINISHED
    np.testing.assert_array_equal(found.end_to_end.sum(axis=0)[served], (outcome.finish - outcome.arrival)[served])
    np.testing.assert_array_equal(found.ttft.sum(axis=0)[served], (outcome.first_token - outcome.arrival)[served])
    assert (found.end_to_end >= 0).all()
    assert not found.end_to_end[:, ~served].any()


@given(trace=traces(), cluster=clusters(), seed=st.integers(0, 9))
def test_token_times_are_those_of_the_replica(trace, cluster, seed):
    outcome = cluster.serve(trace)
    limits = tuple(server.limits for server in cluster.servers)
    result = Result(trace, limits[0], outcome, limits)
    known = np.random.default_rng(seed).permutation(np.flatnonzero(has_token_times(result)))
    if not outcome.streams or any((log.pauses[:, 2] == 0).any() for log in outcome.logs):
        return  # nobody knows when tokens came to those who sat iterations out
    offsets, times = token_times(result, known)
    assert (np.diff(offsets) == trace.output_tokens[known]).all()
    np.testing.assert_array_equal(times[offsets[:-1]] * 2**40, outcome.first_token[known])
    np.testing.assert_array_equal(times[offsets[1:] - 1] * 2**40, outcome.finish[known])


@given(trace=traces(), cluster=clusters())
def test_doubling_all_ticks_doubles_all_results(trace, cluster):
    once = cluster.serve(trace)
    slower = tuple(replace(server, clock=half_as_fast(server.clock)) for server in cluster.servers)
    later = replace(trace, arrival_seconds=2 * trace.arrival_seconds, think_seconds=2 * trace.think_seconds)
    twice = replace(cluster, servers=slower).serve(later)
    same(once, twice, ("outcome", "replica", "preemptions", "cached_tokens"))
    served = once.outcome == FINISHED
    np.testing.assert_array_equal(twice.finish[served], 2 * once.finish[served])
    np.testing.assert_array_equal(twice.first_token[served], 2 * once.first_token[served])


@given(trace=traces(), cluster=clusters())
def test_iterations_of_a_replica_do_not_overlap_and_idle_means_nothing_waits_there(trace, cluster):
    outcome = cluster.serve(trace)
    for number, log in enumerate(outcome.logs):
        assert (log.start[1:] >= log.end[:-1]).all()
        mine = (outcome.outcome == FINISHED) & (outcome.replica == number)
        for row in np.flatnonzero(log.start[1:] > log.end[:-1]):
            waiting = mine & (outcome.arrival < log.start[row + 1]) & (outcome.finish > log.end[row])
            assert not waiting.any(), "the replica was idle although somebody was there"


@pytest.mark.parametrize("think", [0.0, 1000.0])
def test_followers_released_at_one_instant_are_routed_in_order_of_their_index(think):
    # 0 and 1 end at the same tick on two replicas; 0 releases 3 first, then 1 releases 2.
    each = np.full(4, 5)
    trace = Trace(
        np.zeros(4), each, each, each, previous=np.array([-1, -1, 1, 0]), think_seconds=np.full(4, think / 2**40)
    )
    for coast in (True, False):
        outcome = serve_cluster(trace, equal(2), "round_robin", coast=coast)
        assert outcome.arrival[2] == outcome.arrival[3] == outcome.finish[0] + think
        assert outcome.replica.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(("asynchronous", "first_token"), [(False, 40), (True, 50)])
def test_who_is_released_at_the_instant_of_a_decision_waits_for_the_next(asynchronous, first_token):
    # Iterations take 10 ticks everywhere. The reply of 0 ends at 20 and releases 3, which goes to the other replica:
    # that has just decided on what begins at 20, or, planning ahead, at 30.
    each, output = np.full(4, 5), np.array([2, 9, 1, 4])
    trace = Trace(np.zeros(4), each, output, output, previous=np.array([-1, -1, -1, 0]), think_seconds=np.zeros(4))
    server = replace(equal(1)[0], clock=metronome(10), asynchronous=asynchronous)
    for coast in (True, False):
        outcome = serve_cluster(trace, [server] * 2, coast=coast)
        assert (outcome.arrival[3], outcome.replica[3], outcome.first_token[3]) == (20, 1, first_token)


def simple(count: int, gap: float, prompt: int = 50, output: int = 20) -> Trace:
    same_for_all = np.full(count, output, dtype=np.int64)
    return Trace(gap * np.arange(count), np.full(count, prompt), same_for_all, same_for_all)


def equal(count: int, **limits: Any) -> list[Server]:
    bounds = Limits(**({"blocks": 1000} | limits))
    return [Server(bounds, SCHEDULERS["inflight_batching"], uniform_clock(1000, 1, 9000))] * count


@pytest.mark.parametrize("count", [2, 3, 7])
def test_round_robin_over_equal_arrivals_is_as_many_replicas_on_every_nth_request(count):
    trace = simple(210, 500 / 2**40)
    outcome = serve_cluster(trace, equal(count))
    for number in range(count):
        rows = np.arange(number, 210, count)
        alone = serve_cluster(trace.subset(rows), equal(1))
        np.testing.assert_array_equal(outcome.finish[rows], alone.finish)
        assert (outcome.replica[rows] == number).all()


@pytest.mark.parametrize("router", sorted(ROUTERS))
def test_the_same_seed_gives_the_same_bytes(router):
    rng = np.random.default_rng(3)
    n = 400
    trace = Trace(np.sort(rng.uniform(0, 1e-6, n)), rng.integers(1, 90, n), rng.integers(1, 60, n), np.full(n, 64))
    first, again, other = (serve_cluster(trace, equal(4), router, seed=seed) for seed in (1, 1, 2))
    for column in COLUMNS:
        assert getattr(first, column).tobytes() == getattr(again, column).tobytes()
    assert (router in ("random", "power_of_two")) == (first.replica.tobytes() != other.replica.tobytes())


def test_routers_do_what_they_say():
    trace = simple(4, 0.0)
    fleet = Fleet(3, trace, 16, 0)
    route = {name: make(fleet) for name, make in ROUTERS.items()}
    assert [route["round_robin"](0, 50) for _ in range(4)] == [0, 1, 2, 0]
    fleet.send(0, 10)
    fleet.send(1, 500)
    fleet.send(0, 10)
    fleet.send(2, 90)
    assert [route[name](0, 50) for name in ("least_requests", "least_tokens")] == [1, 0]
    assert fleet.tokens == [40, 1000, 180]
    fleet.start(1, 500)
    fleet.end(0, 10, False)
    fleet.end(1, 500, True)
    assert (fleet.requests, fleet.tokens) == ([1, 0, 1], [20, 0, 180])
    # Only a pair without the idle replica 1 does not choose it: 2 of 6 ordered pairs.
    chosen = np.bincount([route["power_of_two"](0, 50) for _ in range(6000)], minlength=3)
    np.testing.assert_allclose(chosen / 6000, [1 / 6, 2 / 3, 1 / 6], atol=0.02)


@pytest.mark.parametrize("router", ["prefix_hash", "prefix_affinity"])
def test_what_shares_its_beginning_goes_to_one_replica(router):
    from workloads.trace import Segments

    texts = np.random.default_rng(8).integers(0, 12, 300)
    rows = [[(int(text), 0, 64)] for text in texts]
    trace = replace(simple(300, 30_000 / 2**40, prompt=100), segments=Segments.from_lists(rows))
    outcome = serve_cluster(trace, equal(3), router)
    homes = [set(outcome.replica[texts == text].tolist()) for text in range(12)]
    assert all(len(home) == 1 for home in homes)
    assert set().union(*homes) == {0, 1, 2} if router == "prefix_hash" else True


def test_prefix_affinity_gives_way_to_load():
    from workloads.trace import Segments

    trace = replace(simple(300, 0.0, prompt=100), segments=Segments.from_lists([[(0, 0, 64)]] * 300))
    outcome = serve_cluster(trace, equal(3), "prefix_affinity")
    # All at once: 65 go to the first before it has too many, then the others catch up.
    assert np.bincount(outcome.replica, minlength=3).min() > 60


@pytest.mark.parametrize(
    ("servers", "router", "message"),
    [([], "random", "there are 0 replicas"), (equal(2), "best", r"router is 'best'; allowed: round_robin, random")],
)
def test_bad_clusters_are_refused(servers, router, message):
    with pytest.raises(ValueError, match=message):
        serve_cluster(simple(2, 0.0), servers, router)
