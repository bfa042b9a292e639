"""An ASGI app whose routes are made when the process starts, because they need what is opened then."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from starlette.routing import Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import GatewayError
from sync.core.errors import SyncError

OpenApp = Callable[[], AbstractAsyncContextManager[tuple[ASGIApp, dict[str, Any]]]]
"""Opens what the app needs; yields the app and the members of the server's lifespan state."""


class DeferredApp:
    """Serves the app that `open_app` yields, from the start of the process to its end.

    An app that cannot start fails with one line instead of a traceback; the state's `failure` holds it.
    """

    def __init__(self, open_app: OpenApp) -> None:
        self._open_app = open_app
        self._router = Router(lifespan=self._lifespan)
        self._app: ASGIApp = self._router
        self._failure = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or the life of the process."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        async def send_reason(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed" and self._failure:
                message = {**message, "message": self._failure}
                scope["state"]["failure"] = self._failure
            await send(message)

        await self._router.lifespan(scope, receive, send_reason)

    @asynccontextmanager
    async def _lifespan(self, _: object) -> AsyncIterator[dict[str, Any]]:
        async with AsyncExitStack() as stack:
            try:
                self._app, state = await stack.enter_async_context(self._open_app())
            except (GatewayError, SyncError) as error:
                self._failure = str(error)
                raise
            yield state
