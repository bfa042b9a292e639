"""The rate budget that processes share: one bucket in the store, by the store's clock."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from sync.billing.providers.base import ProviderUnavailable
from sync.billing.providers.rate_limit import BURST, RESERVE, RedisRateLimiter
from sync.store.models import StoreError
from sync.store.redis.connect import connect
from sync.store.store import Store

SLOW = 0.01
"""Calls per second: a machine that stands still for some seconds fills no bucket."""


def rate_limiter(store: Store, rate_per_s: float = SLOW, environment: str = "live") -> RedisRateLimiter:
    return RedisRateLimiter(store, "stripe", environment, rate_per_s)


async def taken(rate_limiter: RedisRateLimiter, *, background: bool = False) -> int:
    """How many calls may be made at once."""
    for count in range(10 * BURST):
        try:
            await rate_limiter.acquire(0, background=background)
        except ProviderUnavailable:
            return count
    raise AssertionError("it never ends")


async def test_two_processes_take_from_one_bucket(store: Store, store_url: str) -> None:
    other = connect(store_url).store
    here, there = rate_limiter(store), rate_limiter(other)
    for _ in range(7):
        await here.acquire(0)
    assert await taken(there, background=True) == BURST - RESERVE - 7
    assert await taken(here) == RESERVE
    # Other environments and providers have buckets of their own.
    assert await taken(rate_limiter(store, environment="sandbox")) == BURST
    assert await taken(RedisRateLimiter(other, "paddle", "live", SLOW)) == BURST
    await other.aclose()


async def test_who_waits_is_behind_who_came_first(store: Store) -> None:
    fast = rate_limiter(store, rate_per_s=20)
    began = time.monotonic()
    await taken(fast)
    await asyncio.gather(*(rate_limiter(store, rate_per_s=20).acquire(5) for _ in range(10)))
    assert 0.4 <= time.monotonic() - began < 4, "less than any of them would have waited"
    slow = rate_limiter(store)
    found = await asyncio.gather(*(slow.acquire(0.2) for _ in range(10 + BURST)), return_exceptions=True)
    refused = [error for error in found if isinstance(error, ProviderUnavailable)]
    assert len(refused) >= 10, "more than a full bucket holds"
    for error in refused:
        assert "used up for another" in str(error)
        assert 0.2 < error.retry_s <= (10 + BURST) / SLOW


async def test_closed_by_one_it_is_closed_for_all(store: Store) -> None:
    here, there = rate_limiter(store), rate_limiter(store)
    await here.pause(30)
    await here.pause(1)
    with pytest.raises(ProviderUnavailable, match=r"another \d\d\.\d s") as raised:
        await there.acquire(60)
    assert 10 < raised.value.retry_s <= 30, "the shorter one takes nothing from the longer"
    await here.resume()
    await there.acquire(0)
    # What the provider said of how long stands, whatever else it answers.
    await there.pause(30, throttled=True)
    await here.resume()
    await there.resume()
    with pytest.raises(ProviderUnavailable, match="not asked for another"):
        await here.acquire(60)


async def test_it_leaves_nothing_behind(store: Store) -> None:
    await rate_limiter(store).acquire(0)
    redis: Any = store.redis
    keys = [key async for key in redis.scan_iter("pw:{budget/*")]
    assert len(keys) == 1
    assert 0 < await redis.pttl(keys[0]) <= 1_000 / SLOW + 1_000


async def test_a_store_that_is_away_is_said_so() -> None:
    store = connect("redis://127.0.0.1:1").store
    with pytest.raises(StoreError):
        await rate_limiter(store).acquire(1)
    await store.aclose()
