"""Adds security headers to every HTTP answer, and CORS headers for allowed origins. Pure ASGI.

WebSockets pass through unchanged; they check their Origin themselves. CORS covers only the paths for browsers.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sync.http.problem import Problem

CORS_PATHS = ("/v1/state/",)
"""The paths that pages of other origins may call. Publishing is left out: its keys must not be in a browser."""

CORS_EXPOSED = "ETag, Planwire-Version, Retry-After, WWW-Authenticate"

PREFLIGHT_HEADERS = {
    "Access-Control-Allow-Methods": "GET, HEAD",
    "Access-Control-Allow-Headers": "Authorization, Cache-Control, If-None-Match, Last-Event-ID",
    "Access-Control-Max-Age": "600",
}

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Defaults; a header that the answer sets itself stays."""


class SecurityHeadersMiddleware:
    """Wraps the app. `is_allowed` returns whether an Origin header's value is allowed."""

    def __init__(self, app: ASGIApp, is_allowed: Callable[[str], bool]) -> None:
        self._app = app
        self._is_allowed = is_allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        cors = origin is not None and scope["path"].startswith(CORS_PATHS)
        granted = origin if cors and origin is not None and self._is_allowed(origin) else None

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                _complete(MutableHeaders(raw=message.setdefault("headers", [])), scope["path"], granted)
            await send(message)

        if cors and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await _preflight(granted)(scope, receive, send_with_headers)
        elif scope["method"] == "OPTIONS" and scope["path"] == "/":
            # The default health check of load balancers such as HAProxy.
            await Response(status_code=204, headers={"Allow": "OPTIONS"})(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)


def _preflight(granted: str | None) -> Response:
    if granted is None:
        return Problem("origin_forbidden", "pages of this origin may not call this").response()
    return Response(status_code=204, headers=PREFLIGHT_HEADERS)


def _complete(headers: MutableHeaders, path: str, granted: str | None) -> None:
    for name, value in SECURITY_HEADERS.items():
        headers.setdefault(name, value)
    if path.startswith(CORS_PATHS):
        # Also for requests without an Origin: a cache must not give one origin's answer to another.
        headers.add_vary_header("Origin")
        if granted is not None:
            headers["Access-Control-Allow-Origin"] = granted
            headers["Access-Control-Expose-Headers"] = CORS_EXPOSED
