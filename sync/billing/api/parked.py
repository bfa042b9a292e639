"""Parked events: lists them, and retries one."""

from __future__ import annotations

from sync.billing.api import bodies
from sync.billing.api.operations import Asked, BillingOperations, Document, operation, result_document
from sync.billing.domain.evaluation import unknown_prices
from sync.billing.domain.model import Event
from sync.billing.storage.inbox import Record
from sync.core import instants
from sync.http.openapi import VERSION, Answer
from sync.http.parameters import AFTER, LIMIT, PathText
from sync.http.problem import Problem


class ParkedEvents(BillingOperations):
    """The operations on parked events. They need rights to all tenants, since an event's tenant may be unknown."""

    @operation(
        "GET",
        "/v1/parked",
        "listParked",
        "The events that are kept because they cannot be used yet.",
        Answer("One page.", bodies.ParkedEvents),
        parameters=(LIMIT, AFTER),
    )
    async def listing(self, asked: Asked, limit: int, after: tuple[int, str] | None) -> Document:
        """Return one page, the longest parked first. `next` is the `after` of the following page."""
        records = await self._services.environment(asked.environment).inbox.parked(after, limit)
        parked = [
            {
                "event_id": record.event_id,
                "env": asked.environment,
                "provider": record.provider,
                "type": record.type,
                "reason": record.reason,
                "waits_on": record.waits,
                "received_at": instants.text(record.received_us * 1000),
                "parked_at": instants.text(record.parked_us * 1000),
                "attempts": record.attempts,
                **self._shown(asked.environment, record),
            }
            for record in records
        ]
        following = {"next": f"{records[-1].parked_us}.{records[-1].event_id}"} if len(records) == limit else {}
        return {"parked": parked, **following}

    def _shown(self, environment: str, record: Record) -> Document:
        """Return the members of an event that not every event has."""
        shown: Document = {"topic": record.topic} if record.topic else {}
        if record.provider in self._services.adapters:
            event = self._services.parse(record.provider, record.body, environment)
            unknown = unknown_prices(event, self._services.setting(environment)) if isinstance(event, Event) else []
            shown |= {"unknown_prices": unknown} if unknown else {}
        return shown

    @operation(
        "POST",
        "/v1/parked/{event_id}/retry",
        "retryParked",
        "Try one of them again now.",
        Answer("What became of it.", bodies.Result, VERSION),
        ("not_found",),
        (PathText("event_id", "The event's id.", r"^[A-Za-z0-9_-]{1,128}$", "evt_01h8bzakzx3hm2fmen703n5q45"),),
    )
    async def retry(self, asked: Asked, event_id: str) -> Document:
        """Retry a parked event now; return its outcome.

        Raises:
            Problem: no such event is parked.
            StoreError: the store is unreachable or failing.
        """
        result = await self._services.ingest.retry(asked.environment, event_id)
        if result is None:
            raise Problem("not_found", "no event of this id is parked")
        return result_document(result)
