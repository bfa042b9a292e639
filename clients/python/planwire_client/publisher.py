"""Publishes states: through a gateway with a publish key, or straight to the store. Blocking, and for asyncio.

Every publish has an event id, its own or a made-up one, so that repeating it after a lost answer changes nothing.
delivery.py decides what to send and when to try again.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Sequence
from typing import Generic, Protocol, Self, TypeVar, Unpack
from urllib.parse import urlsplit

from planwire_client.change import ConditionalFields, Outcome, Publish, Published, identified
from planwire_client.delivery import Answers, Reply, Retries, Retryable, Send, Sleep, Step, deliver
from planwire_client.errors import PlanwireError, PublishRefused
from planwire_client.http import AsyncHttpTransport, HttpTransport

T = TypeVar("T")

SOURCE = "backend"
"""What causes say a publish straight to the store came from, where the publisher is given no name."""


class Transport(Protocol):
    """What a blocking publisher sends through."""

    def send(self, step: Send, now: float) -> Answers | Retryable:
        """Return what became of one attempt."""

    def close(self) -> None:
        """Let go of every connection."""


class AsyncTransport(Protocol):
    """The same for asyncio."""

    async def send(self, step: Send, now: float) -> Answers | Retryable:
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


class _Delivery:
    """One call's way through `deliver`. `outcomes`: complete once there is no next step."""

    def __init__(self, items: Sequence[Publish], retries: Retries) -> None:
        self._steps = deliver([identified(item, _new_id) for item in items], retries, time.monotonic, random.random)
        self.outcomes: list[Outcome] = []

    def next(self, reply: Reply) -> Step | None:
        """Return what to do after `reply`, or None at the end."""
        try:
            return self._steps.send(reply)
        except StopIteration as stop:
            self.outcomes = stop.value
            return None

    @property
    def only(self) -> Published:
        """The outcome of the only item.

        Raises:
            PublishRefused: the item was rejected.
        """
        (outcome,) = self.outcomes
        if isinstance(outcome, Published):
            return outcome
        raise PublishRefused(outcome.code, outcome.detail)


class _Publishing(Generic[T]):
    """What both publishers have in common: where they publish to, and for how long they try."""

    def _to_gateway(self, url: str, key: str) -> T:
        raise NotImplementedError

    def _to_store(self, url: str, source: str, prefix: str) -> T:
        raise NotImplementedError

    def __init__(
        self,
        url: str = "",
        key: str = "",
        *,
        retries: Retries | None = None,
        source: str = SOURCE,
        prefix: str = PREFIX,
        transport: T | None = None,
    ) -> None:
        """Publish to `url`: a gateway (http, https) with a publish `key`, or the store (STORE_SCHEMES).

        Args:
            url: where to publish to.
            key: the publish key, at a gateway.
            retries: how long a call goes on.
            source: what causes say, straight to the store only (a gateway says the key's name).
            prefix: the installation's PLANWIRE_PREFIX, straight to the store only.
            transport: instead of a URL, for example `StoreTransport` on a client that finds its server by Sentinel.

        Raises:
            PlanwireError: the URL has another scheme, or a gateway is to be used without a key.
        """
        self._retries = retries or Retries()
        if transport is None:
            is_store = _is_store(url, key)
            transport = self._to_store(url, source, prefix) if is_store else self._to_gateway(url, key)
        self._transport = transport


class Publisher(_Publishing[Transport]):
    """Publishes, blocking. May be shared between threads; one per process is enough. A context manager."""

    def _to_gateway(self, url: str, key: str) -> Transport:
        return HttpTransport(url, key)

    def _to_store(self, url: str, source: str, prefix: str) -> Transport:
        # Here, not above: redis-py is an extra.
        from planwire_client.store import StoreTransport, open_store

        return StoreTransport(open_store(url), source, prefix)

    def publish(self, topic: str, state: object, **fields: Unpack[ConditionalFields]) -> Published:
        """Return the verdict on the topic's new state; `Publish` explains the fields. A conflict is a verdict.

        Raises:
            PublishRefused: it is wrong, or the key is; nothing was changed.
            Unavailable: no answer for as long as allowed; it may have happened. Try later with the same event id.
        """
        return self._run([Publish(topic, state, **fields)]).only

    def publish_many(self, items: Sequence[Publish]) -> list[Outcome]:
        """Return an outcome for each item, in order; sent in batches of 500. One bad item does not stop the others.

        Raises:
            PublishRefused: a whole batch was refused, for example because of the key.
            Unavailable: some have no outcome; `outcomes` has the others'.
        """
        return self._run(items).outcomes

    def _run(self, items: Sequence[Publish]) -> _Delivery:
        delivery = _Delivery(items, self._retries)
        reply: Reply = None
        while (step := delivery.next(reply)) is not None:
            reply = None
            match step:
                case Send():
                    reply = self._transport.send(step, time.time())
                case Sleep(seconds):
                    time.sleep(seconds)
        return delivery

    def close(self) -> None:
        """Close every connection."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncPublisher(_Publishing[AsyncTransport]):
    """Publishes, for asyncio; otherwise as `Publisher`. An async context manager; belongs to one event loop."""

    def _to_gateway(self, url: str, key: str) -> AsyncTransport:
        return AsyncHttpTransport(url, key)

    def _to_store(self, url: str, source: str, prefix: str) -> AsyncTransport:
        from planwire_client.store import AsyncStoreTransport, open_store_async

        return AsyncStoreTransport(open_store_async(url), source, prefix)

    async def publish(self, topic: str, state: object, **fields: Unpack[ConditionalFields]) -> Published:
        """Return the verdict, as `Publisher.publish` does.

        Raises:
            PublishRefused: it is wrong, or the key is; nothing was changed.
            Unavailable: no answer for as long as allowed; it may have happened. Try later with the same event id.
        """
        return (await self._run([Publish(topic, state, **fields)])).only

    async def publish_many(self, items: Sequence[Publish]) -> list[Outcome]:
        """Return an outcome for each item, as `Publisher.publish_many` does.

        Raises:
            PublishRefused: a whole batch was refused, for example because of the key.
            Unavailable: some have no outcome; `outcomes` has the others'.
        """
        return (await self._run(items)).outcomes

    async def _run(self, items: Sequence[Publish]) -> _Delivery:
        delivery = _Delivery(items, self._retries)
        reply: Reply = None
        while (step := delivery.next(reply)) is not None:
            reply = None
            match step:
                case Send():
                    reply = await self._transport.send(step, time.time())
                case Sleep(seconds):
                    await asyncio.sleep(seconds)
        return delivery

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
