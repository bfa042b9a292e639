"""Proves at every interval that the bus delivers: one canary per shard, committed through the store like any change.

A canary that comes back older shows that its shard has lost commits, for example in a failover: maybe commits of facts
alone, which leave no version that differs. Workers then have the shard's tenants compared with their provider.

`fresh` means two things: every shard has returned a canary that was sent less than two intervals ago, and every topic
was read again after its shard was last lost. Silence means stale, which is sent to every socket at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import orjson
import structlog

from gateway.bus.subscriber import BusSubscriber
from gateway.hub.hub import Hub
from planwire_client.core.topic import PROBE_KIND
from sync.core import announcement
from sync.store.models import Change, StoreError
from sync.store.redis.slots import Layout, slot_of, variants
from sync.store.store import Store

log = structlog.get_logger()

STALE_AFTER = 1.75
"""Probe intervals without proof until stale. Below two, to leave room for the timing of the check itself."""

KEEP_S = 120
"""Seconds that a canary's keys outlive their gateway."""


@dataclass
class _Canary:
    """The canary of one shard.

    Attributes:
        verified_at: when the newest canary that came back was sent, monotonic.
        connected_at: when its shard's connection came up, monotonic.
        version: the version of its last commit; 0: none yet.
        is_older: its shard has lost commits, and that is not in the workers' queue yet.
        sent: when each canary under way was sent, by its number.
    """

    topic: str
    channel: bytes
    verified_at: float
    shard: str = ""
    connected_at: float = math.inf
    version: int = 0
    is_older: bool = False
    sent: dict[int, float] = field(default_factory=dict)


class Probe:
    """The canaries of one gateway process. `on_change` is called whenever `hub.fresh` has changed.

    Attributes:
        missed: number of canaries that had not come back within one interval.
        lost_tails: number of canaries that came back older: their shard had lost commits.
    """

    def __init__(
        self,
        store: Store,
        hub: Hub,
        subscriber: BusSubscriber,
        node: str,
        interval_s: float,
        on_change: Callable[[], None],
    ) -> None:
        self.canaries: dict[bytes, _Canary] = {}
        self._name = f"{PROBE_KIND}:{node}"
        self._store = store
        self._hub = hub
        self._feed = subscriber
        self._interval_s = interval_s
        self._valid_s = STALE_AFTER * interval_s
        self._on_change = on_change
        self._layout: Layout | None = None
        self._prompted = asyncio.Event()
        self._was_fresh = False
        self._count = 0
        self._quiet = store.quiet
        self._quiet_at = -math.inf
        self.missed = 0
        self.lost_tails = 0

    @property
    def _verified_at(self) -> float:
        """The oldest proof of all shards: monotonic, -inf while a shard has none."""
        return min((canary.verified_at for canary in self.canaries.values()), default=-math.inf)

    def heard(self, channel: bytes, payload: bytes) -> None:
        """Record a canary from the bus. It proves that everything its shard announced before it has been delivered."""
        canary = self.canaries.get(channel)
        try:
            count = orjson.loads(announcement.parse(payload).state)["count"]
        except (ValueError, KeyError, TypeError):
            return
        sent_at = None if canary is None else canary.sent.pop(count, None)
        if canary is not None and sent_at is not None and sent_at > canary.verified_at:
            canary.verified_at = sent_at
            if (verified_at := self._verified_at) > -math.inf:
                self._hub.set_verified(int((time.time() - (time.monotonic() - verified_at)) * 1e6))
            self.check()

    def check(self) -> None:
        """Set until when the hub is fresh, and call `on_change` if `fresh` has changed. Called on every tick."""
        self._choose()
        has_lapsed = not self._hub.fresh  # maybe by time alone, and a heartbeat may already have sent it
        is_current = self._feed.connected and not self._hub.unread
        self._hub.set_fresh_until(self._verified_at + self._valid_s if is_current else -math.inf)
        fresh = self._hub.fresh
        if fresh != self._was_fresh or (fresh and has_lapsed):
            self._was_fresh = fresh
            if fresh:
                log.info("fresh", verified_at_us=self._hub.verified_at_us)
            else:
                age_s = time.monotonic() - self._verified_at
                log.warning("stale", probe_age_s=round(age_s, 3), connected=self._feed.connected)
            self._on_change()
        for canary in self.canaries.values():
            self._check_shard(canary)
        # Only a canary that is sent after facts shows that they are lost.
        if self._store.quiet != self._quiet and time.monotonic() - self._quiet_at >= self._interval_s / 10:
            self._quiet, self._quiet_at = self._store.quiet, time.monotonic()
            self.prompt()

    def _check_shard(self, canary: _Canary) -> None:
        now = time.monotonic()
        if not self._feed.hears(canary.shard):
            canary.connected_at = math.inf
        elif canary.connected_at == math.inf:
            canary.connected_at = now
        elif now >= canary.verified_at + self._valid_s and now - canary.connected_at > 2 * self._interval_s:
            # Up but silent. A new connection ends the silence, and every topic of the shard is read again.
            canary.connected_at = math.inf
            self._feed.reset(canary.shard)

    def _choose(self) -> None:
        """Keep one canary in every shard of the current layout."""
        layout = self._feed.bus.layout
        if layout is None or layout is self._layout:
            return
        self._layout = layout
        placed = {layout.owner(slot_of(channel)): canary for channel, canary in self.canaries.items()}
        chosen: dict[bytes, _Canary] = {}
        for shard in layout.shards:
            canary = placed.get(shard) or self._hatch(layout, shard)
            if canary is not None:
                canary.shard = shard
                chosen[canary.channel] = canary
        gone, new = self.canaries.keys() - chosen.keys(), chosen.keys() - self.canaries.keys()
        self.canaries = chosen
        for channel in gone:
            self._feed.discard(channel)
        for channel in new:
            self._feed.add(channel)
        if new:
            self.prompt()

    def _hatch(self, layout: Layout, shard: str) -> _Canary | None:
        """Return a canary for a shard; None if no variant of its name is in the shard's few slots."""
        channels = ((name, self._store.keys.channel(name).encode()) for name in variants(self._name))
        found = next(((name, channel) for name, channel in channels if layout.owner(slot_of(channel)) == shard), None)
        # While the hub is fresh, a new shard gets as much time for its first proof as the others for their next.
        return None if found is None else _Canary(*found, self._verified_at if self._hub.fresh else -math.inf)

    def prompt(self) -> None:
        """Send canaries now: a channel has just been subscribed, perhaps after the last canary."""
        self._prompted.set()

    async def run(self) -> None:
        """Send a canary to every shard every interval, and when prompted, until cancelled."""
        while True:
            self._choose()
            self._prompted.clear()
            self._count += 1
            canaries = list(self.canaries.values())
            async with asyncio.TaskGroup() as group:
                for canary in canaries:
                    group.create_task(self._send(canary, self._count))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._interval_s):
                        await self._prompted.wait()
            if not self._prompted.is_set():
                self.missed += sum(self._count in canary.sent for canary in canaries)

    async def _send(self, canary: _Canary, number: int) -> None:
        for count in [count for count in canary.sent if count < number - 10]:
            del canary.sent[count]
        canary.sent[number] = time.monotonic()
        try:
            async with asyncio.timeout(self._interval_s):
                await self._commit(canary, number)
        except (StoreError, TimeoutError) as error:
            log.warning("probe_failed", shard=canary.shard, error=str(error) or "timeout")

    async def _commit(self, canary: _Canary, number: int) -> None:
        """Commit a canary. If the store has an older one than was committed before, its shard has lost commits."""
        change = Change(canary.topic, orjson.dumps({"count": number}))
        pipeline = self._store.pipeline()
        pipeline.command("HGET", self._store.keys.snap(canary.topic), "version")
        self._store.add_commit(pipeline, change)
        found, reply = await pipeline.run()
        stored, committed = int(found or 0), self._store.committed(change, reply)
        # One that is gone may just have expired, if this process stood still.
        if stored < canary.version and (stored or committed.version - canary.version < KEEP_S * 1_000_000):
            canary.is_older = True
            self.lost_tails += 1
            log.error("store_lost_tail", shard=canary.shard, committed=canary.version, stored=stored)
        canary.version = committed.version
        await self._store.expire(canary.topic, KEEP_S)
        if canary.is_older:
            await self._store.request(self._store.keys.lost_tails, [canary.topic])
            canary.is_older = False
