"""Usage topics of processes without a catalog: what they want is queued, and a worker does it.

A web process without an intake has no catalog, so it cannot compute the terms of a new version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from planwire_client.core.topic import tenant_of
from sync.store.command_pipeline import CommandPipeline
from sync.store.delayed_queue import DelayedQueue
from sync.store.store import Store

LOST_KEPT_S = 60
"""How long a worker has to write back what a gateway holds. Gateways ask again with each sweep."""


class UsageRequests:
    """Asks a worker to bring usage topics up to date. It stands for `UsageService` in such a process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queue = DelayedQueue(store, store.keys.usage_wanted)

    async def run(self) -> None:
        """Wait until cancelled: what is due later is the worker's."""
        await asyncio.Event().wait()

    async def refresh(self, topics: Sequence[str]) -> Mapping[str, tuple[int, float]]:
        """Request that usage topics are brought up to date. Their announcements tell when they are.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        await self._store.request(self._store.keys.usage_wanted, [tenant_of(topic) for topic in topics])
        return {}

    async def restore(self, lost: Mapping[str, tuple[int, bytes]]) -> None:
        """Request that usage topics are restored which the store has lost.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        batch = CommandPipeline(self._store)
        for topic, (version, state) in lost.items():
            held = self._store.keys.usage(tenant_of(topic), "lost")
            batch.command("SET", held, b"%d %b" % (version, state), "EX", LOST_KEPT_S)
        batch.barrier()
        self._queue.request(batch, [tenant_of(topic) for topic in lost])
        await batch.run()
