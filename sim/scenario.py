"""The whole question and the whole answer: a scenario goes in, a result comes out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardware_profiles.profile import HardwareProfile
from sim.asked import asked
from sim.engine.front_end import behind_front_end, since_arrival
from sim.engine.replay import Replay, serve_cluster
from sim.engine.replica import Server
from sim.machine import Machine, machine_of
from sim.physics.efficiency import Efficiency
from sim.physics.iteration import HOST_SECONDS
from sim.physics.parallelism import Parallelism
from sim.physics.placement import NVME_BYTES_PER_SECOND, Placement, WeightsFrom
from sim.results.result import Result
from sim.scheduling.policies.prefill_first import prefill_first
from sim.scheduling.schedulers import SCHEDULERS, Scheduler
from workloads import models
from workloads.models.transformer import Transformer
from workloads.trace import Trace

if TYPE_CHECKING:
    from sim.variations import Variations

COMPARED = ("prefill_first", "inflight_batching")
"""The two schedulers that the article compares."""


@dataclass(frozen=True, repr=False)
class Scenario:
    """Everything that a simulation depends on; a what-if is `dataclasses.replace(scenario, ...)`, several are `vary`.

    The default is the article's own example, Llama-2-13B in FP16 on two L20 cards, serving 2,000 chat requests at 70 %
    of what it can. `sim.systems.scenario` makes the scenario of a product, with its own limits and overheads.

    Attributes
    ----------
    trace : what is asked: None or "chat" for generated chat requests that fit the context
        (`workloads.synthetic.chat`), the name of a public trace (`workloads.datasets`), the path of one, or a `Trace`.
    load : mean arrivals [requests/s]; None is 1 for a generated workload and the natural pace of any other; infinity
        lets everybody arrive at once.
    requests, seed : how many, None for 2,000 generated or all recorded ones; the seed of generated ones: the same seed
        at another load is the same requests, only the arrivals are stretched.
    hardware, model : shipped names, paths of files, or the objects themselves.
    precision : number formats.
    tensor, pipeline, expert, data : how devices share the model (TP, PP, EP, DP); see `Parallelism`. Stages have as
        many batches in flight (`PipelinedEngine`); data ranks keep one pace, and limits are those of one rank
        (`LockstepGroup`).
    policy : how it is scheduled: a name in `sim.scheduling.schedulers.SCHEDULERS`, or a scheduler.
    prefix_cache : whether there is one (that of vLLM V1), or which of `sim.scheduling.caches`, bounds included.
    asynchronous : whether an iteration is planned while the one before runs, as vLLM V1 does by default; see `Engine`.
    checks_memory : whether requests that the machine can never hold are refused on arrival; None if as the server does.
    utilisation : share of the visible memory that the server may use; with `utilisation_of_free`, share of what weights
        and runtime leave of it that becomes KV cache.
    reserved_bytes : what the runtime keeps for itself on each device; None for an estimate.
    block_tokens, sequences, tokens, context : see `Limits`; None is chosen from the model (`context`: the model's own,
        `tokens`: 8192 or the context, if that is longer, since whole prompts must fit one iteration).
    watermark : share of the blocks that an admission must leave free.
    paddings : see `Limits`.
    swap_bytes : memory of the host, for each device, to which requests are swapped out that are not recomputed: those
        with several replies, or all under `prefill_first_swap` (vLLM `--swap-space`, 4 GiB) [bytes].
    paged_attention : False for a KV cache in one piece a sequence, long enough for `context`, as engines had it before
        PagedAttention (Kwon et al. 2023, section 3): as many seats as such pieces fit, and nothing to share.
    efficiency : constants of the cost model: generic unless said otherwise.
    flash_attention, one_attention_kernel, host_seconds : see `IterationModel`; constants that were fitted to a server
        bring its `host_seconds` with them.
    weights_from, nvme_bytes_per_second : see `Placement`: weights that are brought in every iteration (ZeRO-Inference).
    cuda_graphs : False for an engine that starts every kernel by hand, as in 2023: an iteration then takes at least
        `EAGER_SECONDS_PER_LAYER` for each layer.
    least_iteration_seconds : what a host-bound engine takes at least for an iteration [s].
    front_end_seconds : from a request's arrival to the scheduler [s]; it counts in TTFT and end to end.
    replicas, router : equal machines, and which of `sim.engine.routers.ROUTERS` shares the requests among them; for
        different ones see `simulate_cluster`.
    router_seed : of the routers that draw lots.
    """

    trace: Trace | str | Path | None = None
    hardware: str | HardwareProfile = "l20"
    model: str | Transformer = "llama-2-13b"
    precision: str = "w16a16"
    tensor: int = 2
    pipeline: int = 1
    expert: int = 1
    data: int = 1
    policy: str | Scheduler = "prefill_first"
    prefix_cache: bool | str = False
    asynchronous: bool = False
    checks_memory: bool | None = None
    utilisation: float = 0.9
    utilisation_of_free: bool = False
    reserved_bytes: float | None = None
    block_tokens: int = 16
    sequences: int = 256
    tokens: int | None = None
    context: int | None = None
    watermark: float = 0.0
    paddings: int | None = None
    swap_bytes: float = 4.0 * 2**30
    paged_attention: bool = True
    efficiency: Efficiency | None = None
    flash_attention: bool = True
    one_attention_kernel: bool = False
    host_seconds: float = HOST_SECONDS
    weights_from: WeightsFrom = "device"
    nvme_bytes_per_second: float = NVME_BYTES_PER_SECOND
    cuda_graphs: bool = True
    least_iteration_seconds: float = 0.0
    front_end_seconds: float = 0.0
    replicas: int = 1
    router: str = "round_robin"
    router_seed: int = 0
    load: float | None = None
    requests: int | None = None
    seed: int = 1

    def __repr__(self) -> str:
        """Return what differs from the default."""
        given = {
            each.name: getattr(self, each.name) for each in fields(self) if getattr(self, each.name) != each.default
        }
        if isinstance(self.trace, Trace):
            given["trace"] = f"<{self.trace.name}, {len(self.trace):,} requests>"
        return f"Scenario({', '.join(f'{name}={value!r}' for name, value in given.items())})"

    @cached_property
    def workload(self) -> Trace:
        """The requests that are asked, whatever `trace` names.

        Raises
        ------
        ValueError
            If there is no such trace, or load, requests or seed are impossible.
        """
        model = models.load(self.model) if isinstance(self.model, str) else self.model
        return asked(self.trace, self.load, self.requests, self.seed, self.context or model.context)

    def vary(self, replications: int = 1, **values: Iterable[Any]) -> Variations:
        """Return this scenario with every combination of some fields' values; see `Variations`.

        Parameters
        ----------
        replications : runs of each, with consecutive seeds; more than one for generated workloads only.
        values : field -> values to try, the last field changing fastest.

        Raises
        ------
        ValueError
            If there is no such field, or nothing to try.

        >>> [scenario.tensor for scenario in Scenario().vary(tensor=[1, 2, 4])]
        [1, 2, 4]
        """
        from sim.variations import varied

        return varied(self, replications, values)

    @property
    def parallelism(self) -> Parallelism:
        """How devices share the model."""
        return Parallelism(self.tensor, self.pipeline, self.expert, self.data)

    @cached_property
    def machine(self) -> Machine:
        """The replica that this scenario describes.

        Raises
        ------
        ValueError
            If a name is unknown, the chip cannot compute in this precision, or the model does not fit.
        """
        return machine_of(self)

    @property
    def placement(self) -> Placement:
        """Where the weights are kept."""
        return Placement(self.weights_from, nvme_bytes_per_second=self.nvme_bytes_per_second)


def simulate(scenario: Scenario, machine: Machine | None = None) -> Result:
    """Serve the trace of a scenario and return what happened.

    Parameters
    ----------
    machine : `scenario.machine` of an equal scenario (policy, cache and trace aside), to save making it again.

    Raises
    ------
    ValueError
        If the scenario asks for something that does not exist or does not fit.
    """
    if scenario.replicas < 1:
        raise ValueError(f"replicas is {scenario.replicas}; allowed: at least 1")
    built = machine or scenario.machine
    servers = [_server(scenario, built)] * scenario.replicas
    front_end = scenario.front_end_seconds
    outcome = _serve(scenario.workload, servers, scenario.router, scenario.router_seed, front_end)
    return result_of(scenario, built, outcome)


def result_of(scenario: Scenario, machine: Machine, outcome: Replay) -> Result:
    """Return the result of a scenario on its machine, of which `outcome` is known already."""
    name, title = _name(scenario), machine.title
    if scenario.replicas > 1:
        name, title = f"{name}, {scenario.router}", f"{scenario.replicas} replicas, each {title}"
    limits = (machine.limits,) * scenario.replicas if scenario.replicas > 1 else ()
    title = f"{title} · {name}"
    return Result(scenario.workload, machine.limits, outcome, name, title, machine.flags, machine.devices, limits)


def simulate_cluster(
    scenarios: Sequence[Scenario],
    trace: Trace,
    router: str = "round_robin",
    *,
    seed: int = 0,
    machines: Sequence[Machine] | None = None,
) -> Result:
    """Serve a trace on replicas that may differ, one for each scenario, and return what happened.

    Parameters
    ----------
    scenarios : their own traces, replicas and routers do not matter.
    router, seed : see `Scenario.router` and `Scenario.router_seed`.
    machines : the machine of each scenario, to save making them again.

    Raises
    ------
    ValueError
        If there is no scenario, they differ in `front_end_seconds`, or something asked for does not exist or fit.
    """
    if not scenarios:
        raise ValueError("there are 0 scenarios; allowed: at least 1, one for each replica")
    front_ends = sorted({scenario.front_end_seconds for scenario in scenarios})
    if len(front_ends) > 1:
        raise ValueError(f"front_end_seconds is {front_ends}; allowed: one value, it is passed before the router")
    built = machines or [scenario.machine for scenario in scenarios]
    servers = [_server(scenario, machine) for scenario, machine in zip(scenarios, built, strict=True)]
    outcome = _serve(trace, servers, router, seed, front_ends[0])
    name = f"{len(servers)} replicas, {router}"
    titles = dict.fromkeys(f"{machine.title} · {_name(one)}" for one, machine in zip(scenarios, built, strict=True))
    flags = dict.fromkeys(flag for machine in built for flag in machine.flags)
    title = f"{name}: {'; '.join(titles)}"
    limits = tuple(server.limits for server in servers) if len(servers) > 1 else ()
    return Result(trace, servers[0].limits, outcome, name, title, tuple(flags), built[0].devices, limits)


def _name(scenario: Scenario) -> str:
    """Return the scheduler in a word."""
    policy = scenario.policy
    chosen = policy if isinstance(policy, str) else policy.system
    return chosen + (" + prefix cache" if scenario.prefix_cache else "")


def _server(scenario: Scenario, machine: Machine) -> Server:
    policy = scenario.policy
    scheduler = SCHEDULERS.get(policy) if isinstance(policy, str) else policy
    if scheduler is None:
        raise ValueError(f"policy is {policy!r}; allowed: {', '.join(SCHEDULERS)}")
    if scenario.prefix_cache == "vllm-0.4" and scheduler.policy is not prefill_first:
        raise ValueError(f"policy is {policy!r}; allowed with prefix_cache 'vllm-0.4': prefill_first")
    if scenario.prefix_cache not in (False, "none") and not scenario.paged_attention:
        raise ValueError(
            f"prefix_cache is {scenario.prefix_cache!r}; allowed with paged_attention=False: False, since a cache in "
            "one piece a sequence has nothing to share"
        )
    how = scenario.prefix_cache, scenario.asynchronous, scenario.checks_memory
    return Server(machine.limits, scheduler, machine.clock, *how)


def _serve(trace: Trace, servers: Sequence[Server], router: str, seed: int, front_end_seconds: float) -> Replay:
    outcome = serve_cluster(behind_front_end(trace, front_end_seconds), servers, router, seed=seed)
    return since_arrival(outcome, trace, front_end_seconds)


def arms(scenario: Scenario) -> dict[str, Scenario]:
    """Return the four combinations of policy and prefix cache, by name.

    >>> list(arms(Scenario()))
    ['prefill_first', 'prefill_first + prefix cache', 'inflight_batching', 'inflight_batching + prefix cache']
    """
    return {
        policy + (" + prefix cache" if cache else ""): replace(scenario, policy=policy, prefix_cache=cache)
        for policy in COMPARED
        for cache in (False, True)
    }
