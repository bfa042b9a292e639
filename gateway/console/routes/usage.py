"""The console's access to usage: what a tenant has used of its limits, the newest calls, and corrections.

A process without a webhook intake answers `listed: false` and offers no corrections.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from gateway.console.auth import Principal
from gateway.console.routes.query import Action, Members, forwarded, parsed, text_of, topic_of, without
from planwire_client.core.topic import TENANT_KIND, Topic, tenant_of
from sync.http.problem import Problem

if TYPE_CHECKING:
    from sync.usage.api.operator_usage import OperatorUsage

ADJUST = frozenset(("topic", "meter", "to", "by", "reason"))
GRANT = frozenset(("topic", "meter", "amount", "ends_at", "reason"))
"""The members of each action's body."""

SHOWN_MAX = 100
"""Maximum calls, corrections and windows in one answer, each."""


class UsageRoutes:
    """The handlers.

    Args:
        usage: the access to usage; None in a process without a webhook intake.
        counted: counts a call as a request of the equivalent route; given its method and path.
    """

    def __init__(
        self, usage: OperatorUsage | None, counted: Callable[[str, str], AbstractContextManager[None]]
    ) -> None:
        self._usage = usage
        self._counted = counted

    async def usage(self, request: Request, principal: Principal) -> Members:
        """Answer the usage of a tenant, by the name of its topic or of its usage topic.

        The keys of calls, and the reasons and actors of corrections, need the scope private.
        """
        tenant = _tenant(topic_of(request))
        if self._usage is None or tenant is None:
            return {"listed": False, "meters": []}
        with forwarded(), self._counted("GET", "/v1/tenants/{id}/usage"):
            found: Members = await self._usage.usage(tenant)
        found |= {name: found[name][:SHOWN_MAX] for name in ("calls", "corrections", "windows")}
        if not principal.may_see_private:
            found["calls"] = [without(one, "key") for one in found["calls"]]
            found["corrections"] = [without(one, "reason", "by") for one in found["corrections"]]
        return {"listed": True, "tenant": str(tenant), "private_hidden": not principal.may_see_private, **found}

    @property
    def actions(self) -> dict[str, Action]:
        """The actions by name; none in a process without a webhook intake."""
        return {} if self._usage is None else {"adjust_usage": self._adjust, "grant_credits": self._grant}

    async def _adjust(self, body: Mapping[str, Any], principal: Principal) -> Members:
        assert self._usage is not None, "no such action"
        tenant, meter = _subject(body, ADJUST)
        asked = without(body, "topic", "meter")
        with forwarded(), self._counted("POST", "/v1/tenants/{id}/usage/{meter}/adjust"):
            return _left(await self._usage.adjust(tenant, meter, asked, f"console:{principal.session}"))

    async def _grant(self, body: Mapping[str, Any], principal: Principal) -> Members:
        assert self._usage is not None, "no such action"
        tenant, meter = _subject(body, GRANT)
        asked = without(body, "topic", "meter")
        with forwarded(), self._counted("POST", "/v1/tenants/{id}/usage/{meter}/grant"):
            return _left(await self._usage.grant(tenant, meter, asked, f"console:{principal.session}"))


def _tenant(topic: Topic) -> Topic | None:
    """Return the tenant whose topic, or usage topic, this is; None for a topic of another kind."""
    named = tenant_of(str(topic))
    return Topic.parse(named) if named else topic if topic.kind == TENANT_KIND else None


def _subject(body: Mapping[str, Any], members: frozenset[str]) -> tuple[Topic, str]:
    """Return the tenant and the meter that a body is about; it may have these members.

    Raises:
        Problem: 422 request_invalid or topic_invalid.
    """
    tenant = _tenant(parsed(text_of(body, "topic")))
    if tenant is None:
        raise Problem("request_invalid", "only tenants have usage")
    if not body.keys() <= members:
        raise Problem("request_invalid", f"send {', '.join(sorted(members))}")
    return tenant, text_of(body, "meter")


def _left(counted: Mapping[str, Any]) -> Members:
    return {name: counted[name] for name in ("used", "reserved", "limit", "remaining", "usage_version")}
