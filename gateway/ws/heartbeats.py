"""Heartbeats to all sockets, each with a ping: spread over the interval, and immediate when freshness changes."""

from __future__ import annotations

import time
from collections.abc import Container
from functools import partial
from typing import TYPE_CHECKING

from gateway.hub.ack_policy import is_outdated
from gateway.hub.fanout import in_chunks
from gateway.hub.hub import Hub
from gateway.ws import frames, protocol

if TYPE_CHECKING:
    from gateway.ws.session_socket import SessionSocket

UNANSWERED_MAX = 3
"""Heartbeats without any data from the client after which a connection counts as half-open."""

ABNORMAL_CLOSURE = 1006
"""The close code of a connection that ended without a close frame (RFC 6455 section 7.1.5)."""


class Heartbeats:
    """The sockets with an accepted hello, in one group per tick of the interval. Each tick serves one group."""

    def __init__(self, hub: Hub, sockets: Container[SessionSocket], ticks: int) -> None:
        """Serve each group every `ticks` ticks. `sockets`: all open sockets."""
        self._hub = hub
        self._sockets = sockets
        self._groups: list[set[SessionSocket]] = [set() for _ in range(max(1, ticks))]
        self._turn = 0
        self._ack_rule = hub.acks.rule()
        self._advice_ticks = 0  # remaining ticks whose group is also sent the rule for acks
        self._freshness_at = 0.0

    def group(self, socket: SessionSocket) -> set[SessionSocket]:
        """Return the group of a socket. The socket is sent heartbeats while it is in the group."""
        return self._groups[hash(socket.session.id) % len(self._groups)]

    def tick(self) -> None:
        """Send the next group its heartbeat; if the rule for acks has changed enough, also that rule, for one round."""
        rule = self._hub.acks.rule()
        if is_outdated(self._ack_rule, rule):
            self._ack_rule = rule
            self._advice_ticks = len(self._groups)
        self._turn = (self._turn + 1) % len(self._groups)
        if group := self._groups[self._turn]:
            data = self._heartbeat() + frames.PING
            for socket in list(group):
                self._send(socket, data)
                if self._advice_ticks:
                    for subscription in socket.session.topics.values():
                        self._hub.acks.send_policy(subscription)
        self._advice_ticks = max(0, self._advice_ticks - 1)

    def _send(self, socket: SessionSocket, data: bytes) -> None:
        if socket.pending is not None:
            return  # it does not drain; `stalled` limits that
        if socket.count_heartbeat() > UNANSWERED_MAX:
            socket.abort(ABNORMAL_CLOSURE)
        else:
            socket.write(data)

    def _heartbeat(self) -> bytes:
        return frames.text(protocol.heartbeat(time.time_ns() // 1000, self._hub.fresh, self._hub.verified_at_us), False)

    def announce_freshness(self) -> None:
        """Send every socket at once whether the bus is proved to deliver."""
        self._freshness_at = time.monotonic()
        in_chunks([socket for group in self._groups for socket in group], partial(self._announce, self._heartbeat()))

    def _announce(self, data: bytes, socket: SessionSocket) -> None:
        if socket.pending is None and socket in self._sockets:
            socket.write(data)

    def catch_up(self, socket: SessionSocket, since: float) -> None:
        """Send the current freshness to a socket that drains again, if it changed `since` (monotonic)."""
        if self._freshness_at >= since:
            socket.write(self._heartbeat())
