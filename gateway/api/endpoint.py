"""What every HTTP route shares: the gateway behind it, who is asking, and errors turned into counted answers."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from gateway.api.problem import Problem, from_exception
from gateway.auth import addresses, origins
from gateway.auth.publish_keys import PublishKey, PublishKeys
from gateway.auth.revocations import Revocation
from gateway.auth.rights import Denial, Scope
from gateway.auth.tokens import Auth, AuthFailure, Claims
from gateway.hub.hub import Hub
from gateway.metrics import Metrics
from gateway.settings import GatewaySettings
from sync.process import logs
from sync.store.checks.inspection import Inspection
from sync.store.store import Store, StoreError


class Gateway(Protocol):
    """The parts of the running gateway that routes use."""

    @property
    def settings(self) -> GatewaySettings:
        """The configuration."""

    @property
    def store(self) -> Store:
        """The store."""

    @property
    def inspection(self) -> Inspection:
        """What the store says of being fit for use."""

    @property
    def hub(self) -> Hub:
        """The live topics."""

    @property
    def auth(self) -> Auth:
        """Who verifies tokens."""

    @property
    def publish_keys(self) -> PublishKeys:
        """Who may publish."""

    @property
    def metrics(self) -> Metrics:
        """What is counted."""

    def revoke(self, revocation: Revocation) -> None:
        """Refuse what is revoked from now on, and give up what open sockets hold by it."""


Handler = Callable[[Request], Awaitable[Response]]


def route(gateway: Gateway, path: str, method: str, handler: Handler) -> Route:
    """Return a route whose refusals are problem documents and whose answers are counted under `path`."""

    async def endpoint(request: Request) -> Response:
        try:
            return await handler(request)
        except (Problem, StoreError) as error:
            if isinstance(error, StoreError):
                logs.limited("gateway.api.routes", "store_unavailable", route=path, error=str(error))
            return from_exception(error).response()

    found = Route(path, endpoint, methods=[method])
    found.app = Counted(found.app, path, gateway.metrics)
    return found


class Counted:
    """An ASGI app whose answers are counted under `path` when they are sent, including streams and internal errors."""

    def __init__(self, app: ASGIApp, path: str, metrics: Metrics) -> None:
        self._app, self._path, self._metrics = app, path, metrics

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
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
                status = status or 500  # the application answers an unhandled exception with 500
            if status:
                self._metrics.requests[self._path, scope["method"], status] += 1


class Streaming(Response):
    """An answer that needs something held open while it is sent: `stream` is an ASGI app that opens and closes it."""

    def __init__(self, stream: Callable[[AsgiScope, Receive, Send], Awaitable[None]]) -> None:
        super().__init__()
        self._stream = stream

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Send it."""
        await self._stream(scope, receive, send)


def is_local(connection: HTTPConnection) -> bool:
    """Return whether a request comes from this machine and nobody passed it on.

    The Host is looked at too: a foreign name that was made to point to loopback is a foreign page's.
    """
    return (
        connection.client is not None
        and addresses.is_loopback(connection.client.host)
        and origins.is_loopback(connection.headers.get("host", ""))
        and not addresses.is_forwarded(connection.headers)
    )


def bearer(request: Request) -> str:
    """Return what the Authorization header bears (RFC 6750 section 2.1), or empty."""
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else ""


def require_claims(gateway: Gateway, request: Request, topic: str) -> Claims:
    """Return the claims of the request's token, which opens `topic`.

    Raises:
        Problem: 401 with the token's failure code, 403 topic_forbidden.
    """
    claims = gateway.auth.verify(bearer(request), time.time())
    if isinstance(claims, AuthFailure):
        gateway.metrics.auth_failures[claims.code] += 1
        raise Problem(claims.code, claims.message)
    if not claims.may_read(topic):
        gateway.metrics.auth_failures["topic_forbidden"] += 1
        raise Problem("topic_forbidden", "the token does not open this topic")
    if gateway.auth.revocations.is_revoked(claims, topic):
        gateway.metrics.auth_failures["token_revoked"] += 1
        raise Problem("token_revoked", "the token was revoked for this topic")
    return claims


def require_key(gateway: Gateway, request: Request) -> PublishKey:
    """Return the publish key that the request bears.

    Raises:
        Problem: 401 key_missing or key_invalid.
    """
    presented = bearer(request)
    key = gateway.publish_keys.find(presented)
    if key is None:
        code = "key_invalid" if presented else "key_missing"
        gateway.metrics.auth_failures[code] += 1
        raise Problem(code, "send Authorization: Bearer and a publish key")
    return key


def spend(key: PublishKey, units: int) -> None:
    """Return once `units` requests are taken from the key's rate; a batch counts as its items.

    Raises:
        Problem: 429 rate_limited, with Retry-After.
    """
    wait_s = key.bucket.take(units, time.monotonic())
    if wait_s:
        detail = f"the key {key.name} has {key.bucket.rate:g} requests a second; each item of a batch counts as one"
        raise Problem("rate_limited", detail, headers={"Retry-After": str(int(wait_s) + 1)})


def require_scope(gateway: Gateway, key: PublishKey, scope: Scope) -> None:
    """Return when there are topics on which the key has `scope`.

    Raises:
        Problem: 403 scope_missing.
    """
    _refuse(gateway, key.rights.missing(key.name, scope))


def require_right(gateway: Gateway, key: PublishKey, scope: Scope, topic: str) -> None:
    """Return when the key has `scope` on `topic`, a checked name or `gateway.auth.rights.ANY`.

    Raises:
        Problem: 403 scope_missing or topic_forbidden.
    """
    _refuse(gateway, key.rights.denial(key.name, scope, topic))


def _refuse(gateway: Gateway, denial: Denial | None) -> None:
    if denial is not None:
        gateway.metrics.auth_failures[denial.code] += 1
        raise Problem(denial.code, denial.detail)
