"""The expects of all sockets: each is a browser's wait for a version newer than its own, for a limited time.

One that names a checkout also ends once a worker has read that and it is in the topic's state: its webhook may have
come before the browser did, and then no newer version follows.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING

from gateway.hub.hub import Hub
from gateway.metrics import Metrics
from gateway.ws import protocol
from gateway.ws.deadlines import Deadlines

if TYPE_CHECKING:
    from gateway.ws.session_socket import SessionSocket

PROVIDER_DELAY_S = 1.0
"""Seconds before an expect queries the provider, so that the webhook can arrive first."""

EXPECTS_PER_SOCKET = 64
"""Maximum pending expects of one socket; a further one is answered `too_many_expects`."""

ASKS_BURST, ASK_EVERY_S = 8, 5.0
"""How many expects of one socket may query a provider at once, and how often after that. Others only wait."""

CHECKOUTS_MAX = 500
"""Maximum checkouts about which the store is asked at once."""

_Expect = tuple["SessionSocket", str, int, str]
"""Socket, topic, the version to be exceeded, and the checkout or ""."""


class Expects:
    """Pending expects and their deadlines."""

    def __init__(self, hub: Hub, metrics: Metrics, tick_s: float) -> None:
        """Start without expects. The owner calls `tick` about every `tick_s` seconds."""
        self._hub = hub
        self._metrics = metrics
        self._deadlines: Deadlines[_Expect] = Deadlines(tick_s)
        self._pending: dict[SessionSocket, dict[_Expect, int]] = {}
        self._awaited: Deadlines[_Expect] = Deadlines(tick_s)
        self._reads: dict[tuple[str, str], set[_Expect]] = {}  # by topic and checkout: those that are being read
        self._asks_until: dict[SessionSocket, float] = {}

    def __len__(self) -> int:
        return len(self._deadlines)

    def add(self, socket: SessionSocket, topic: str, after: int, timeout_s: float, checkout: str = "") -> None:
        """Answer an expect: with the newer version if there is one, else with `pending`.

        Args:
            socket: a socket that is subscribed to the topic.
            topic: its name.
            after: the version to be exceeded.
            timeout_s: seconds until the expect expires.
            checkout: the provider's id of the checkout that the browser has returned from; "" if it names none.
        """
        self._metrics.expects += 1
        subscription = socket.session.topics[topic]
        if subscription.sent > after:
            socket.write_text(protocol.current(topic, subscription.sent))
            return
        item, now = (socket, topic, after, checkout), time.monotonic()
        pending = self._pending.setdefault(socket, {})
        if item in pending:
            self._deadlines.discard(pending[item], item)  # sent again: its time starts again
        elif len(pending) >= EXPECTS_PER_SOCKET and not self._drop_met(socket, pending):
            message = f"more than {EXPECTS_PER_SOCKET} expects are pending on this socket"
            socket.write_text(protocol.error("too_many_expects", message, topic))
            return
        pending[item] = self._deadlines.add(now + timeout_s, item)
        socket.write_text(protocol.pending(topic, after))
        if self._may_ask(socket, now):
            self._awaited.add(now + min(PROVIDER_DELAY_S, timeout_s / 2), item)

    def _may_ask(self, socket: SessionSocket, now: float) -> bool:
        """Return whether one more expect of a socket may query a provider, and count it then."""
        until = max(self._asks_until.get(socket, 0.0), now) + ASK_EVERY_S
        if until - now > ASKS_BURST * ASK_EVERY_S:
            return False
        self._asks_until[socket] = until
        return True

    def _drop_met(self, socket: SessionSocket, pending: dict[_Expect, int]) -> bool:
        """Drop the expects that are met, which otherwise stay until they expire; return whether there were any."""
        topics = socket.session.topics
        met = [item for item in pending if item[1] not in topics or topics[item[1]].sent > item[2]]
        for item in met:
            self._deadlines.discard(pending.pop(item), item)
            self._forget_read(item)
        return bool(met)

    def _forget_read(self, item: _Expect) -> None:
        _, topic, _, checkout = item
        waiting = self._reads.get((topic, checkout), set())
        waiting.discard(item)
        if not waiting:
            self._reads.pop((topic, checkout), None)

    def checkouts(self) -> list[tuple[str, str]]:
        """Return up to CHECKOUTS_MAX topics and checkouts that are being read, those not returned for longest first."""
        found = list(islice(self._reads, CHECKOUTS_MAX))
        for key in found if len(found) < len(self._reads) else ():
            self._reads[key] = self._reads.pop(key)
        return found

    def applied(self, topic: str, checkout: str, version: int) -> None:
        """End the expects of a checkout that is in the topic's state at `version`, once a socket has that version."""
        for item in list(self._reads.get((topic, checkout), ())):
            socket = item[0]
            subscription = socket.session.topics.get(topic)
            if subscription is None or subscription.sent >= version:
                self._forget_read(item)
                pending = self._pending.get(socket, {})
                self._deadlines.discard(pending.pop(item, 0), item)
                if subscription is not None:
                    socket.write_text(protocol.current(topic, subscription.sent, checkout))

    def drop(self, socket: SessionSocket) -> None:
        """Drop the expects of an ended socket."""
        self._asks_until.pop(socket, None)
        for item, bucket in self._pending.pop(socket, {}).items():
            self._deadlines.discard(bucket, item)
            self._forget_read(item)

    def tick(self, now: float) -> None:
        """Query providers for expects that are not met yet, and end those that expire. `now`: monotonic seconds."""
        for item in self._awaited.due(now):
            socket, topic, after, checkout = item
            live = self._hub.topic(topic)
            if live is not None and live.version > after:
                continue
            if not checkout:
                self._hub.want_reconcile(topic)
                continue
            self._hub.want_checkout(topic, checkout)
            if item in self._pending.get(socket, {}):
                self._reads.setdefault((topic, checkout), set()).add(item)
        for item in self._deadlines.due(now):
            socket, topic, after, _ = item
            self._forget_read(item)
            pending = self._pending.get(socket, {})
            pending.pop(item, None)
            if not pending:
                self._pending.pop(socket, None)
            subscription = socket.session.topics.get(topic)
            if subscription is not None and subscription.sent <= after:
                self._metrics.expects_expired += 1
                socket.write_text(protocol.expired(topic, after))
