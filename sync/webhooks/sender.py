"""Sends messages to endpoints: one signed POST each, to the configured address only."""

from __future__ import annotations

import asyncio
import time

import httpx2

from planwire_client.http import NO_ANSWER
from sync.billing.providers.standard_webhooks import signed_headers
from sync.core.errors import SyncError
from sync.core.webhook_endpoints import Endpoint
from sync.webhooks.messages import Message

TIMEOUT_S = 10.0
"""Time that an endpoint has for its whole answer. A receiver should answer first and work then."""

ANSWER_MAX_BYTES = 65_536
"""What is read of an answer, so that its connection can be used again."""

GONE = 410


class UndeliveredError(SyncError):
    """An endpoint did not take a message. The text says why, without the address.

    Attributes:
        is_final: whether the endpoint wants none of it any more.
        retry_after_s: how long it asks to be left alone; 0: it does not say.
    """

    def __init__(self, reason: str, *, is_final: bool = False, retry_after_s: float = 0) -> None:
        super().__init__(reason)
        self.is_final = is_final
        self.retry_after_s = retry_after_s


class Sender:
    """Sends. One per process."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        """Send; `timeout_s` is for one whole answer."""
        self._timeout_s = timeout_s
        # Without the environment's proxies and credentials: messages go to the configured address only.
        self._client = httpx2.AsyncClient(
            follow_redirects=False,
            trust_env=False,
            timeout=timeout_s,
            headers={"User-Agent": "planwire-webhooks/1", "Content-Type": "application/json"},
        )

    async def send(self, endpoint: Endpoint, message: Message) -> None:
        """Return when the endpoint has answered 2xx.

        Raises:
            UndeliveredError: it did not.
        """
        headers = signed_headers(endpoint.keys, message.id, int(time.time()), message.body)
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream("POST", endpoint.url, content=message.body, headers=headers) as response,
            ):
                status, retry_after = response.status_code, response.headers.get("retry-after", "")
                await _read(response)
        except TimeoutError:
            raise UndeliveredError(f"no answer within {self._timeout_s:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, *NO_ANSWER) as error:
            raise UndeliveredError(type(error).__name__) from error
        if 200 <= status < 300:
            return
        why = ": redirects are not followed" if 300 <= status < 400 else ""
        wait_s = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0
        raise UndeliveredError(f"status {status}{why}", is_final=status == GONE, retry_after_s=wait_s)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()


async def _read(response: httpx2.Response) -> None:
    size = 0
    async for chunk in response.aiter_raw():
        size += len(chunk)
        if size > ANSWER_MAX_BYTES:
            return
