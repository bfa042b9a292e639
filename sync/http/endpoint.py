"""Who sent a request and what they may do; and the frame that every route for backends and operators shares."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from starlette.requests import Request
from starlette.responses import Response

from sync.core.topic import TENANT_KIND, Topic
from sync.http.problem import Refusal
from sync.store.store import StoreError

Scope = Literal["publish", "tenants", "admin"]
"""What a caller may do: write states; read and change what billing knows of tenants; erase and override."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request.

    Attributes:
        name: of their publish key, or of the console's login; what a version's cause says under `by`.
        denial: returns the problem's code and detail where they lack a scope on a topic, None where they have it.
            `[env/]kind:*` as a topic stands for all topics of that kind.
    """

    name: str
    denial: Callable[[Scope, str], tuple[str, str] | None]


Guard = Callable[[Request], Awaitable[Caller | Response]]
"""Returns who sent a request, or the answer that refuses it."""

Handler = Callable[[Request], Awaitable[Response]]


def guarded(guard: Guard, handler: Handler) -> Handler:
    """Return `handler` behind `guard`. It may raise Refusal and StoreError, which become problem documents."""

    async def answer(request: Request) -> Response:
        found = await guard(request)
        if isinstance(found, Response):
            return found
        request.state.caller = found
        try:
            return await handler(request)
        except Refusal as refusal:
            return refusal.response()
        except StoreError:
            return Refusal("store_unavailable", "the store did not answer").response()

    return answer


def require(request: Request, scope: Scope, topic: str) -> None:
    """Return when who sent a guarded request has `scope` on `topic`.

    Raises:
        Refusal: scope_missing or topic_forbidden.
    """
    denial = _of(request).denial(scope, topic)
    if denial is not None:
        raise Refusal(*denial)


def require_all_tenants(request: Request, environment: str) -> None:
    """Return when who sent a guarded request has the scope tenants on every tenant of `environment`.

    Raises:
        Refusal: scope_missing or topic_forbidden.
    """
    require(request, "tenants", str(Topic(environment, TENANT_KIND, "*")))


def by(request: Request) -> dict[str, str]:
    """Return what a cause says of who sent a guarded request."""
    return {"by": _of(request).name}


def _of(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller
