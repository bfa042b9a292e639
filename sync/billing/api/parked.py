"""Parked events, and parked items of the worker's queues: lists them, retries one, drops one."""

from __future__ import annotations

import structlog

from planwire_client.core.topic import LIVE, Topic, TopicError
from sync.billing.api.bodies import answers, requests
from sync.billing.api.operations import Asked, BillingOperations, Document, operation, result_document
from sync.billing.domain.entitlements.items import unknown_prices
from sync.billing.domain.facts.model import Event
from sync.billing.domain.outcome import EventResult, Outcome
from sync.billing.storage.environment import WEBHOOKS, endpoints_ever, parking_queues
from sync.billing.storage.inbox import UNREADABLE, Record
from sync.billing.storage.records import append_event
from sync.core import instants
from sync.http.openapi import VERSION, Answer
from sync.http.parameters import AFTER, LIMIT, PathText
from sync.http.problem import Problem
from sync.store.command_pipeline import CommandPipeline
from sync.store.delayed_queue import DelayedQueue
from sync.store.models import StoreRejected

EVENT_ID = PathText("event_id", "The event's id.", r"^[A-Za-z0-9_-]{1,128}$", "evt_01h8bzakzx3hm2fmen703n5q45")

_log = structlog.get_logger("sync.parked")


class ParkedEvents(BillingOperations):
    """The operations on parked events. They need rights to all tenants, since an event's tenant may be unknown."""

    @operation(
        "GET",
        "/v1/parked",
        "listParked",
        "The events that are kept because they cannot be used yet.",
        Answer("One page.", answers.ParkedEvents),
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
            kind = "products" if self._services.adapters[record.provider].sells_products else "prices"
            shown |= {f"unknown_{kind}": unknown} if unknown else {}
        return shown

    @operation(
        "POST",
        "/v1/parked/{event_id}/retry",
        "retryParked",
        "Try one of them again now.",
        Answer("What became of it.", answers.Result, VERSION),
        ("not_found", "not_changed"),
        (EVENT_ID,),
    )
    async def retry(self, asked: Asked, event_id: str) -> Document:
        """Retry a parked event now; return its outcome.

        Raises:
            Problem: no such event is parked, or its record or its tenant's data cannot be read.
            StoreError: the store is unreachable or failing.
        """
        services = self._services
        record = await services.environment(asked.environment).inbox.read(event_id)
        if record is not None and record.status == UNREADABLE:
            raise Problem("not_changed", f"{record.reason}; repair it, or drop the event")
        try:
            result = await services.ingest.retry(asked.environment, event_id)
        except StoreRejected as error:
            raise Problem("not_changed", f"its tenant's data cannot be used: {error}; it stays parked") from None
        if result is None:
            raise Problem("not_found", "no event of this id is parked")
        return result_document(result)

    @operation(
        "POST",
        "/v1/parked/{event_id}/drop",
        "dropParked",
        "End one of them unused, with the reason. A later event of its subscription may be parked again.",
        Answer("It is dropped.", answers.Result, VERSION),
        ("not_found",),
        (EVENT_ID,),
        body=requests.Reasoned,
        scope="admin",
    )
    async def drop(self, asked: Asked, event_id: str, body: requests.Reasoned) -> Document:
        """End a parked event unused, and write who did it and why to the log and to its tenant's history.

        Raises:
            Problem: no such event is parked.
            StoreError: the store is unreachable or failing.
        """
        services = self._services
        inbox = services.environment(asked.environment).inbox
        record = await inbox.read(event_id)
        if record is None or not record.parked_us:
            raise Problem("not_found", "no event of this id is parked")
        who = " for ".join(filter(None, (asked.who.get("by"), body.by)))
        result = EventResult(Outcome.IGNORED, f"dropped by {who}: {body.reason}", record.topic, keeps_body=False)
        batch = CommandPipeline(services.store)
        if record.topic:
            append_event(batch, record.topic, event_id, record.type, result, services.now_us)
        if record.status == UNREADABLE:
            inbox.discard(batch, event_id)
        else:
            inbox.end(batch, event_id, result)
        await batch.run()
        await services.committer.wait_durable()
        _log.info("event_dropped", environment=asked.environment, event_id=event_id, by=who, reason=body.reason)
        return result_document(result)


class ParkedItems(BillingOperations):
    """The operations on items of the worker's queues that failed until they were parked. Events: `ParkedEvents`."""

    @operation(
        "GET",
        "/v1/parked-items",
        "listParkedItems",
        "The items of the worker's queues that failed until they were parked: topics whose timers, comparisons or "
        "searches are not done.",
        Answer("The first of them.", answers.ParkedItems),
        parameters=(LIMIT,),
    )
    async def listing(self, asked: Asked, limit: int) -> Document:
        """Return up to `limit` items of the environment."""
        found: list[Document] = []
        for name, own, queue in await self._queues(asked):
            try:
                parked = await queue.parked()
            except StoreRejected as error:
                parked = {"*": {"attempts": 0, "reason": f"the list cannot be read: {error}"}}
            for item, note in parked.items():
                if (own or _environment_of(item)) == asked.environment:
                    found.append({"queue": name, "item": item, "env": asked.environment, **note})
        return {"items": found[:limit]}

    @operation(
        "POST",
        "/v1/parked-items/retry",
        "retryParkedItem",
        "Have the worker try one of them again. It stays on the list until its work is done.",
        Answer("It is queued.", answers.Done),
        ("not_found", "not_changed"),
        body=requests.QueueItem,
    )
    async def retry(self, asked: Asked, body: requests.QueueItem) -> Document:
        """Queue a parked item.

        Raises:
            Problem: no such item is parked, or it is of an endpoint that the setting does not have.
            StoreError: the store is unreachable or failing.
        """
        queue = await self._queue(asked, body)
        endpoint = body.queue.removeprefix(WEBHOOKS)
        if endpoint != body.queue and endpoint not in self._services.store.endpoints:
            why = f"PLANWIRE_WEBHOOK_ENDPOINTS has no endpoint {endpoint}, so nobody would send it"
            raise Problem("not_changed", f"{why}: set the endpoint again, or drop the item")
        if not await queue.retry(body.item):
            raise _not_parked(body)
        return {"outcome": "queued"}

    @operation(
        "POST",
        "/v1/parked-items/drop",
        "dropParkedItem",
        "Take one of them off the list, with the reason. Whatever queues it later has it tried again.",
        Answer("It is dropped.", answers.Done),
        ("not_found",),
        body=requests.DroppedItem,
        scope="admin",
    )
    async def drop(self, asked: Asked, body: requests.DroppedItem) -> Document:
        """Take a parked item off the list, and write who did it and why to the log.

        Raises:
            Problem: no such item is parked.
            StoreError: the store is unreachable or failing.
        """
        if not await (await self._queue(asked, body)).drop(body.item):
            raise _not_parked(body)
        who = " for ".join(filter(None, (asked.who.get("by"), body.by)))
        _log.info("item_dropped", queue=body.queue, item=body.item, by=who, reason=body.reason)
        return {"outcome": "dropped"}

    async def _queues(self, asked: Asked) -> list[tuple[str, str, DelayedQueue]]:
        """Return the queues that may have items of the environment; also those of endpoints that were removed."""
        store = self._services.store
        return parking_queues(store, (asked.environment,), await endpoints_ever(store))

    async def _queue(self, asked: Asked, body: requests.QueueItem) -> DelayedQueue:
        """Return the queue of an item.

        Raises:
            Problem: the item is of another environment, or the queue of no endpoint.
        """
        queues = {name: (own, queue) for name, own, queue in await self._queues(asked)}
        if body.queue not in queues:
            raise _not_parked(body)  # an endpoint that the setting never had
        own, queue = queues[body.queue]
        if (own or _environment_of(body.item)) != asked.environment:
            raise _not_parked(body)
        return queue


def _environment_of(item: str) -> str:
    """Return the environment of an item in a queue of all environments; LIVE for damaged ones, which have none."""
    try:
        return Topic.parse(item.partition(" ")[0]).env  # a checkout follows its topic after a space
    except TopicError:
        return LIVE


def _not_parked(body: requests.QueueItem) -> Problem:
    return Problem(
        "not_found", f"{body.item[:60]!r} is not parked in the queue {body.queue}: see planwire parked items"
    )
