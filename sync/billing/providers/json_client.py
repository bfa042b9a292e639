"""The base of API clients over plain HTTP whose answers are JSON objects.

The API version is pinned, so that answers keep their form whatever the account's default is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2
import orjson

from planwire_client.core.topic import LIVE
from planwire_client.http import NO_ANSWER
from sync.billing.providers.api_client import TIMEOUT_S, ApiClient, away, check_status, unreadable
from sync.billing.providers.base import RateLimiter

RETRY_AFTER_MAX_S = 3600.0
"""Maximum of an accepted Retry-After."""


class JsonClient(ApiClient):
    """The API of one environment of a provider, with one API key. `base_url` "": the provider's own URL.

    A subclass sets the attributes.
    """

    _urls: tuple[str, str]
    """The provider's own URLs: for the live environment, and for others."""

    _version: tuple[str, str]
    """The header that pins the API version: its name and value."""

    _check: Callable[[httpx2.Response, object], None]
    """Raises ProviderUnavailable or ProviderRejected if the answer, with this body, is an error."""

    def __init__(
        self,
        environment: str,
        key: str,
        base_url: str,
        rate_limiter: RateLimiter,
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        super().__init__(environment, rate_limiter)
        name, version = self._version
        self._http = httpx2.AsyncClient(
            base_url=base_url or self._urls[environment != LIVE],
            headers={"Authorization": f"Bearer {key}", name: version},
            timeout=timeout_s,
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def _call(
        self, method: str, path: str, max_wait_s: float | None, *, background: bool = False, **request: Any
    ) -> dict[str, Any]:
        """Return the JSON object in the answer.

        Args:
            max_wait_s: see `_limited`.
            request: what httpx2's `request` takes beside.
        """

        async def call() -> dict[str, Any]:
            try:
                response = await self._http.request(method, path, **request)
                body = orjson.loads(response.content)
            except (httpx2.DecodingError, orjson.JSONDecodeError):
                raise away("its answer cannot be read: it is not JSON") from None
            except (httpx2.HTTPError, *NO_ANSWER) as error:
                raise away(type(error).__name__) from error
            self._check(response, body)
            if not isinstance(body, dict):
                raise unreadable("it is not an object")
            return body

        return await self._limited(max_wait_s, call, background=background)


def check_http(response: httpx2.Response, throttled_s: float) -> None:
    """Raise if the status means that the API is throttling or failing. A Retry-After counts in whole seconds only.

    Args:
        throttled_s: the pause after a 429 without a Retry-After.

    Raises:
        ProviderUnavailable: the status is 429, or 500 and above.
    """
    retry_after = response.headers.get("Retry-After", "")
    is_given = retry_after.isascii() and retry_after.isdigit()
    check_status(response.status_code, min(float(retry_after), RETRY_AFTER_MAX_S) if is_given else throttled_s)
