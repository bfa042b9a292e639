"""The pending events of one environment as a queue of work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import structlog

from sync.billing.domain.outcome import EventResult
from sync.billing.services.context import BillingContext
from sync.billing.storage.inbox import Record
from sync.store.command_pipeline import CommandPipeline
from sync.store.delayed_queue import Due, due_of
from sync.store.models import StoreRejected

QUEUE = "inbox"
"""The queue's name, for logs and the metric."""

RELEASE_MAX = 100
"""Maximum parked events that are released at once; workers claim the rest."""

Claimed = Due | Record
"""A claimed event: `Due` until its record is read, which begins an attempt."""

_log = structlog.get_logger("sync.pipeline")


class Processing(Protocol):
    """What `Ingest` does with an event that is claimed."""

    async def resume(self, record: Record, environment: str) -> EventResult:
        """Process it."""

    async def postpone(
        self, environment: str, event_id: str, delay_s: float, claim: str = "", *, counts: bool = False
    ) -> None:
        """Retry it in `delay_s` seconds."""

    async def give_up(self, record: Record, environment: str, reason: str) -> None:
        """Park it."""


class EventQueue:
    """The pending events of one environment. The methods are those of a `WorkQueue`."""

    def __init__(self, context: BillingContext, processing: Processing, environment: str) -> None:
        self._context = context
        self._processing = processing
        self._environment = environment
        self._inbox = context.environment(environment).inbox

    async def claim(self, count: int) -> Sequence[Claimed]:
        """Claim up to `count` events that are due."""
        return await self._inbox.claim(count)

    async def begin(self, item: Claimed) -> Claimed | None:
        """Count an attempt and return the event; park it if its record cannot be read."""
        assert isinstance(item, Due)
        try:
            return await self._inbox.begin(item)
        except StoreRejected as error:
            _log.error("item_parked", queue=QUEUE, item=item.id, error=str(error))
            await self._context.isolation.count(QUEUE)
            batch = CommandPipeline(self._context.store)
            self._inbox.set_aside(batch, item.member)
            await batch.run()
            return None

    async def handle(self, item: Claimed) -> None:
        """Process an event."""
        assert isinstance(item, Record)
        result = await self._processing.resume(item, self._environment)
        about = {"environment": self._environment, "event_id": item.event_id, "attempts": item.attempts}
        _log.info("event_recovered", **about, outcome=result.outcome)

    async def release(self, waits_on: Sequence[str], count: int) -> None:
        """Retry the parked events that wait on any of these, `count` each at most.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        batch = CommandPipeline(self._context.store)
        for thing in waits_on:
            self._inbox.release(batch, thing, count)
        await self.take_up([id for ids in await batch.run() for id in ids])

    async def take_up(self, released: Sequence[bytes]) -> None:
        """Process events that the caller has released and claimed. A worker retries one that fails.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        for id in released:
            event: Claimed = due_of(id)
            await self._context.isolation.work(QUEUE, self, self.handle, event)

    async def reschedule(self, item: Claimed, pause_s: float) -> None:
        """Retry an event in `pause_s` seconds; the attempt does not count."""
        await self._processing.postpone(self._environment, item.id, pause_s, _claim_of(item))

    async def fail(self, item: Claimed, pause_s: float) -> None:
        """Retry an event in `pause_s` seconds."""
        await self._processing.postpone(self._environment, item.id, pause_s, _claim_of(item), counts=True)

    async def park(self, item: Claimed, reason: str) -> None:
        """Park an event until a newer release or an operator retries it."""
        assert isinstance(item, Record)
        await self._processing.give_up(item, self._environment, reason)


def _claim_of(item: Claimed) -> str:
    return item.claim if isinstance(item, Record) else ""
