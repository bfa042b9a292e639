"""What billing keeps in the store for one environment: inbox, links, timers and the list of tenants."""

from __future__ import annotations

from collections.abc import AsyncIterator

from redis.asyncio import Redis

from sync.billing.batch import Batch
from sync.billing.inbox import Inbox
from sync.billing.links import Links
from sync.billing.timers import Timers

SCAN_COUNT = 500


class Environment:
    """One environment's part of the store. No key of it is another's."""

    def __init__(self, redis: Redis, name: str, lease_s: float) -> None:
        """Use `redis`; claims of events and timers last `lease_s`."""
        self.name = name
        self.inbox = Inbox(redis, name, lease_s)
        self.links = Links(name)
        self.timers = Timers(redis, name, lease_s)
        self._redis = redis
        self._tenants = f"pw:{{tenants/{name}}}:topics"

    def enlist(self, batch: Batch, topic: str) -> None:
        """Add to `batch` that events have made this topic."""
        batch.command("SADD", self._tenants, topic)

    async def topics(self) -> AsyncIterator[str]:
        """Yield every topic that events have made, some perhaps twice.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        cursor = b"0"
        while True:
            batch = Batch(self._redis)
            batch.command("SSCAN", self._tenants, cursor, "COUNT", SCAN_COUNT)
            ((cursor, topics),) = await batch.run()
            for topic in topics:
                yield topic.decode()
            if int(cursor) == 0:
                return
