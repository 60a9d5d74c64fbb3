"""Laws of the ledger, checked at every decision of generated runs under every policy."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sim.engine import replay as replay_module
from sim.scheduling.ledger import Ledger
from sim.scheduling.pinned_prefixes import PinnedPrefixes
from tests.strategies import clocks, servers, traces


def watched(scheduler, ledgers):
    """Wrap a policy so that limits are checked after each of its decisions."""

    def check(ledger: Ledger) -> None:
        bounds, cohort, pool = ledger.limits, ledger.cohort, ledger.pool
        scheduler.policy(ledger)
        ledgers.append(ledger)
        decodes, chunks = ledger.decodes, ledger.chunks
        assert ledger.running <= bounds.sequences
        assert 0 <= pool.free <= pool.total == bounds.blocks
        assert 0 <= ledger.guaranteed <= pool.free
        assert ledger.new_tokens == sum(chunk for _, chunk in chunks)
        assert ledger.cached_context == sum(s.computed for s, _ in chunks)
        assert decodes == (cohort.count - len(ledger.held) if decodes else 0)
        if chunks:
            assert ledger.new_tokens + decodes <= max(bounds.tokens, decodes)
            if bounds.paddings is not None:
                longest = max(s.tokens for s, _ in chunks)
                assert longest * len(chunks) <= bounds.tokens or decodes
        used = sum(bounds.blocks_for(cohort.computed(s)) for s in cohort.members())
        used += sum(bounds.blocks_for(s.allocated) for s in ledger.partial)
        used += sum(bounds.blocks_for(s.computed) for s in (*ledger.lingering, *ledger.leaving))
        pinned = pool.pinned if isinstance(pool, PinnedPrefixes) else 0
        assert pool.total - pool.free <= used + pinned, "blocks are held that nobody uses"
        if not pinned and not _shares(ledger):
            assert pool.total - pool.free == used
        running = {s.index for s in cohort.members()} | {s.index for s in ledger.partial}
        waiting = [s.index for s in ledger.waiting]
        assert not running & set(waiting), "somebody both runs and waits"
        assert len(set(waiting)) == len(waiting)
        # Exception: who is swapped out and finds no room to come back holds up everybody; the run says `stalled`.
        idle = not (running or ledger.ignored or ledger.preempted or ledger.lingering or ledger.leaving or pinned)
        if idle and not ledger.swapped:
            assert not waiting, "nothing runs although the machine is empty and somebody waits"

    return replace(scheduler, policy=check)


def _shares(ledger: Ledger) -> bool:
    return any(s.path for s in (*ledger.partial, *ledger.lingering, *ledger.leaving, *ledger.cohort.members()))


@given(trace=traces(), server=servers(), clock=clocks(), coast=st.booleans())
def test_limits_are_respected_and_blocks_balance(trace, server, clock, coast):
    ledgers: list[Ledger] = []
    watching = replace(server, scheduler=watched(server.scheduler, ledgers))
    outcome = watching.serve(trace, clock, coast=coast)
    if ledgers:
        last = ledgers[-1]
        # Exception: pinned prefixes stay, and may leave no room for those who wait.
        pinned = last.pool.pinned if isinstance(last.pool, PinnedPrefixes) else 0
        assert last.pool.free == last.pool.total - pinned, "blocks allocated are not blocks freed"
        assert last.guaranteed == 0
        assert not last.waiting or pinned or last.swapped
    else:
        assert (outcome.outcome == replay_module.REJECTED).all()


@given(trace=traces(), server=servers(("inflight_batching", "inflight_chunked")), clock=clocks())
def test_inflight_batching_never_preempts(trace, server, clock):
    assert not server.serve(trace, clock).preemptions.any()


@given(trace=traces(), server=servers(("prefill_first",)), clock=clocks())
def test_prefill_first_never_mixes_prompts_and_decodes(trace, server, clock):
    log = server.serve(trace, clock).iterations
    assert not ((log.prompts > 0) & (log.decodes > 0)).any()
