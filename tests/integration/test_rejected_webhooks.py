"""How often webhooks were refused, counted in the store by all processes at once."""

from __future__ import annotations

import asyncio

import pytest

from gateway.console.rejected_webhooks import RejectedWebhooks
from sync.store.models import StoreError
from sync.store.store import Store


async def test_what_is_asked_for_while_it_is_being_told_is_told_once(store: Store) -> None:
    refusals = RejectedWebhooks(store)
    for at_us in (5, 6, 7):
        refusals.note("paddle", "signature_invalid", f"at {at_us}", at_us)
    rows, _, again = await asyncio.gather(refusals.listed(), refusals.flush(), refusals.listed())
    assert rows == again
    assert await refusals.listed() == [
        {"provider": "paddle", "code": "signature_invalid", "count": 3, "first_us": 5, "last_us": 7, "detail": "at 7"}
    ]


async def test_processes_count_together(store: Store) -> None:
    several = [RejectedWebhooks(store) for _ in range(8)]
    for turn in range(20):
        for refusals in several:
            refusals.note("paddle", "signature_expired", "old", turn)
        await asyncio.gather(*(refusals.flush() for refusals in several))
    (row,) = await several[0].listed()
    assert (row["count"], row["first_us"]) == (160, 0)


async def test_what_the_store_did_not_take_is_told_later(store: Store) -> None:
    refusals = RejectedWebhooks(store)
    refusals.note("stripe", "signature_invalid", "first", 5)
    await store.redis.set("pw:{console}:refused", "in the way")
    with pytest.raises(StoreError):
        await refusals.flush()
    refusals.note("stripe", "signature_invalid", "second", 9)
    await store.redis.delete("pw:{console}:refused")
    (row,) = await refusals.listed()
    assert (row["count"], row["first_us"], row["last_us"], row["detail"]) == (2, 5, 9, "second")
