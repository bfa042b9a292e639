"""Refused requests as RFC 9457 problem+json: the one table from a stable code to its HTTP status."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ExceptionHandler

from gateway.auth.claims import MESSAGES as TOKEN_CODES
from gateway.errors import GatewayError
from sync.process import logs
from sync.store.store import StoreError

MEDIA_TYPE = "application/problem+json"

RETRY_AFTER_S = 1
"""What a caller is told to wait after a 503."""

STATUSES: dict[str, int] = {
    "json_invalid": 400,
    "disconnected": 400,
    **dict.fromkeys(TOKEN_CODES, 401),
    "key_missing": 401,
    "key_invalid": 401,
    "topic_forbidden": 403,
    "topic_reserved": 403,
    "scope_missing": 403,
    "header_missing": 403,
    "not_dev": 403,
    "metrics_closed": 403,
    "origin_forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "body_timeout": 408,
    "conflict": 409,
    "topic_is_billed": 409,
    "body_too_large": 413,
    "state_too_large": 413,
    "charset_unsupported": 415,
    "content_encoding_unsupported": 415,
    "content_type_unsupported": 415,
    "topic_invalid": 422,
    "request_invalid": 422,
    "state_too_deep": 422,
    "number_unsafe": 422,
    "batch_too_large": 422,
    "upgrade_required": 426,
    "rate_limited": 429,
    "too_many_streams": 429,
    "internal": 500,
    "action_failed": 502,
    "store_unavailable": 503,
    "not_ready": 503,
    "behind": 504,
}
"""Every code this API answers with, and its HTTP status."""

_FRAMEWORK_CODES = {404: "not_found", 405: "method_not_allowed"}


class Problem(GatewayError):
    """A request that is refused. `code` is one of `STATUSES`; `detail` is for people; `extra` are further members."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail
        self.status = STATUSES[code]
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})
        if self.status == 401:
            self.headers.setdefault("WWW-Authenticate", "Bearer")
        elif self.status == 503:
            self.headers.setdefault("Retry-After", str(RETRY_AFTER_S))

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"

    def document(self) -> dict[str, object]:
        """Return the members of the problem document."""
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            **self.extra,
        }

    def response(self) -> Response:
        """Return the answer."""
        return Response(orjson.dumps(self.document()), self.status, headers=self.headers, media_type=MEDIA_TYPE)


def from_exception(error: Exception) -> Problem:
    """Return the problem that tells of `error`: itself, a store that is away, or an internal one without details."""
    match error:
        case Problem():
            return error
        case StoreError():
            return Problem("store_unavailable", "the store did not answer; nothing is known to have been changed")
        case HTTPException(status_code=status, detail=detail, headers=headers):
            code = _FRAMEWORK_CODES.get(status, "internal" if status >= 500 else "request_invalid")
            return Problem(code, detail, headers=headers)
        case _:
            return Problem("internal", "something went wrong here; it was logged")


def _allowed(request: Request) -> str:
    """Return the methods of every route of the path; the framework names those of the first one only."""
    methods: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            methods |= route.methods or set()
    return ", ".join(sorted(methods))


async def _answer(request: Request, error: Exception) -> Response:
    if isinstance(error, StoreError):
        logs.limited("gateway.api.routes", "store_unavailable", path=request.url.path, error=str(error))
    elif isinstance(error, HTTPException) and error.status_code == 405:
        error.headers = {**(error.headers or {}), "Allow": _allowed(request)}
    # An unforeseen error is logged by the server, which is handed it again after this answer.
    return from_exception(error).response()


def exception_handlers() -> dict[type[Exception] | int, ExceptionHandler]:
    """Return what Starlette needs so that every error, its own 404 and 405 too, is a problem document."""
    return {Problem: _answer, StoreError: _answer, HTTPException: _answer, Exception: _answer}
