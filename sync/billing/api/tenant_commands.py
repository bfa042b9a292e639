"""What the routes about one tenant share: whose it is about, and the commit of what somebody does to its facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from starlette.requests import Request

from planwire_client.core.topic import TENANT_KIND, Topic, TopicError
from sync.billing.domain.model import Facts
from sync.billing.domain.outcome import Outcome
from sync.billing.services.reproject import Refresh, Reprojected
from sync.billing.services.wiring import BillingServices
from sync.http.endpoint import Scope, require
from sync.http.problem import Problem


class TenantCommands:
    """Changes of tenants' facts that people and backends ask for."""

    def __init__(self, services: BillingServices) -> None:
        self.services = services

    async def change(
        self,
        environment: str,
        topic: str,
        what: str,
        change: Callable[[Facts], Facts],
        if_version: int | None = None,
        *,
        if_rev: int | None = None,
        about: Mapping[str, str] = MappingProxyType({}),
        who: Mapping[str, str] = MappingProxyType({}),
    ) -> Reprojected:
        """Return what became of a tenant, once the change of its facts is committed and durable.

        Args:
            what, about, who: go into the cause.
            change: may be called more than once.

        Raises:
            ChangeRejected: it cannot be done.
            Problem: nothing changed, or the tenant is not at `if_version` or `if_rev`.
            StoreError: the store is unreachable or failing.
        """
        cause = {"source": "operator" if about else "app", "event_type": what, **about, **who}
        refresh = Refresh(cause, change=change, if_version=if_version, if_rev=if_rev)
        changed = await self.services.reprojection.refresh(environment, topic, refresh)
        result = changed.result
        if result.outcome is Outcome.CONFLICT:
            raise Problem("version_conflict", f"the tenant is at version {result.version}")
        if result.outcome is Outcome.UNCHANGED and result.reason:
            raise Problem("not_changed", result.reason)
        await self.services.committer.wait_durable()
        return changed


def asked_environment(request: Request, environments: Sequence[str]) -> str:
    """Return the environment that `?env=` names; without it the first.

    Raises:
        Problem: there is no such environment.
    """
    return known_environment(request.query_params.get("env", environments[0]), environments)


def known_environment(environment: str, environments: Sequence[str]) -> str:
    """Return `environment`, which is one of `environments`.

    Raises:
        Problem: it is not.
    """
    if environment not in environments:
        raise Problem("request_invalid", f"env must be one of {', '.join(environments)}")
    return environment


def require_all(request: Request, scope: Scope, environment: str) -> None:
    """Return when the sender of a guarded request has `scope` on every tenant of `environment`.

    Raises:
        Problem: scope_missing or topic_forbidden.
    """
    require(request, scope, str(Topic(environment, TENANT_KIND, "*")))


def asked_topic(request: Request, environment: str) -> str:
    """Return the topic of the tenant that the path names.

    Raises:
        Problem: it is no tenant's id.
    """
    try:
        topic = Topic.parse(f"{TENANT_KIND}:{request.path_params['id']}")
    except TopicError as error:
        raise Problem("request_invalid", str(error)) from None
    return str(Topic(environment, TENANT_KIND, topic.id))
