"""The common parts of billing's operations: declaration, handler, problems, and the commit of a change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from planwire_client.core.topic import TENANT_KIND, Topic, TopicError, encode_id
from sync.billing.domain.facts.model import Facts
from sync.billing.domain.outcome import ChangeRejected, EventResult, Outcome
from sync.billing.providers.base import ProviderRejected, ProviderUnavailable
from sync.billing.services.reproject import Refresh
from sync.billing.services.wiring import BillingServices
from sync.billing.storage.tenants import FactsError
from sync.http.body import BODY_PROBLEMS, json_response, read_object
from sync.http.endpoint import Caller, Handler, Scope, require, trusted
from sync.http.fields import Model, Reader
from sync.http.openapi import Answer, Operation
from sync.http.parameters import Parameter, PathText, Text
from sync.http.problem import FORESEEN, Errors, Problem
from sync.store.models import StoreError

RETRY_AFTER_S: Final = "5"
"""Seconds until a backend should try again while the store is away."""

ERRORS: Errors = {
    **FORESEEN,
    StoreError: lambda _: Problem(
        "store_unavailable", "the store did not answer", headers={"Retry-After": RETRY_AFTER_S}
    ),
    ChangeRejected: lambda error: Problem(error.code, error.detail),
    FactsError: lambda error: Problem("not_changed", str(error)),
    ProviderUnavailable: lambda error: Problem("provider_unavailable", str(error)),
    ProviderRejected: lambda error: Problem("provider_refused", str(error)),
}
"""The problem that answers each error of billing."""

GUARDED = (
    "key_missing", "key_invalid", "scope_missing", "topic_forbidden", "request_invalid", "rate_limited",
    "store_unavailable",
)  # fmt: skip
"""The problem codes common to all operations of backends and operators."""

CHANGE_PROBLEMS = (
    "app_unknown", "effective_at_required", "no_plan", "no_subscription", "not_changed", "nothing_to_change",
    "plan_not_sold", "plan_unknown", "price_unknown",
)  # fmt: skip
"""The problem codes of a plan change that cannot be made or previewed."""

ENVIRONMENT = Parameter("env", "The provider's environment; default: the first, live.", r"^[a-z][a-z0-9_-]{0,31}$")
TENANT = PathText(
    "id", "Your id of the tenant: acme for tenant:acme, auth0|5f1c for tenant:auth0%7C5f1c.", r"\S", "acme"
)
APP = Text("app", "The application. Default: the leading one.", r"^[a-z][a-z0-9_-]{0,63}$", "crm")

Document = dict[str, object]


@dataclass(frozen=True, slots=True)
class Asked:
    """The subject of a request, and its caller.

    Attributes:
        topic: the tenant's topic; "" for the whole environment.
        caller: the sender; a batch checks its rights, and takes units of its rate, for each item.
    """

    environment: str
    topic: str = ""
    caller: Caller = field(default_factory=partial(trusted, ""))

    @property
    def who(self) -> Mapping[str, str]:
        """The fields of a cause that name the caller."""
        return {"by": self.caller.name} if self.caller.name else {}


def operation(
    method: str,
    path: str,
    name: str,
    summary: str,
    answer: Answer,
    problems: Sequence[str] = (),
    parameters: Sequence[Parameter] = (),
    *,
    body: type[Model] | None = None,
    is_body_required: bool = True,
    scope: Scope = "tenants",
    is_batch: bool = False,
) -> Operation:
    """Return the declaration of an operation for holders of a publish key.

    Its method takes an `Asked`, the values of `parameters` in order, and the body if there is one; it returns the
    answer's document.

    Args:
        path: with `{id}` the operation is about that tenant, otherwise about the whole environment.
        scope: the scope that the key needs for the tenant, or for all tenants.
        is_batch: the method checks the rights for each item, and counts each against the caller's rate.
    """
    named = (TENANT, *parameters, ENVIRONMENT) if "{id}" in path else (*parameters, ENVIRONMENT)
    codes = (*GUARDED, *(BODY_PROBLEMS if body else ()), *problems)
    return Operation(
        method, path, name, summary, {200: answer}, codes, ("publishKey",), named,
        body={"application/json": body} if body else {}, is_body_required=is_body_required, scope=scope,
        is_batch=is_batch,
    )  # fmt: skip


def handler(operation: Operation, method: Callable[..., Awaitable[Any]], environments: Sequence[str]) -> Handler:
    """Return the handler of a declared operation: it checks the caller's scope and reads the arguments of `method`."""
    scope = operation.scope
    if scope is None:
        return method  # its method takes the request
    readers = [(Reader(kind), kind.max_bytes) for kind in operation.body.values()]
    parameters: list[Any] = [one for one in operation.parameters if one not in (TENANT, ENVIRONMENT)]

    async def answer(request: Request) -> Response:
        environment = known_environment(request.query_params.get(ENVIRONMENT.name, environments[0]), environments)
        topic = ""
        if TENANT in operation.parameters:
            topic = str(Topic(environment, TENANT_KIND, _asked_tenant(TENANT.read(request), operation)))
        everything = None if operation.is_batch else str(Topic(environment, TENANT_KIND, "*"))
        require(request, scope, topic or everything)
        caller: Caller = request.state.caller
        try:
            values = [one.read(request) for one in parameters]
            values += [reader.read(await read_object(request, limit)) for reader, limit in readers]
        except Problem:
            if operation.is_batch:
                caller.spend(1)
            raise
        return json_response(await method(Asked(environment, topic, caller), *values))

    return answer


def known_environment(environment: str, environments: Sequence[str]) -> str:
    """Return `environment` if it is one of `environments`.

    Raises:
        Problem: it is not.
    """
    if environment not in environments:
        raise Problem("request_invalid", f"env must be one of {', '.join(environments)}")
    return environment


def _asked_tenant(id: str, operation: Operation) -> str:
    """Return the topic id of the tenant in a path.

    Raises:
        Problem: 422 request_invalid.
    """
    try:
        # What was stored of `undefined` by earlier releases can still be read and erased.
        return encode_id(id, any_name=operation.method in ("GET", "DELETE"))
    except TopicError as error:
        raise Problem("request_invalid", str(error)) from None


def _version_conflict(version: int) -> Problem:
    return Problem("version_conflict", f"the tenant is at version {version}")


class BillingOperations:
    """A group of operations on `services`."""

    def __init__(self, services: BillingServices) -> None:
        self._services = services

    async def change(
        self,
        asked: Asked,
        what: str,
        change: Callable[[Facts], Facts],
        *,
        if_version: int | None = None,
        if_rev: int | None = None,
        conflict: Callable[[int], Problem] = _version_conflict,
        about: Mapping[str, str] = MappingProxyType({}),
    ) -> Document:
        """Commit a change of a tenant's facts, wait until it is durable, and return the result.

        Args:
            what, about: go into the cause.
            conflict: returns the problem for a tenant at another version.
            change: may be called more than once.

        Raises:
            ChangeRejected: the change is impossible.
            Problem: nothing changed, or the tenant is not at `if_version` or `if_rev`.
            StoreError: the store is unreachable or failing.
        """
        cause = {"source": "operator" if about else "app", "event_type": what, **about, **asked.who}
        refresh = Refresh(cause, change=change, if_version=if_version, if_rev=if_rev)
        result = (await self._services.reprojection.refresh(asked.environment, asked.topic, refresh)).result
        if result.outcome is Outcome.CONFLICT:
            raise conflict(result.version)
        if result.outcome is Outcome.UNCHANGED and result.reason:
            raise Problem("not_changed", result.reason)
        await self._services.committer.wait_durable()
        return changed_document(result)


def changed_document(result: EventResult) -> Document:
    """Return the outcome and version of a changed tenant."""
    return {"outcome": result.outcome, "version": result.version}


def result_document(result: EventResult) -> Document:
    """Return the result of an event: the outcome, and the version and the reason if there are any."""
    document: Document = {"outcome": result.outcome}
    if result.version:
        document["version"] = result.version
    if result.reason:
        document["reason"] = result.reason
    return document
