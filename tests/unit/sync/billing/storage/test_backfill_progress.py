"""The progress of a backfill: a run that was paused for too long stops, and leaves its successor's lease alone."""

from __future__ import annotations

import pytest

from sync.billing.domain.outcome import Outcome
from sync.billing.providers.base import ListedSubscription
from sync.billing.storage.backfill_progress import LEASE_S, BackfillProgress, Counts, ItemResult
from sync.store.lease import LeaseLostError
from tests.support.memory_store import Clock, memory_store

ENTRY = ListedSubscription("sub_1", "backfill:sub_1", b"{}", None)


async def test_a_paused_run_neither_goes_on_nor_ends_its_successors_lease() -> None:
    clock = Clock()
    clock.set(1_795_395_356_406_607)
    with memory_store(clock) as store:
        paused, successor, third = (BackfillProgress(store, "paddle", "live") for _ in range(3))
        assert await paused.lease.acquire()
        await paused.move(ENTRY, ItemResult(Outcome.APPLIED))
        clock.advance(LEASE_S + 1)
        assert await successor.lease.acquire()
        with pytest.raises(LeaseLostError, match="another backfill has taken over"):
            await paused.move(ENTRY, ItemResult(Outcome.APPLIED))
        assert not await paused.lease.release()
        assert not await third.lease.acquire()
        await successor.move(ENTRY, ItemResult(Outcome.APPLIED))
        counts = Counts()
        await successor.open(counts, restart=False)
        assert counts.after == "sub_1"
