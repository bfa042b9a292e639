"""Reconciliation of tenants and other topics, drift, scheduled plan changes, and the erasure of a tenant."""

from __future__ import annotations

import orjson
from starlette.requests import Request
from starlette.responses import Response

from planwire_client.core.topic import TENANT_KIND, UNPUBLISHED_KINDS, TopicError, decoded_topic, usage_topic
from sync.billing.api.bodies import answers, requests
from sync.billing.api.operations import (
    APP,
    CHANGE_PROBLEMS,
    GUARDED,
    Asked,
    BillingOperations,
    Document,
    changed_document,
    operation,
    result_document,
)
from sync.billing.domain.entitlements.scheduled_changes import ChangeRequest, plan_change, with_change, without_change
from sync.billing.domain.facts.instructions import ScheduledPlanChange
from sync.billing.domain.facts.model import Facts
from sync.billing.domain.outcome import revival_of
from sync.billing.providers import registry
from sync.billing.services.wiring import BillingServices
from sync.billing.storage.tenants import billed, facts_of
from sync.core import instants
from sync.http.body import json_response
from sync.http.endpoint import require
from sync.http.fields import READABLE_TOPIC_PATTERN, TOPIC_IN_PATH
from sync.http.openapi import VERSION, Answer, Operation
from sync.http.parameters import BEFORE, LIMIT, PathText
from sync.http.problem import Problem
from sync.source.backend import SourceError
from sync.source.hydration import ASKED_MAX_WAIT_S, Hydration

TOPIC = PathText("topic", TOPIC_IN_PATH, READABLE_TOPIC_PATTERN, "user:42")


class Tenants(BillingOperations):
    """The operations on a tenant as a whole, and on its scheduled plan change."""

    @operation(
        "GET",
        "/v1/drift",
        "listDrift",
        "What was found to differ from the provider.",
        Answer("One page.", answers.DriftPage),
        parameters=(LIMIT, BEFORE),
    )
    async def drift(self, asked: Asked, limit: int, before: str) -> Document:
        """Return up to `limit` drift records older than the cursor `before`, and the total of each kind ever recorded.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        drifts = self._services.environment(asked.environment).drifts
        records, following = await drifts.page(before, limit)
        document: Document = {"drift": records, "counts": await drifts.counts()}
        return document | ({"next": following} if following else {})

    @operation(
        "POST",
        "/v1/tenants/{id}/reconcile",
        "reconcile",
        "Compare one tenant with its provider and repair. Unasked, a worker compares each within 24 hours.",
        Answer("What was found.", answers.Reconciled, VERSION),
        ("provider_unavailable",),
    )
    async def reconcile(self, asked: Asked) -> Document:
        """Compare the tenant with its provider, repair the differences, and return what was found.

        Raises:
            Problem: the provider could not be asked.
            StoreError: the store is unreachable or failing.
        """
        if not self._services.can_ask(asked.environment):
            raise Problem("provider_unavailable", f"no API key is set for {asked.environment}: nobody can be asked")
        reconcile = self._services.reconciliation.reconcile
        report = await reconcile(asked.environment, asked.topic, "asked", who=asked.who)
        if report.unasked and not report.asked:
            reason = next(iter(report.unasked.values()))
            raise Problem("provider_unavailable", f"the provider could not be asked: {reason}")
        found = {"asked": report.asked, "unasked": report.unasked, "drift": [entry.shown() for entry in report.drift]}
        return {**changed_document(report.result), **result_document(report.result), **found}

    @operation(
        "POST",
        "/v1/tenants/{id}/scheduled-change",
        "scheduleChange",
        "Hold a plan change until its time, in place of one that is held.",
        Answer("It is held.", answers.ChangeScheduled, VERSION),
        (*CHANGE_PROBLEMS, "billing_mode_unsupported", "cancel_scheduled", "effective_at_invalid", "version_conflict"),
        body=requests.ScheduleRequest,
    )
    async def schedule(self, asked: Asked, body: requests.ScheduleRequest) -> Document:
        """Schedule a plan change, which replaces an earlier one; return it."""
        mode = body.billing_mode or "do_not_bill"
        request = ChangeRequest(
            body.plan, body.effective_at, body.subscription_id or "", body.keep or "", mode, body.app or ""
        )
        services = self._services
        modes = {name: spec.billing_modes for name, spec in registry.PROVIDERS.items()}
        seen: list[tuple[bool, ScheduledPlanChange]] = []

        def change(facts: Facts) -> Facts:
            made = plan_change(facts, request, services.setting(asked.environment), modes)
            after = with_change(facts, made)
            seen[:] = [(bool(set(facts.scheduled_changes) - set(after.scheduled_changes)), made)]
            return after

        document = await self.change(asked, "scheduled_change.set", change, if_version=body.if_version)
        ((is_replaced, made),) = seen
        state = orjson.loads(billed(await services.store.read(asked.topic)).state)
        return {
            **document,
            "replaced": is_replaced,
            "executes_at": instants.text(made.execute_ns),
            "scheduled": state.get("apps", {}).get(made.app, state).get("scheduled"),
        }

    @operation(
        "DELETE",
        "/v1/tenants/{id}/scheduled-change",
        "dropChange",
        "Forget the plan change that is held.",
        Answer("It is forgotten.", answers.TenantChanged, VERSION),
        ("already_executed", "app_unknown", "not_changed", "not_found", "no_subscription", "version_conflict"),
        (APP,),
    )
    async def unschedule(self, asked: Asked, app: str) -> Document:
        """Delete the scheduled change and return the new version."""
        setting = self._services.setting(asked.environment)
        return await self.change(asked, "scheduled_change.deleted", lambda facts: without_change(facts, app, setting))

    @operation(
        "DELETE",
        "/v1/tenants/{id}",
        "eraseTenant",
        "Erase a tenant: its state becomes null, tabs get `gone`; history, events and links go. What its provider "
        "sends later is ignored, counted and not kept.",
        Answer("It is erased.", answers.TenantChanged, VERSION),
        ("not_changed", "not_found"),
        body=requests.Erasure,
        scope="admin",
    )
    async def erase(self, asked: Asked, body: requests.Erasure) -> Document:
        """Erase the tenant and return its new version: its state is null, its history is removed."""
        store = self._services.store
        snapshot, usage = await store.read(asked.topic), await store.read(usage_topic(asked.topic))
        # The usage of a tenant without a state is counted against the default plan.
        if not snapshot.rev and not usage.rev:
            raise Problem("not_found", "there is no such tenant")
        facts_of(snapshot)  # raises if billing did not write the state
        result = await self._services.erasure.erase(asked.environment, asked.topic, body.reason, asked.who)
        await store.wait_durable()
        return changed_document(result)

    @operation(
        "POST",
        "/v1/tenants/{id}/revive",
        "reviveTenant",
        "Let an erased tenant come back: its parked events are used then. What was erased stays erased.",
        Answer("It has come back, or was not erased (unchanged).", answers.TenantChanged, VERSION),
        ("not_found",),
        body=requests.Reasoned,
        scope="admin",
    )
    async def revive(self, asked: Asked, body: requests.Reasoned) -> Document:
        """Revive the tenant, use the events that waited for it, and return the new version."""
        services = self._services
        who = {**({"claimed_by": body.by} if body.by else {}), **asked.who}
        result = await services.erasure.revive(asked.environment, asked.topic, body.reason, who)
        if not result.version:
            raise Problem("not_found", "there is no such tenant")
        await services.ingest.release(asked.environment, [revival_of(asked.topic)])
        await services.store.wait_durable()
        (version,) = await services.store.versions([asked.topic])
        return changed_document(result._replace(version=version))


class Topics:
    """The operations on topics of any kind."""

    def __init__(self, services: BillingServices, billed: frozenset[str], hydration: Hydration | None) -> None:
        """Use `services`.

        Args:
            billed: the environments whose tenants billing computes.
            hydration: fetches all other topics from the application's backend; None: no source is set.
        """
        self._tenants = Tenants(services)
        self._billed = billed
        self._hydration = hydration

    @Operation(
        "POST",
        "/v1/topics/{topic:path}/reconcile",
        "reconcileTopic",
        "Compare one topic with its billing provider, or else with the source, and repair.",
        {200: Answer("What was found.", answers.Compared, VERSION)},
        (*GUARDED, "provider_unavailable", "source_unavailable"),
        ("publishKey",),
        (TOPIC,),
    )
    async def reconcile(self, request: Request) -> Response:
        """Compare the topic, repair the differences, and answer with what was found."""
        try:
            topic = decoded_topic(TOPIC.read(request))
        except TopicError as error:
            raise Problem("request_invalid", str(error)) from None
        if topic.kind in UNPUBLISHED_KINDS:
            raise Problem("request_invalid", f"topics of kind {topic.kind} are written by planwire itself")
        is_billed = topic.kind == TENANT_KIND and topic.env in self._billed
        # A billed tenant's state is computed by billing; any other topic's state is published.
        require(request, "tenants" if is_billed else "publish", str(topic))
        if is_billed:
            return json_response(await self._tenants.reconcile(Asked(topic.env, str(topic), request.state.caller)))
        if self._hydration is None:
            raise Problem("source_unavailable", "no source is set: nobody can be asked about this topic")
        try:
            hydrated = await self._hydration.reconcile(str(topic), "asked", ASKED_MAX_WAIT_S)
        except SourceError as error:
            raise Problem("source_unavailable", f"the source could not be asked: {error}") from None
        return json_response({"outcome": hydrated.outcome, "version": hydrated.version})
