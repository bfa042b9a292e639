"""The store in memory keeps the contract that servers keep: what stands on it stands on the real scripts."""

from __future__ import annotations

from functools import partial

import fakeredis
import pytest
from redis.asyncio import Redis

from sync.store.models import Change, Verdict
from sync.store.store import Store
from tests.support.memory_store import Clock, memory_store
from tests.support.store_contract import TOPIC, Another, StoreContract


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def another(store: Store) -> Another:
    return partial(fakeredis.FakeAsyncRedis, connection_pool=store.redis.connection_pool)


class TestMemory(StoreContract):
    """The store in memory."""


async def test_versions_follow_a_clock_that_the_test_sets(store: Store, clock: Clock) -> None:
    clock.set(1_795_395_356_406_607)
    assert (await store.commit(Change(TOPIC, b"1"))).version == 1_795_395_356_406_607
    clock.advance(2.5)
    assert (await store.commit(Change(TOPIC, b"2"))).version == 1_795_395_358_906_607


async def test_what_expires_expires_by_that_clock(store: Store, clock: Clock) -> None:
    clock.set(1_795_395_356_406_607)
    await store.commit(Change(TOPIC, b"1", event_id="e"))
    clock.advance(6 * 86_400)
    assert (await store.commit(Change(TOPIC, b"1", event_id="e"))).verdict is Verdict.DUPLICATE
    clock.advance(2 * 86_400)
    assert (await store.commit(Change(TOPIC, b"2", event_id="e"))).verdict is Verdict.APPLIED


def test_two_stores_share_nothing() -> None:
    with memory_store() as one, memory_store() as other:
        assert isinstance(one.redis, Redis)
        assert one.redis.connection_pool is not other.redis.connection_pool
