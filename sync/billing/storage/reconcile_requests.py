"""The topics that somebody wants compared with their provider: one set for all environments, filled by gateways too."""

from __future__ import annotations

import time

from sync.store.command_pipeline import CommandPipeline
from sync.store.delayed_queue import DelayedQueue, Due
from sync.store.store import Store

LEASE_S = 120.0
"""How long a topic is nobody else's; several answers of a slow provider fit into it."""


class Wanted:
    """The wanted topics. Their scores are Unix seconds when asked for, and microseconds while somebody works on them:
    so what is asked for is always due, and what is claimed is not."""

    def __init__(self, store: Store, lease_s: float = LEASE_S) -> None:
        """Use `store`; claims last `lease_s`."""
        self._store = store
        self._due = DelayedQueue(store, store.keys.reconcile, lease_s)

    async def claim(self, count: int) -> list[Due]:
        """Return up to `count` topics, claimed for the caller.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        return await self._due.claim(count)

    async def settle(self, due: Due, again_s: float | None = None) -> None:
        """End a claim: the topic is wanted no longer, or again in `again_s`.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        batch = CommandPipeline(self._store)
        again_us = None if again_s is None else time.time_ns() // 1000 + int(again_s * 1_000_000)
        self._due.settle(batch, due, again_us)
        await batch.run()
