"""Reads what all of Stripe's answers have in common: errors, pages, and the ids of connected accounts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx2

from sync.billing.providers import api_client
from sync.billing.providers.base import ProviderEvent, ProviderRejected, ProviderUnavailable
from sync.billing.providers.json_client import check_http
from sync.billing.providers.parsing import is_id
from sync.billing.providers.stripe.subscription import instant

THROTTLED_S = 5.0
"""Pause of all calls after a 429 without a Retry-After: Stripe counts calls by the second."""


def check(response: httpx2.Response, body: object) -> None:
    """Raise if Stripe's answer is an error.

    Raises:
        ProviderUnavailable: Stripe is failing, throttling or busy.
        ProviderRejected: Stripe rejects the call.
    """
    check_http(response, THROTTLED_S)
    status = response.status_code
    if status == 409:
        # Another call is changing the same object: a retry can succeed.
        raise ProviderUnavailable("it is busy with the same object")
    if status >= 400:
        failure = body.get("error") if isinstance(body, dict) else None
        said = failure if isinstance(failure, dict) else {}
        code = str(said.get("code") or said.get("type") or f"status_{status}")
        if status == 404 or code == "resource_missing":
            code = "not_found"
        raise ProviderRejected(code, str(said.get("message") or f"it answered {status}")[:300])


def listed(page: Mapping[str, Any]) -> list[ProviderEvent]:
    """Return a page of events, the oldest first."""
    return api_client.listed_events(page["data"][::-1], "id", lambda entry: instant(entry.get("created"), "created"))


def last_id(page: Mapping[str, Any]) -> str:
    """Return the id after which the next page begins."""
    found: list[str] = [entry["id"] for entry in page["data"] if isinstance(entry, dict) and is_id(entry.get("id"))]
    if not found:
        raise api_client.unreadable("no entry has an id")
    return found[-1]


def split_account(id: str) -> tuple[str, str]:
    """Return the connected account of an id, or "", and Stripe's own id."""
    account, slash, own = id.partition("/")
    return (account, own) if slash else ("", id)


def path_of(kind: str, id: str) -> tuple[str, str]:
    """Return the connected account of an id, or "", and the path of its object."""
    account, own = split_account(id)
    return account, f"/v1/{kind}/{quote(own, safe='')}"
