"""Counts the requests of an ASGI application: those that do not fit are answered 429 before the application runs."""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from planwire_client.errors import UsageUnavailable
from planwire_client.usage.answers import Counted
from planwire_client.usage.client import AsyncUsage
from planwire_client.usage.denial import Denial, denial, rate_limit_headers

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

TenantOf = Callable[[Scope], str | Awaitable[str | None] | None]
"""Returns the tenant's topic of a request; None: the request is not counted."""


class UsageMiddleware:
    """Counts each HTTP request of a tenant, and says in headers what is left."""

    def __init__(
        self, app: App, usage: AsyncUsage, meter: str, tenant: TenantOf, amount: int | Callable[[Scope], int] = 1
    ) -> None:
        """Count requests to `app`.

        Args:
            meter: the meter's key in the catalog.
            tenant: returns the tenant's topic of a request, by the application's own authentication; it may be async.
                None: the request is not counted.
            amount: units of a request, or a function of its scope; 0: the request is not counted.
        """
        self._app = app
        self._usage = usage
        self._meter = meter
        self._tenant = tenant
        self._amount = amount

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let the application do so."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        found = self._tenant(scope)
        tenant = await found if inspect.isawaitable(found) else found
        amount = self._amount(scope) if callable(self._amount) else self._amount
        if tenant is None or not amount:
            await self._app(scope, receive, send)
            return
        counted = await counted_or_unknown(self._usage, tenant, self._meter, amount)
        if counted.allowed:
            await self._app(scope, receive, _with_headers(send, rate_limit_headers(counted, time.time())))
        else:
            await _answer(send, denial(counted, self._meter, time.time(), amount))


async def counted_or_unknown(usage: AsyncUsage, tenant: str, meter: str, amount: int) -> Counted:
    """Return what came of consuming units; not allowed, and not known, if Planwire does not answer."""
    try:
        return await usage.consume(tenant, meter, amount)
    except UsageUnavailable as error:
        return Counted(False, is_known=False, reason=str(error))


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


def _with_headers(send: Send, headers: Mapping[str, str]) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = list(message.get("headers", ()))
            # What the application has counted itself is more specific.
            if not any(name.lower().startswith(b"ratelimit-") for name, _ in present):
                message = {**message, "headers": [*present, *_encoded(headers)]}
        await send(message)

    return sent


async def _answer(send: Send, answer: Denial) -> None:
    headers = _encoded(answer.headers | {"Content-Length": str(len(answer.body))})
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
