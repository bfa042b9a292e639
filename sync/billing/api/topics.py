"""Reconciling any topic over HTTP: with its billing provider if it has one, else with the application's backend."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from planwire_client.core.topic import RESERVED_KINDS, TENANT_KIND, Topic, TopicError
from sync.billing.api import tenants
from sync.billing.api.errors import ERRORS
from sync.billing.services.ingest import Pipeline
from sync.billing.services.reconcile import Reconciliation
from sync.http.body import json_response
from sync.http.callers import Guard, by, guarded, require
from sync.http.endpoint import Count, not_counted, route
from sync.http.problem import Problem
from sync.source.client import SourceError
from sync.source.hydration import ASKED_PATIENCE_S, Hydration


def routes(
    pipeline: Pipeline, billed: frozenset[str], hydration: Hydration | None, guard: Guard, count: Count = not_counted
) -> list[Route]:
    """Return the routes about topics of any kind, behind `guard`. `billed`: environments whose tenants billing has."""
    reconciliation = Reconciliation(pipeline)

    async def reconcile(request: Request) -> Response:
        topic = _asked(request)
        is_billed = topic.kind == TENANT_KIND and topic.env in billed
        # Billing computes a billed tenant's state; any other topic's is published.
        require(request, "tenants" if is_billed else "publish", str(topic))
        if is_billed:
            return json_response(await tenants.reconciled(reconciliation, topic.env, str(topic), by(request)))
        if hydration is None:
            raise Problem("source_unavailable", "no source is set: nobody can be asked about this topic")
        try:
            found = await hydration.reconcile(str(topic), "asked", ASKED_PATIENCE_S)
        except SourceError as error:
            raise Problem("source_unavailable", f"the source could not be asked: {error}") from None
        return json_response({"outcome": found.outcome, "version": found.version})

    return [route("/v1/topics/{topic:path}/reconcile", "POST", guarded(guard, reconcile), count, ERRORS)]


def _asked(request: Request) -> Topic:
    try:
        topic = Topic.parse(request.path_params["topic"])
    except TopicError as error:
        raise Problem("request_invalid", str(error)) from None
    if topic.kind in RESERVED_KINDS:
        raise Problem("request_invalid", f"topics of kind {topic.kind} are the gateways' own")
    return topic
