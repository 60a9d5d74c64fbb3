"""Which ledger goes with a scheduler and a prefix cache."""

from __future__ import annotations

from sim.scheduling.batch import Limits
from sim.scheduling.caches import ledger_for
from sim.scheduling.ledger import Ledger
from sim.scheduling.schedulers import SCHEDULERS, Scheduler
from sim.scheduling.static_ledger import StaticLedger
from sim.scheduling.swapping_ledger import SwappingLedger


def ledger_of(
    limits: Limits,
    scheduler: Scheduler,
    prefix_cache: bool | str,
    *,
    asynchronous: bool = False,
    several_replies: bool = False,
) -> Ledger:
    """Return an empty ledger with the rules of a scheduler, and a prefix cache of `sim.scheduling.caches.CACHES`.

    Parameters
    ----------
    asynchronous : whether iterations are planned ahead.
    several_replies : whether a request asks for more than one reply (`Sequence.best_of`).

    Raises
    ------
    ValueError
        If there is no such cache, or the scheduler does not go with what is asked.
    """
    is_static, swaps = scheduler.pads or scheduler.to_end, several_replies or scheduler.preemption == "swap"
    if asynchronous and (is_static or swaps):
        what = "requests with several replies" if several_replies else scheduler.system
        raise ValueError(f"asynchronous is True; allowed for {what}: False")
    if swaps:
        if not scheduler.several_replies:
            able = ", ".join(name for name, one in SCHEDULERS.items() if one.several_replies)
            raise ValueError(
                f"best_of is above 1 for some requests; allowed for {scheduler.system}: 1 (others: {able})"
            )
        if prefix_cache not in (False, "none", "vllm-0.3"):
            raise ValueError(f"prefix_cache is {prefix_cache!r}; allowed where requests are swapped: none, vllm-0.3")
        ledger: Ledger = SwappingLedger(limits, limits.host_blocks, swaps_all=scheduler.preemption == "swap")
        ledger.pads = limits.paddings is not None
        return ledger
    if is_static:
        if prefix_cache not in (False, "none"):
            raise ValueError(f"prefix_cache is {prefix_cache!r}; allowed for {scheduler.system}: none")
        return StaticLedger(limits, pads=scheduler.pads, to_end=scheduler.to_end)
    ledger = ledger_for(limits, prefix_cache, late_release=scheduler.late_release)
    ledger.pads = limits.paddings is not None
    return ledger
