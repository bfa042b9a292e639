"""Repairs of billing: compare a tenant with its provider, retry parked events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gateway.console.auth import Principal
from gateway.console.routes.billing import forwarded_problems, parked_of
from gateway.console.routes.query import Action, only, parsed, text_of
from planwire_client.core.topic import TENANT_KIND
from sync.http.problem import Problem

if TYPE_CHECKING:
    from sync.billing.api.operator_service import OperatorService

RETRIES_MAX = 100
"""Maximum number of parked events of one topic that are retried at once."""


class Repairs:
    """The actions by name."""

    def __init__(self, service: OperatorService) -> None:
        self._service = service
        self.by_name: dict[str, Action] = {
            "reconcile": self._reconcile,
            "retry": self._retry,
            "retry_topic": self._retry_topic,
        }

    async def _reconcile(self, body: Mapping[str, Any], principal: Principal) -> dict[str, Any]:
        tenant = parsed(only(body, "topic"))
        if tenant.kind != TENANT_KIND:
            raise Problem("request_invalid", "only tenants have a provider to compare with")
        with forwarded_problems():
            found = await self._service.reconcile(tenant, f"console:{principal.session}")
        return {"reconciled": found["outcome"], **{name: found[name] for name in ("version", "drift", "asked")}}

    async def _retry(self, body: Mapping[str, Any], _: Principal) -> dict[str, Any]:
        if not body.keys() <= {"env", "event_id"}:
            raise Problem("request_invalid", "send env and event_id")
        return await self._retried(text_of(body, "env"), text_of(body, "event_id"))

    async def _retried(self, environment: str, event_id: str) -> dict[str, Any]:
        with forwarded_problems():
            found = await self._service.retry(environment, event_id)
        shown: dict[str, Any] = {name: found[name] for name in ("version", "reason") if name in found}
        return {"event_id": event_id, "became": found["outcome"]} | shown

    async def _retry_topic(self, body: Mapping[str, Any], _: Principal) -> dict[str, Any]:
        topic = parsed(only(body, "topic"))
        results = []
        for row in (await parked_of(self._service, topic))[:RETRIES_MAX]:
            event_id = str(row["event_id"])
            try:
                results.append(await self._retried(topic.env, event_id))
            except Problem as problem:
                results.append({"event_id": event_id, "became": "failed", "reason": problem.detail})
        return {"retried": len(results), "results": results}
