"""The HTTP connections of one process, opening handshakes included: how many there may be, and how long each may wait.

A connection belongs here from its acceptance until it ends, or until its socket has said hello. Everything that the
gateway waits for a client to do has a deadline. Where there is no room for a new connection, the one that has waited
longest for its client is dropped, so that clients which hold connections without using them keep nobody out.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Protocol

from gateway.addresses import LOCAL, Network, TrustedProxies, canonical, group
from gateway.metrics import Metrics
from gateway.settings import GatewaySettings
from sync.state import logs

HEAD_TIMEOUT_S = 5.0
"""From connecting until the request head is complete, or from a later head's first byte; beyond: dropped."""

LOOK_S = 0.25
"""Between two looks at all connections. One that is late is dropped at the second look that finds it late: after a
standstill of the process, what came meanwhile is read between the two."""

ANSWER_SLACK_S = 1.0
"""How much later than the handler a connection gives up on a request's body: the handler's 408 comes first."""

DESCRIPTORS_FREED = 8
"""Connections dropped at a look that finds no descriptor free."""

ADDRESSES_KEPT = 4096
"""Peers whose address is remembered as limits count it."""

LOGGER = "gateway.connections"

_RESET = struct.pack("ii", 1, 0)


class Wait(Enum):
    """What a client has to do next."""

    HEAD = "finish a request head"
    BODY = "finish the body of a request that is being served"
    REST = "finish the body of a request that has been answered"
    READ = "read an answer"
    NEXT = "send another request"
    HELLO = "say hello on a new socket"


REASONS = {Wait.HEAD: "head_timeout", Wait.BODY: "body_timeout", Wait.REST: "body_timeout"}
"""What a connection is dropped for that waits too long, where no timer of its own ends it."""


EVENTS = {
    "head_timeout": "connection_late",
    "body_timeout": "connection_late",
    "send_timeout": "connection_late",
    "address": "address_full",
    "connections_max": "connections_full",
    "descriptors": "connection_dropped",
}
"""Every reason to drop or refuse a connection, and what the log calls it."""


class Connection(Protocol):
    """What is needed of a connection."""

    @property
    def transport(self) -> asyncio.Transport | None:
        """Its transport."""

    def abort(self) -> None:
        """End it at once, whatever waits to be sent."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How many connections there may be, and how long they may wait.

    Attributes:
        total: connections in all.
        per_address: connections of one client address, as the TCP peer has it. Trusted proxies have no such limit.
        body_timeout_s: seconds a body may take, and its rest after the answer once more.
        send_timeout_s: seconds without progress that an answer may wait to be read.
        proxies: the trusted proxies.
    """

    total: int = 4096
    per_address: int = 2000
    body_timeout_s: float = 10.0
    send_timeout_s: float = 10.0
    proxies: Sequence[Network] = ()

    @classmethod
    def of(cls, settings: GatewaySettings) -> Limits:
        """Return the limits that the settings give."""
        return cls(
            settings.connections_max,
            settings.connections_per_address,
            settings.body_timeout_s,
            settings.send_timeout_s,
            settings.trusted_proxies,
        )


class _Entry:
    """What is noted of a connection: whose it is, what it waits for, and what it has still to send."""

    __slots__ = ("address", "is_late", "moved_at", "unsent_bytes", "until", "wait")

    def __init__(self, address: str) -> None:
        self.address = address
        self.wait: Wait | None = None
        self.until = math.inf
        self.is_late = False
        self.unsent_bytes = 0
        self.moved_at = 0.0


class HttpConnections:
    """All HTTP connections of the process, the one that has waited longest for its client first."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self._entries: dict[Connection, _Entry] = {}
        self._waiting: dict[Connection, None] = {}
        self._by_address: dict[str, dict[Connection, None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        proxies = TrustedProxies(limits.proxies)

        @lru_cache(ADDRESSES_KEPT)
        def address_of(peer: str) -> str:
            return "" if peer == LOCAL or proxies.includes(peer) else group(canonical(peer))

        self._address_of = address_of

    def __len__(self) -> int:
        return len(self._entries)

    # Connections come, wait, and go.

    def enter(self, connection: Connection, peer: str) -> str:
        """Take in a new connection, which waits for its first head. Another one may be dropped for it.

        Args:
            connection: the connection.
            peer: the address of the TCP peer, or LOCAL.

        Returns:
            Empty; or the limit that is reached and leaves no room, `address` or `connections_max`.
        """
        address = self._address_of(peer)
        of_address = self._by_address.get(address, {})
        if len(of_address) >= self._limits.per_address and not self._make_room("address", of_address):
            self._note("address", address)
            return "address"
        if len(self._entries) >= self._limits.total and not self._make_room("connections_max", self._waiting):
            self._note("connections_max", address)
            return "connections_max"
        if address:
            self._by_address.setdefault(address, {})[connection] = None
        self._entries[connection] = _Entry(address)
        self._metrics.http_connections = len(self._entries)
        self.waits(connection, Wait.HEAD)
        return ""

    def replace(self, connection: Connection, other: Connection) -> None:
        """Have `other` take over: the same connection, with another protocol. Its clock runs on."""
        entry = self._entries.pop(connection)
        self._entries[other] = entry
        # To the end of each order: its client has just sent something.
        if connection in self._waiting:
            del self._waiting[connection]
            self._waiting[other] = None
        if entry.address:
            of_address = self._by_address[entry.address]
            del of_address[connection]
            of_address[other] = None

    def waits(self, connection: Connection, wait: Wait | None) -> None:
        """Note what the connection's client has to do next; None: nothing, the gateway is serving it."""
        entry = self._entries.get(connection)
        if entry is None or entry.wait is wait:
            return
        entry.wait, entry.is_late = wait, False
        entry.until = time.monotonic() + self._timeout_s(wait)
        self._waiting.pop(connection, None)
        if wait is not None:
            self._waiting[connection] = None
        if entry.address:
            of_address = self._by_address[entry.address]
            del of_address[connection]
            of_address[connection] = None

    def _timeout_s(self, wait: Wait | None) -> float:
        match wait:
            case Wait.HEAD:
                return HEAD_TIMEOUT_S
            case Wait.BODY:
                return self._limits.body_timeout_s + ANSWER_SLACK_S
            case Wait.REST:
                return self._limits.body_timeout_s
            case _:
                return math.inf

    def leave(self, connection: Connection) -> None:
        """Forget a connection that has ended, or is a greeted socket now. Said twice, it does nothing."""
        entry = self._entries.pop(connection, None)
        if entry is None:
            return
        self._waiting.pop(connection, None)
        if entry.address:
            of_address = self._by_address[entry.address]
            del of_address[connection]
            if not of_address:
                del self._by_address[entry.address]
        self._metrics.http_connections = len(self._entries)

    # Connections are dropped.

    def _make_room(self, reason: str, among: dict[Connection, None]) -> bool:
        """Drop the connection among these that has waited longest for its client; return whether there is one."""
        for connection in among:
            if connection in self._waiting:
                address = self._entries[connection].address
                self._drop(connection)
                self._note(reason, address)
                return True
        return False

    def _drop(self, connection: Connection) -> None:
        transport, wait = connection.transport, self._entries[connection].wait
        self.leave(connection)
        raw = None if transport is None or wait is Wait.NEXT else transport.get_extra_info("socket")
        if raw is not None:
            # Reset: else the kernel keeps for minutes what the client does not read.
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        connection.abort()

    def _note(self, reason: str, address: str) -> None:
        self._metrics.connections_dropped[reason] += 1
        logs.limited(LOGGER, EVENTS[reason], reason=reason, address=address or "proxy", connections=len(self._entries))

    # Time passes.

    def start(self) -> None:
        """Look at all connections every LOOK_S from now on."""
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._tick)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        self.start()
        self.look(time.monotonic())

    def look(self, now: float) -> None:
        """Drop every connection that is late at `now` (monotonic) and was so when last looked at."""
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
        """Return what the connection is late with, or empty."""
        unsent_bytes = 0 if connection.transport is None else connection.transport.get_write_buffer_size()
        if unsent_bytes:
            if not entry.unsent_bytes or unsent_bytes < entry.unsent_bytes:
                entry.moved_at = now
            elif now - entry.moved_at > self._limits.send_timeout_s:
                return "send_timeout"
        entry.unsent_bytes = unsent_bytes
        return REASONS[entry.wait] if entry.wait in REASONS and now > entry.until else ""

    def _free_descriptors(self) -> None:
        """Drop some connections: without a descriptor nobody can connect, and the store is out of reach too."""
        self._metrics.accept_failures += 1
        hint = "raise the limit on open files (ulimit -n, LimitNOFILE=, nofile)"
        logs.limited(LOGGER, "descriptors_exhausted", connections=len(self._entries), hint=hint)
        for _ in range(DESCRIPTORS_FREED):
            if not self._make_room("descriptors", self._waiting):
                return


def _is_descriptor_free() -> bool:
    """Return whether this process can open one more file. uvloop accepts and closes what it has none for, unsaid."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return False
    return True
