"""Publishing through a gateway: makes requests from items, and outcomes from answers. delivery.py does retries."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import httpx2
import orjson

from planwire_client import __version__
from planwire_client.change import Outcome, Publish, Published, Rejected
from planwire_client.core.commit import Verdict
from planwire_client.core.headers import retry_after_s
from planwire_client.delivery import LATER, Answers, Retryable
from planwire_client.errors import PublishRefused

REQUEST_TIMEOUT_S = 10.0

NO_ANSWER = (httpx2.TransportError, AttributeError)
"""What a request without an answer raises. AttributeError: from httpx2's asyncio backend, for a connection that the
server drops as soon as it is made."""

_VERDICTS = frozenset(Verdict) - {Verdict.BILLED}


def request_of(items: Sequence[Publish], timeout_s: float) -> dict[str, Any]:
    """Return the arguments of the POST request for one item or a batch."""
    documents = [item.document() for item in items]
    content = orjson.dumps(documents[0] if len(items) == 1 else {"items": documents})
    url = "/v1/publish" if len(items) == 1 else "/v1/publish/batch"
    return {"url": url, "content": content, "timeout": min(REQUEST_TIMEOUT_S, timeout_s)}


def answer_of(items: Sequence[Publish], response: httpx2.Response, now: float) -> Answers | Retryable:
    """Return the outcomes in a gateway's answer for `items`. `now`: Unix seconds, for a Retry-After date.

    Raises:
        PublishRefused: the gateway has rejected the whole request.
    """
    status = response.status_code
    try:
        document = orjson.loads(response.content)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        document = {}
    if status in LATER:
        detail = f"{status} {document.get('code') or 'from the gateway'}: {document.get('detail') or ''}".rstrip(": ")
        return Retryable(detail, status == 429, retry_after_s(response.headers.get("retry-after"), now))
    if len(items) == 1 and (status == 200 or (status == 409 and document.get("code") == "conflict")):
        return Answers([_outcome(items[0], document, status)])
    if len(items) > 1 and status == 200:
        results = document.get("results")
        if isinstance(results, list) and len(results) == len(items):
            return Answers([_outcome(item, result, status) for item, result in zip(items, results, strict=True)])
    if status < 400:
        # For example a proxy's page, or a redirect.
        raise PublishRefused("not_a_gateway", "the answer is not a gateway's; look at the URL", status)
    raise PublishRefused(str(document.get("code") or "refused"), str(document.get("detail") or ""), status)


def _outcome(item: Publish, document: object, status: int) -> Outcome:
    if isinstance(document, dict):
        verdict, version = document.get("verdict"), document.get("version")
        if verdict == "error":
            return Rejected(item.topic, str(document.get("code")), str(document.get("detail")))
        if isinstance(verdict, str) and verdict in _VERDICTS and isinstance(version, int):
            return Published(item.topic, Verdict(verdict), version, item.event_id or "")
    raise PublishRefused("not_a_gateway", "the answer has no verdict; look at the URL", status)


def headers_for(key: str) -> dict[str, str]:
    """Return the headers of every request with a publish key."""
    return {
        "Authorization": f"Bearer {key}",
        "Content-Type": "application/json",
        "User-Agent": f"planwire-client-python/{__version__}",
    }


class HttpTransport:
    """A blocking connection pool to one gateway. Thread-safe."""

    def __init__(self, url: str, key: str) -> None:
        self._client = httpx2.Client(base_url=url, headers=headers_for(key))

    def send(self, items: Sequence[Publish], timeout_s: float) -> Answers | Retryable:
        """Return the gateway's answer, or that there was none."""
        request = request_of(items, timeout_s)
        try:
            return answer_of(items, self._client.post(**request), time.time())
        except httpx2.TransportError as error:
            return Retryable(f"{type(error).__name__}: {error}".rstrip(": "))

    def close(self) -> None:
        """Close every connection."""
        self._client.close()


class AsyncHttpTransport:
    """A connection pool to one gateway for asyncio. It belongs to the event loop of its first use."""

    def __init__(self, url: str, key: str) -> None:
        self._client = httpx2.AsyncClient(base_url=url, headers=headers_for(key))

    async def send(self, items: Sequence[Publish], timeout_s: float) -> Answers | Retryable:
        """Return the gateway's answer, or that there was none."""
        request = request_of(items, timeout_s)
        try:
            return answer_of(items, await self._client.post(**request), time.time())
        except NO_ANSWER as error:
            return Retryable(f"{type(error).__name__}: {error}".rstrip(": "))

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()
