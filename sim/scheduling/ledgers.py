"""Which ledger goes with a scheduler and a prefix cache."""

from __future__ import annotations

from sim.scheduling.batch import Limits
from sim.scheduling.caches import ledger_for
from sim.scheduling.ledger import Ledger
from sim.scheduling.schedulers import Scheduler
from sim.scheduling.static_ledger import StaticLedger


def ledger_of(limits: Limits, scheduler: Scheduler, prefix_cache: bool | str) -> Ledger:
    """Return an empty ledger with the rules of a scheduler, and a prefix cache of `sim.scheduling.caches.CACHES`.

    Raises
    ------
    ValueError
        If there is no such cache, or it does not go with the scheduler.
    """
    if scheduler.pads or scheduler.to_end:
        if prefix_cache not in (False, "none"):
            raise ValueError(f"prefix_cache is {prefix_cache!r}; allowed for {scheduler.system}: none")
        return StaticLedger(limits, pads=scheduler.pads, to_end=scheduler.to_end)
    ledger = ledger_for(limits, prefix_cache, late_release=scheduler.late_release)
    ledger.pads = limits.paddings is not None
    return ledger
