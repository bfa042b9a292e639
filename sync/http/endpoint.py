"""The frame of every route: a handler whose errors become problem documents, and whose answers are counted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sync.http.problem import FORESEEN, Errors, problem_of
from sync.process import logs
from sync.store.models import StoreError

Handler = Callable[[Request], Awaitable[Response]]

Count = Callable[[str, str, int], None]
"""Takes the path as declared, the method and the status of one answer."""


def not_counted(path: str, method: str, status: int) -> None:
    """Count nothing."""


def route(path: str, method: str, handler: Handler, count: Count, errors: Errors = FORESEEN) -> Route:
    """Return a route that answers `errors` with problem documents and counts its answers under `path`."""
    return Route(path, Counted(Endpoint(handler, path, errors), path, count), methods=[method])


class Endpoint:
    """An ASGI app that answers a request with what `handler` returns, or with the problem that it raises."""

    def __init__(self, handler: Handler, path: str, errors: Errors = FORESEEN) -> None:
        self._handler, self._path, self._errors = handler, path, errors
        self._foreseen = tuple(errors)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. An answer that needs something held open may raise as well, until it has begun."""
        is_begun = False

        async def answer(message: Message) -> None:
            nonlocal is_begun
            is_begun = True
            await send(message)

        try:
            response = await self._handler(Request(scope, receive, answer))
            await response(scope, receive, answer)
        except self._foreseen as error:
            if is_begun:
                raise
            if isinstance(error, StoreError):
                logs.limited("sync.http", "store_unavailable", route=self._path, error=str(error))
            await problem_of(error, self._errors).response()(scope, receive, send)


class Counted:
    """An ASGI app whose answers are counted under `path` when they are sent, including streams and internal errors."""

    def __init__(self, app: ASGIApp, path: str, count: Count) -> None:
        self._app, self._path, self._count = app, path, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request and count its answer. A client that leaves before the answer is not counted."""
        status, is_gone, is_served = 0, False, False

        async def hear() -> Message:
            nonlocal is_gone
            message = await receive()
            is_gone = is_gone or message["type"] == "http.disconnect"
            return message

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start" and not is_gone:
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, hear, answer)
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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        await self._stream(scope, receive, send)
