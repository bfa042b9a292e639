"""The lengths of the queues, on a store in memory."""

from __future__ import annotations

from typing import Any

from sync.billing.storage.environment import Backlog
from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.store import Store


async def test_a_queue_that_cannot_be_read_hides_no_other(store: Store) -> None:
    redis: Any = store.redis
    await redis.set(keys.parked_members(keys.searches), "a string")
    await redis.set(keys.inbox("live", "parked"), "a string")
    await redis.hset(keys.parked_members(keys.timers("sandbox")), "sandbox/tenant:acme", b"{}")
    backlog = Backlog(store, ("live", "sandbox"))
    await backlog.refresh()
    assert ("timers", "sandbox", 1) in backlog.parked
    assert "search" not in {queue for queue, _, _ in backlog.parked}
    waiting = {(queue, environment) for queue, environment, _, _ in backlog.waiting}
    assert ("inbox", "live") in waiting
    assert ("parked", "live") not in waiting
