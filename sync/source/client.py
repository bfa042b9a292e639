"""Reads a topic's state from the application's own backend: one signed GET. All limits of a publish apply.

Requests go to the configured address only: a redirect is an error. An answer is read up to a limit.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import httpx2

from planwire_client.core import canonical_json, document
from planwire_client.core.commit import order_token
from planwire_client.core.limits import ORDER_INTEGER_MAX, ORDER_MAX
from planwire_client.http import NO_ANSWER
from sync.billing.providers.base import ProviderUnavailable, RateLimiter
from sync.core.errors import SyncError

TOPIC_FIELD = "{topic}"
"""Placeholder for the topic in a URL; without it, the topic is added to the end of the path."""

ANSWER_MAX_BYTES = 131_072
"""Maximum size of an answer: public and private part, with room for spaces and line breaks."""

FIELDS = frozenset(("state", "private", "order", "version"))


class SourceError(SyncError):
    """The backend is unreachable, or its answer cannot be used; the text says which and why."""


class Answer(NamedTuple):
    """The backend's state of a topic, as canonical JSON. `private` and `order` (an order token) may be empty."""

    state: bytes
    private: bytes
    order: str


def signature(secret: bytes, path: str, at_s: int) -> str:
    """Return the signature header's value for a GET of `path`, percent-decoded and without a query, at `at_s`.

    `t=SECONDS,v1=HEX`: HMAC-SHA256 of the lines GET, path and seconds.
    """
    signed = f"GET\n{path}\n{at_s}".encode()
    return f"t={at_s},v1={hmac.new(secret, signed, hashlib.sha256).hexdigest()}"


def url_of(base: str, topic: str) -> str:
    """Return the URL for `topic`; one path segment is the topic, whose id is percent-encoded already."""
    name = topic.replace("/", "%2F")
    return base.replace(TOPIC_FIELD, name) if TOPIC_FIELD in base else f"{base.rstrip('/')}/{name}"


def read_answer(body: bytes) -> Answer:
    """Return the answer in the body of a backend's 200.

    Raises:
        SourceError: the body is not a JSON object of `FIELDS`, or exceeds a limit of a publish.
    """
    try:
        found = canonical_json.parse(body)
    except ValueError:
        raise SourceError("the answer is not JSON") from None
    if not isinstance(found, dict) or "state" not in found:
        raise SourceError("the answer is not an object with a state")
    if unknown := found.keys() - FIELDS:
        raise SourceError(f"unknown field {min(unknown)[:80]!r}: expected {', '.join(sorted(FIELDS))}")
    private = found.get("private")
    try:
        private_part = b"" if private is None else document.encode("private", private)
        return Answer(document.encode("state", found["state"]), private_part, _order(found))
    except document.DocumentError as error:
        raise SourceError(str(error)) from None


def _order(answer: dict[str, object]) -> str:
    """Return the order token, from the member `order` or a row's `version`; empty if both are missing."""
    order, version = answer.get("order"), answer.get("version")
    if order is not None and version is not None:
        raise SourceError("order and version mean the same: send one of them")
    if version is not None and type(version) is not int:
        raise SourceError("version must be an integer")
    value = order if version is None else version
    if value is None:
        return ""
    if type(value) is int and 0 <= value <= ORDER_INTEGER_MAX:
        return order_token(value)
    if isinstance(value, str) and 1 <= len(value) <= ORDER_MAX:
        return value
    raise SourceError(f"order must be an integer from 0, or a string of 1 to {ORDER_MAX} characters")


class Source:
    """The backend at one address. Safe to share between tasks."""

    def __init__(self, url: str, secret: bytes, *, timeout_s: float, rate_limiter: RateLimiter) -> None:
        """Read from `url`.

        Args:
            url: the backend's URL; it may contain TOPIC_FIELD.
            secret: key of the request signature.
            timeout_s: maximum time for the whole answer.
            rate_limiter: limits the requests of all processes.
        """
        self._url = url
        self._secret = secret
        self._timeout_s = timeout_s
        self._rate_limiter = rate_limiter
        # Without the environment's proxies and credentials: requests go to the configured address only.
        self._client = httpx2.AsyncClient(
            follow_redirects=False,
            trust_env=False,
            timeout=timeout_s,
            headers={"User-Agent": "planwire-source/1", "Accept": "application/json", "Accept-Encoding": "identity"},
        )

    async def ask(self, topic: str, max_wait_s: float, *, background: bool = False) -> Answer | None:
        """Return the backend's state of `topic`; None if it has none (404).

        Args:
            topic: the topic.
            max_wait_s: maximum wait for the rate limit.
            background: leave a part of the rate limit to other requests.

        Raises:
            SourceError: the backend is unreachable, or its answer cannot be used.
            StoreError: the store, which has the rate limit's state, is unreachable or failing.
        """
        try:
            await self._rate_limiter.acquire(max_wait_s, background=background)
        except ProviderUnavailable as error:
            raise SourceError(error.reason) from error
        url = url_of(self._url, topic)
        now = int(time.time())
        headers = {
            "Planwire-Timestamp": str(now),
            "Planwire-Signature": signature(self._secret, unquote(urlsplit(url).path), now),
        }
        try:
            async with asyncio.timeout(self._timeout_s), self._client.stream("GET", url, headers=headers) as response:
                if response.status_code == 404:
                    return None
                if response.is_redirect:
                    raise SourceError(f"status {response.status_code}: redirects are not followed")
                if response.status_code != 200:
                    raise SourceError(f"status {response.status_code}")
                return read_answer(await _body(response))
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
