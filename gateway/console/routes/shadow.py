"""The console's view of the shadow: the report of an environment, and one tenant's comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from gateway.console.auth import Principal
from gateway.console.routes.query import Members, forwarded, topic_of, without
from planwire_client.core.topic import TENANT_KIND
from sync.http.parameters import query_integer

if TYPE_CHECKING:
    from sync.billing.api.operator_service import OperatorService

EXAMPLES, EXAMPLES_MAX = 50, 500
"""Tenants that differ in one answer: by default, and at most."""

PRIVATE = ("here", "there")
"""The private members of a difference."""


class ShadowRoutes:
    """The handlers.

    Args:
        service: None in a process without a webhook intake.
        counted: counts a call of billing as a request of the equivalent route; given its method and path.
    """

    def __init__(
        self, service: OperatorService | None, counted: Callable[[str, str], AbstractContextManager[None]]
    ) -> None:
        self._service = service
        self._counted = counted

    async def report(self, request: Request, principal: Principal) -> Members:
        """Answer how an environment's tenants compare with the other system, and how many pages see."""
        service = self._service
        if service is None:
            return {"listed": False}
        env = request.query_params.get("env") or service.environments[0]
        limit = query_integer(request, "limit", EXAMPLES, EXAMPLES_MAX)
        with forwarded(), self._counted("GET", "/v1/shadow"):
            document: Members = await service.shadow(env, limit)
        examples = [_shown(one, principal) for one in document["examples"]]
        hidden = not principal.may_see_private
        return {"listed": True, "env": env, **document, "examples": examples, "private_hidden": hidden}

    async def tenant(self, request: Request, principal: Principal) -> Members:
        """Answer what billing computes of a tenant, and how it differs from the other system."""
        topic, service = topic_of(request), self._service
        if service is None or topic.kind != TENANT_KIND:
            return {"listed": False, "topic": str(topic)}
        with forwarded(), self._counted("GET", "/v1/tenants/{id}/shadow"):
            document: Members = await service.tenant_shadow(topic)
        return {"listed": True, **_shown(document, principal), "private_hidden": not principal.may_see_private}


def _shown(document: Mapping[str, Any], principal: Principal) -> Members:
    hidden = () if principal.may_see_private else PRIVATE
    return {**document, "differences": [without(one, *hidden) for one in document["differences"]]}
