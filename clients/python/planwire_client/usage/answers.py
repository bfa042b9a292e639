"""What comes of a call about usage, read off the gateway's answer. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import orjson

from planwire_client.core.headers import retry_after_s
from planwire_client.delivery import LATER, TRANSIENT_ITEM_CODES, Retryable
from planwire_client.errors import UsageRefused
from planwire_client.meter_usage import bound, instant, units

FINAL_CODES = frozenset(("reservations_full",))
"""Codes that a retry does not change, although their status is one of LATER."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What came of a call. It is true if the units may be used.

    Attributes:
        allowed: whether the units may be used: they were counted, or Planwire did not answer and the policy allows it.
        used: units used, without those reserved; None if Planwire did not answer.
        reserved: units reserved; None if Planwire did not answer.
        limit, remaining: infinity for unlimited; None if Planwire did not answer.
        resets_at: when the count begins anew; None if it does not.
        version: of the entitlements that it was counted against; 0: those of the default plan.
        usage_version: of the topic `usage:ID`.
        over: units beyond the limit.
        repeated: whether it was counted earlier, under the same key.
        key: of the call: the same call with the same key counts once. Of a reservation, its id.
        is_known: whether Planwire answered. Otherwise the policy has decided, and the call may have been counted.
        reason: why Planwire did not answer, for logs; it may name hosts.
    """

    allowed: bool
    used: int | None = None
    reserved: int | None = None
    limit: float | None = None
    remaining: float | None = None
    resets_at: datetime | None = None
    version: int = 0
    usage_version: int = 0
    over: int = 0
    repeated: bool = False
    key: str = ""
    is_known: bool = True
    reason: str = ""

    def __bool__(self) -> bool:
        return self.allowed


def document_of(status: int, content: bytes, headers: Mapping[str, str], now: float) -> dict[str, object] | Retryable:
    """Return the document of an answer, or that a retry may succeed. `now`: Unix seconds, for a Retry-After date.

    Raises:
        UsageRefused: the gateway has rejected the call, or the answer is not a gateway's.
    """
    try:
        document = orjson.loads(content)
    except ValueError:
        document = None
    is_document = isinstance(document, dict)
    found: dict[str, object] = document if is_document else {}
    code, detail = str(found.get("code") or ""), str(found.get("detail") or "")
    if status in LATER and code not in FINAL_CODES:
        shown = f"{status} {code or 'from the gateway'}: {detail}".rstrip(": ")
        return Retryable(shown, status == 429, retry_after_s(headers.get("retry-after"), now))
    if status >= 400 and code:
        raise UsageRefused(code, detail, status)
    if status != 200 or not is_document:  # for example a proxy's page, or a redirect
        raise not_a_gateway(status)
    return found


def counted(document: Mapping[str, object], key: str) -> Counted:
    """Return the result in a document, of a call with `key`.

    Raises:
        UsageRefused: it is not the result of a call.
    """
    allowed, used = document.get("allowed"), units(document.get("used"))
    if not isinstance(allowed, bool) or used is None:
        raise not_a_gateway(200)
    return Counted(
        allowed,
        used,
        units(document.get("reserved")) or 0,
        bound(document.get("limit")),
        bound(document.get("remaining")),
        instant(document.get("resets_at")),
        units(document.get("version")) or 0,
        units(document.get("usage_version")) or 0,
        units(document.get("over")) or 0,
        document.get("repeated") is True,
        key,
    )


def result_of(document: object, key: str) -> Counted | UsageRefused | Retryable:
    """Return the result of one call of a batch.

    Raises:
        UsageRefused: it is no result of a batch.
    """
    if not isinstance(document, dict):
        raise not_a_gateway(200)
    code, detail = document.get("code"), str(document.get("detail") or "")
    if not isinstance(code, str):
        return counted(document, key)
    return Retryable(f"{code}: {detail}") if code in TRANSIENT_ITEM_CODES else UsageRefused(code, detail)


def not_a_gateway(status: int) -> UsageRefused:
    """Return the error for an answer that no gateway gives."""
    return UsageRefused("not_a_gateway", "the answer is not a gateway's; look at the URL", status)
