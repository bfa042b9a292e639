"""Counts the tabs of each live topic of this gateway by status.

The first count visits every tab. Later counts visit topics that changed, or whose status can change by time alone.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import cast

from gateway.console.reports.tab_status import UNHEALTHY, Status, View, evaluate, worst
from gateway.hub.observer import HubObserver
from gateway.hub.subscription import Subscription
from gateway.hub.topic import LiveTopic
from gateway.node import Node
from gateway.ws.session_socket import SessionSocket

ACK_GRACE_S = 1.5
"""Seconds after the end of the acks' jitter at which a tab without an ack counts as behind."""

WHOLE_S = 10.0
"""Seconds between full counts. Changes are counted immediately; the full count is a safety net."""

PART_S = 0.2
"""Seconds for which counts are reused, so that many consoles cost as much as one."""

COUNTED_MAX = 20_000
"""Maximum number of tabs visited in one count. The rest is reported as uncounted."""

SLICE = 1000
"""Tabs visited before other tasks run."""

Counts = dict[str, int]


def view_of(node: Node, live: LiveTopic, now: float, is_current: bool) -> View:
    """Return the inputs for the status of a topic's tabs. If a console shows the topic, all its tabs send acks."""
    settings = node.settings
    if live.ack_all:
        return View(now, ACK_GRACE_S + settings.ack_after_ms / 1000, COUNTED_MAX, is_current)
    share, after_ms = node.hub.acks.rule()
    # If the process is so large that acks are sampled everywhere, every topic counts as a crowd.
    crowd = settings.acks_per_topic if share == 1 else 0
    return View(now, ACK_GRACE_S + after_ms / 1000, crowd, is_current)


def socket_of(tab: Subscription) -> SessionSocket:
    """Return the tab's socket, typed as it is in a running gateway."""
    return cast(SessionSocket, tab.socket)


class TabCounts(HubObserver):
    """The counts of one gateway. It observes the hub from the first `count` until `stop`.

    Attributes:
        topics: the counts of each topic with tabs, by name.
        unhealthy: the counts of each topic with a NACKED, BEHIND or STALE tab, by name.
        total: the counts of all tabs.
        uncounted: number of tabs not visited.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lock = asyncio.Lock()
        self._whole_at = self._part_at = float("-inf")
        self._was_fresh = False
        self._open: set[LiveTopic] = set()
        self._changed: set[LiveTopic] | None = None  # None: not observing
        self.topics: dict[str, Counts] = {}
        self.unhealthy: dict[str, Counts] = {}
        self.total: Counter[str] = Counter()
        self.uncounted = 0

    def subscription_opened(self, subscription: Subscription, reason: str = "") -> None:
        """Have the topic counted again. Other events of subscriptions are handled the same way."""
        self.version_applied(subscription.live)

    subscription_closed = version_acked = version_nacked = subscription_opened

    def version_applied(self, live: LiveTopic) -> None:
        """Have the topic counted again."""
        if self._changed is not None:
            self._changed.add(live)

    def stop(self) -> None:
        """Stop observing the hub."""
        self._changed = None
        self._node.hub.observers.remove(self)

    async def count(self) -> None:
        """Bring the counts up to date, if they are older than `PART_S`."""
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
        # Set first, so that topics that change during this count are counted again.
        self._changed = set()
        self._node.hub.observers.add(self)
        self.topics, self.unhealthy, self.total, self._open = {}, {}, Counter(), set()
        visited, uncounted, slice_end = 0, 0, SLICE
        for live in list(self._node.hub.topics.values()):
            tabs = live.subscriptions
            if not tabs or live.is_internal:
                continue
            counted = tabs[: COUNTED_MAX - visited]
            self._count(live, counted)
            uncounted += len(tabs) - len(counted)
            visited += len(counted)
            if visited >= slice_end:
                slice_end = visited + SLICE
                await asyncio.sleep(0)
        self.uncounted = uncounted

    def _part(self) -> None:
        """Count topics again that changed, or whose status can change by time alone."""
        changed, self._changed = self._changed or set(), set()
        for live in self._open | changed:
            if not live.subscriptions:
                self._drop(live)
            elif not live.is_internal:
                self._count(live, live.subscriptions[:COUNTED_MAX])

    def _drop(self, live: LiveTopic) -> None:
        self.total.subtract(self.topics.pop(live.name, {}))
        self.unhealthy.pop(live.name, None)
        self._open.discard(live)

    def _count(self, live: LiveTopic, tabs: list[Subscription]) -> None:
        self._drop(live)
        version = live.version
        # Fast path for the common case: every tab is in sync.
        if self._was_fresh and live.known and all([tab.sent == version == tab.acked for tab in tabs]):
            self.topics[live.name] = {Status.SYNCED: len(tabs)}
            self.total[Status.SYNCED] += len(tabs)
            return
        view = view_of(self._node, live, time.time(), self._was_fresh)
        counts = Counter[str](evaluate(tab, view).status for tab in tabs)
        self.topics[live.name] = counts
        self.total.update(counts)
        is_sampled = len(live.subscriptions) > self._node.settings.acks_per_topic and not live.ack_all
        if (Status.SENT in counts and not is_sampled) or Status.STALE in counts:
            self._open.add(live)  # SENT becomes BEHIND by time alone; in a crowd most tabs stay SENT
        if worst(counts) in UNHEALTHY:
            self.unhealthy[live.name] = counts
