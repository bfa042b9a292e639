"""The frame of every route: who may call it, its errors as problem documents, and its answers counted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope as AsgiScope, Send

from sync.http.problem import FORESEEN, Errors, Problem, problem_of
from sync.process import logs
from sync.store.models import StoreError

Handler = Callable[[Request], Awaitable[Response]]

Count = Callable[[str, str, int], None]
"""Takes the path as declared, the method and the status of one answer."""


def not_counted(path: str, method: str, status: int) -> None:
    """Count nothing."""


def route(path: str, method: str, handler: Handler, count: Count, errors: Errors = FORESEEN) -> Route:
    """Return a route that answers `errors` with problem documents and counts its answers under `path`."""
    return Route(path, _Endpoint(handler, path, count, errors), methods=[method])


class _Endpoint:
    """An ASGI app that answers with what `handler` returns, or with the problem that it raises, and counts that."""

    def __init__(self, handler: Handler, path: str, count: Count, errors: Errors) -> None:
        self._handler, self._path, self._count, self._errors = handler, path, count, errors
        self._foreseen = tuple(errors)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Serve one request and count its answer when it is sent. A client that leaves before that is not counted.

        An answer that holds something open may raise as well, until it has begun.
        """
        status, is_begun, is_gone, is_served = 0, False, False, False

        async def hear() -> Message:
            nonlocal is_gone
            message = await receive()
            is_gone = is_gone or message["type"] == "http.disconnect"
            return message

        async def answer(message: Message) -> None:
            nonlocal status, is_begun
            is_begun = True
            if message["type"] == "http.response.start" and not is_gone:
                status = message["status"]
            await send(message)

        try:
            try:
                response = await self._handler(Request(scope, hear, answer))
                await response(scope, hear, answer)
            except self._foreseen as error:
                if is_begun:
                    raise
                if isinstance(error, StoreError):
                    logs.limited("sync.http", "store_unavailable", route=self._path, error=str(error))
                await problem_of(error, self._errors).response()(scope, hear, answer)
            is_served = True
        finally:
            if not is_served and not is_gone:
                status = status or 500  # the application answers an unforeseen exception with 500
            if status:
                self._count(self._path, scope["method"], status)


class Streaming(Response):
    """An answer that holds something open while it is sent: `stream` is an ASGI app that opens and closes it."""

    def __init__(self, stream: ASGIApp) -> None:
        super().__init__()
        self._stream = stream

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Send it."""
        await self._stream(scope, receive, send)


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
    caller: Caller = request.state.caller
    denial = caller.denial(scope, topic)
    if denial is not None:
        raise Problem(*denial)


def by(request: Request) -> dict[str, str]:
    """Return the members of a cause that name the sender of a guarded request."""
    return {"by": request.state.caller.name}
