"""How the doors of `sync` refuse: problem documents (RFC 9457) with a stable `code`; and how they read what is sent."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from http import HTTPStatus

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from sync.core.errors import SyncError

BODY_MAX_BYTES = 65_536
BODY_TIMEOUT_S = 10.0
"""How long a request may take to send its whole body."""

RETRY_AFTER_S = 5
"""What a caller is told to wait after a 503."""

VERSION_HEADER = "Planwire-Version"
"""What a backend passes on, so that nobody is answered from before their own change."""

PAGE_DEFAULT, PAGE_MAX = 100, 500
"""How many entries one answer lists."""

_LIMIT = re.compile(r"[0-9]{1,6}")

STATUSES = {
    "signature_malformed": 400,
    "disconnected": 400,
    "signature_invalid": 403,
    "signature_expired": 403,
    "scope_missing": 403,
    "topic_forbidden": 403,
    "not_found": 404,
    "body_timeout": 408,
    "already_executed": 409,
    "cancel_scheduled": 409,
    "no_plan": 409,
    "no_subscription": 409,
    "not_changed": 409,
    "nothing_to_change": 409,
    "preview_stale": 409,
    "provider_refused": 409,
    "too_many_overrides": 409,
    "version_conflict": 409,
    "body_too_large": 413,
    "charset_unsupported": 415,
    "content_encoding_unsupported": 415,
    "billing_mode_unsupported": 422,
    "effective_at_invalid": 422,
    "effective_at_required": 422,
    "override_invalid": 422,
    "plan_not_sold": 422,
    "plan_unknown": 422,
    "price_unknown": 422,
    "request_invalid": 422,
    "provider_unavailable": 503,
    "source_unavailable": 503,
    "store_unavailable": 503,
}
"""Every code that is answered, and its HTTP status."""

COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
"""How bodies in gzip and zstd begin, also where nothing says that they are compressed."""

BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
"""Of UTF-8 and UTF-16; JSON has none (RFC 8259 section 8.1)."""


class Refusal(SyncError):
    """A request that is refused: `code` is one of STATUSES, `detail` is for people."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"

    def response(self) -> Response:
        """Return the problem document."""
        status = STATUSES[self.code]
        document = {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "code": self.code,
            "detail": self.detail,
        }
        headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else None
        return Response(orjson.dumps(document), status, headers, "application/problem+json")


def json_response(document: object, status: int = 200) -> Response:
    """Return an answer; one that tells a topic's version says it in VERSION_HEADER, too."""
    version = document.get("version") if isinstance(document, dict) else None
    headers = None if version is None else {VERSION_HEADER: str(version)}
    return Response(orjson.dumps(document), status, headers, "application/json")


def asked_environment(request: Request, environments: Sequence[str]) -> str:
    """Return the environment that `?env=` names; without it the first.

    Raises:
        Refusal: there is no such environment.
    """
    environment = request.query_params.get("env", environments[0])
    if environment not in environments:
        raise Refusal("request_invalid", f"env must be one of {', '.join(environments)}")
    return environment


async def read_object(request: Request) -> dict[str, object]:
    """Return the request's JSON object; an empty body is an empty one.

    Raises:
        Refusal: it is something else, too large, or does not come.
    """
    is_plain = request.headers.get("content-encoding", "").strip().lower() in ("", "identity")
    body = await read_body(request) if is_plain else b""
    if not is_plain or body.startswith(COMPRESSED):
        detail = "the body is compressed, which is not read here; send it as it is"
        raise Refusal("content_encoding_unsupported", detail)
    if body.startswith(BYTE_ORDER_MARKS):
        raise Refusal("charset_unsupported", "the body begins with a byte order mark; send UTF-8 without one")
    try:
        document = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError:
        raise Refusal("request_invalid", "the body is not JSON") from None
    if not isinstance(document, dict):
        raise Refusal("request_invalid", "the body is not a JSON object")
    return document


async def read_body(request: Request) -> bytes:
    """Return the raw body.

    Raises:
        Refusal: it is too large, comes too slowly, or its sender went away.
    """
    length = request.headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and int(length[:20]) > BODY_MAX_BYTES:
        raise Refusal("body_too_large", f"a body has at most {BODY_MAX_BYTES} bytes")
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                size += len(chunk)
                if size > BODY_MAX_BYTES:
                    raise Refusal("body_too_large", f"a body has at most {BODY_MAX_BYTES} bytes")
                chunks.append(chunk)
    except TimeoutError:
        raise Refusal("body_timeout", f"the body took longer than {BODY_TIMEOUT_S:g} s") from None
    except ClientDisconnect:
        raise Refusal("disconnected", "the sender went away") from None
    return b"".join(chunks)


def page_limit(text: str | None) -> int:
    """Return how many entries a list shows.

    Raises:
        Refusal: it is no number from 1 to PAGE_MAX.
    """
    if text is None:
        return PAGE_DEFAULT
    if not _LIMIT.fullmatch(text) or not 1 <= int(text) <= PAGE_MAX:
        raise Refusal("request_invalid", f"limit must be a number from 1 to {PAGE_MAX}")
    return int(text)
