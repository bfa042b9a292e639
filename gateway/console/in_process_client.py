"""Asking the routes that are mounted beside the console, within the process: what they know of billing.

No network and no key: the session in the request's scope, which nobody can set from outside, lets it in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import orjson
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Router
from starlette.types import Message, Scope

MARK = "planwire.console"
"""The member of a request's scope that a request made here has: nobody outside can set it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and the JSON object that came with it."""

    status: int
    document: dict[str, Any]


Inner = Callable[..., Awaitable[Answer]]
"""`inner(session, method, path, query, body)` asks in the name of a session; `segment` quotes parts of a path."""


@dataclass(frozen=True, slots=True)
class _Session:
    id: str


def session_of(connection: HTTPConnection) -> str | None:
    """Return the console session in whose name a request was made here; None: it was made elsewhere."""
    found = connection.scope.get(MARK)
    return found.id if isinstance(found, _Session) else None


def segment(text: str) -> str:
    """Return one segment of a path."""
    return quote(text, safe="~@:-._")


def inner(routes: Sequence[BaseRoute]) -> Inner:
    """Return what asks `routes`."""
    router = Router(routes=list(routes))

    async def ask(
        session: str, method: str, path: str, query: Mapping[str, str] | None = None, body: object | None = None
    ) -> Answer:
        content = b"" if body is None else orjson.dumps(body)
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": urlencode(query or {}).encode(),
            "root_path": "",
            "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))],
            "client": None,
            "server": None,
            MARK: _Session(session),
        }
        parts: list[bytes] = []
        status = 500

        async def receive() -> Message:
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                parts.append(message.get("body", b""))

        await router(scope, receive, send)
        try:
            document = orjson.loads(b"".join(parts))
        except orjson.JSONDecodeError:
            document = {}
        return Answer(status, document if isinstance(document, dict) else {})

    return ask
