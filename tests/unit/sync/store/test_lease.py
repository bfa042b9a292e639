"""A lease has one holder, who alone can end it; a walk that all want is done by one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from sync.store import lease
from sync.store.command_pipeline import run_commands
from sync.store.lease import WALK_FRESH_S, WALK_LEASE_S, Lease, SharedWalk
from sync.store.store import Store
from tests.support.memory_store import Clock

KEY = "pw:{backfill/live/paddle}:lease"


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


KEYS = "pw:{tenants/live}:sweep:lease", "pw:{tenants/live}:sweep:done"


class Walker:
    """One process. `visited`: what it came by."""

    def __init__(self, store: Store) -> None:
        self.walk = SharedWalk(store, *KEYS)
        self.visited: list[str] = []
        self.goes_on = True

    async def topics(self) -> AsyncIterator[str]:
        for topic in ("tenant:a", "tenant:b"):
            yield topic

    async def visit(self, topic: str) -> bool:
        self.visited.append(topic)
        return self.goes_on

    async def run(self, what: str = "catalog 1") -> bool:
        return await self.walk.run(what, self.topics(), self.visit)


async def test_the_second_who_wants_it_has_it(store: Store, clock: Clock) -> None:
    one, other = Walker(store), Walker(store)
    assert await one.run()
    assert await other.run()
    assert (one.visited, other.visited) == (["tenant:a", "tenant:b"], [])
    clock.advance(WALK_FRESH_S + 1)
    assert await other.run()
    assert other.visited == ["tenant:a", "tenant:b"]


async def test_another_walk_is_another(store: Store) -> None:
    one, other = Walker(store), Walker(store)
    assert await one.run()
    assert await other.run("catalog 2")
    assert other.visited == ["tenant:a", "tenant:b"]


async def test_who_comes_while_it_is_under_way_asks_again(store: Store) -> None:
    one, other = Walker(store), Walker(store)
    answers = []

    async def visit(topic: str) -> bool:
        answers.append(await other.run())
        return True

    one.visit = visit  # type: ignore[method-assign]
    assert await one.run()
    assert answers == [False, False]
    assert await other.run()
    assert other.visited == []


async def test_one_that_was_stopped_leaves_it_to_the_next(store: Store) -> None:
    one, other = Walker(store), Walker(store)
    one.goes_on = False
    assert not await one.run()
    assert await other.run()
    assert (one.visited, other.visited) == (["tenant:a"], ["tenant:a", "tenant:b"])


async def test_one_that_was_paused_and_followed_ends_and_leaves_its_successors_lease(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "WALK_LEASE_S", 0)  # so that it renews before each topic
    one, other, third = (Walker(store) for _ in range(3))
    one.walk._lease._lease_ms = other.walk._lease._lease_ms = int(WALK_LEASE_S * 1000)

    async def paused(topic: str) -> bool:
        one.visited.append(topic)
        clock.advance(WALK_LEASE_S + 1)
        assert await other.walk._lease.acquire()
        return True

    one.visit = paused  # type: ignore[method-assign]
    assert not await one.run()
    assert one.visited == ["tenant:a"]
    assert not await third.run()
