"""The answer to a request whose units do not fit: 429 with the time of the reset, or 503 if that is not known. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import orjson

from planwire_client.usage.answers import Counted

PROBLEM_TYPE = "application/problem+json"

UNKNOWN_RETRY_S = 1
"""Seconds after which a request is to be repeated whose usage was not known."""


class Denial(NamedTuple):
    """An HTTP answer. `body`: a problem document (RFC 9457)."""

    status: int
    headers: dict[str, str]
    body: bytes


def rate_limit_headers(counted: Counted, now: float) -> dict[str, str]:
    """Return RateLimit-Limit, RateLimit-Remaining and RateLimit-Reset; none if unlimited or not known.

    RateLimit-Reset has seconds, and is absent if the count never begins anew. `now`: Unix seconds.
    """
    if counted.limit is None or counted.remaining is None or math.isinf(counted.limit):
        return {}
    headers = {"RateLimit-Limit": f"{counted.limit:.0f}", "RateLimit-Remaining": f"{counted.remaining:.0f}"}
    return headers if counted.resets_at is None else headers | {"RateLimit-Reset": str(_seconds(counted, now))}


def denial(counted: Counted, meter: str, now: float, amount: int = 1) -> Denial:
    """Return the answer to a request whose `amount` of units may not be used.

    Retry-After says when the count begins anew. It is absent if the count never does, or if the units will not fit even
    then. `now`: Unix seconds.
    """
    if not counted.is_known or counted.used is None or counted.limit is None:
        detail = f"the usage of {meter} is not known at the moment"
        return unknown(meter, detail, {"Retry-After": str(UNKNOWN_RETRY_S)})
    headers = rate_limit_headers(counted, now)
    limit, remaining = _shown(counted.limit), _shown(counted.remaining)
    detail = f"{amount} {meter} do not fit: {counted.used} of {limit} are used"
    shown = {"meter": meter, "amount": amount, "used": counted.used, "limit": limit, "remaining": remaining}
    if counted.resets_at is not None:
        resets_at = counted.resets_at.astimezone(UTC).isoformat().replace("+00:00", "Z")
        shown["resets_at"], detail = resets_at, f"{detail}, and the count begins anew at {resets_at}"
        if amount <= counted.limit:
            headers["Retry-After"] = str(_seconds(counted, now))
    return _problem(429, "Too Many Requests", "usage_limit_reached", detail, shown, headers)


def unknown(meter: str, detail: str, headers: Mapping[str, str]) -> Denial:
    """Return the answer to a request whose usage is not known: never that it is denied."""
    return _problem(503, "Service Unavailable", "usage_unknown", detail, {"meter": meter}, headers)


def _shown(bound: float | None) -> int | str:
    return "unlimited" if bound is None or math.isinf(bound) else int(bound)


def _seconds(counted: Counted, now: float) -> int:
    assert counted.resets_at is not None
    return max(math.ceil((counted.resets_at - datetime.fromtimestamp(now, UTC)).total_seconds()), 1)


def _problem(
    status: int, title: str, code: str, detail: str, shown: Mapping[str, object], headers: Mapping[str, str]
) -> Denial:
    document = {"type": "about:blank", "title": title, "status": status, "code": code, "detail": detail, **shown}
    return Denial(status, {"Content-Type": PROBLEM_TYPE, **headers}, orjson.dumps(document))
