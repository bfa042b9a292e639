"""Has the tenants of a shard compared with their provider soon, after a gateway has found that it lost commits.

Lost versions are restored by gateways. Lost commits of facts alone leave no trace but the gateway's canary, so every
tenant of the shard is compared. The comparisons are the audits, made due now: one at a time, and at the rate that the
provider's limit leaves for the background. Those without any subscription are searched, in one pass.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import structlog

from sync.billing.services.context import BillingContext
from sync.store import losses
from sync.store.command_pipeline import CommandPipeline
from sync.store.delayed_queue import DelayedQueue, Due
from sync.store.isolation import each_of

CANARIES = 100
"""Canaries of the queue that are handled together: each gateway has one in each shard."""

PAGE = 500
"""Tenants per round trip."""

_log = structlog.get_logger("sync.reconcile")


class LostTails:
    """The queue of shards that have lost commits, as a loop of the worker."""

    def __init__(self, context: BillingContext, environments: Collection[str]) -> None:
        """Compare the tenants of `environments`, which have providers that can be asked."""
        self._context = context
        self._environments = environments
        self._queue = DelayedQueue(context.store, context.store.keys.lost_tails)

    async def step(self) -> bool:
        """Have the tenants of the shards compared whose canaries are in the queue; return whether there may be more.

        Raises:
            StoreError: the store is unreachable or failing; they are done when their lease has expired.
        """
        claimed = await self._queue.claim(CANARIES)
        if claimed:
            await self._mark(claimed)
        return len(claimed) == CANARIES

    async def _mark(self, claimed: Sequence[Due]) -> None:
        store = self._context.store
        await store.servers()  # the layout of a Cluster must be known
        shards = {store.shard_of(due.topic) for due in claimed}
        await each_of(self._mark_tenants(name, shards) for name in self._environments)
        for due in claimed:
            await self._queue.ack(due)

    async def _mark_tenants(self, environment: str, shards: Collection[str]) -> None:
        store, page, marked = self._context.store, list[str](), 0
        async for topic in self._context.environment(environment).topics():
            if store.shard_of(topic) in shards:
                page.append(topic)
            if len(page) == PAGE:
                marked += await self._hasten(environment, page)
        marked += await self._hasten(environment, page)
        _log.warning("shard_compared", environment=environment, shards=sorted(shards), tenants=marked)

    async def _hasten(self, environment: str, topics: list[str]) -> int:
        """Make the audits of the topics due now, and empty the list; return their number."""
        batch, count = CommandPipeline(self._context.store), len(topics)
        losses.searches(self._context.store).request(batch, topics)
        for topic in topics:
            self._context.environment(environment).audits.schedule_earlier(batch, topic, self._context.now_us)
        topics.clear()
        await batch.run()
        return count
