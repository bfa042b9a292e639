"""Paths of requests, decoded once. An escaped slash is a part of its segment, and does not separate two. Pure ASGI.

The server hands on a path that is decoded already: the id `org/42`, sent as `org%2F42`, would be two segments. So
routes match a path in which `%2F` and `%25` are left, and `PathText.read` decodes these in the value of a parameter.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from starlette.types import ASGIApp, Receive, Scope, Send

_LEFT = re.compile(rb"(%2[Ff5])")


class PathMiddleware:
    """Wraps the app: decodes the path of each HTTP request as `route_path` does."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        raw = scope.get("raw_path") or b""
        if scope["type"] == "http" and b"%" in raw:
            scope = {**scope, "path": route_path(raw)}
        await self._app(scope, receive, send)


def route_path(raw: bytes) -> str:
    """Return a request's path for matching routes: decoded, except for `%2F` and `%25`.

    A path that is not UTF-8 when decoded stays encoded, and `PathText.read` rejects it.
    """
    parts = _LEFT.split(raw)
    try:
        return b"".join(one if _LEFT.fullmatch(one) else unquote_to_bytes(one) for one in parts).decode()
    except UnicodeDecodeError:
        return raw.decode("ascii", "backslashreplace")
