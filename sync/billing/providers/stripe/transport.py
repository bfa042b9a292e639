"""Stripe's API over plain HTTP: one call, and one page of a list.

Stripe's own SDK is not used: it brings a second HTTP stack and a new major version every few months, for a few calls.
The API version is pinned, so that answers keep their form whatever the account's default is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx2
import orjson

from planwire_client.http import NO_ANSWER
from sync.billing.providers import api_client
from sync.billing.providers.base import RateLimiter
from sync.billing.providers.stripe.answers import check

URL = "https://api.stripe.com"
VERSION = "2026-10-28.endive"
"""The `Stripe-Version` of every request."""

PER_PAGE = 100
"""Page size: Stripe's maximum."""


class StripeTransport(api_client.ApiClient):
    """Calls the API of one Stripe environment, with one API key. `base_url` "": Stripe's own URL."""

    def __init__(
        self,
        environment: str,
        key: str,
        base_url: str,
        rate_limiter: RateLimiter,
        *,
        timeout_s: float = api_client.TIMEOUT_S,
    ) -> None:
        super().__init__(environment, rate_limiter)
        self._http = httpx2.AsyncClient(
            base_url=base_url or URL,
            headers={"Authorization": f"Bearer {key}", "Stripe-Version": VERSION},
            timeout=timeout_s,
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def _list(
        self, path: str, max_wait_s: float, query: Mapping[str, str], *, background: bool = True, account: str = ""
    ) -> Mapping[str, Any]:
        query = {**query, "limit": str(PER_PAGE)}
        page = await self._send("GET", path, max_wait_s, query, background=background, account=account)
        if not isinstance(page.get("data"), list):
            raise api_client.unreadable("it has no list")
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

        async def call() -> dict[str, Any]:
            try:
                response = await self._http.request(method, path, params=query, data=form, headers=headers)
                body = orjson.loads(response.content)
            except (httpx2.DecodingError, orjson.JSONDecodeError):
                raise api_client.away("its answer cannot be read: it is not JSON") from None
            except (httpx2.HTTPError, *NO_ANSWER) as error:
                raise api_client.away(type(error).__name__) from error
            check(response, body)
            if not isinstance(body, dict):
                raise api_client.unreadable("it is no object")
            return body

        return await self._limited(max_wait_s, call, background=background)
