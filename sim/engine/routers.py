"""Which replica a request goes to: one function for each rule, from what a router in front of the engines can know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np

from sim.engine.content import ContentTree, content_tree
from workloads.trace import Trace

Router = Callable[[int, int], int]
"""Index and prompt tokens of a request that arrives now -> the number of a replica."""

LEAST_MATCH = 0.3
MOST_DIFFERENCE, MOST_RATIO = 64, 1.5
"""`prefix_affinity`: share of the prompt that must match, and how many more requests, and how many times as many, the
busiest replica may have than the idlest before load counts more. Defaults of the `cache_aware` policy of the SGLang
gateway and the vLLM router (--cache-threshold, --balance-abs-threshold, --balance-rel-threshold)."""

HASHED_TOKENS = 256
"""`prefix_hash`: how much of a prompt says where it goes; ours, longer than a short system prompt that all share."""

_DRAWS = 4096
_ROUTERS_OWN = 0x726F75746572


class Fleet:
    """What a router knows: what it sent where and what was answered, never what goes on inside an engine.

    Attributes
    ----------
    replicas : how many.
    requests : (replicas,) sent to each and not answered yet.
    tokens : (replicas,) prompt tokens of these, those of requests without a first token twice: once because they must
        be computed, once because they fill the KV cache, as the KV router of NVIDIA Dynamo counts (docs, "Router
        Design": prefill and decode blocks).
    """

    def __init__(self, replicas: int, trace: Trace, block_tokens: int, seed: int) -> None:
        """Nothing has been sent."""
        self.replicas = replicas
        self.requests = [0] * replicas
        self.tokens = [0] * replicas
        self.block_tokens = block_tokens
        self._trace = trace
        # Whoever gives the workload the same seed must not get the same numbers.
        self._random = np.random.default_rng(np.random.SeedSequence([seed, _ROUTERS_OWN]))

    def send(self, replica: int, prompt: int) -> None:
        """Note that a request was sent."""
        self.requests[replica] += 1
        self.tokens[replica] += 2 * prompt

    def start(self, replica: int, prompt: int) -> None:
        """Note a first token."""
        self.tokens[replica] -= prompt

    def end(self, replica: int, prompt: int, started: bool) -> None:
        """Note that a request has left, with or without a first token."""
        self.requests[replica] -= 1
        self.tokens[replica] -= prompt if started else 2 * prompt

    def draws(self, below: int) -> Iterator[int]:
        """Yield random whole numbers from 0, smaller than `below`."""
        while True:
            yield from self._random.integers(0, below, _DRAWS).tolist()

    def idlest(self) -> int:
        """Return the replica with the fewest requests, the first of several."""
        return self.requests.index(min(self.requests))

    def path(self, index: int) -> list[int]:
        """Return the shared runs of text that a prompt begins with, the longest beginning first; see `ContentTree`."""
        tree = self._tree
        if tree is None:
            return []
        run, found = int(tree.deepest[index]), []
        while run >= 0:
            found.append(run)
            run = int(tree.parent[run])
        return found

    def shared_tokens(self, run: int) -> int:
        """Return how many tokens lie before the end of a run of `path`."""
        return 0 if self._tree is None else int(self._tree.last[run]) * self.block_tokens

    @cached_property
    def _tree(self) -> ContentTree | None:
        return None if self._trace.segments is None else content_tree(self._trace, self.block_tokens)


def round_robin(fleet: Fleet) -> Router:
    """One after the other."""
    turn = -1

    def route(index: int, prompt: int) -> int:
        nonlocal turn
        turn = (turn + 1) % fleet.replicas
        return turn

    return route


def random(fleet: Fleet) -> Router:
    """Draw lots: Poisson arrivals stay Poisson at every replica."""
    draws = fleet.draws(fleet.replicas)
    return lambda index, prompt: next(draws)


def least_requests(fleet: Fleet) -> Router:
    """The one with the fewest unanswered requests ("join the shortest queue")."""
    return lambda index, prompt: fleet.idlest()


def least_tokens(fleet: Fleet) -> Router:
    """The one with the least work: see `Fleet.tokens`."""
    return lambda index, prompt: fleet.tokens.index(min(fleet.tokens))


def power_of_two(fleet: Fleet) -> Router:
    """Of two drawn by lot the one with fewer requests (Mitzenmacher 2001, doi:10.1109/71.963420)."""
    first, steps = fleet.draws(fleet.replicas), fleet.draws(max(1, fleet.replicas - 1))

    def route(index: int, prompt: int) -> int:
        one = next(first)
        other = (one + 1 + next(steps)) % fleet.replicas
        return other if fleet.requests[other] < fleet.requests[one] else one

    return route


def prefix_hash(fleet: Fleet) -> Router:
    """By the text around the end of the first `HASHED_TOKENS` of a prompt; the idlest if nobody shares that.

    The same text always goes to the same replica, however busy. Rendezvous hashing (Thaler and Ravishankar 1998): one
    replica more moves only the texts that it takes over.
    """

    def route(index: int, prompt: int) -> int:
        path = fleet.path(index)
        if not path:
            return fleet.idlest()
        text = next((run for run in reversed(path) if fleet.shared_tokens(run) >= HASHED_TOKENS), path[0])
        return max(range(fleet.replicas), key=lambda replica: _mixed(text * 0x1_0000_0001 + replica))

    return route


def prefix_affinity(fleet: Fleet) -> Router:
    """Where most of its beginning was sent before; the idlest where that is little or loads differ too much.

    The router remembers what it sent and knows nothing of evictions. Of several replicas that match equally the one
    with the fewest requests takes it. See `LEAST_MATCH` and `MOST_DIFFERENCE`.
    """
    sent: dict[int, set[int]] = {}

    def route(index: int, prompt: int) -> int:
        path = fleet.path(index)
        choice = fleet.idlest()
        busiest, least = max(fleet.requests), fleet.requests[choice]
        if busiest - least <= MOST_DIFFERENCE or busiest <= MOST_RATIO * least:
            longest = next((run for run in path if run in sent), None)
            if longest is not None and fleet.shared_tokens(longest) > LEAST_MATCH * prompt:
                choice = min(sorted(sent[longest]), key=fleet.requests.__getitem__)
        for run in path:
            sent.setdefault(run, set()).add(choice)
        return choice

    return route


ROUTERS: dict[str, Callable[[Fleet], Router]] = {
    "round_robin": round_robin,
    "random": random,
    "least_requests": least_requests,
    "least_tokens": least_tokens,
    "power_of_two": power_of_two,
    "prefix_hash": prefix_hash,
    "prefix_affinity": prefix_affinity,
}
"""The rules by name."""


def _mixed(number: int) -> int:
    """Return 64 well-mixed bits of a number (the finaliser of SplitMix64, Steele et al. 2014)."""
    mask = (1 << 64) - 1
    number = (number + 0x9E3779B97F4A7C15) & mask
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & mask
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & mask
    return number ^ (number >> 31)
