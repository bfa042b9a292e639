"""What backends and operators do with one tenant over HTTP: reconcile it, see drift, schedule or preview a change.

Thin: it reads requests and shows what `sync.billing` found. Every route is behind the guard.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from planwire_client.core.limits import VERSION_MAX
from sync.billing.api.errors import ERRORS
from sync.billing.api.overrides import Operators
from sync.billing.api.previews import Previews
from sync.billing.api.status import Standing, Tabs
from sync.billing.api.tenant_commands import Desk, asked_environment, asked_topic, require_all_tenants
from sync.billing.domain.model import Facts, ScheduledPlanChange
from sync.billing.domain.outcome import ChangeRejected
from sync.billing.domain.scheduled_changes import ChangeRequest, plan_change
from sync.billing.providers import registry
from sync.billing.providers.base import BILLING_MODES
from sync.billing.services.ingest import Pipeline
from sync.billing.services.reconcile import Reconciliation, Report
from sync.core import instants
from sync.http.body import json_response, read_object
from sync.http.callers import Guard, Scope, by, guarded, require
from sync.http.endpoint import Count, not_counted
from sync.http.endpoint import route as http_route
from sync.http.fields import Fields
from sync.http.pagination import page_limit, stream_cursor
from sync.http.problem import Problem

Handler = Callable[[Request, str], Awaitable[Response]]
"""Answers a request about an environment; may raise Problem and StoreError."""


def routes(
    pipeline: Pipeline,
    environments: tuple[str, ...],
    guard: Guard,
    tabs: Tabs | None = None,
    count: Count = not_counted,
) -> list[Route]:
    """Return the routes about tenants, all behind `guard`; `tabs` tells what their tabs show, if that is known here."""
    shared = Desk(pipeline)
    desk, previews, operators = _Tenants(shared), Previews(shared), Operators(shared)

    def route(path: str, handler: Handler, method: str, scope: Scope = "tenants") -> Route:
        """Return a route about one tenant, which needs `scope` on its topic."""

        async def answer(request: Request) -> Response:
            environment = asked_environment(request, environments)
            require(request, scope, asked_topic(request, environment))
            return await handler(request, environment)

        return http_route(path, method, guarded(guard, answer), count, ERRORS)

    async def drift(request: Request) -> Response:
        environment = asked_environment(request, environments)
        require_all_tenants(request, environment)
        return await desk.drift(request, environment)

    return [
        http_route("/v1/drift", "GET", guarded(guard, drift), count, ERRORS),
        route("/v1/tenants/{id}/reconcile", desk.reconcile, "POST"),
        route("/v1/tenants/{id}/scheduled-change", desk.schedule, "POST"),
        route("/v1/tenants/{id}/scheduled-change", desk.unschedule, "DELETE"),
        route("/v1/tenants/{id}/overrides", operators.grant, "POST", "admin"),
        route("/v1/tenants/{id}/overrides", operators.overrides, "GET"),
        route("/v1/tenants/{id}/overrides/{kind}/{name}", operators.remove, "DELETE", "admin"),
        route("/v1/tenants/{id}/history", operators.history, "GET"),
        route("/v1/tenants/{id}/status", Standing(shared, tabs).status, "GET"),
        route("/v1/tenants/{id}", operators.erase, "DELETE", "admin"),
        route("/v1/tenants/{id}/preview", previews.preview, "POST"),
        route("/v1/tenants/{id}/preview/{preview_id}/confirm", previews.confirm, "POST"),
    ]


class _Tenants:
    """The routes."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def drift(self, request: Request, environment: str) -> Response:
        """Answer one page of drift records, the newest first, and how many of each kind there ever were."""
        limit = page_limit(request.query_params.get("limit"))
        before = stream_cursor(request.query_params.get("before"))
        return json_response(await drift_document(self._desk.pipeline, environment, before, limit))

    async def reconcile(self, request: Request, environment: str) -> Response:
        """Answer what comparing the tenant with its provider found; what differs is repaired by then."""
        topic = asked_topic(request, environment)
        return json_response(await reconciled(self._desk.reconciliation, environment, topic, by(request)))

    async def schedule(self, request: Request, environment: str) -> Response:
        """Answer the plan change that is held from now on, in place of one that was."""
        topic = asked_topic(request, environment)
        fields = Fields(await read_object(request))
        wish = ChangeRequest(
            fields.text("plan"),
            fields.instant("effective_at"),
            fields.text("subscription_id", ""),
            fields.text("keep", ""),
            fields.choice("billing_mode", BILLING_MODES, "do_not_bill"),
        )
        if_version = fields.number("if_version", VERSION_MAX)
        fields.end()
        pipeline = self._desk.pipeline
        made: list[ScheduledPlanChange] = []

        def change(facts: Facts) -> Facts:
            made[:] = [
                plan_change(
                    facts,
                    wish,
                    pipeline.catalog_watcher.current,
                    environment,
                    pipeline.now_ns(),
                    {name: spec.billing_modes for name, spec in registry.PROVIDERS.items()},
                )
            ]
            return replace(facts, scheduled_change=made[0])

        adopted = await self._desk.change(
            environment, topic, "scheduled_change.set", change, if_version, who=by(request)
        )
        state = orjson.loads((await pipeline.store.read(topic)).state)
        return json_response(
            {
                "version": adopted.receipt.version,
                "outcome": adopted.receipt.outcome,
                "replaced": adopted.before.scheduled_change not in (None, made[0]),
                "executes_at": instants.text(made[0].execute_ns),
                "scheduled": state.get("scheduled"),
            }
        )

    async def unschedule(self, request: Request, environment: str) -> Response:
        """Answer when the tenant's held change is gone."""
        topic = asked_topic(request, environment)

        def change(facts: Facts) -> Facts:
            if facts.scheduled_change is None:
                raise ChangeRejected("not_found", "no plan change is scheduled for this tenant")
            if facts.scheduled_change.executed:
                raise ChangeRejected(
                    "already_executed", "the provider has been told already: schedule the way back instead"
                )
            return replace(facts, scheduled_change=None)

        adopted = await self._desk.change(environment, topic, "scheduled_change.deleted", change, who=by(request))
        return json_response({"version": adopted.receipt.version, "outcome": adopted.receipt.outcome})


async def drift_document(pipeline: Pipeline, environment: str, before: str, limit: int) -> dict[str, object]:
    """Return up to `limit` drift records older than the cursor `before`, and how many of each kind there ever were.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    drifts = pipeline.environment(environment).drifts
    records, following = await drifts.page(before, limit)
    document: dict[str, object] = {"drift": records, "counts": await drifts.counts()}
    return document | ({"next": following} if following else {})


async def reconciled(
    reconciliation: Reconciliation, environment: str, topic: str, who: Mapping[str, str]
) -> dict[str, object]:
    """Return what comparing a tenant with its provider found, once it is repaired; `who` goes into the cause.

    Raises:
        Problem: the provider could not be asked.
        StoreError: the store is unreachable or failing.
    """
    if not reconciliation.can_ask(environment):
        raise Problem("provider_unavailable", f"no API key is set for {environment}: nobody can be asked")
    report = await reconciliation.reconcile(environment, topic, "asked", who=who)
    if report.unasked and not report.asked:
        reason = next(iter(report.unasked.values()))
        raise Problem("provider_unavailable", f"the provider could not be asked: {reason}")
    return _shown(report)


def _shown(report: Report) -> dict[str, object]:
    receipt = report.receipt
    return {
        "outcome": receipt.outcome,
        "version": receipt.version,
        "asked": report.asked,
        "unasked": report.unasked,
        "drift": [entry.shown() for entry in report.drift],
        **({"reason": receipt.reason} if receipt.reason else {}),
    }
