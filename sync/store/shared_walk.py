"""A walk over many topics that every process wants done, and one does."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable

from sync.store.command_pipeline import CommandPipeline, Connection, run_commands
from sync.store.lease import Lease

LEASE_S = 30.0
"""Time after which another process takes over from one that was killed."""

FRESH_S = 60.0
"""How long a walk stands for the same walk of a process that wants it later."""


class SharedWalk:
    """One process's part in a walk: the first one takes the lease and walks, the others wait until it is done."""

    def __init__(self, store: Connection, lease_key: str, done_key: str) -> None:
        """Use two keys of one slot: the lease, and what the last complete walk was for."""
        self._store = store
        self._done_key = done_key
        self._lease = Lease(store, lease_key, LEASE_S)

    async def run(self, what: str, topics: AsyncIterator[str], visit: Callable[[str], Awaitable[bool]]) -> bool:
        """Return True once the walk for `what` is done, by this process or another; False if it is to be asked again.

        Args:
            what: all that the walk's outcome depends on.
            topics: the topics to visit, some perhaps twice.
            visit: does one topic's work; returns False to end the walk.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        batch = CommandPipeline(self._store)
        self._lease.add_acquire(batch)
        batch.command("GET", self._done_key)
        is_held, done = await batch.run()
        if not is_held:
            return bool(done is not None and done.decode() == what)
        try:
            if done is not None and done.decode() == what:
                return True
            if not await self._walk(topics, visit):
                return False
            await run_commands(self._store, ("SET", self._done_key, what, "PX", int(FRESH_S * 1000)))
            return True
        finally:
            await self._lease.release()

    async def _walk(self, topics: AsyncIterator[str], visit: Callable[[str], Awaitable[bool]]) -> bool:
        renewed_at = time.monotonic()
        async for topic in topics:
            if time.monotonic() - renewed_at > LEASE_S / 3:
                if not await self._lease.acquire():
                    return False
                renewed_at = time.monotonic()
            if not await visit(topic):
                return False
        return True
