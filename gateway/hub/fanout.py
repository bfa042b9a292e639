"""Delivers a version to every subscription of its topic, at most CHUNK of them in each turn of the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from os import write as write_fd
from typing import TypeVar

from gateway.hub.delivery import Delivery
from gateway.hub.topic import LiveTopic
from gateway.metrics import Metrics

T = TypeVar("T")

CHUNK = 256
"""Sockets served in one turn of the event loop: a write takes about 8 us, and a turn should stay below 5 ms."""


def in_chunks(items: Sequence[T], do: Callable[[T], None]) -> None:
    """Call `do` for each item: for the first chunk at once, for each further one in a later turn of the event loop.

    Args:
        items: is not changed meanwhile.
        do: checks whether what led to the call still holds: for later chunks it may not.
    """
    _do_from(items, do, 0)


def _do_from(items: Sequence[T], do: Callable[[T], None], start: int) -> None:
    for item in items[start : start + CHUNK]:
        do(item)
    if start + CHUNK < len(items):
        asyncio.get_running_loop().call_soon(_do_from, items, do, start + CHUNK)


class FanOut:
    """Delivers versions to crowds."""

    def __init__(self, metrics: Metrics, delivery: Delivery) -> None:
        self._metrics = metrics
        self._delivery = delivery
        self._unfinished: deque[LiveTopic] = deque()

    def deliver(self, live: LiveTopic) -> None:
        """Send the newest version to every subscription; the first chunk at once."""
        if not live.begin_round():
            self._metrics.conflated += 1
        elif live.remaining <= CHUNK:
            self._deliver_chunk(live)
        else:
            self._unfinished.append(live)
            if len(self._unfinished) == 1:
                self._deliver_next()

    def _deliver_next(self) -> None:
        """Deliver one chunk of one topic; the topics with a round under way take turns."""
        live = self._unfinished.popleft()
        try:
            self._deliver_chunk(live)
        finally:
            if live.remaining:
                self._unfinished.append(live)
            if self._unfinished:
                asyncio.get_running_loop().call_soon(self._deliver_next)

    def _deliver_chunk(self, live: LiveTopic) -> None:
        """Do what `Delivery.send_latest` does, in line for subscriptions that drain and lack only the newest.

        Nearly all do, and hold what the one before them holds. This loop is what a delivery costs beyond its system
        call.
        """
        chunk = live.next_chunk(CHUNK)
        version, base, metrics = live.version, live.base or None, self._metrics
        held: int | None = None
        deflate = False
        encoded, size, count = b"", 0, 0
        for subscription in chunk:
            socket = subscription.socket
            fd = socket.direct_fd
            if subscription.sent != held or socket.deflate is not deflate or fd < 0:
                if fd < 0 or not 0 <= subscription.sent < version:
                    self._delivery.send_latest(subscription)
                    continue
                metrics.delivered(count, size, held == base)
                held, deflate, count = subscription.sent, socket.deflate, 0
                encoded = live.frame(held == base, deflate)
                size = len(encoded)
            subscription.sent = version
            count += 1
            try:
                sent = write_fd(fd, encoded)
            except OSError:  # it takes no more, or is gone
                sent = 0
            if sent != size:
                socket.write_remainder(encoded, sent)
        metrics.delivered(count, size, held == base)

    def close_erased_soon(self, live: LiveTopic) -> None:
        """End every subscription if the topic was erased: in the next turn, because the caller may be opening one."""
        if live.erased:
            asyncio.get_running_loop().call_soon(self._close_erased, live)

    def _close_erased(self, live: LiveTopic) -> None:
        if live.erased:
            for subscription in live.subscriptions[-CHUNK:]:  # each that ends leaves the list
                self._delivery.send_latest(subscription)
                subscription.socket.end(live.name, "erased")
            if live.subscriptions:
                asyncio.get_running_loop().call_soon(self._close_erased, live)
