"""Who sent a request, and what they may do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from starlette.requests import Request
from starlette.responses import Response

from sync.http.endpoint import Handler
from sync.http.problem import Problem

Scope = Literal["publish", "tenants", "admin"]
"""What a caller may do: write states; read and change what billing knows of tenants; erase and override."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request.

    Attributes:
        name: of their publish key, or of the console's login; a version's cause names it under `by`.
        denial: returns the problem's code and detail where they lack a scope on a topic, None where they have it.
            `[env/]kind:*` as a topic stands for all topics of that kind.
    """

    name: str
    denial: Callable[[Scope, str], tuple[str, str] | None]


Guard = Callable[[Request], Awaitable[Caller]]
"""Returns who sent a request; raises Problem for a request that is not let in."""


def guarded(guard: Guard, handler: Handler) -> Handler:
    """Return `handler` for the requests that `guard` lets in."""

    async def answer(request: Request) -> Response:
        request.state.caller = await guard(request)
        return await handler(request)

    return answer


def require(request: Request, scope: Scope, topic: str) -> None:
    """Return when the sender of a guarded request has `scope` on `topic`.

    Raises:
        Problem: scope_missing or topic_forbidden.
    """
    denial = _of(request).denial(scope, topic)
    if denial is not None:
        raise Problem(*denial)


def by(request: Request) -> dict[str, str]:
    """Return the members of a cause that name the sender of a guarded request."""
    return {"by": _of(request).name}


def _of(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller
