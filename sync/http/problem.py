"""Errors as RFC 9457 problem documents: one exception, and the table of stable codes and their HTTP statuses."""

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

_CODES = {
    400: "disconnected json_invalid signature_malformed",
    401: "key_invalid key_missing token_algorithm token_audience token_claims token_expired token_issued_ahead "
    "token_issuer token_key_unknown token_keys_unavailable token_lifetime token_malformed token_missing "
    "token_not_yet_valid token_revoked token_signature token_too_large",
    403: "header_missing metrics_closed not_dev origin_forbidden scope_missing signature_expired signature_invalid "
    "topic_forbidden topic_reserved",
    404: "meter_unknown not_found reservation_unknown",
    405: "method_not_allowed",
    408: "body_timeout",
    409: "already_executed cancel_scheduled conflict grants_full key_reused limit_unknown no_plan no_subscription "
    "not_changed nothing_to_change preview_stale provider_refused tenant_erased too_many_overrides topic_is_billed "
    "version_conflict",
    413: "body_too_large state_too_large",
    415: "charset_unsupported content_encoding_unsupported content_type_unsupported",
    422: "batch_too_large billing_mode_unsupported effective_at_invalid effective_at_required number_unsafe "
    "app_unknown not_for_meter override_invalid plan_not_sold plan_unknown price_unknown request_invalid "
    "state_too_deep topic_invalid version_unknown",
    426: "upgrade_required",
    429: "rate_limited reservations_full too_many_streams",
    500: "internal",
    502: "action_failed",
    503: "not_ready provider_unavailable source_unavailable store_unavailable",
    504: "behind",
}

STATUSES: dict[str, int] = {code: status for status, codes in _CODES.items() for code in codes.split()}
"""Every problem code -> its HTTP status."""

RETRY_AFTER_S = {"not_ready": 1, "store_unavailable": 1, "provider_unavailable": 5, "source_unavailable": 5}
"""Code of a temporary problem -> seconds to wait before the next try."""

_FRAMEWORK_CODES = {404: "not_found", 405: "method_not_allowed"}


class Problem(CodedError):
    """A request failed; the answer is a problem document.

    Args:
        code: one of `STATUSES`; stable.
        detail: what is wrong and what to do, for people.
        headers: headers of the answer. WWW-Authenticate (401) and Retry-After (503) are added automatically.
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
"""Type of a foreseen exception -> a function that makes its problem. The first matching type counts."""


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
    """Return the problem for `error`. An exception that is not in `errors` gives `internal`, without details."""
    for kind, make in errors.items():
        if isinstance(error, kind):
            return make(error)
    return Problem("internal", "something went wrong here; it was logged")


def _allowed(request: Request) -> str:
    """Return the methods of all routes that match the path; Starlette lists only those of the first one."""
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
    # An unforeseen error is not logged here: Starlette raises it again after this answer, and the server logs it.
    return problem_of(error).response()


def exception_handlers() -> dict[type[Exception] | int, ExceptionHandler]:
    """Return Starlette's exception handlers: all errors, including its own 404 and 405, become problem documents."""
    return dict.fromkeys((*FORESEEN, Exception), _answer)
