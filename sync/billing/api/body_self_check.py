"""Proves at start-up that a webhook's bytes reach the door as they were sent.

A signature is of bytes. Middleware that parses a body and writes it anew breaks every signature, and looks like nothing
but forged webhooks. So the finished app is asked once, in process, with a body that does not survive being re-written.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping

from starlette.types import ASGIApp, Message

from sync.core.errors import SyncError

HEADER = "planwire-self-check"

BODY = b'{ "b" : 1.0,\t"a":"\\u00e9\\/", "b":2,\n "n":1E2 }\r\n'
"""Odd on purpose: order, spaces, a repeated key, escapes, number forms and line ends that no serialiser keeps."""

_NONCE = secrets.token_hex(16)


class SelfCheckError(SyncError):
    """The app does not hand webhooks over as they come; `path` is the door, `status` what it answered."""

    def __init__(self, path: str, status: int) -> None:
        super().__init__(path, status)
        self.path = path
        self.status = status

    def __str__(self) -> str:
        return (
            f"a webhook's bytes do not reach {self.path} unchanged (it answered {self.status}): some middleware reads"
            " and re-writes bodies, and every signature would fail; let it pass this path by"
        )


def asked(headers: Mapping[str, str]) -> bool:
    """Whether a request is this process's own check."""
    return hmac.compare_digest(headers.get(HEADER, "").partition(" ")[0].encode(), _NONCE.encode())


def is_intact(headers: Mapping[str, str], body: bytes) -> bool:
    """Whether the check's body came as it was sent."""
    return hmac.compare_digest(headers.get(HEADER, "").partition(" ")[2], hashlib.sha256(body).hexdigest())


async def self_check(app: ASGIApp, path: str) -> None:
    """Return when a body posted to `path` of `app` arrives there unchanged.

    Raises:
        SelfCheckError: it does not.
    """
    status = 0
    unread = [BODY]

    async def receive() -> Message:
        return {"type": "http.request", "body": unread.pop() if unread else b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]

    headers = {
        "host": "127.0.0.1",
        "content-type": "application/json",
        "content-length": str(len(BODY)),
        HEADER: f"{_NONCE} {hashlib.sha256(BODY).hexdigest()}",
    }
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
        "state": {},
    }
    await app(scope, receive, send)
    if status != 204:
        raise SelfCheckError(path, status)
