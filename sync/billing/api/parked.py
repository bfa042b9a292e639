"""Parked events over HTTP: the list of them, and another try of one. For operators, behind the guard."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from sync.billing.api.bodies import answers
from sync.billing.api.operations import operation
from sync.billing.api.results import result_document
from sync.billing.services.wiring import BillingServices
from sync.billing.storage.inbox import Record
from sync.core import instants
from sync.http.body import json_response
from sync.http.openapi import VERSION, Answer
from sync.http.parameters import AFTER, LIMIT, PathText
from sync.http.problem import Problem


class ParkedEvents:
    """The operations on parked events. An event's tenant may be unknown, so rights to all tenants are needed."""

    def __init__(self, services: BillingServices) -> None:
        self._services = services

    @operation(
        "GET",
        "/v1/parked",
        "listParked",
        "The events that are kept because they cannot be used yet.",
        Answer("One page.", answers.ParkedEvents),
        parameters=(LIMIT, AFTER),
    )
    async def listing(self, request: Request, environment: str) -> Response:
        """Answer one page, the longest parked first. `next` is the `after` of the following page."""
        after, limit = AFTER.read(request), LIMIT.read(request)
        records = await self._services.environment(environment).inbox.parked(after, limit)
        document: dict[str, object] = {"parked": [_shown(record, environment) for record in records]}
        if len(records) == limit:
            document["next"] = f"{records[-1].parked_us}.{records[-1].event_id}"
        return json_response(document)

    @operation(
        "POST",
        "/v1/parked/{event_id}/retry",
        "retryParked",
        "Try one of them again now.",
        Answer("What became of it.", answers.Result, VERSION),
        ("not_found",),
        (PathText("event_id", "The event's id.", r"^[A-Za-z0-9_-]{1,128}$", "evt_01h8bzakzx3hm2fmen703n5q45"),),
    )
    async def retry(self, request: Request, environment: str) -> Response:
        """Answer what becomes of one parked event now."""
        return json_response(await retried(self._services, environment, request.path_params["event_id"]))


async def retried(services: BillingServices, environment: str, event_id: str) -> dict[str, object]:
    """Return the outcome of a parked event that is retried now.

    Raises:
        Problem: no such event is parked.
        StoreError: the store is unreachable or failing.
    """
    result = await services.ingest.retry(environment, event_id)
    if result is None:
        raise Problem("not_found", "no event of this id is parked")
    return result_document(result)


def _shown(record: Record, environment: str) -> dict[str, object]:
    shown: dict[str, object] = {
        "event_id": record.event_id,
        "env": environment,
        "provider": record.provider,
        "type": record.type,
        "reason": record.reason,
        "waits_on": list(record.waits),
        "received_at": instants.text(record.received_us * 1000),
        "parked_at": instants.text(record.parked_us * 1000),
        "attempts": record.attempts,
    }
    return shown | ({"topic": record.topic} if record.topic else {})


def operator_record(record: Record) -> dict[str, object]:
    """Return a parked event as a console lists it, with times in microseconds."""
    return {
        "event_id": record.event_id,
        "provider": record.provider,
        "type": record.type,
        "reason": record.reason,
        "waits_on": record.waits,
        "topic": record.topic,
        "received_us": record.received_us,
        "parked_us": record.parked_us,
        "attempts": record.attempts,
    }
