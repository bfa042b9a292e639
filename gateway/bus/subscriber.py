"""The process's reader of the bus: a raw subscriber connection per shard that hands over announcements as they arrive.

The bus is a hint, never the truth. Every confirmed subscription, first or renewed, is reported, and whoever owns the
topic reads the store after it: subscribe, then read. This module reads nothing there and knows no topic's state.
A store that is no Cluster has one shard; a Cluster's shards come and go, and channels move from one to another.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

import hiredis
import structlog

from sync.store.redis.connect import CONNECT_TIMEOUT_S
from sync.store.redis.pubsub import Bus
from sync.store.redis.slots import Layout, redirection, slot_of
from sync.store.store import StoreError

log = structlog.get_logger()

BATCH = 500
"""Channels per SUBSCRIBE command."""

RECONNECT_MIN_S = 0.05
RECONNECT_MAX_S = 2.0

PLACE_AGAIN_S = 0.1
"""How soon a subscription is asked for again that a server would not take, and the least time between two looks at
where all channels belong."""

PLACE_AGAIN_MAX_S = 1.0
HOPS_MAX = 4
"""How often a channel is followed from server to server at once; after that they disagree, and time has to tell."""

MOVE_GRACE_S = 1.0
"""How long a channel may be on its way from one shard to another until it counts as lost. Shorter than it takes to
notice that a shard has gone deaf."""


class _Subscriber(asyncio.Protocol):
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


REPLICA_ROLES = (b"replica", b"slave")


class _Reader:
    """The connection to one shard.

    Attributes:
        pending: channels it was asked for and has not confirmed.
    """

    def __init__(self, subscriber: BusSubscriber, shard: str, is_sharded: bool) -> None:
        self.shard = shard
        self.pending: dict[bytes, None] = {}
        self._feed = subscriber
        self._is_sharded = is_sharded
        head = b"s" if is_sharded else b""
        self._message, self._subscribed = head + b"message", head + b"subscribe"
        self._unsubscribed = head + b"unsubscribe"
        self._on_message = subscriber.on_message
        self._asked: dict[bytes, None] = {}
        self._logins: list[str] = []  # commands sent before the first subscription that are not answered yet
        self._transport: asyncio.WriteTransport | None = None
        self._lost: asyncio.Future[None] | None = None

    @property
    def connected(self) -> bool:
        return self._transport is not None

    def reset(self) -> None:
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)

    async def run(self) -> None:
        """Connect, subscribe, and do so again whenever the connection is lost, until cancelled."""
        delay_s = RECONNECT_MIN_S
        while True:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await self._connect()
                connected_at = time.monotonic()
                assert self._lost is not None
                await self._lost
                log.warning("feed_lost", shard=self.shard)
                if time.monotonic() - connected_at > RECONNECT_MAX_S:
                    delay_s = RECONNECT_MIN_S  # a server that hangs up at once is not to be stormed
            except (OSError, TimeoutError, StoreError) as error:
                log.warning("feed_unreachable", shard=self.shard, error=str(error) or type(error).__name__)
            finally:
                self._disconnect()
            self._feed.doubt()
            await asyncio.sleep(random.uniform(0, delay_s))  # noqa: S311 - jitter
            delay_s = min(RECONNECT_MAX_S, delay_s * 2)

    async def _connect(self) -> None:
        where = await self._feed.bus.endpoint(self.shard)
        loop = asyncio.get_running_loop()
        lost: asyncio.Future[None] = loop.create_future()

        def factory() -> _Subscriber:
            return _Subscriber(self._reply, lost)

        if where.path is not None:
            transport, _ = await loop.create_unix_connection(factory, where.path)
        else:
            transport, _ = await loop.create_connection(factory, where.host, where.port, ssl=where.tls)
        self._lost, self._transport = lost, transport
        self._logins = []
        if where.password is not None:
            secret = (where.username, where.password) if where.username else (where.password,)
            transport.write(_pack(("AUTH", *secret)))
            self._logins.append("AUTH")
        if not self._is_sharded:
            # A name that is about to be moved may still lead to the old primary, a replica by now. What that one has
            # missed while it caught up it never announces.
            transport.write(_pack((b"HELLO",)))
            self._logins.append("HELLO")
        for channel in self._feed.channels_of(self):
            self.ask(channel)

    def _disconnect(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
            self._asked.clear()
            self.pending.clear()
            self._feed.reader_lost(self)

    def ask(self, channel: bytes) -> None:
        """Subscribe `channel`; calls within one turn of the event loop share a command. Later, if not connected."""
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
        # uvloop takes a write to a transport that is closing for a mistake. What is not sent now is asked for again on
        # the next connection, like everything.
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _flush(self) -> None:
        channels, self._asked = list(self._asked), {}
        if self._transport is None or not channels:
            return
        self.pending.update(dict.fromkeys(channels))
        if self._is_sharded:
            # A server takes no channels of different slots in one command.
            slots: dict[int, list[bytes]] = {}
            for channel in channels:
                slots.setdefault(slot_of(channel), []).append(channel)
            commands = [(b"SSUBSCRIBE", *together) for together in slots.values()]
        else:
            commands = [(b"SUBSCRIBE", *batch) for batch in _batches(channels, BATCH)]
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
                self._feed.confirmed(self, channel)
            elif kind == self._unsubscribed and channel not in self._asked and channel not in self.pending:
                self._feed.unsubscribed(self, channel)
        elif isinstance(reply, hiredis.ReplyError):
            self._refused(str(reply))

    def _logged_in(self, command: str, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError):
            # A proxy in between may not know HELLO, which is no reason to stay deaf.
            if command == "AUTH" or str(reply).startswith("NOAUTH"):
                self._refused(str(reply))
        elif command == "HELLO" and isinstance(reply, list):
            fields = zip(reply[::2], reply[1::2], strict=False)
            if any(name == b"role" and value in REPLICA_ROLES for name, value in fields):
                log.warning("feed_at_replica", shard=self.shard)
                self.reset()

    def _refused(self, error: str) -> None:
        kind, _, rest = error.partition(" ")
        if self._is_sharded and kind == "MOVED":
            self._feed.moved(self, rest)
        elif self._is_sharded and kind in ("CLUSTERDOWN", "TRYAGAIN", "LOADING", "MASTERDOWN"):
            self._feed.doubt()
        else:
            log.error("feed_refused", shard=self.shard, error=error)
            self.reset()


class BusSubscriber:
    """Keeps the wanted channels subscribed, over every reconnect and wherever they move.

    Callbacks run on the event loop and must not wait: `on_message(channel, payload)`, `on_subscribed(channel)` after
    each confirmation, `on_lost(channels)` when nothing is heard of these any more, until each is confirmed anew.
    """

    def __init__(
        self,
        bus: Bus,
        on_message: Callable[[bytes, bytes], None],
        on_subscribed: Callable[[bytes], None],
        on_lost: Callable[[Collection[bytes]], None],
    ) -> None:
        self.bus = bus
        self.on_message = on_message
        self._on_subscribed = on_subscribed
        self._on_lost = on_lost
        self._wanted: dict[bytes, int] = {}
        self._places: dict[bytes, _Reader] = {}  # where it was last asked for
        self._moving: dict[bytes, tuple[float, int]] = {}  # since when, and how many hops
        self._readers: dict[str, _Reader] = {}
        self._changed = asyncio.Event()
        self._is_doubted = True
        bus.listen(self._changed.set)
        bus.listen_left(self._left)

    @property
    def layout(self) -> Layout | None:
        """Which shard announces what, as far as is known."""
        return self.bus.layout

    @property
    def connected(self) -> bool:
        """Whether every shard has its connection, and every channel a shard. Says nothing about what comes through."""
        layout = self.bus.layout
        if layout is None or len(self._places) < len(self._wanted):
            return False
        return all(self.hears(shard) for shard in layout.shards)

    def hears(self, shard: str) -> bool:
        """Whether there is a connection to this shard."""
        reader = self._readers.get(shard)
        return reader is not None and reader.connected

    def add(self, channel: bytes) -> None:
        """Subscribe `channel`."""
        self._wanted[channel] = slot_of(channel) if self.bus.is_sharded else 0
        self._place(channel)

    def discard(self, channel: bytes) -> None:
        """Unsubscribe `channel`."""
        self._wanted.pop(channel, None)
        self._moving.pop(channel, None)
        reader = self._places.pop(channel, None)
        if reader is not None:
            reader.drop(channel)

    def reset(self, shard: str) -> None:
        """Drop the connection to a shard and make a new one: it is up but silent."""
        if (reader := self._readers.get(shard)) is not None:
            reader.reset()

    def _left(self) -> None:
        """Connect anew to the server that the store has left: there nothing is announced any more."""
        for reader in self._readers.values():
            reader.reset()

    async def run(self) -> None:
        """Keep a reader at every shard, and every channel at its shard's, until cancelled."""
        running: dict[str, asyncio.Task[None]] = {}
        pause_s = PLACE_AGAIN_S
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                pause_s = PLACE_AGAIN_S if await self._look() else min(PLACE_AGAIN_MAX_S, 2 * pause_s)
                started = time.monotonic()
                layout = self.bus.layout
                if layout is not None:
                    for shard in running.keys() - set(layout.shards):
                        running.pop(shard).cancel()
                        del self._readers[shard]
                    for shard in set(layout.shards) - running.keys():
                        reader = self._readers[shard] = _Reader(self, shard, self.bus.is_sharded)
                        running[shard] = group.create_task(reader.run(), name=f"feed {shard}")
                    self._settle(layout)
                # Looking at everything must not become all there is to do.
                await asyncio.sleep(max(pause_s, 10 * (time.monotonic() - started)))
                await self._wait()

    async def _look(self) -> bool:
        """Whether the layout is known, and read anew if that was asked for."""
        if not self._is_doubted and self.bus.layout is not None:
            return True
        self._is_doubted = False
        try:
            await self.bus.refresh()
        except StoreError as error:
            log.warning("feed_unplaced", error=str(error))
            self.doubt()
            return False
        return True

    async def _wait(self) -> None:
        """Return when the layout has changed or is doubted; at once while anything is on its way."""
        while not self._changed.is_set():
            if not self._moving:
                await self._changed.wait()
                return
            await asyncio.sleep(PLACE_AGAIN_S)
            now = time.monotonic()
            overdue = [channel for channel, (since, _) in self._moving.items() if now - since > MOVE_GRACE_S]
            if overdue:
                self._moving.update(dict.fromkeys(overdue, (now, 0)))
                self._on_lost(overdue)
                self.doubt()

    def _settle(self, layout: Layout) -> None:
        """Ask for whatever is not where it belongs, and for what nobody has confirmed yet."""
        waiting = {channel for reader in self._readers.values() for channel in reader.pending}
        for channel, slot in self._wanted.items():
            reader = self._places.get(channel)
            owner = layout.owner(slot)
            if reader is None or reader.shard != owner or self._readers.get(reader.shard) is not reader:
                self._place(channel)
            elif channel in waiting:
                reader.ask(channel)

    def _place(self, channel: bytes) -> None:
        """Ask for `channel` where it belongs, as far as is known."""
        layout = self.bus.layout
        owner = None if layout is None else layout.owner(self._wanted[channel])
        reader = None if owner is None else self._readers.get(owner)
        if reader is None:
            self._places.pop(channel, None)
            self._is_doubted = self._is_doubted or owner is None
            self._changed.set()
            return
        before = self._places.get(channel)
        self._places[channel] = reader
        if before is not None and before is not reader:
            self._moving.setdefault(channel, (time.monotonic(), 0))
            before.pending.pop(channel, None)
        reader.ask(channel)

    # What readers tell.

    def channels_of(self, reader: _Reader) -> list[bytes]:
        """Return every channel that belongs to the reader, and count them as asked for there."""
        layout = self.bus.layout
        if layout is None:
            return []
        found = [channel for channel, slot in self._wanted.items() if layout.owner(slot) == reader.shard]
        self._places.update(dict.fromkeys(found, reader))
        return found

    def doubt(self) -> None:
        """Have the layout read anew, and asked again for what nobody has confirmed."""
        self._is_doubted = True
        self._changed.set()

    def confirmed(self, reader: _Reader, channel: bytes) -> None:
        """Take note that the reader hears `channel` from now on."""
        if channel in self._wanted and self._places.get(channel) is reader:
            self._moving.pop(channel, None)
            self._on_subscribed(channel)

    def unsubscribed(self, reader: _Reader, channel: bytes) -> None:
        """Subscribe anew a channel that was taken away behind our back, or is wanted again since.

        On a Cluster its slot has gone to another shard: asked again, the server says to which.
        """
        if channel in self._wanted and self._places.get(channel) is reader:
            self._moving.setdefault(channel, (time.monotonic(), 0))
            self._place(channel)
            self._changed.set()

    def moved(self, reader: _Reader, where: str) -> None:
        """Ask elsewhere for what the reader's server says is not its own: `where` is `SLOT HOST:PORT`."""
        try:
            slot, shard = redirection(where, reader.shard.rpartition(":")[0])
        except ValueError:
            log.error("feed_refused", shard=reader.shard, error=f"MOVED {where}")
            reader.reset()
            return
        self.bus.moved(slot, shard)
        for channel in [channel for channel in reader.pending if slot_of(channel) == slot]:
            if channel not in self._wanted:
                del reader.pending[channel]
                continue
            since, hops = self._moving.get(channel, (time.monotonic(), 0))
            self._moving[channel] = since, hops + 1
            if hops < HOPS_MAX:
                del reader.pending[channel]
                self._place(channel)
        self.doubt()

    def reader_lost(self, reader: _Reader) -> None:
        """Tell the owner of the channels that the reader heard, or was to hear."""
        lost = [channel for channel, place in self._places.items() if place is reader]
        for channel in lost:
            del self._places[channel]
            self._moving.pop(channel, None)
        self._on_lost(lost)


def _pack(command: tuple[bytes | str, ...]) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]
    return packed


def _batches(items: list[bytes], size: int) -> Iterable[list[bytes]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
