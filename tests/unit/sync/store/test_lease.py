"""A lease: one holder at a time, and nobody ends another's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sync.store.command_pipeline import run_commands
from sync.store.lease import Lease
from sync.store.store import Store
from tests.support.memory_store import Clock, memory_store

KEY = "pw:{backfill/live/paddle}:lease"


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.set(1_795_395_356_406_607)
    return clock


@pytest.fixture
def store(clock: Clock) -> Iterator[Store]:
    with memory_store(clock) as store:
        yield store


async def test_one_holds_it_until_it_is_released(store: Store) -> None:
    one, other = Lease(store, KEY, 4), Lease(store, KEY, 4)
    assert await one.acquire()
    assert await one.acquire()
    assert not await other.acquire()
    assert await one.release()
    assert await other.acquire()


async def test_a_paused_holder_does_not_end_its_successors(store: Store, clock: Clock) -> None:
    paused, successor, third = (Lease(store, KEY, 4) for _ in range(3))
    assert await paused.acquire()
    clock.advance(5)
    assert await successor.acquire()
    assert not await paused.acquire()
    assert not await paused.release()
    assert not await third.acquire()
    clock.advance(3)
    assert await successor.acquire()


async def test_a_paused_holder_that_nobody_followed_goes_on(store: Store, clock: Clock) -> None:
    paused = Lease(store, KEY, 4)
    assert await paused.acquire()
    clock.advance(5)
    assert await paused.acquire()
    assert not await Lease(store, KEY, 4).acquire()


async def test_the_holder_of_a_build_before_is_another(store: Store, clock: Clock) -> None:
    await run_commands(store, ("SET", KEY, "1", "PX", 4000, "NX"))
    lease = Lease(store, KEY, 4)
    assert not await lease.acquire()
    assert not await lease.release()
    clock.advance(5)
    assert await lease.acquire()
