"""The worker's end of the requests of processes without a catalog (`sync.usage.requests`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from planwire_client.core.topic import environment_of
from sync.store.command_pipeline import run_commands
from sync.store.delayed_queue import DelayedQueue, Due
from sync.store.models import StoreError
from sync.store.store import Store
from sync.usage.calls import Answer, Call, UsageCalls

QUEUE = "usage"

ELSEWHERE_S = 1.0
"""After this time a topic of another worker's environment is offered again."""


Work = Callable[[str, DelayedQueue, Callable[[Due], Awaitable[object]]], Awaitable[None]]
"""A worker's loop over a queue. Takes the name of the work, the queue, and what handles an item."""


class UsageRefreshes:
    """Brings usage topics up to date that web processes without a catalog show."""

    def __init__(self, store: Store, environments: Sequence[str], calls: UsageCalls) -> None:
        """Serve the tenants of `environments`."""
        self._store = store
        self._environments = environments
        self._calls = calls
        self._queue = DelayedQueue(store, store.keys.usage_wanted)

    async def run(
        self, work: Callable[[str, DelayedQueue, Callable[[Due], Awaitable[object]]], Awaitable[None]]
    ) -> None:
        """Work on the queue until `work` ends."""
        await work(QUEUE, self._queue, self.handle)

    async def handle(self, due: Due) -> None:
        """Bring one tenant's usage topic up to date, or restore it, and end the claim.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        tenant = due.topic
        if environment_of(tenant) not in self._environments:
            await self._queue.reschedule(due, ELSEWHERE_S)
            return
        key = self._store.keys.usage(tenant, "lost")
        (lost,) = await run_commands(self._store, ("GET", key))
        call = Call(tenant, "read")
        if lost is not None:
            version, _, state = lost.partition(b" ")
            call = Call(tenant, "restore", amount=int(version), reason=state.decode())
        (found,) = await self._calls.run([call])
        if isinstance(found, StoreError):
            raise found
        if lost is not None:
            await run_commands(self._store, ("DEL", key))
        if isinstance(found, Answer) and found.push_in_us:
            await self._queue.reschedule(due, found.push_in_us / 1e6)
        else:
            await self._queue.ack(due)
