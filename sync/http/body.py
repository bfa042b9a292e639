"""Reads request bodies up to a size and a time limit, and makes JSON answers."""

from __future__ import annotations

import asyncio

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from planwire_client.core import canonical_json
from planwire_client.core.headers import VERSION_HEADER
from sync.http.problem import Problem

JSON_TYPES = frozenset(("", "application/json", "application/cloudevents+json", "application/cloudevents-batch+json"))
"""Accepted media types; a request without one counts as JSON."""

BODY_MAX_BYTES = 65_536
BODY_TIMEOUT_S = 10.0
"""Default size and time limit of a whole body."""

DISCARD_MAX_BYTES = 16_777_216
"""Maximum announced size of a rejected body that the server still receives and drops, so that the sender can read the
answer. If the connection were closed while the sender is still sending, most senders would see only a reset."""

COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
"""First bytes of a compressed body -> its coding; for bodies without a Content-Encoding header."""

BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
"""Byte order marks of UTF-8 and UTF-16; JSON must not have one (RFC 8259 section 8.1)."""

BODY_PROBLEMS = (
    "disconnected", "body_timeout", "body_too_large", "content_encoding_unsupported", "charset_unsupported"
)  # fmt: skip
"""Problem codes of `read_body`, `read_json` and `read_object`."""

JSON_PROBLEMS = (*BODY_PROBLEMS, "json_invalid", "content_type_unsupported")

_CLOSE = {"Connection": "close"}


def json_response(document: object, status: int = 200) -> Response:
    """Return an answer in JSON. If the document is an object with `version`, VERSION_HEADER has that version too."""
    version = document.get("version") if isinstance(document, dict) else None
    headers = None if version is None else {VERSION_HEADER: str(version)}
    return Response(orjson.dumps(document), status, headers, "application/json")


async def read_body(request: Request, limit: int = BODY_MAX_BYTES, timeout_s: float = BODY_TIMEOUT_S) -> bytes:
    """Return the whole body.

    Args:
        request: the request.
        limit: maximum size in bytes.
        timeout_s: maximum time until the body is complete.

    Raises:
        Problem: 413 as soon as more than `limit` bytes are announced or received; 408 after `timeout_s`; 400 if the
            sender disconnects; 415 if it is compressed, or starts with a byte order mark.
    """
    coding = request.headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity"):
        raise _compressed(coding[:80])
    body = await _received(request, limit, timeout_s)
    for magic, name in COMPRESSED.items():
        if body.startswith(magic):
            raise _compressed(name)
    if body.startswith(BYTE_ORDER_MARKS):
        raise Problem("charset_unsupported", "the body begins with a byte order mark; send UTF-8 without one")
    return body


async def _received(request: Request, limit: int, timeout_s: float) -> bytes:
    text = request.headers.get("content-length", "")
    announced = int(text[:20]) if text.isascii() and text.isdigit() else None
    ends_soon = announced is not None and announced <= DISCARD_MAX_BYTES
    too_large = Problem("body_too_large", f"the body may have {limit} bytes", headers={} if ends_soon else _CLOSE)
    if announced is not None and announced > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_large
    except TimeoutError:
        raise Problem("body_timeout", f"the body did not end within {timeout_s:g} s", headers=_CLOSE) from None
    except ClientDisconnect:
        raise Problem("disconnected", "the body was cut off") from None
    return bytes(body)


async def read_json(request: Request, limit: int, timeout_s: float, containers: int | None = None) -> object:
    """Return the body's JSON value.

    Args:
        request: the request.
        limit: maximum size in bytes.
        timeout_s: maximum time until the body is complete.
        containers: maximum number of objects and arrays; brackets in strings count as well. None: no limit.

    Raises:
        Problem: as `read_body`; 415 for another media type; 400 if the body is
            not JSON in UTF-8; 422 batch_too_large for more than `containers` objects and arrays.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in JSON_TYPES:
        raise Problem("content_type_unsupported", f"{kind[:80]!r} is not read here; send application/json")
    body = await read_body(request, limit, timeout_s)
    if containers is not None and body.count(b"{") + body.count(b"[") > containers:
        raise Problem("batch_too_large", f"a batch has at most {containers:,} objects and arrays: send it in parts")
    try:
        return canonical_json.parse(body)
    except ValueError as error:
        raise Problem("json_invalid", f"the body is not JSON: {error}") from None


async def read_object(request: Request, limit: int = BODY_MAX_BYTES) -> dict[str, object]:
    """Return the body's JSON object, whatever its media type; an empty body is an empty object.

    Args:
        request: the request.
        limit: maximum size in bytes.

    Raises:
        Problem: as `read_body`; 422 if it is not a JSON object.
    """
    body = await read_body(request, limit)
    try:
        document = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError:
        raise Problem("request_invalid", "the body is not JSON") from None
    if not isinstance(document, dict):
        raise Problem("request_invalid", "the body is not a JSON object")
    return document


def _compressed(coding: str) -> Problem:
    detail = f"the body is compressed ({coding}), which is not read here; send it as it is"
    return Problem("content_encoding_unsupported", detail, headers={"Accept-Encoding": "identity"})
