"""The process's one reader of the bus: a raw subscriber connection that hands over announcements as they arrive.

The bus is a hint, never the truth. Every confirmed subscription, first or renewed, is reported, and whoever owns the
topic reads the store after it: subscribe, then read. This module reads nothing there and knows no topic's state.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import hiredis
import structlog

from sync.state.connect import CONNECT_TIMEOUT_S, Endpoint
from sync.state.store import StoreError

log = structlog.get_logger()

BATCH = 500
"""Channels per SUBSCRIBE command."""

RECONNECT_MIN_S = 0.05
RECONNECT_MAX_S = 2.0


class _Subscriber(asyncio.Protocol):
    """Feeds a RESP parser straight from the transport: no task switch for each message."""

    def __init__(self, on_reply: Callable[[Any], None], lost: asyncio.Future[None]) -> None:
        self._reader = hiredis.Reader()
        self._on_reply = on_reply
        self._lost = lost

    def data_received(self, data: bytes) -> None:
        reader, on_reply = self._reader, self._on_reply
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                on_reply(reply)
        except hiredis.ProtocolError as error:
            self.connection_lost(error)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._lost.done():
            self._lost.set_result(None)


class Feed:
    """Keeps the wanted channels subscribed, over every reconnect.

    Callbacks run on the event loop and must not wait: `on_message(channel, payload)`, `on_subscribed(channel)` after
    each confirmation, `on_lost()` when the connection is gone and nothing is heard.
    """

    def __init__(
        self,
        endpoint: Callable[[], Awaitable[Endpoint]],
        on_message: Callable[[bytes, bytes], None],
        on_subscribed: Callable[[bytes], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._endpoint = endpoint
        self._on_message = on_message
        self._on_subscribed = on_subscribed
        self._on_lost = on_lost
        self._wanted: set[bytes] = set()
        self._asked: dict[bytes, None] = {}
        self._transport: asyncio.WriteTransport | None = None
        self._lost: asyncio.Future[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether a subscriber connection is up. Says nothing about whether anything comes through it."""
        return self._transport is not None

    def add(self, channel: bytes) -> None:
        """Subscribe `channel`; calls within one turn of the event loop share a command."""
        self._wanted.add(channel)
        self._ask(channel)

    def discard(self, channel: bytes) -> None:
        """Unsubscribe `channel`."""
        self._wanted.discard(channel)
        self._asked.pop(channel, None)
        if self._transport is not None:
            self._transport.write(_pack((b"UNSUBSCRIBE", channel)))

    def reset(self) -> None:
        """Drop the connection and make a new one: it is up but silent."""
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)

    async def run(self) -> None:
        """Connect, subscribe, and do so again whenever the connection is lost, until cancelled."""
        delay_s = RECONNECT_MIN_S
        while True:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await self._connect()
                connected_at = time.monotonic()
                assert self._lost is not None
                await self._lost
                log.warning("feed_lost")
                if time.monotonic() - connected_at > RECONNECT_MAX_S:
                    delay_s = RECONNECT_MIN_S  # a server that hangs up at once is not to be stormed
            except (OSError, TimeoutError, StoreError) as error:
                log.warning("feed_unreachable", error=str(error) or type(error).__name__)
            finally:
                self._disconnect()
            await asyncio.sleep(random.uniform(0, delay_s))  # noqa: S311 - jitter
            delay_s = min(RECONNECT_MAX_S, delay_s * 2)

    async def _connect(self) -> None:
        where = await self._endpoint()
        loop = asyncio.get_running_loop()
        lost: asyncio.Future[None] = loop.create_future()

        def factory() -> _Subscriber:
            return _Subscriber(self._reply, lost)

        if where.path is not None:
            transport, _ = await loop.create_unix_connection(factory, where.path)
        else:
            transport, _ = await loop.create_connection(factory, where.host, where.port, ssl=where.tls)
        self._lost, self._transport = lost, transport
        if where.password is not None:
            secret = (where.username, where.password) if where.username else (where.password,)
            transport.write(_pack(("AUTH", *secret)))
        for channel in self._wanted:
            self._ask(channel)

    def _disconnect(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
            self._asked.clear()
            self._on_lost()

    def _ask(self, channel: bytes) -> None:
        if self._transport is None:
            return
        if not self._asked:
            asyncio.get_running_loop().call_soon(self._flush)
        self._asked[channel] = None

    def _flush(self) -> None:
        channels, self._asked = list(self._asked), {}
        if self._transport is not None:
            for batch in _batches(channels, BATCH):
                self._transport.write(_pack((b"SUBSCRIBE", *batch)))

    def _reply(self, reply: Any) -> None:
        if isinstance(reply, list):
            kind, channel = reply[0], reply[1]
            if kind == b"message":
                self._on_message(channel, reply[2])
            elif kind == b"subscribe":
                if channel in self._wanted:
                    self._on_subscribed(channel)
            elif kind == b"unsubscribe" and channel in self._wanted and channel not in self._asked:
                # Taken away behind our back, or wanted again since: either way we are deaf on it until renewed.
                self._ask(channel)
        elif isinstance(reply, hiredis.ReplyError):
            log.error("feed_refused", error=str(reply))
            self.reset()


def _pack(command: tuple[bytes | str, ...]) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]
    return packed


def _batches(items: list[bytes], size: int) -> Iterable[list[bytes]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
