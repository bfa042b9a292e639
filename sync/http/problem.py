"""Errors as RFC 9457 problem documents: one exception, and the one table from a stable code to its HTTP status."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ExceptionHandler

from sync.core.errors import CodedError
from sync.process import logs
from sync.store.models import StoreError

MEDIA_TYPE = "application/problem+json"

STATUSES: dict[str, int] = {
    "disconnected": 400,
    "json_invalid": 400,
    "signature_malformed": 400,
    "key_invalid": 401,
    "key_missing": 401,
    "token_algorithm": 401,
    "token_audience": 401,
    "token_claims": 401,
    "token_expired": 401,
    "token_issued_ahead": 401,
    "token_issuer": 401,
    "token_key_unknown": 401,
    "token_keys_unavailable": 401,
    "token_lifetime": 401,
    "token_malformed": 401,
    "token_missing": 401,
    "token_not_yet_valid": 401,
    "token_revoked": 401,
    "token_signature": 401,
    "token_too_large": 401,
    "header_missing": 403,
    "metrics_closed": 403,
    "not_dev": 403,
    "origin_forbidden": 403,
    "scope_missing": 403,
    "signature_expired": 403,
    "signature_invalid": 403,
    "topic_forbidden": 403,
    "topic_reserved": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "body_timeout": 408,
    "already_executed": 409,
    "cancel_scheduled": 409,
    "conflict": 409,
    "no_plan": 409,
    "no_subscription": 409,
    "not_changed": 409,
    "nothing_to_change": 409,
    "preview_stale": 409,
    "provider_refused": 409,
    "too_many_overrides": 409,
    "topic_is_billed": 409,
    "version_conflict": 409,
    "body_too_large": 413,
    "state_too_large": 413,
    "charset_unsupported": 415,
    "content_encoding_unsupported": 415,
    "content_type_unsupported": 415,
    "batch_too_large": 422,
    "billing_mode_unsupported": 422,
    "effective_at_invalid": 422,
    "effective_at_required": 422,
    "number_unsafe": 422,
    "override_invalid": 422,
    "plan_not_sold": 422,
    "plan_unknown": 422,
    "price_unknown": 422,
    "request_invalid": 422,
    "state_too_deep": 422,
    "topic_invalid": 422,
    "upgrade_required": 426,
    "rate_limited": 429,
    "too_many_streams": 429,
    "internal": 500,
    "action_failed": 502,
    "not_ready": 503,
    "provider_unavailable": 503,
    "source_unavailable": 503,
    "store_unavailable": 503,
    "behind": 504,
}
"""Every code that is answered, and its HTTP status."""

RETRY_AFTER_S = {"not_ready": 1, "store_unavailable": 1, "provider_unavailable": 5, "source_unavailable": 5}
"""Seconds to wait before the next try, of the codes that end by themselves."""

_FRAMEWORK_CODES = {404: "not_found", 405: "method_not_allowed"}


class Problem(CodedError):
    """A request that cannot be answered as asked.

    Args:
        code: one of `STATUSES`; stable.
        detail: what is wrong and what to do, for people.
        headers: of the answer. WWW-Authenticate (401) and Retry-After (503) come by themselves.
        extra: further members of the document.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(code, detail)
        self.status = STATUSES[code]
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})
        if self.status == 401:
            self.headers.setdefault("WWW-Authenticate", "Bearer")
        elif code in RETRY_AFTER_S:
            self.headers.setdefault("Retry-After", str(RETRY_AFTER_S[code]))

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


Errors = Mapping[type[Exception], Callable[[Any], Problem]]
"""Type of a foreseen exception -> the problem that it is answered with. The first type that matches counts."""


def _of_framework(error: HTTPException) -> Problem:
    status = error.status_code
    code = _FRAMEWORK_CODES.get(status, "internal" if status >= 500 else "request_invalid")
    return Problem(code, error.detail, headers=error.headers)


FORESEEN: Errors = {
    Problem: lambda problem: problem,
    StoreError: lambda _: Problem(
        "store_unavailable", "the store did not answer; nothing is known to have been changed"
    ),
    HTTPException: _of_framework,
}
"""The exceptions that any route may raise."""


def problem_of(error: Exception, errors: Errors = FORESEEN) -> Problem:
    """Return the problem that answers `error`; one that `errors` does not name is `internal`, without details."""
    for kind, make in errors.items():
        if isinstance(error, kind):
            return make(error)
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
        logs.limited("sync.http", "store_unavailable", path=request.url.path, error=str(error))
    elif isinstance(error, HTTPException) and error.status_code == 405:
        error.headers = {**(error.headers or {}), "Allow": _allowed(request)}
    # The server logs an unforeseen error: it is raised again after this answer.
    return problem_of(error).response()


def exception_handlers() -> dict[type[Exception] | int, ExceptionHandler]:
    """Return what Starlette needs to answer every error, its own 404 and 405 too, with a problem document."""
    return dict.fromkeys((*FORESEEN, Exception), _answer)
