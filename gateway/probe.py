"""Proves, again and again, that the bus delivers: a canary committed through the store like any change.

`fresh` means: a canary sent less than two intervals ago has come back, and every topic was read again since the bus was
last lost. Silence means stale, and every socket is told so at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable

import orjson
import structlog

from gateway.feed import Feed
from gateway.hub import Hub
from sync.state import announcement, keys
from sync.state.store import Change, Store, StoreError
from sync.state.topic import PROBE_KIND

log = structlog.get_logger()

STALE_AFTER = 1.75
"""Probe intervals without proof until stale: within two of going deaf, with room for the check's own timing."""

KEEP_S = 120
"""How long a canary's keys outlive their gateway."""


class Probe:
    """The canary of one gateway process. `on_change` is called whenever `hub.fresh` has changed.

    `missed`: how many canaries had not come back when the interval after them was over.
    """

    def __init__(
        self, store: Store, hub: Hub, feed: Feed, node: str, interval_s: float, on_change: Callable[[], None]
    ) -> None:
        self.topic = f"{PROBE_KIND}:{node}"
        self.channel = keys.slot(self.topic).encode()
        self._store = store
        self._hub = hub
        self._feed = feed
        self._interval_s = interval_s
        self._on_change = on_change
        self._verified_at = -math.inf  # monotonic
        self._connected_at = math.inf
        self._prompted = asyncio.Event()
        self._sent: dict[int, float] = {}
        self._count = 0
        self.missed = 0

    @property
    def age_s(self) -> float:
        """Seconds since the newest canary that came back was sent."""
        return time.monotonic() - self._verified_at

    def heard(self, payload: bytes) -> None:
        """Take a canary off the bus: everything announced before it was sent has been delivered."""
        try:
            count = orjson.loads(announcement.parse(payload).state)["count"]
        except (ValueError, KeyError, TypeError):
            return
        sent_at = self._sent.pop(count, None)
        if sent_at is not None and sent_at > self._verified_at:
            self._verified_at = sent_at
            self._hub.verified_at_us = int((time.time() - (time.monotonic() - sent_at)) * 1e6)
            self.check()

    def check(self) -> None:
        """Set `hub.fresh` to what is true now; called on every tick."""
        is_alive = self.age_s < STALE_AFTER * self._interval_s
        fresh = is_alive and self._feed.connected and not self._hub.unsettled
        if fresh != self._hub.fresh:
            self._hub.fresh = fresh
            if fresh:
                log.info("fresh", verified_at_us=self._hub.verified_at_us)
            else:
                log.warning("stale", probe_age_s=round(self.age_s, 3), connected=self._feed.connected)
            self._on_change()
        if not self._feed.connected:
            self._connected_at = math.inf
        elif self._connected_at == math.inf:
            self._connected_at = time.monotonic()
        elif not is_alive and time.monotonic() - self._connected_at > 2 * self._interval_s:
            # Up but silent. A new connection is the cure for whatever went deaf, and leads to a re-read of everything.
            self._connected_at = math.inf
            self._feed.reset()

    def prompt(self) -> None:
        """Have a canary sent now: its channel has just been subscribed, and the last one may have come too early."""
        self._prompted.set()

    async def run(self) -> None:
        """Send a canary every interval, and when prompted, until cancelled."""
        while True:
            self._prompted.clear()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._interval_s):
                        await self._prompted.wait()
            if not self._prompted.is_set() and self._count in self._sent:
                self.missed += 1

    async def _send(self) -> None:
        self._count += 1
        for count in [count for count in self._sent if count < self._count - 10]:
            del self._sent[count]
        self._sent[self._count] = time.monotonic()
        try:
            async with asyncio.timeout(self._interval_s):
                await self._store.commit(Change(self.topic, orjson.dumps({"count": self._count})))
                await self._store.expire(self.topic, KEEP_S)
        except (StoreError, TimeoutError) as error:
            log.warning("probe_failed", error=str(error) or "timeout")
