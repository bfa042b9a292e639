"""What backends and operators do with one tenant over HTTP: reconcile it, see drift, schedule or preview a change.

Thin: it reads requests and shows what `sync.billing` found. Every route is behind the guard.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import orjson
from starlette.requests import Request
from starlette.responses import Response

from sync.billing.api.bodies import answers
from sync.billing.api.bodies.requests import ScheduleRequest
from sync.billing.api.operations import CHANGE_PROBLEMS, operation
from sync.billing.api.tenant_commands import TenantCommands, asked_topic
from sync.billing.domain.model import Facts, ScheduledPlanChange
from sync.billing.domain.scheduled_changes import ChangeRequest, plan_change, without_change
from sync.billing.providers import registry
from sync.billing.services.reconcile import Reconciliation, Report
from sync.billing.services.wiring import BillingServices
from sync.core import instants
from sync.http.body import BODY_PROBLEMS, json_response, read_object
from sync.http.endpoint import by
from sync.http.fields import Reader
from sync.http.openapi import VERSION, Answer
from sync.http.parameters import BEFORE, LIMIT
from sync.http.problem import Problem

_SCHEDULE = Reader(ScheduleRequest)


class Tenants:
    """The operations that reconcile a tenant, and that schedule its plan changes."""

    def __init__(self, commands: TenantCommands) -> None:
        self._commands = commands

    @operation(
        "GET",
        "/v1/drift",
        "listDrift",
        "What was found to differ from the provider.",
        Answer("One page.", answers.DriftPage),
        parameters=(LIMIT, BEFORE),
    )
    async def drift(self, request: Request, environment: str) -> Response:
        """Answer one page of drift records, the newest first, and how many of each kind there ever were."""
        limit, before = LIMIT.read(request), BEFORE.read(request)
        return json_response(await drift_document(self._commands.services, environment, before, limit))

    @operation(
        "POST",
        "/v1/tenants/{id}/reconcile",
        "reconcile",
        "Compare one tenant with its provider and repair. Unasked, a worker compares each within 24 hours.",
        Answer("What was found.", answers.Reconciled, VERSION),
        ("provider_unavailable",),
    )
    async def reconcile(self, request: Request, environment: str) -> Response:
        """Answer what comparing the tenant with its provider found; what differs is repaired by then."""
        topic = asked_topic(request, environment)
        return json_response(await reconciled(self._commands.services.reconciliation, environment, topic, by(request)))

    @operation(
        "POST",
        "/v1/tenants/{id}/scheduled-change",
        "scheduleChange",
        "Hold a plan change until its time, in place of one that is held.",
        Answer("It is held.", answers.ChangeScheduled, VERSION),
        (
            *BODY_PROBLEMS, *CHANGE_PROBLEMS, "billing_mode_unsupported", "cancel_scheduled", "effective_at_invalid",
            "version_conflict",
        ),
        body={"application/json": ScheduleRequest},
    )  # fmt: skip
    async def schedule(self, request: Request, environment: str) -> Response:
        """Answer the plan change that is held from now on, in place of one that was."""
        topic = asked_topic(request, environment)
        body = _SCHEDULE.read(await read_object(request))
        asked = ChangeRequest(
            body.plan,
            body.effective_at,
            body.subscription_id or "",
            body.keep or "",
            body.billing_mode or "do_not_bill",
        )
        services = self._commands.services
        made: list[ScheduledPlanChange] = []

        def change(facts: Facts) -> Facts:
            made[:] = [
                plan_change(
                    facts,
                    asked,
                    services.catalog_watcher.current,
                    environment,
                    services.now_ns(),
                    {name: spec.billing_modes for name, spec in registry.PROVIDERS.items()},
                )
            ]
            return replace(facts, scheduled_change=made[0])

        changed = await self._commands.change(
            environment, topic, "scheduled_change.set", change, body.if_version, who=by(request)
        )
        state = orjson.loads((await services.store.read(topic)).state)
        return json_response(
            {
                "version": changed.result.version,
                "outcome": changed.result.outcome,
                "replaced": changed.before.scheduled_change not in (None, made[0]),
                "executes_at": instants.text(made[0].execute_ns),
                "scheduled": state.get("scheduled"),
            }
        )

    @operation(
        "DELETE",
        "/v1/tenants/{id}/scheduled-change",
        "dropChange",
        "Forget the plan change that is held.",
        Answer("It is forgotten.", answers.TenantChanged, VERSION),
        ("already_executed", "not_changed", "not_found", "no_subscription", "version_conflict"),
    )
    async def unschedule(self, request: Request, environment: str) -> Response:
        """Answer when the tenant's held change is gone."""
        topic = asked_topic(request, environment)

        changed = await self._commands.change(
            environment, topic, "scheduled_change.deleted", without_change, who=by(request)
        )
        return json_response({"version": changed.result.version, "outcome": changed.result.outcome})


async def drift_document(services: BillingServices, environment: str, before: str, limit: int) -> dict[str, object]:
    """Return up to `limit` drift records older than the cursor `before`, and how many of each kind there ever were.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    drifts = services.environment(environment).drifts
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
    result = report.result
    return {
        "outcome": result.outcome,
        "version": result.version,
        "asked": report.asked,
        "unasked": report.unasked,
        "drift": [entry.shown() for entry in report.drift],
        **({"reason": result.reason} if result.reason else {}),
    }
