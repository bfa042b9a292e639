"""Signs and sends webhooks like Paddle, with a time limit for the answer.

Source: developer.paddle.com/webhooks/signature-verification. With several secrets (during a rotation) there are several
`h1`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass

import httpx2
import orjson

from planwire_client.http import NO_ANSWER

HEADER = "Paddle-Signature"

ANSWER_MAX_BYTES = 65_536
"""Maximum bytes that are read of the receiver's answer."""


def sign(body: bytes, secrets: Iterable[str], at_s: int) -> str:
    """Return the value of the `Paddle-Signature` header: `ts=<unix seconds>;h1=<hex>`, one `h1` for each secret."""
    signed = str(at_s).encode() + b":" + body
    hashes = (hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets)
    return ";".join([f"ts={at_s}", *(f"h1={value}" for value in hashes)])


@dataclass(frozen=True, slots=True)
class Answer:
    """The receiver's answer: its status, and its `outcome` or a problem's `code`; or an error."""

    status: int | None = None
    outcome: str | None = None
    error: str | None = None


def client(timeout_s: float) -> httpx2.AsyncClient:
    """Return a client for `post`. It ignores the environment's proxy settings, since the receiver is local."""
    return httpx2.AsyncClient(timeout=timeout_s, trust_env=False, follow_redirects=False)


async def post(http: httpx2.AsyncClient, url: str, body: bytes, secrets: Iterable[str], at_s: int) -> Answer:
    """Send one webhook, signed at `at_s`; return the receiver's answer."""
    headers = {"Content-Type": "application/json", "User-Agent": "Paddle", HEADER: sign(body, secrets, at_s)}
    try:
        async with http.stream("POST", url, content=body, headers=headers) as response:
            answer = b""
            async for chunk in response.aiter_bytes():
                answer += chunk
                if len(answer) > ANSWER_MAX_BYTES:
                    break
            return Answer(response.status_code, _outcome(answer))
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, *NO_ANSWER) as error:
        return Answer(error=f"{type(error).__name__}: {error}".rstrip(": "))


def _outcome(answer: bytes) -> str | None:
    try:
        body = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return None
    found = body.get("outcome", body.get("code")) if isinstance(body, dict) else None
    return found if isinstance(found, str) else None
