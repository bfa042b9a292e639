"""Delivers versions to one browser, or to all browsers of a topic: at most CHUNK in each turn of the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from os import write as write_fd
from typing import TypeVar

from gateway.hub.subscription import AHEAD, UNKNOWN, Subscription
from gateway.hub.topic import LiveTopic
from gateway.metrics import Metrics
from gateway.ws import frames, protocol

T = TypeVar("T")

CHUNK = 256
"""Sockets served in one turn of the event loop: a write takes about 8 us, and a turn should stay below 5 ms."""


def in_chunks(items: Sequence[T], do: Callable[[T], None], start: int = 0) -> None:
    """Call `do` for each item: the first chunk now, each further chunk in a later turn of the event loop.

    Args:
        items: must not change meanwhile.
        do: must check that its work is still needed: things may change before later chunks.
        start: index of the first item.
    """
    for item in items[start : start + CHUNK]:
        do(item)
    if start + CHUNK < len(items):
        asyncio.get_running_loop().call_soon(in_chunks, items, do, start + CHUNK)


class FanOut:
    """Sends each browser the newest version, a `current` frame, or a reset to the newest version. It never waits."""

    def __init__(
        self, metrics: Metrics, request_read: Callable[[str], None], want_reconcile: Callable[..., None]
    ) -> None:
        """Create it with the callables for browsers that hold an unknown version.

        Args:
            metrics: counts deliveries.
            request_read: requests a read of a topic from the store.
            want_reconcile: requests that a topic whose given version is lost is compared with its provider.
        """
        self._metrics = metrics
        self._request_read = request_read
        self._want_reconcile = want_reconcile
        self._unfinished: deque[LiveTopic] = deque()

    # One browser.

    def send_initial(self, subscription: Subscription) -> None:
        """Answer a subscribe: with the newest state, or with `current` if the browser has it."""
        live, held = subscription.live, subscription.client_version
        if held > live.version:
            # Either this process is behind, or the store has lost its newest versions. The store decides.
            subscription.sent = AHEAD
            live.verifying = True
            self._request_read(live.name)
        elif held == live.version and held:
            subscription.sent = held
            subscription.socket.write(frames.text(protocol.current(live.name, held), False))
        else:
            subscription.sent = held or UNKNOWN  # UNKNOWN: "no state" is sent as well
            self._send_newest(subscription)

    def send_latest(self, subscription: Subscription) -> None:
        """Send the newest version if the browser does not have it; reset a browser whose version is lost."""
        live = subscription.live
        is_ahead = subscription.sent == AHEAD and subscription.client_version > live.version
        if is_ahead or subscription.sent > live.version:
            if not live.verifying:
                self._reset(subscription)
        elif subscription.sent < 0:
            if live.known:
                self.send_initial(subscription)
        elif subscription.sent < live.version:
            self._send_newest(subscription)

    def _reset(self, subscription: Subscription) -> None:
        """Send the newest version as a reset: the browser's newer version is lost."""
        if not self._is_draining(subscription):
            return
        live = subscription.live
        lost, subscription.sent = max(subscription.client_version, subscription.sent), live.version
        self._metrics.resets += 1
        self._want_reconcile(live.name, lost)
        text = protocol.snapshot(live.name, live.version, live.state, live.cause, reset=True)
        subscription.socket.write(frames.text(text, False))

    def _is_draining(self, subscription: Subscription) -> bool:
        """Return whether the socket accepts a state now. If not, record the topic for later."""
        pending = subscription.socket.pending
        if pending is None:
            return True
        if subscription in pending:
            self._metrics.replaced += 1
        pending[subscription] = None
        return False

    def _send_newest(self, subscription: Subscription) -> None:
        live, socket = subscription.live, subscription.socket
        if not self._is_draining(subscription):
            return
        as_patch = live.base != 0 and live.base == subscription.sent
        subscription.sent = live.version
        encoded = live.frame(as_patch, socket.deflate)
        self._metrics.delivered(1, len(encoded), as_patch)
        socket.write(encoded)

    # All browsers of a topic.

    def deliver(self, live: LiveTopic) -> None:
        """Send the newest version to every subscription; the first chunk now."""
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
        """Do what `send_latest` does, with an inlined fast path for sockets that drain and need one frame.

        Nearly all take the fast path, with the same frame as the subscription before. Besides the system call, this
        loop is the whole cost of a delivery.
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
                    self.send_latest(subscription)
                    continue
                metrics.delivered(count, size, held == base)
                held, deflate, count = subscription.sent, socket.deflate, 0
                encoded = live.frame(held == base, deflate)
                size = len(encoded)
            subscription.sent = version
            count += 1
            try:
                sent = write_fd(fd, encoded)
            except OSError:  # its buffer is full, or the connection is gone
                sent = 0
            if sent != size:
                socket.write_remainder(encoded, sent)
        metrics.delivered(count, size, held == base)

    def close_erased_soon(self, live: LiveTopic) -> None:
        """End every subscription of an erased topic, in the next turn: the caller may just be opening one."""
        if live.erased:
            asyncio.get_running_loop().call_soon(self._close_erased, live)

    def _close_erased(self, live: LiveTopic) -> None:
        if live.erased:
            for subscription in live.subscriptions[-CHUNK:]:  # `end` removes it from the list
                self.send_latest(subscription)
                subscription.socket.end(live.name, "erased")
            if live.subscriptions:
                asyncio.get_running_loop().call_soon(self._close_erased, live)
