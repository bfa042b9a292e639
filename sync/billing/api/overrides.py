"""Overrides of one tenant: operators' grants and revocations, which take precedence over what is paid for."""

from __future__ import annotations

from sync.billing.api.bodies import answers, requests, tenant_answers
from sync.billing.api.operations import Asked, BillingOperations, Document, operation
from sync.billing.domain.entitlements.overrides import KINDS, add_override, remove_override
from sync.billing.domain.facts.instructions import Override, label
from sync.billing.storage.tenants import facts_of
from sync.core import instants
from sync.http.openapi import VERSION, Answer
from sync.http.parameters import PathText, Text
from sync.http.problem import Problem

OVERRIDE_APP = Text("app", "The application that it is for. Default: all.", r"^[a-z][a-z0-9_-]{0,63}$", "crm")


class Overrides(BillingOperations):
    """The operations on overrides."""

    @operation(
        "POST",
        "/v1/tenants/{id}/overrides",
        "grantOverride",
        "Grant or take something, over whatever is paid for.",
        Answer("It counts.", answers.TenantChanged, VERSION),
        (
            "app_unknown",
            "not_changed",
            "override_invalid",
            "plan_unknown",
            "too_many_overrides",
            "version_conflict",
            "version_unknown",
        ),
        body=requests.OverrideRequest,
        scope="admin",
    )
    async def grant(self, asked: Asked, body: requests.OverrideRequest) -> Document:
        """Add an override and return the new version; `revoke` instead of a value takes the name away.

        A plan is granted until `expires_at`, beside what is paid for; it ends by itself. A `version` moves what the
        tenant has bought of a plan so far to that version.
        """
        if not isinstance(body.value, bool | int | str | None):
            raise Problem("override_invalid", "value must be true, a number or a text")
        by = body.by or asked.who.get("by", "")
        override = Override(
            body.kind,
            body.name,
            body.value,
            body.reason,
            body.expires_at,
            by,
            trial=bool(body.trial),
            app=body.app or "",
        )
        about = {"override": override.label, "reason": body.reason}
        if body.expires_at is not None:
            about["expires_at"] = instants.text(body.expires_at)
        if body.by:
            about["claimed_by"] = body.by
        return await self.change(
            asked,
            "override.revoked" if body.revoke else "override.granted",
            lambda facts: add_override(facts, override, self._services.setting(asked.environment)),
            about=about,
        )

    @operation(
        "DELETE",
        "/v1/tenants/{id}/overrides/{kind}/{name}",
        "removeOverride",
        "Take an override back.",
        Answer("It is gone.", answers.TenantChanged, VERSION),
        ("app_unknown", "not_changed", "not_found", "version_conflict"),
        (
            PathText("kind", "feature, limit, module, plan or version.", f"^({'|'.join(KINDS)})$", "feature"),
            PathText("name", "Of what.", r"^[^/\s]{1,500}$", "sso"),
            OVERRIDE_APP,
        ),
        body=requests.OverrideRemoval,
        is_body_required=False,
        scope="admin",
    )
    async def remove(self, asked: Asked, kind: str, name: str, app: str, body: requests.OverrideRemoval) -> Document:
        """Remove an override and return the new version; the body may name the reason and the person."""
        about = {"override": label(kind, name, app), "reason": body.reason or "", "claimed_by": body.by or ""}
        return await self.change(
            asked,
            "override.removed",
            lambda facts: remove_override(facts, kind, name, app),
            about={field: text for field, text in about.items() if text},
        )

    @operation(
        "GET",
        "/v1/tenants/{id}/overrides",
        "listOverrides",
        "What operators have granted or taken.",
        Answer("All of them.", tenant_answers.Overrides, VERSION),
        ("not_changed",),
    )
    async def overrides(self, asked: Asked) -> Document:
        """Return a tenant's version and overrides, expired ones included.

        Raises:
            FactsError: the tenant's state was not written by billing.
            StoreError: the store is unreachable or failing.
        """
        snapshot = await self._services.store.read(asked.topic)
        return {"version": snapshot.version, "overrides": [_shown(one) for one in facts_of(snapshot).overrides]}


def _shown(override: Override) -> Document:
    shown: Document = {"kind": override.kind, "name": override.name, "reason": override.reason}
    shown |= {"revoke": True} if override.value is None else {"value": override.value}
    shown |= {} if override.expires_ns is None else {"expires_at": instants.text(override.expires_ns)}
    shown |= {"app": override.app} if override.app else {}
    return shown | ({"trial": True} if override.trial else {}) | ({"by": override.by} if override.by else {})
