"""A walk that several processes want is done by one, to its end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from sync.store import shared_walk
from sync.store.shared_walk import FRESH_S, LEASE_S, SharedWalk
from sync.store.store import Store
from tests.support.memory_store import Clock, memory_store

KEYS = "pw:{tenants/live}:sweep:lease", "pw:{tenants/live}:sweep:done"


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.set(1_795_395_356_406_607)
    return clock


@pytest.fixture
def store(clock: Clock) -> Iterator[Store]:
    with memory_store(clock) as store:
        yield store


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
    clock.advance(FRESH_S + 1)
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
    monkeypatch.setattr(shared_walk, "LEASE_S", 0)  # so that it renews before each topic
    one, other, third = (Walker(store) for _ in range(3))
    one.walk._lease._lease_ms = other.walk._lease._lease_ms = int(LEASE_S * 1000)

    async def paused(topic: str) -> bool:
        one.visited.append(topic)
        clock.advance(LEASE_S + 1)
        assert await other.walk._lease.acquire()
        return True

    one.visit = paused  # type: ignore[method-assign]
    assert not await one.run()
    assert one.visited == ["tenant:a"]
    assert not await third.run()
