"""The frames that a connection still has to send: at most one of each kind per topic."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from planwire_client.core.frames import Ack, Inbound, Nack, Subscribe, Unsubscribe, write
from planwire_client.replica.topic_state import TopicState

FRAMES_PER_S = 20
"""Rate of subscribes and acks, well below the gateway's FRAMES_PER_S."""


class Outgoing:
    """The frames to send; `run` sends them."""

    def __init__(self, topics: Mapping[str, TopicState]) -> None:
        """`topics`: the connection's topics. A subscribe contains the topic's version at the time of sending."""
        self._topics = topics
        self._wake = asyncio.Event()
        self._asks: dict[str, bool] = {}
        self._acks: dict[str, tuple[float, int]] = {}
        self._nacks: dict[str, tuple[int, str]] = {}

    def begin(self) -> None:
        """Drop subscribes and acks for a new socket: its hello subscribes to every topic, and old acks are void."""
        self._asks.clear()
        self._acks.clear()

    def subscribe(self, topic: str) -> None:
        """Queue a subscribe. A hello drops it."""
        self._asks[topic] = True
        self._wake.set()

    def unsubscribe(self, topic: str) -> None:
        """Queue an unsubscribe, and drop the topic's ack."""
        self._acks.pop(topic, None)
        self._asks[topic] = False
        self._wake.set()

    def ack(self, topic: str, version: int, at: float) -> None:
        """Queue an ack of `version` for the monotonic time `at`; an earlier time of a pending ack is kept."""
        due = self._acks.get(topic)
        self._acks[topic] = (due[0] if due is not None else at, version)
        self._wake.set()

    def nack(self, topic: str, version: int, reason: str) -> None:
        """Queue a nack: `version` could not be used."""
        self._nacks[topic] = (version, reason)
        self._wake.set()

    async def run(self, socket: ClientConnection) -> None:
        """Send due frames, within the gateway's rate limit."""
        while True:
            frame = self._next_frame(time.monotonic())
            if frame is None:
                await woken(self._wake, min([at for at, _ in self._acks.values()], default=float("inf")))
            else:
                await send(socket, frame)
                await asyncio.sleep(1 / FRAMES_PER_S)

    async def flush(self, socket: ClientConnection, timeout_s: float) -> None:
        """Send every ack now, because the socket is about to be closed."""
        with contextlib.suppress(TimeoutError, ConnectionClosed):
            async with asyncio.timeout(timeout_s):
                for topic, (_, version) in self._acks.items():
                    await send(socket, Ack(topic, version))
        self._acks.clear()

    def _next_frame(self, now: float) -> Inbound | None:
        while self._asks:
            topic, is_wanted = self._asks.popitem()
            if not is_wanted:
                return Unsubscribe(topic)
            if topic in self._topics:
                return Subscribe(topic, self._topics[topic].version)
        if self._nacks:
            topic, (version, reason) = self._nacks.popitem()
            return Nack(topic, version, reason)
        for topic, (at, version) in self._acks.items():
            if at <= now:
                del self._acks[topic]
                return Ack(topic, version)
        return None


async def woken(event: asyncio.Event, at: float) -> None:
    """Clear `event`, and wait until it is set or the monotonic clock reaches `at`."""
    event.clear()
    wait_s = at - time.monotonic()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(None if wait_s == float("inf") else max(0.0, wait_s)):
            await event.wait()


async def send(socket: ClientConnection, frame: Inbound) -> None:
    """Send a frame."""
    await socket.send(write(frame).decode())
