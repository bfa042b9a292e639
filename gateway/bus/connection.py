"""The connection to one shard's server: subscribes channels and delivers messages as they arrive.

The RESP parser runs in `data_received`, so a message costs no task switch.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import hiredis
import structlog

from sync.store.models import StoreError
from sync.store.redis.connect import CONNECT_TIMEOUT_S
from sync.store.redis.slots import slot_of

if TYPE_CHECKING:
    from gateway.bus.subscriber import BusSubscriber

log = structlog.get_logger()

BATCH = 500
"""Channels per SUBSCRIBE command."""

RECONNECT_MIN_S = 0.05
RECONNECT_MAX_S = 2.0
"""Bounds of the backoff before a new connection, in seconds. It doubles each time, with jitter."""

REPLICA_ROLES = (b"replica", b"slave")


class _RespProtocol(asyncio.Protocol):
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


class ShardConnection:
    """The connection to one shard.

    Attributes:
        shard: the shard's name.
        pending: channels that were requested here and are not confirmed yet.
    """

    def __init__(self, owner: BusSubscriber, shard: str) -> None:
        """Create the connection to `shard` for `owner`. `run` opens it."""
        self.shard = shard
        self.pending: dict[bytes, None] = {}
        self._owner = owner
        self._is_sharded = owner.bus.is_sharded
        head = b"s" if self._is_sharded else b""
        self._message, self._subscribed = head + b"message", head + b"subscribe"
        self._unsubscribed = head + b"unsubscribe"
        self._on_message = owner.on_message
        self._asked: dict[bytes, None] = {}
        self._logins: list[str] = []  # login commands without a reply yet
        self._transport: asyncio.WriteTransport | None = None
        self._lost: asyncio.Future[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether there is a transport. The server may be silent all the same."""
        return self._transport is not None

    def reset(self) -> None:
        """Drop the connection; `run` makes a new one."""
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)

    async def run(self) -> None:
        """Connect and subscribe, again after every loss of the connection, until cancelled."""
        delay_s = RECONNECT_MIN_S
        while True:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    lost = await self._connect()
                connected_at = time.monotonic()
                await lost
                log.warning("feed_lost", shard=self.shard)
                if time.monotonic() - connected_at > RECONNECT_MAX_S:
                    delay_s = RECONNECT_MIN_S  # only after a connection that lasted
            except (OSError, TimeoutError, StoreError) as error:
                log.warning("feed_unreachable", shard=self.shard, error=str(error) or type(error).__name__)
            finally:
                self._disconnect()
            self._owner.doubt()
            await asyncio.sleep(random.uniform(0, delay_s))  # noqa: S311 - jitter
            delay_s = min(RECONNECT_MAX_S, delay_s * 2)

    async def _connect(self) -> asyncio.Future[None]:
        """Connect and subscribe. Return a future that is done when the connection is lost."""
        where = await self._owner.bus.endpoint(self.shard)
        loop = asyncio.get_running_loop()
        lost: asyncio.Future[None] = loop.create_future()
        protocol = _RespProtocol(self._reply, lost)
        if where.path is not None:
            transport, _ = await loop.create_unix_connection(lambda: protocol, where.path)
        else:
            transport, _ = await loop.create_connection(lambda: protocol, where.host, where.port, ssl=where.tls)
        self._lost, self._transport = lost, transport
        self._log_in(transport, where.username, where.password)
        for channel in self._owner.channels_of(self):
            self.ask(channel)
        return lost

    def _log_in(self, transport: asyncio.WriteTransport, username: str | None, password: str | None) -> None:
        self._logins = []
        if password is not None:
            secret = (username, password) if username else (password,)
            transport.write(_pack(("AUTH", *secret)))
            self._logins.append("AUTH")
        if not self._is_sharded:
            # The name may still resolve to the old primary. It is a replica now and never announces what it missed.
            transport.write(_pack((b"HELLO",)))
            self._logins.append("HELLO")

    def _disconnect(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
            self._asked.clear()
            self.pending.clear()
            self._owner.connection_lost(self)

    def ask(self, channel: bytes) -> None:
        """Subscribe `channel`, now or once connected; calls within one turn of the event loop share a command."""
        if self._transport is None:
            return
        if not self._asked:
            asyncio.get_running_loop().call_soon(self._flush)
        self._asked[channel] = None

    def drop(self, channel: bytes) -> None:
        """Unsubscribe `channel`."""
        self._asked.pop(channel, None)
        self.pending.pop(channel, None)
        if self._transport is not None:
            self._write(_pack((b"SUNSUBSCRIBE" if self._is_sharded else b"UNSUBSCRIBE", channel)))

    def _write(self, data: bytes) -> None:
        # uvloop reports a write to a closing transport as an error. The next connection subscribes every channel.
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _flush(self) -> None:
        channels, self._asked = list(self._asked), {}
        if self._transport is None or not channels:
            return
        self.pending.update(dict.fromkeys(channels))
        if self._is_sharded:
            # All channels of one command must be in the same slot.
            slots: dict[int, list[bytes]] = {}
            for channel in channels:
                slots.setdefault(slot_of(channel), []).append(channel)
            commands = [(b"SSUBSCRIBE", *together) for together in slots.values()]
        else:
            commands = [(b"SUBSCRIBE", *channels[start : start + BATCH]) for start in range(0, len(channels), BATCH)]
        self._write(b"".join(map(_pack, commands)))

    def _reply(self, reply: Any) -> None:
        if self._logins:
            self._logged_in(self._logins.pop(0), reply)
        elif isinstance(reply, list):
            kind, channel = reply[0], reply[1]
            if kind == self._message:
                self._on_message(channel, reply[2])
            elif kind == self._subscribed:
                self.pending.pop(channel, None)
                self._owner.confirmed(self, channel)
            elif kind == self._unsubscribed and channel not in self._asked and channel not in self.pending:
                self._owner.unsubscribed(self, channel)
        elif isinstance(reply, hiredis.ReplyError):
            self._rejected(str(reply))

    def _logged_in(self, command: str, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError):
            # A proxy may not support HELLO. Subscribing works without it.
            if command == "AUTH" or str(reply).startswith("NOAUTH"):
                self._rejected(str(reply))
        elif command == "HELLO" and isinstance(reply, list):
            fields = zip(reply[::2], reply[1::2], strict=False)
            if any(name == b"role" and value in REPLICA_ROLES for name, value in fields):
                log.warning("feed_at_replica", shard=self.shard)
                self.reset()

    def _rejected(self, error: str) -> None:
        kind, _, rest = error.partition(" ")
        if self._is_sharded and kind == "MOVED":
            self._owner.moved(self, rest)
        elif self._is_sharded and kind in ("CLUSTERDOWN", "TRYAGAIN", "LOADING", "MASTERDOWN"):
            self._owner.doubt()
        else:
            log.error("feed_refused", shard=self.shard, error=error)
            self.reset()


def _pack(command: tuple[bytes | str, ...]) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]
    return packed
