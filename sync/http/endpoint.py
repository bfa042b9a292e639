"""What every route shares: authorization, errors as problem documents, and counting of answers."""

from __future__ import annotations

import re
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
"""Counts one answer. Takes the path as declared, the method and the status."""


def not_counted(path: str, method: str, status: int) -> None:
    """Count nothing."""


def route(path: str, method: str, handler: Handler, count: Count, errors: Errors = FORESEEN) -> Route:
    """Return a route that answers `errors` with problem documents and counts its answers under `path`."""
    made = Route(path, _Endpoint(handler, path, count, errors), methods=[method])
    # Ids of the outside world may have line breaks, which the `.` of Starlette's `:path` does not match.
    made.path_regex = re.compile(made.path_regex.pattern, re.DOTALL)
    return made


class _Endpoint:
    """An ASGI app that sends the response of `handler`, or the problem for its exception, and counts the answer."""

    def __init__(self, handler: Handler, path: str, count: Count, errors: Errors) -> None:
        self._handler, self._path, self._count, self._errors = handler, path, count, errors
        self._foreseen = tuple(errors)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Serve one request and count its answer once it is sent, unless the client disconnects before.

        A streaming response may also raise: before its first message, the exception is answered with a problem.
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
    """An answer that needs an open resource while it is sent. The ASGI app `stream` opens and closes the resource."""

    def __init__(self, stream: ASGIApp) -> None:
        super().__init__()
        self._stream = stream

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        await self._stream(scope, receive, send)


Scope = Literal["publish", "usage", "tenants", "admin"]
"""Rights of a caller. publish: write states. usage: count and read usage. tenants: read and change billing's data of
tenants. admin: erase, override, and correct usage."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request.

    Attributes:
        name: the name of the publish key or of the console's login; it is `by` in a version's cause.
        denial: returns a problem's code and detail if the caller lacks a scope on a topic, else None.
            The topic `[env/]kind:*` stands for all topics of that kind, and None for any topic at all.
        spend: takes units from the caller's rate; raises Problem if it is used up.
    """

    name: str
    denial: Callable[[Scope, str | None], tuple[str, str] | None]
    spend: Callable[[int], None] = lambda units: None


def trusted(name: str) -> Caller:
    """Return a caller that may do everything, because who asks was checked elsewhere. `name`: "" for nobody's."""
    return Caller(name, lambda scope, topic: None)


Guard = Callable[[Request], Awaitable[Caller]]
"""Returns the sender of a request; raises Problem if the request is not authorized."""


def guarded(guard: Guard, handler: Handler, *, is_batch: bool = False) -> Handler:
    """Return `handler` behind `guard`: it runs only for authorized requests.

    Args:
        is_batch: the handler takes the units of the caller's rate itself; otherwise a request is one.
    """

    async def answer(request: Request) -> Response:
        caller = request.state.caller = await guard(request)
        if not is_batch:
            caller.spend(1)
        return await handler(request)

    return answer


def require(request: Request, scope: Scope, topic: str | None) -> None:
    """Return if the sender of a guarded request has `scope` on `topic`; None: on any topic at all.

    Raises:
        Problem: scope_missing or topic_forbidden.
    """
    caller: Caller = request.state.caller
    denial = caller.denial(scope, topic)
    if denial is not None:
        raise Problem(*denial)
