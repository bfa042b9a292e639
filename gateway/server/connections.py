"""Limits and deadlines of the HTTP connections of one process. Opening handshakes are included.

A connection is counted from its acceptance until it ends, or until its socket has received a hello. Each step that the
gateway expects from a client has a deadline. When a limit is reached, the connection that has been waiting longest for
its client is closed to make room for the new one. A client that holds idle connections thus cannot lock out others.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import struct
import time
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Protocol

from gateway.auth.addresses import LOCAL, TrustedProxies, canonical, group
from gateway.metrics import Metrics
from gateway.settings import GatewaySettings
from sync.process import logs

HEAD_TIMEOUT_S = 5.0
"""Time from connecting, or from the first byte of a later request, until the request head is complete."""

LOOK_S = 0.25
"""Interval between two checks of all connections. A connection is closed by the second check that finds it late, so
that data which arrived while the process was suspended is read first."""

ANSWER_SLACK_S = 1.0
"""Extra time for a request's body beyond the handler's own limit, so that the handler can answer 408 first."""

DESCRIPTORS_FREED = 8
"""Connections closed by a check that finds no free descriptor."""

ADDRESSES_KEPT = 4096
"""Size of the cache from a peer's address to the address or network that limits count."""

LOGGER = "gateway.server.connections"

_RESET = struct.pack("ii", 1, 0)


class Wait(Enum):
    """What the gateway expects from a client next."""

    HEAD = "finish a request head"
    BODY = "finish the body of a request that is being served"
    REST = "finish the body of a request that has been answered"
    READ = "read an answer"
    NEXT = "send another request"
    HELLO = "say hello on a new socket"


REASONS = {Wait.HEAD: "head_timeout", Wait.BODY: "body_timeout", Wait.REST: "body_timeout"}
"""Reason for closing a connection that is late, for the waits that have their deadline here."""

EVENTS = {
    "head_timeout": "connection_late",
    "body_timeout": "connection_late",
    "send_timeout": "connection_late",
    "address": "address_full",
    "connections_max": "connections_full",
    "descriptors": "connection_dropped",
}
"""Log event of each reason for closing or refusing a connection."""


class Connection(Protocol):
    """The parts of a connection that this module uses."""

    @property
    def transport(self) -> asyncio.Transport | None:
        """The transport; None before it is connected."""

    def abort(self) -> None:
        """Close the connection at once and discard unsent data."""


@dataclass(slots=True)
class _Entry:
    """State of one connection: address, current wait and its deadline, unsent bytes at the last check."""

    address: str
    wait: Wait | None = None
    until: float = math.inf
    is_late: bool = False
    unsent_bytes: int = 0
    moved_at: float = 0.0


class HttpConnections:
    """All HTTP connections of the process, ordered by how long each has been waiting for its client."""

    _timer: asyncio.TimerHandle

    def __init__(self, settings: GatewaySettings, metrics: Metrics) -> None:
        """Create an empty registry with the limits in `settings`. An IPv6 /64 counts as one address."""
        self._settings = settings
        self._metrics = metrics
        self._entries: dict[Connection, _Entry] = {}
        self._waiting: dict[Connection, None] = {}
        self._by_address: dict[str, dict[Connection, None]] = {}
        self._proxies = TrustedProxies(settings.trusted_proxies)
        self._address_of = lru_cache(ADDRESSES_KEPT)(self._find_address)

    def _find_address(self, peer: str) -> str:
        """Return the key under which limits count a TCP peer; empty for a trusted proxy, which is exempt."""
        return "" if peer == LOCAL or self._proxies.includes(peer) else group(canonical(peer))

    def __len__(self) -> int:
        return len(self._entries)

    # Registering.

    def add(self, connection: Connection, peer: str) -> str:
        """Register a new connection. If a limit is reached, close another one to make room.

        Args:
            connection: the connection.
            peer: the address of the TCP peer, or LOCAL.

        Returns:
            An empty string; if there is no room, the limit: `address` or `connections_max`.
        """
        address = self._address_of(peer)
        of_address = self._by_address.get(address, {})
        is_full = bool(address) and len(of_address) >= self._settings.connections_per_address
        if is_full and not self._make_room("address", of_address):
            return self._note("address", address)
        is_full = len(self._entries) >= self._settings.connections_max
        if is_full and not self._make_room("connections_max", self._waiting):
            return self._note("connections_max", address)
        self._by_address.setdefault(address, {})[connection] = None
        self._entries[connection] = _Entry(address)
        self._metrics.http_connections = len(self._entries)
        self.waits(connection, Wait.HEAD)
        return ""

    def replace(self, connection: Connection, other: Connection) -> None:
        """Register `other` in place of `connection`: the same TCP connection with another protocol. Deadlines stay."""
        entry = self._entries.pop(connection)
        self._entries[other] = entry
        # Move it to the end of both orders, because its client has just sent something.
        if connection in self._waiting:
            del self._waiting[connection]
            self._waiting[other] = None
        of_address = self._by_address[entry.address]
        del of_address[connection]
        of_address[other] = None

    def waits(self, connection: Connection, wait: Wait | None) -> None:
        """Set what the gateway expects from the client next; None while the gateway is serving a request."""
        entry = self._entries.get(connection)
        if entry is None or entry.wait is wait:
            return
        entry.wait, entry.is_late = wait, False
        entry.until = time.monotonic() + self._timeout_s(wait)
        self._waiting.pop(connection, None)
        if wait is not None:
            self._waiting[connection] = None
        of_address = self._by_address[entry.address]
        del of_address[connection]
        of_address[connection] = None

    def _timeout_s(self, wait: Wait | None) -> float:
        """Return the time a wait may take. The rest of a body gets a new full body timeout."""
        if wait is Wait.HEAD:
            return HEAD_TIMEOUT_S
        if wait is Wait.BODY:
            return self._settings.body_timeout_s + ANSWER_SLACK_S
        return self._settings.body_timeout_s if wait is Wait.REST else math.inf

    def remove(self, connection: Connection) -> None:
        """Remove a connection that has ended, or whose socket has received its hello. A second call does nothing."""
        entry = self._entries.pop(connection, None)
        if entry is None:
            return
        self._waiting.pop(connection, None)
        of_address = self._by_address[entry.address]
        del of_address[connection]
        if not of_address:
            del self._by_address[entry.address]
        self._metrics.http_connections = len(self._entries)

    # Closing.

    def _make_room(self, reason: str, among: dict[Connection, None]) -> bool:
        """Close the one of these connections that has waited longest. Return False if all are being served."""
        for connection in among:
            if connection in self._waiting:
                address = self._entries[connection].address
                self._drop(connection)
                self._note(reason, address)
                return True
        return False

    def _drop(self, connection: Connection) -> None:
        transport, wait = connection.transport, self._entries[connection].wait
        self.remove(connection)
        raw = None if transport is None or wait is Wait.NEXT else transport.get_extra_info("socket")
        if raw is not None:
            # Reset the connection; otherwise the kernel keeps unread data for minutes.
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        connection.abort()

    def _note(self, reason: str, address: str) -> str:
        """Count and log a connection that was closed or refused; return the reason."""
        self._metrics.connections_dropped[reason] += 1
        logs.limited(LOGGER, EVENTS[reason], reason=reason, address=address or "proxy", connections=len(self._entries))
        return reason

    # Checking.

    def start(self) -> None:
        """Start checking all connections every LOOK_S."""
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._tick)

    def stop(self) -> None:
        """Stop checking."""
        self._timer.cancel()

    def _tick(self) -> None:
        self.start()
        self.look(time.monotonic())

    def look(self, now: float) -> None:
        """Close every connection that is late now and was late at the last check. `now`: monotonic seconds."""
        for connection, entry in list(self._entries.items()):
            reason = self._lateness(connection, entry, now)
            if not reason:
                entry.is_late = False
            elif not entry.is_late:
                entry.is_late = True
            else:
                self._drop(connection)
                self._note(reason, entry.address)
        if not _is_descriptor_free():
            self._free_descriptors()

    def _lateness(self, connection: Connection, entry: _Entry, now: float) -> str:
        """Return the reason why the connection is late, or an empty string."""
        unsent_bytes = 0 if connection.transport is None else connection.transport.get_write_buffer_size()
        if unsent_bytes:
            if not entry.unsent_bytes or unsent_bytes < entry.unsent_bytes:
                entry.moved_at = now
            elif now - entry.moved_at > self._settings.send_timeout_s:
                return "send_timeout"
        entry.unsent_bytes = unsent_bytes
        return REASONS[entry.wait] if entry.wait in REASONS and now > entry.until else ""

    def _free_descriptors(self) -> None:
        """Close some connections; without a free descriptor no client and no store connection can be opened."""
        self._metrics.accept_failures += 1
        hint = "raise the limit on open files (ulimit -n, LimitNOFILE=, nofile)"
        logs.limited(LOGGER, "descriptors_exhausted", connections=len(self._entries), hint=hint)
        for _ in range(DESCRIPTORS_FREED):
            if not self._make_room("descriptors", self._waiting):
                return


def _is_descriptor_free() -> bool:
    """Return whether this process can open one more file.

    uvloop does not report a failed accept: it closes the connection silently.
    """
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return False
    return True
