"""Stripe's API over plain HTTP: one call, and one page of a list.

Stripe's own SDK is not used: it brings a second HTTP stack and a new major version every few months, for a few calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sync.billing.providers.api_client import unreadable
from sync.billing.providers.json_client import JsonClient
from sync.billing.providers.stripe.answers import check

URL = "https://api.stripe.com"
VERSION = "2026-10-28.endive"
"""The `Stripe-Version` of every request."""

PER_PAGE = 100
"""Page size: Stripe's maximum."""


class StripeTransport(JsonClient):
    """Calls the API of one Stripe environment, with one API key. `base_url` "": Stripe's own URL."""

    _urls = (URL, URL)
    _version = ("Stripe-Version", VERSION)
    _check = staticmethod(check)

    async def _list(
        self, path: str, max_wait_s: float, query: Mapping[str, str], *, background: bool = True, account: str = ""
    ) -> Mapping[str, Any]:
        query = {**query, "limit": str(PER_PAGE)}
        page = await self._send("GET", path, max_wait_s, query, background=background, account=account)
        if not isinstance(page.get("data"), list):
            raise unreadable("it has no list")
        return page

    async def _send(
        self,
        method: str,
        path: str,
        max_wait_s: float | None,
        query: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
        *,
        background: bool = False,
        account: str = "",
    ) -> dict[str, Any]:
        """Return the JSON object in Stripe's answer. `max_wait_s`: see `_limited`."""
        headers = {"Stripe-Account": account} if account else None
        return await self._call(
            method, path, max_wait_s, background=background, params=query, data=form, headers=headers
        )
