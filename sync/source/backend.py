"""GET requests to a system of the application: rate-limited, to the configured address only, with a bounded answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import httpx2

from planwire_client.http import NO_ANSWER
from sync.billing.providers.base import ProviderUnavailable, RateLimiter
from sync.core.errors import SyncError

ANSWER_MAX_BYTES = 131_072
"""Maximum size of an answer: public and private part, with room for spaces and line breaks."""


class SourceError(SyncError):
    """The system is unreachable, or its answer cannot be used; the text says which and why."""


class Backend:
    """One system. A redirect is an error, and an answer is read up to a limit. Safe to share between tasks."""

    def __init__(self, *, timeout_s: float, rate_limiter: RateLimiter) -> None:
        """Make requests.

        Args:
            timeout_s: maximum time for the whole answer.
            rate_limiter: limits the requests of all processes.
        """
        self._timeout_s = timeout_s
        self._rate_limiter = rate_limiter
        # Without the environment's proxies and credentials: requests go to the configured address only.
        self._client = httpx2.AsyncClient(
            follow_redirects=False,
            trust_env=False,
            timeout=timeout_s,
            headers={"User-Agent": "planwire-source/1", "Accept": "application/json", "Accept-Encoding": "identity"},
        )

    async def get(
        self,
        url: str,
        headers: Callable[[], Mapping[str, str]],
        max_wait_s: float,
        *,
        background: bool = False,
    ) -> bytes | None:
        """Return the body of the answer; None for a 404.

        Args:
            url: where to ask.
            headers: returns the headers besides the common ones, once the rate limit has passed.
            max_wait_s: maximum wait for the rate limit.
            background: leave a part of the rate limit to other requests.

        Raises:
            SourceError: the system is unreachable, or does not answer 200 within the limits.
            StoreError: the store, which has the rate limit's state, is unreachable or failing.
        """
        try:
            await self._rate_limiter.acquire(max_wait_s, background=background)
        except ProviderUnavailable as error:
            raise SourceError(error.reason) from error
        sent = dict(headers())
        try:
            async with asyncio.timeout(self._timeout_s), self._client.stream("GET", url, headers=sent) as response:
                if response.status_code == 404:
                    return None
                if response.is_redirect:
                    raise SourceError(f"status {response.status_code}: redirects are not followed")
                if response.status_code != 200:
                    raise SourceError(f"status {response.status_code}")
                return await _body(response)
        except TimeoutError:
            raise SourceError(f"no whole answer within {self._timeout_s:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, *NO_ANSWER) as error:
            raise SourceError(f"{type(error).__name__}: {error}".rstrip(": ")) from error

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()


async def _body(response: httpx2.Response) -> bytes:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise SourceError("the answer is compressed, which was not asked for")
    found = bytearray()
    async for chunk in response.aiter_raw():
        found += chunk
        if len(found) > ANSWER_MAX_BYTES:
            raise SourceError(f"the answer has more than {ANSWER_MAX_BYTES} bytes")
    return bytes(found)
