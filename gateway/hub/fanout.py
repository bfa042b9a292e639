"""Delivers versions: to one browser, and to all of a topic, at most CHUNK of them in each turn of the event loop."""

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
    """Call `do` for each item: for the first chunk at once, for each further one in a later turn of the event loop.

    Args:
        items: is not changed meanwhile.
        do: checks whether what led to the call still holds: for later chunks it may not.
        start: the first item that is due.
    """
    for item in items[start : start + CHUNK]:
        do(item)
    if start + CHUNK < len(items):
        asyncio.get_running_loop().call_soon(in_chunks, items, do, start + CHUNK)


class FanOut:
    """Sends each browser the newest version, that it has the newest, or the way back to it. It never waits."""

    def __init__(
        self, metrics: Metrics, request_read: Callable[[str], None], want_reconcile: Callable[[str], None]
    ) -> None:
        """Take what a browser that holds something unknown leads to.

        Args:
            metrics: count what is sent.
            request_read: has a topic read from the store soon.
            want_reconcile: has a topic whose newest state is lost compared with its provider.
        """
        self._metrics = metrics
        self._request_read = request_read
        self._want_reconcile = want_reconcile
        self._unfinished: deque[LiveTopic] = deque()

    # To one browser.

    def send_initial(self, subscription: Subscription) -> None:
        """Answer a subscribe: with the newest state, or that what the browser holds is the newest."""
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
            subscription.sent = held or UNKNOWN  # a browser that holds nothing is also sent that there is no state
            self._send_newest(subscription)

    def send_latest(self, subscription: Subscription) -> None:
        """Send what the browser lacks: the newest version, or the way back to it. Nothing if it has that."""
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
        """Send the browser back to what there is: what it holds is lost."""
        if not self._is_draining(subscription):
            return
        live = subscription.live
        subscription.sent = live.version
        self._metrics.resets += 1
        self._want_reconcile(live.name)
        text = protocol.snapshot(live.name, live.version, live.state, live.cause, reset=True)
        subscription.socket.write(frames.text(text, False))

    def _is_draining(self, subscription: Subscription) -> bool:
        """Return whether the socket takes a state now. If not, the topic is noted to be sent later."""
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

    # To all of a topic.

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
        """Do what `send_latest` does, in line for subscriptions that drain and lack only the newest.

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
                self.send_latest(subscription)
                subscription.socket.end(live.name, "erased")
            if live.subscriptions:
                asyncio.get_running_loop().call_soon(self._close_erased, live)
