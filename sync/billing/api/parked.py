"""Parked events over HTTP: the list of them, and another try of one. For operators, behind the guard."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sync.billing.api.errors import ERRORS
from sync.billing.api.receipts import receipt_document
from sync.billing.api.tenant_commands import asked_environment, require_all_tenants
from sync.billing.services.ingest import Pipeline
from sync.billing.storage.inbox import Record
from sync.core import instants
from sync.http.body import json_response
from sync.http.callers import Guard, guarded
from sync.http.endpoint import Count, not_counted, route
from sync.http.pagination import moment_cursor, page_limit
from sync.http.problem import Problem


def routes(pipeline: Pipeline, environments: tuple[str, ...], guard: Guard, count: Count = not_counted) -> list[Route]:
    """Return the routes about parked events of `environments`, behind `guard`."""
    parked = _ParkedEvents(pipeline, environments)
    return [
        route("/v1/parked", "GET", guarded(guard, parked.listing), count, ERRORS),
        route("/v1/parked/{event_id}/retry", "POST", guarded(guard, parked.retry), count, ERRORS),
    ]


class _ParkedEvents:
    """The handlers."""

    def __init__(self, pipeline: Pipeline, environments: tuple[str, ...]) -> None:
        self._pipeline = pipeline
        self._environments = environments

    async def listing(self, request: Request) -> Response:
        """Answer one page, the longest parked first. `next` is the `after` of the following page."""
        environment = self._environment(request)
        after, limit = moment_cursor(request.query_params.get("after")), page_limit(request.query_params.get("limit"))
        records = await self._pipeline.environment(environment).inbox.parked(after, limit)
        document: dict[str, object] = {"parked": [_shown(record, environment) for record in records]}
        if len(records) == limit:
            document["next"] = f"{records[-1].parked_us}.{records[-1].event_id}"
        return json_response(document)

    async def retry(self, request: Request) -> Response:
        """Answer what becomes of one parked event now."""
        return json_response(await retried(self._pipeline, self._environment(request), request.path_params["event_id"]))

    def _environment(self, request: Request) -> str:
        """Return the environment that is asked about. An event's tenant may be unknown, so rights to all are needed."""
        environment = asked_environment(request, self._environments)
        require_all_tenants(request, environment)
        return environment


async def retried(pipeline: Pipeline, environment: str, event_id: str) -> dict[str, object]:
    """Return the outcome of a parked event that is retried now.

    Raises:
        Problem: no such event is parked.
        StoreError: the store is unreachable or failing.
    """
    receipt = await pipeline.retry(environment, event_id)
    if receipt is None:
        raise Problem("not_found", "no event of this id is parked")
    return receipt_document(receipt)


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
