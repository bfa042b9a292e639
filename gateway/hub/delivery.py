"""What one browser is sent: the newest version, that it has the newest, or the way back to it."""

from __future__ import annotations

from collections.abc import Callable

from gateway.hub.subscription import AHEAD, UNKNOWN, Subscription
from gateway.metrics import Metrics
from gateway.ws import frames, protocol


class Delivery:
    """Sends versions to single subscriptions; never waits."""

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

    def send_initial(self, subscription: Subscription) -> None:
        """Answer a subscribe: with the newest state, or that what the browser holds is the newest."""
        live, held = subscription.live, subscription.client_version
        if held > live.version:
            # Either this process is behind, or the store has lost its newest versions. The store decides.
            subscription.sent = AHEAD
            live.verify()
            self._request_read(live.name)
        elif held == live.version and held:
            subscription.sent = held
            subscription.socket.write(frames.text(protocol.current(live.name, held), False))
        else:
            subscription.sent = held or UNKNOWN  # a browser that holds nothing is also sent that there is no state
            self._send(subscription)

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
            self._send(subscription)

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
        if pending.offer(subscription):
            self._metrics.replaced += 1
        return False

    def _send(self, subscription: Subscription) -> None:
        live, socket = subscription.live, subscription.socket
        if not self._is_draining(subscription):
            return
        as_patch = live.base != 0 and live.base == subscription.sent
        subscription.sent = live.version
        encoded = live.frame(as_patch, socket.deflate)
        self._metrics.delivered(1, len(encoded), as_patch)
        socket.write(encoded)
