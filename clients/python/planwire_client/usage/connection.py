"""One attempt to send calls about usage to a gateway, blocking or for asyncio, within a time."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence

import httpx2

from planwire_client.delivery import Retryable
from planwire_client.http import NO_ANSWER, headers_for
from planwire_client.usage.answers import counted, document_of, not_a_gateway, result_of
from planwire_client.usage.attempts import Answers
from planwire_client.usage.calls import Request, UsageCall, batch_request, request_of

ANSWER_MAX_BYTES = 4_000_000
"""Maximum size of an answer. That of 500 calls has some 100 KB."""


def _request(calls: Sequence[UsageCall], is_batch: bool) -> Request:
    return batch_request(calls) if is_batch else request_of(calls[0])


def _answers(calls: Sequence[UsageCall], is_batch: bool, document: dict[str, object] | Retryable) -> Answers:
    if isinstance(document, Retryable):
        return [document] * len(calls)
    if not is_batch:
        return [counted(document, calls[0].name)]
    results = document.get("results")
    if not isinstance(results, list) or len(results) != len(calls):
        raise not_a_gateway(200)
    return [result_of(result, call.name) for call, result in zip(calls, results, strict=True)]


def _no_answer(error: Exception) -> Retryable:
    return Retryable(f"{type(error).__name__}: {error}".rstrip(": "))


def _check_size(size: int) -> None:
    if size > ANSWER_MAX_BYTES:
        raise not_a_gateway(200)


class Connection:
    """A blocking connection pool to one gateway. Thread-safe; a forked process opens its own."""

    def __init__(self, url: str, key: str) -> None:
        self._arguments = {"base_url": url, "headers": headers_for(key)}
        self._open()

    def _open(self) -> None:
        self._client = httpx2.Client(**self._arguments)  # type: ignore[arg-type]
        self._process = os.getpid()

    def send(self, calls: Sequence[UsageCall], timeout_s: float, is_batch: bool) -> Answers:
        """Return an answer for each call.

        Raises:
            UsageRefused: the gateway has rejected the whole request.
        """
        return _answers(calls, is_batch, self.ask(_request(calls, is_batch), timeout_s))

    def ask(self, request: Request, timeout_s: float) -> dict[str, object] | Retryable:
        """Return the document of the gateway's answer, or that there was none.

        Raises:
            UsageRefused: the gateway has rejected the request.
        """
        if self._process != os.getpid():
            self._open()  # the sockets belong to the parent
        until, content = time.monotonic() + timeout_s, bytearray()
        try:
            with self._client.stream(
                request.method, request.path, content=request.content, timeout=timeout_s
            ) as response:
                for chunk in response.iter_bytes():
                    content += chunk
                    _check_size(len(content))
                    if time.monotonic() > until:
                        return Retryable("the answer takes too long")
            return document_of(response.status_code, bytes(content), response.headers, time.time())
        except httpx2.TransportError as error:
            return _no_answer(error)

    def close(self) -> None:
        """Close every connection."""
        self._client.close()


class AsyncConnection:
    """A connection pool to one gateway for asyncio. It belongs to the event loop of its first use."""

    def __init__(self, url: str, key: str) -> None:
        self._client = httpx2.AsyncClient(base_url=url, headers=headers_for(key))

    async def send(self, calls: Sequence[UsageCall], timeout_s: float, is_batch: bool) -> Answers:
        """Return an answer for each call.

        Raises:
            UsageRefused: the gateway has rejected the whole request.
        """
        return _answers(calls, is_batch, await self.ask(_request(calls, is_batch), timeout_s))

    async def ask(self, request: Request, timeout_s: float) -> dict[str, object] | Retryable:
        """Return the document of the gateway's answer, or that there was none.

        Raises:
            UsageRefused: the gateway has rejected the request.
        """
        content = bytearray()
        try:
            async with asyncio.timeout(timeout_s):
                async with self._client.stream(request.method, request.path, content=request.content) as response:
                    async for chunk in response.aiter_bytes():
                        content += chunk
                        _check_size(len(content))
        except TimeoutError:
            return Retryable("no answer in time")
        except NO_ANSWER as error:
            return _no_answer(error)
        return document_of(response.status_code, bytes(content), response.headers, time.time())

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()
