"""The console's actions on a tenant's plans: grants, previews and scheduled changes, each of one application.

They are the operations of the routes for backends, with the login in the cause.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from gateway.console.auth import Principal
from gateway.console.routes.query import Action, Members, forwarded, parsed, text_of, without
from planwire_client.core.topic import TENANT_KIND, Topic
from sync.http.problem import Problem

if TYPE_CHECKING:
    from sync.billing.api.operator_service import OperatorService

GRANT = frozenset(("topic", "plan", "expires_at", "reason", "trial", "units"))
PREVIEW = frozenset(("topic", "plan", "quantity", "cancel", "app", "subscription_id", "billing_mode", "ask_provider"))
SCHEDULE = frozenset(("topic", "plan", "app", "effective_at", "subscription_id", "billing_mode"))
UNSCHEDULE = frozenset(("topic", "app"))
"""The members of each action's body."""

PREVIEWED = ("diff", "money")
PREVIEWED_PRIVATE = ("subscription_id", "provider_differs")
"""What is shown of a preview, the second to those who may see private facts. A backend confirms it, by its id."""


class PlanChanges:
    """The actions.

    Args:
        service: the operators' commands.
        counted: counts a call of billing as a request of the equivalent route; given its method and path.
    """

    def __init__(self, service: OperatorService, counted: Callable[[str, str], AbstractContextManager[None]]) -> None:
        self._service = service
        self._counted = counted

    @property
    def actions(self) -> dict[str, Action]:
        """The actions by name."""
        return {
            "grant": self._grant,
            "preview": self._preview,
            "schedule": self._schedule,
            "unschedule": self._unschedule,
        }

    async def _grant(self, body: Mapping[str, Any], principal: Principal) -> Members:
        tenant = _tenant(body, GRANT)
        asked = {"kind": "plan", "name": body.get("plan"), "value": body.get("units", True)}
        asked |= {name: body[name] for name in ("expires_at", "reason", "trial") if name in body}
        with forwarded(), self._counted("POST", "/v1/tenants/{id}/overrides"):
            found = await self._service.grant(tenant, asked, f"console:{principal.session}")
        return {"granted": found["outcome"], "version": found["version"]}

    async def _preview(self, body: Mapping[str, Any], principal: Principal) -> Members:
        tenant = _tenant(body, PREVIEW)
        with forwarded(), self._counted("POST", "/v1/tenants/{id}/preview"):
            found = await self._service.preview(tenant, without(body, "topic"))
        shown = PREVIEWED + (PREVIEWED_PRIVATE if principal.may_see_private else ())
        return {name: found[name] for name in shown if name in found}

    async def _schedule(self, body: Mapping[str, Any], principal: Principal) -> Members:
        tenant = _tenant(body, SCHEDULE)
        with forwarded(), self._counted("POST", "/v1/tenants/{id}/scheduled-change"):
            found = await self._service.schedule(tenant, without(body, "topic"), f"console:{principal.session}")
        return {name: found[name] for name in ("version", "replaced", "executes_at", "scheduled")}

    async def _unschedule(self, body: Mapping[str, Any], principal: Principal) -> Members:
        tenant = _tenant(body, UNSCHEDULE)
        app = text_of(body, "app") if "app" in body else ""
        with forwarded(), self._counted("DELETE", "/v1/tenants/{id}/scheduled-change"):
            found = await self._service.unschedule(tenant, app, f"console:{principal.session}")
        return {"version": found["version"]}


def _tenant(body: Mapping[str, Any], members: frozenset[str]) -> Topic:
    """Return the tenant that a body is about; it may have these members.

    Raises:
        Problem: 422 request_invalid or topic_invalid.
    """
    tenant = parsed(text_of(body, "topic"))
    if tenant.kind != TENANT_KIND:
        raise Problem("request_invalid", "only tenants have plans")
    if not body.keys() <= members:
        raise Problem("request_invalid", f"send {', '.join(sorted(members))}")
    return tenant
