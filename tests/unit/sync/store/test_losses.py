"""A search in the provider's list is requested only for what the store has lost, and not again within a day."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from sync.store import losses
from sync.store.checks.inspection import mark_schema
from sync.store.models import Snapshot
from sync.store.store import Store
from tests.support.memory_store import Clock, memory_store

TOPIC = "tenant:acme"
DAY_US = losses.DAY_S * 1_000_000


@pytest.fixture
def store() -> Iterator[Store]:
    with memory_store(Clock()) as store:
        yield store


async def wanted(store: Store) -> list[str]:
    found: Any = await store.redis.zrange(store.keys.searches, 0, -1)
    return [topic.decode() for topic in found]


async def born_us(store: Store) -> int:
    found: Any = await store.redis.get(store.keys.born)
    return int(found)


async def test_a_new_store_keeps_when_it_began(store: Store) -> None:
    before = time.time_ns() // 1000
    await mark_schema(store)
    born = await born_us(store)
    assert before <= born <= time.time_ns() // 1000
    await mark_schema(store)
    assert await born_us(store) == born


async def test_a_store_of_an_earlier_build_has_no_beginning(store: Store) -> None:
    await store.redis.hset(store.keys.schema, mapping={"format": "1", "needs": "1"})
    await mark_schema(store)
    assert await store.redis.exists(store.keys.born) == 0
    await store.want_reconcile({TOPIC: time.time_ns() // 1000 - 1})
    assert await wanted(store) == []


async def test_only_a_version_from_shortly_before_the_store_began_is_evidence(store: Store) -> None:
    await mark_schema(store)
    born = await born_us(store)
    for version in (0, 1, born - DAY_US, born, born + 1, time.time_ns() // 1000 + DAY_US, 2**53 - 1):
        await store.want_reconcile({TOPIC: version})
        assert await wanted(store) == [], version
    await store.want_reconcile({TOPIC: born - 1, "tenant:other": 1})
    assert await wanted(store) == [TOPIC]


async def test_a_store_that_is_a_day_old_was_not_emptied(store: Store) -> None:
    old = time.time_ns() // 1000 - DAY_US
    await store.redis.set(store.keys.born, old)
    await store.want_reconcile({TOPIC: old - 1})
    assert await wanted(store) == []


async def test_on_such_evidence_it_is_searched_once_a_day(store: Store) -> None:
    await losses.search_once(store, [TOPIC])
    (due,) = await losses.searches(store).claim(10)
    await losses.searches(store).ack(due)
    await losses.search_once(store, [TOPIC])
    assert await wanted(store) == []


async def test_what_a_gateway_restores_is_searched_each_time(store: Store) -> None:
    for version in (5, 6):
        assert await store.restore(Snapshot(TOPIC, version, b"{}", b"", b"{}"))
        (due,) = await losses.searches(store).claim(10)
        assert due.topic == TOPIC
        await losses.searches(store).ack(due)
    assert not await store.restore(Snapshot(TOPIC, 6, b"{}", b"", b"{}"))
    assert await wanted(store) == []
