"""Publishes states: through a gateway with a publish key, or straight to the store. Blocking, and for asyncio.

Every publish has an event id, its own or a made-up one, so that repeating it after a lost answer changes nothing.
What to send and when to try again is decided in change.py; here it is only done.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Protocol, Self
from urllib.parse import urlsplit

from planwire_client.change import (
    Answers,
    Outcome,
    Publish,
    Published,
    Reply,
    Retries,
    Send,
    Sleep,
    Trouble,
    deliver,
    identified,
)
from planwire_client.errors import PlanwireError, PublishRefused
from planwire_client.http import AsyncHttpTransport, HttpTransport

SOURCE = "backend"
"""What causes say a publish straight to the store came from, where the publisher is given no name."""


class Transport(Protocol):
    """What a blocking publisher sends through."""

    def send(self, step: Send, now: float) -> Answers | Trouble:
        """Return what became of one attempt."""

    def close(self) -> None:
        """Let go of every connection."""


class AsyncTransport(Protocol):
    """The same for asyncio."""

    async def send(self, step: Send, now: float) -> Answers | Trouble:
        """Return what became of one attempt."""

    async def close(self) -> None:
        """Let go of every connection."""


PREFIX = "pw"
"""What keys and channels of an installation begin with that has set no PLANWIRE_PREFIX."""

STORE_SCHEMES = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")
"""URLs of the store itself."""


def _is_store(url: str, key: str) -> bool:
    scheme = urlsplit(url).scheme
    if scheme in ("http", "https"):
        if not key:
            raise PlanwireError("publishing through a gateway needs a publish key")
        return False
    if scheme in STORE_SCHEMES:
        return True
    raise PlanwireError(f"the URL's scheme {scheme!r} is not one of http, https, {', '.join(STORE_SCHEMES)}")


def _new_id() -> str:
    return uuid.uuid4().hex


def _only(outcomes: Sequence[Outcome]) -> Published:
    (outcome,) = outcomes
    if isinstance(outcome, Published):
        return outcome
    raise PublishRefused(outcome.code, outcome.detail)


class Publisher:
    """Publishes, blocking. May be shared between threads; one per process is enough. A context manager."""

    def __init__(
        self,
        url: str = "",
        key: str = "",
        *,
        retries: Retries | None = None,
        source: str = SOURCE,
        prefix: str = PREFIX,
        transport: Transport | None = None,
    ) -> None:
        """Publish to `url`: a gateway (http, https) with a publish `key`, or the store (STORE_SCHEMES).

        source: what causes say, straight to the store only (a gateway says the key's name).
        prefix: the installation's PLANWIRE_PREFIX, straight to the store only.
        transport: instead of a URL, for example `StoreTransport` on a client that finds its server by Sentinel.

        Raises:
            PlanwireError: the URL has another scheme, or a gateway is to be used without a key.
        """
        self._retries = retries or Retries()
        if transport is None:
            transport = _store_transport(url, source, prefix) if _is_store(url, key) else HttpTransport(url, key)
        self._transport = transport

    def publish(
        self,
        topic: str,
        state: object,
        *,
        private: object = None,
        event_id: str | None = None,
        order: int | str | None = None,
        if_version: int | None = None,
        cause: Mapping[str, str] | None = None,
    ) -> Published:
        """Return the verdict on the topic's new state; see `Publish` for the fields. A conflict is a verdict.

        Raises:
            PublishRefused: it is wrong, or the key is; nothing was changed.
            Unavailable: no answer for as long as allowed; it may have happened. Try later with the same event id.
        """
        return _only(self.publish_many([Publish(topic, state, private, event_id, order, if_version, cause)]))

    def publish_many(self, items: Sequence[Publish]) -> list[Outcome]:
        """Return an outcome for each item, in order; sent in batches of 500. One bad item does not stop the others.

        Raises:
            PublishRefused: a whole batch was refused, for example because of the key.
            Unavailable: some have no outcome; `outcomes` has the others'.
        """
        steps = deliver([identified(item, _new_id) for item in items], self._retries, time.monotonic, random.random)
        reply: Reply = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as stop:
                outcomes: list[Outcome] = stop.value
                return outcomes
            match step:
                case Send():
                    reply = self._transport.send(step, time.time())
                case Sleep(seconds):
                    time.sleep(seconds)
                    reply = None

    def close(self) -> None:
        """Close every connection."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncPublisher:
    """Publishes, for asyncio; otherwise as `Publisher`. An async context manager; belongs to one event loop."""

    def __init__(
        self,
        url: str = "",
        key: str = "",
        *,
        retries: Retries | None = None,
        source: str = SOURCE,
        prefix: str = PREFIX,
        transport: AsyncTransport | None = None,
    ) -> None:
        """As `Publisher`.

        Raises:
            PlanwireError: the URL has another scheme, or a gateway is to be used without a key.
        """
        self._retries = retries or Retries()
        if transport is None:
            is_store = _is_store(url, key)
            transport = _async_store_transport(url, source, prefix) if is_store else AsyncHttpTransport(url, key)
        self._transport = transport

    async def publish(
        self,
        topic: str,
        state: object,
        *,
        private: object = None,
        event_id: str | None = None,
        order: int | str | None = None,
        if_version: int | None = None,
        cause: Mapping[str, str] | None = None,
    ) -> Published:
        """Return the verdict, as `Publisher.publish` does.

        Raises:
            PublishRefused: it is wrong, or the key is; nothing was changed.
            Unavailable: no answer for as long as allowed; it may have happened. Try later with the same event id.
        """
        return _only(await self.publish_many([Publish(topic, state, private, event_id, order, if_version, cause)]))

    async def publish_many(self, items: Sequence[Publish]) -> list[Outcome]:
        """Return an outcome for each item, as `Publisher.publish_many` does.

        Raises:
            PublishRefused: a whole batch was refused, for example because of the key.
            Unavailable: some have no outcome; `outcomes` has the others'.
        """
        steps = deliver([identified(item, _new_id) for item in items], self._retries, time.monotonic, random.random)
        reply: Reply = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as stop:
                outcomes: list[Outcome] = stop.value
                return outcomes
            match step:
                case Send():
                    reply = await self._transport.send(step, time.time())
                case Sleep(seconds):
                    await asyncio.sleep(seconds)
                    reply = None

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _store_transport(url: str, source: str, prefix: str) -> Transport:
    # Here, not above: redis-py is an extra.
    import redis

    from planwire_client.store import StoreTransport, is_cluster, open_cluster, options

    if is_cluster(url):
        return StoreTransport(lambda: open_cluster(url), source, prefix)
    return StoreTransport(redis.Redis.from_url(url, **options()), source, prefix)


def _async_store_transport(url: str, source: str, prefix: str) -> AsyncTransport:
    import redis.asyncio

    from planwire_client.store import AsyncStoreTransport, is_cluster, open_cluster_async, options

    if is_cluster(url):
        return AsyncStoreTransport(open_cluster_async(url), source, prefix)
    return AsyncStoreTransport(redis.asyncio.Redis.from_url(url, **options()), source, prefix)
