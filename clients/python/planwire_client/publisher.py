"""Publishes states, blocking or for asyncio: through a gateway with a publish key, or directly to the store.

Every publish has an event id, given or generated, so that a retry after a lost answer changes nothing. delivery.py
decides what to send and when to retry.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Generic, Self, TypeVar, Unpack, cast
from urllib.parse import urlsplit

from planwire_client.change import ConditionalFields, Outcome, Publish, Published, identified
from planwire_client.delivery import Answers, Retries, Retryable, Send, Sleep, deliver, finished
from planwire_client.errors import PlanwireError, PublishRefused
from planwire_client.http import AsyncHttpTransport, HttpTransport

if TYPE_CHECKING:
    from planwire_client.store import AsyncStoreTransport, StoreTransport  # noqa: F401 - named in annotations

T = TypeVar("T")

STORE_SCHEMES = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")
"""URL schemes of the store."""


def _open(url: str, key: str, source: str, prefix: str, *, is_async: bool) -> object:
    """Return a transport to `url`."""
    scheme = urlsplit(url).scheme
    if scheme in ("http", "https"):
        if not key:
            raise PlanwireError("publishing through a gateway needs a publish key")
        return AsyncHttpTransport(url, key) if is_async else HttpTransport(url, key)
    if scheme not in STORE_SCHEMES:
        raise PlanwireError(f"the URL's scheme {scheme!r} is not one of http, https, {', '.join(STORE_SCHEMES)}")
    # Imported here because redis-py is an extra.
    from planwire_client import store

    if is_async:
        return store.AsyncStoreTransport(store.open_async(url), source, prefix)
    return store.StoreTransport(store.open_blocking(url), source, prefix)


def _only(outcomes: Sequence[Outcome]) -> Published:
    (outcome,) = outcomes
    if isinstance(outcome, Published):
        return outcome
    raise PublishRefused(outcome.code, outcome.detail)


class _Publishing(Generic[T]):
    """The common part of both publishers: the transport and the retries."""

    _is_async: ClassVar[bool]

    def __init__(
        self,
        url: str = "",
        key: str = "",
        *,
        retries: Retries | None = None,
        source: str = "backend",
        prefix: str = "pw",
        transport: T | None = None,
    ) -> None:
        """Publish to `url`: a gateway (http, https) with a publish `key`, or the store (STORE_SCHEMES).

        Args:
            source: the source in causes; for the store only (a gateway uses the key's name).
            prefix: the installation's PLANWIRE_PREFIX; for the store only.
            transport: used instead of a URL, for example a `StoreTransport` with a Sentinel client.

        Raises:
            PlanwireError: the URL's scheme is not supported, or the key for a gateway is missing.
        """
        self._retries = retries or Retries()
        if transport is None:
            transport = cast(T, _open(url, key, source, prefix, is_async=self._is_async))
        self._transport = transport

    async def _deliver(self, items: Sequence[Publish], send: Send, sleep: Sleep) -> list[Outcome]:
        named = [identified(item, lambda: uuid.uuid4().hex) for item in items]
        return await deliver(named, self._retries, send, sleep, time.monotonic, random.random)


class Publisher(_Publishing["HttpTransport | StoreTransport"]):
    """The blocking publisher. Thread-safe: one per process is enough. A context manager."""

    _is_async = False

    def publish(self, topic: str, state: object, **fields: Unpack[ConditionalFields]) -> Published:
        """Publish a topic's state; return the verdict, which may be a conflict. `Publish` explains the fields.

        Raises:
            PublishRefused: the publish or the key is invalid; nothing was changed.
            Unavailable: no answer for as long as allowed; it may have happened. Try later with the same event id.
        """
        return _only(self.publish_many([Publish(topic, state, **fields)]))

    def publish_many(self, items: Sequence[Publish]) -> list[Outcome]:
        """Publish in batches of 500; return an outcome for each item, in order. One bad item does not stop the others.

        Raises:
            PublishRefused: a whole batch was rejected, for example because of the key.
            Unavailable: some items have no outcome; `outcomes` has the others.
        """

        async def send(batch: Sequence[Publish], timeout_s: float) -> Answers | Retryable:
            return self._transport.send(batch, timeout_s)

        async def sleep(seconds: float) -> None:
            time.sleep(seconds)  # noqa: ASYNC251 - no event loop runs this

        return finished(self._deliver(items, send, sleep))

    def close(self) -> None:
        """Close every connection."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncPublisher(_Publishing["AsyncHttpTransport | AsyncStoreTransport"]):
    """The publisher for asyncio. An async context manager; belongs to one event loop."""

    _is_async = True

    async def publish(self, topic: str, state: object, **fields: Unpack[ConditionalFields]) -> Published:
        """Do the same as `Publisher.publish`.

        Raises:
            PublishRefused: the publish or the key is invalid; nothing was changed.
            Unavailable: no answer for as long as allowed; it may have happened. Try later with the same event id.
        """
        return _only(await self.publish_many([Publish(topic, state, **fields)]))

    async def publish_many(self, items: Sequence[Publish]) -> list[Outcome]:
        """Do the same as `Publisher.publish_many`.

        Raises:
            PublishRefused: a whole batch was rejected, for example because of the key.
            Unavailable: some items have no outcome; `outcomes` has the others.
        """
        return await self._deliver(items, self._transport.send, asyncio.sleep)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
