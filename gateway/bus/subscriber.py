"""Keeps every wanted channel subscribed at the shard that owns it, over reconnects and moves.

The bus is only a hint. Every confirmed subscription is reported, and then the topic is read from the store, which has
the truth. A single server is one shard. The shards of a Cluster come and go, and channels move between them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection

import structlog

from gateway.bus.connection import ShardConnection
from sync.store.models import StoreError
from sync.store.redis.pubsub import Bus
from sync.store.redis.slots import Layout, redirection, slot_of

log = structlog.get_logger()

PLACE_AGAIN_S, PLACE_AGAIN_MAX_S = 0.1, 1.0
"""Bounds of the pause before channels are placed again, in seconds. It doubles while the layout cannot be read."""

HOPS_MAX = 4
"""Redirections that a channel follows immediately. Beyond it the servers disagree, and the channel is retried later."""

MOVE_GRACE_S = 1.0
"""Seconds that a channel may take to move between shards before it counts as lost. This is shorter than the time to
notice a silent shard."""


class BusSubscriber:
    """Keeps the wanted channels subscribed, across reconnects and moves.

    Attributes:
        bus: where the shards are.
        on_message: see `__init__`.
    """

    def __init__(
        self,
        bus: Bus,
        on_message: Callable[[bytes, bytes], None],
        on_subscribed: Callable[[bytes], None],
        on_lost: Callable[[Collection[bytes]], None],
    ) -> None:
        """Create it without channels. `run` connects.

        Args:
            bus: where the shards are.
            on_message: takes channel and payload. All callbacks run on the event loop and return immediately.
            on_subscribed: takes a channel, after each confirmation of its subscription.
            on_lost: takes channels without a subscription; each is confirmed again later.
        """
        self.bus = bus
        self.on_message = on_message
        self._on_subscribed = on_subscribed
        self._on_lost = on_lost
        self._wanted: dict[bytes, int] = {}
        self._places: dict[bytes, ShardConnection] = {}  # where each channel was last requested
        self._moving: dict[bytes, tuple[float, int]] = {}  # start of each move, and its number of hops
        self._connections: dict[str, ShardConnection] = {}
        self._changed = asyncio.Event()
        self._is_doubted = True
        bus.listen(self._changed.set)
        bus.listen_left(self.reset)

    @property
    def connected(self) -> bool:
        """Whether every shard has a connection, and every channel a shard. A shard may be silent all the same."""
        layout = self.bus.layout
        if layout is None or len(self._places) < len(self._wanted):
            return False
        return all(self.hears(shard) for shard in layout.shards)

    def hears(self, shard: str) -> bool:
        """Whether there is a connection to this shard."""
        connection = self._connections.get(shard)
        return connection is not None and connection.connected

    def add(self, channel: bytes) -> None:
        """Subscribe `channel`."""
        self._wanted[channel] = slot_of(channel) if self.bus.is_sharded else 0
        self._place(channel)

    def discard(self, channel: bytes) -> None:
        """Unsubscribe `channel`."""
        self._wanted.pop(channel, None)
        self._moving.pop(channel, None)
        connection = self._places.pop(channel, None)
        if connection is not None:
            connection.drop(channel)

    def reset(self, shard: str | None = None) -> None:
        """Replace the connection to a shard that is up but silent.

        None: all connections, because the store has moved to another server and the old one announces nothing.
        """
        for name, connection in self._connections.items():
            if shard in (None, name):
                connection.reset()

    async def run(self) -> None:
        """Keep a connection to every shard, and every channel subscribed at its shard, until cancelled."""
        running: dict[str, asyncio.Task[None]] = {}
        pause_s = PLACE_AGAIN_S
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                pause_s = PLACE_AGAIN_S if await self._refresh() else min(PLACE_AGAIN_MAX_S, 2 * pause_s)
                started = time.monotonic()
                layout = self.bus.layout
                if layout is not None:
                    for shard in running.keys() - set(layout.shards):
                        running.pop(shard).cancel()
                        del self._connections[shard]
                    for shard in set(layout.shards) - running.keys():
                        connection = self._connections[shard] = ShardConnection(self, shard)
                        running[shard] = group.create_task(connection.run(), name=f"feed {shard}")
                    self._place_all(layout)
                # Spend at most about 10 % of the time on this.
                await asyncio.sleep(max(pause_s, 10 * (time.monotonic() - started)))
                await self._wait()

    async def _refresh(self) -> bool:
        """Read the layout again if it may be outdated; return whether it is known."""
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
        """Wait until the layout may have changed; meanwhile report channels that take too long to move."""
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

    def _place_all(self, layout: Layout) -> None:
        """Subscribe every channel that is at the wrong shard or not confirmed."""
        waiting = {channel for connection in self._connections.values() for channel in connection.pending}
        for channel, slot in self._wanted.items():
            connection = self._places.get(channel)
            owner = layout.owner(slot)
            if connection is None or owner is None or self._connections.get(owner) is not connection:
                self._place(channel)
            elif channel in waiting:
                connection.ask(channel)

    def _place(self, channel: bytes) -> None:
        """Subscribe `channel` at the shard that owns it, if that is known."""
        layout = self.bus.layout
        owner = None if layout is None else layout.owner(self._wanted[channel])
        connection = None if owner is None else self._connections.get(owner)
        if connection is None:
            self._places.pop(channel, None)
            self._is_doubted = self._is_doubted or owner is None
            self._changed.set()
            return
        before = self._places.get(channel)
        self._places[channel] = connection
        if before is not None and before is not connection:
            self._moving.setdefault(channel, (time.monotonic(), 0))
            before.pending.pop(channel, None)  # that confirmation no longer matters
        connection.ask(channel)

    # Called by the connections.

    def channels_of(self, connection: ShardConnection) -> list[bytes]:
        """Return every channel of the connection's shard, and record that they are requested there."""
        layout = self.bus.layout
        if layout is None:
            return []
        found = [channel for channel, slot in self._wanted.items() if layout.owner(slot) == connection.shard]
        self._places.update(dict.fromkeys(found, connection))
        return found

    def doubt(self) -> None:
        """Request a new read of the layout, and new subscriptions of the channels that are not confirmed."""
        self._is_doubted = True
        self._changed.set()

    def confirmed(self, connection: ShardConnection, channel: bytes) -> None:
        """Record that `channel` is subscribed at this connection."""
        if channel in self._wanted and self._places.get(channel) is connection:
            self._moving.pop(channel, None)
            self._on_subscribed(channel)

    def unsubscribed(self, connection: ShardConnection, channel: bytes) -> None:
        """Resubscribe a channel that the server has unsubscribed, or that was added again meanwhile.

        On a Cluster its slot has moved to another shard. The server names that shard in its reply to the new request.
        """
        if channel in self._wanted and self._places.get(channel) is connection:
            self._moving.setdefault(channel, (time.monotonic(), 0))
            self._place(channel)
            self._changed.set()

    def moved(self, connection: ShardConnection, where: str) -> None:
        """Follow a MOVED reply: subscribe the slot's channels at another shard. `where` is `SLOT HOST:PORT`."""
        try:
            slot, shard = redirection(where, connection.shard.rpartition(":")[0])
        except ValueError:
            log.error("feed_refused", shard=connection.shard, error=f"MOVED {where}")
            connection.reset()
            return
        self.bus.moved(slot, shard)
        for channel in [channel for channel in connection.pending if slot_of(channel) == slot]:
            if channel not in self._wanted:
                connection.pending.pop(channel, None)
                continue
            since, hops = self._moving.get(channel, (time.monotonic(), 0))
            self._moving[channel] = since, hops + 1
            if hops < HOPS_MAX:
                connection.pending.pop(channel, None)
                self._place(channel)
        self.doubt()

    def connection_lost(self, connection: ShardConnection) -> None:
        """Report the channels of an ended connection as lost."""
        lost = [channel for channel, place in self._places.items() if place is connection]
        for channel in lost:
            del self._places[channel]
            self._moving.pop(channel, None)
        self._on_lost(lost)
