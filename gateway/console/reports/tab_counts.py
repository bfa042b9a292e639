"""How many tabs of each live topic of this gateway are in which state. Looks at everything once, and from then on at
what has changed, or changes by time alone."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import cast

from gateway.console.reports.tab_status import Judgement, Status, View, judge, worst
from gateway.hub.observer import HubObserver
from gateway.hub.topic import LiveTopic, Subscription
from gateway.node import Node
from gateway.ws.connection import SessionSocket

ACK_GRACE_S = 1.5
"""How long an ack may take beyond the jitter that browsers are told, before a tab counts as behind."""

WHOLE_S = 10.0
"""Seconds between counts of every tab: what has changed is counted at once, this is for what nobody thought of."""

PART_S = 0.2
"""How long the counts of what can have changed are good for, whoever asks: many consoles cost no more than one."""

CENSUS_MAX = 20_000
"""Tabs that one count looks at. Beyond, the rest is said to be uncounted."""

SLICE = 1000
"""Tabs looked at before the event loop is given back."""

TROUBLE = frozenset((Status.NACKED, Status.BEHIND, Status.STALE))

Counts = dict[Status, int]


def view_of(node: Node, live: LiveTopic | None, now: float, is_current: bool) -> View:
    """Return what tabs of a topic are judged by: a topic that is looked at has no crowd, everyone is asked."""
    settings = node.settings
    if live is not None and live.ack_all:
        return View(now, ACK_GRACE_S + settings.ack_after_ms / 1000, CENSUS_MAX, is_current)
    share, after_ms = node.hub.ack_rule()
    # Where a process has so many tabs that only a share of their acks is asked for, every topic is a crowd.
    crowd = settings.acks_per_topic if share == 1 else 0
    return View(now, ACK_GRACE_S + after_ms / 1000, crowd, is_current)


def socket_of(tab: Subscription) -> SessionSocket:
    """Return the tab's socket as what it is in a running gateway."""
    return cast(SessionSocket, tab.socket)


def judged(tab: Subscription, view: View) -> Judgement:
    """Return what is known of a tab."""
    return judge(tab, socket_of(tab).opened_at, view)


def is_trouble(counts: Mapping[Status, int]) -> bool:
    """Whether a tab shows something old, or cannot say that it does not."""
    return worst(counts) in TROUBLE


class TabCounts(HubObserver):
    """The counts of one gateway. It observes the hub from the first `count` until `rest`.

    Attributes:
        topics: the counts of each topic with tabs, by name.
        trouble: those of them of which a tab is NACKED, BEHIND or STALE.
        total: of all tabs.
        uncounted: tabs that were not looked at.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lock = asyncio.Lock()
        self._whole_at = self._part_at = float("-inf")
        self._was_fresh = False
        self._open: set[LiveTopic] = set()
        self._changed: set[LiveTopic] | None = None  # None: not observing
        self.topics: dict[str, Counts] = {}
        self.trouble: dict[str, Counts] = {}
        self.total: Counter[Status] = Counter()
        self.uncounted = 0

    def subscription_opened(self, subscription: Subscription) -> None:
        """Count the topic again."""
        self.version_applied(subscription.live)

    def subscription_closed(self, subscription: Subscription) -> None:
        """Count the topic again."""
        self.version_applied(subscription.live)

    def version_acked(self, subscription: Subscription) -> None:
        """Count the topic again."""
        self.version_applied(subscription.live)

    def version_nacked(self, subscription: Subscription, reason: str) -> None:
        """Count the topic again."""
        self.version_applied(subscription.live)

    def version_applied(self, live: LiveTopic) -> None:
        """Count the topic again."""
        if self._changed is not None:
            self._changed.add(live)

    def rest(self) -> None:
        """Stop observing: nobody looks."""
        self._changed = None
        self._node.hub.observers.remove(self)

    async def count(self) -> None:
        """Return once the counts are recent."""
        async with self._lock:
            now, fresh = time.monotonic(), self._node.hub.fresh
            if self._changed is None or now - self._whole_at >= WHOLE_S or fresh != self._was_fresh:
                self._was_fresh = fresh
                await self._whole()
                self._whole_at = self._part_at = time.monotonic()
            elif now - self._part_at >= PART_S:
                self._part()
                self._part_at = time.monotonic()

    async def _whole(self) -> None:
        # From here on: what changes while this looks at the rest is looked at again.
        self._changed = set()
        self._node.hub.observers.add(self)
        self.topics, self.trouble, self.total, self._open = {}, {}, Counter(), set()
        topics = self.topics
        looked, uncounted, slice_end, synced = 0, 0, SLICE, 0
        for live in list(self._node.hub.topics.values()):
            ring = live.subscriptions
            if not ring or live.is_internal:
                continue
            size = len(ring)
            if looked + size > CENSUS_MAX:
                uncounted += looked + size - CENSUS_MAX
                ring = ring[: CENSUS_MAX - looked]
                size = len(ring)
            # Nearly every tab is in step, and is seen to be so without more ado.
            if self._was_fresh and live.known and _is_synced(live.version, ring):
                topics[live.name] = _all_synced(size)
                synced += size
            else:
                self._take(live, ring)
            looked += size
            if looked >= slice_end:
                slice_end = looked + SLICE
                await asyncio.sleep(0)
        self.total[Status.SYNCED] += synced
        self.uncounted = uncounted

    def _part(self) -> None:
        """Look again at what has changed, or changes by time alone."""
        changed, self._changed = self._changed or set(), set()
        for live in self._open | changed:
            if not live.subscriptions:
                self._drop(live)
            elif not live.is_internal:
                self._take(live, live.subscriptions[:CENSUS_MAX])

    def _drop(self, live: LiveTopic) -> None:
        old = self.topics.pop(live.name, None)
        if old is not None:
            self.total.subtract(old)
        self.trouble.pop(live.name, None)
        self._open.discard(live)

    def _take(self, live: LiveTopic, ring: list[Subscription]) -> None:
        name = live.name
        self._drop(live)
        is_plain = self._node.hub.fresh and live.known
        if is_plain and _is_synced(live.version, ring):
            self.topics[name] = counts = _all_synced(len(ring))
            self.total.update(counts)
            return
        counts = _counts(ring, view_of(self._node, live, time.time(), self._node.hub.fresh))
        self.topics[name] = counts
        self.total.update(counts)
        is_sampled = len(live.subscriptions) > self._node.settings.acks_per_topic and not live.ack_all
        if (Status.SENT in counts and not is_sampled) or Status.STALE in counts:
            self._open.add(live)  # SENT turns BEHIND by time alone; of a crowd most tabs stay SENT
        if is_trouble(counts):
            self.trouble[name] = counts


def _is_synced(version: int, tabs: list[Subscription]) -> bool:
    """Whether every tab has acknowledged the version, on a gateway that is current."""
    return all([tab.sent == version == tab.acked for tab in tabs])


@lru_cache(4096)
def _all_synced(size: int) -> Counts:
    """Return the counts of so many tabs in step; shared, and never changed."""
    return {Status.SYNCED: size}


def _counts(tabs: list[Subscription], view: View) -> Counts:
    """Return how many of a topic's tabs are in which state."""
    counts: Counts = {}
    for tab in tabs:
        status = judged(tab, view).status
        counts[status] = counts.get(status, 0) + 1
    return counts
