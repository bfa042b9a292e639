"""Publishes what this gateway knows to consoles, as states of topics, for as long as one looks.

Nothing is counted and nothing published while nobody looks. A deaf gateway still reports: it reads from the store
whether somebody does, and the store hands its report to the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import structlog

from gateway.console.fault_injection import FaultInjection
from gateway.console.reports import lease, report
from gateway.console.reports.report import Window
from gateway.console.reports.tab_counts import CENSUS_MAX, TabCounts, judged, socket_of, view_of
from gateway.console.reports.tab_status import Judgement, Status, age_s, worst_first
from gateway.hub.topic import LiveTopic, Subscription
from gateway.node import Node
from sync.store.store import Change, Snapshot, StoreError

log = structlog.get_logger("gateway.console")

REPORT_S = 0.5
"""Least seconds between two reports on one topic."""

REGISTER_S = 1.0
IDLE_REGISTER_S = 5.0
"""How often a gateway says that it is there, and reads who looks; and how often while nobody does."""

LEAVE_S = 1.0
"""How long a store that does not answer may hold up the end: what a gateway has said there lapses by itself."""


class Told(NamedTuple):
    """What a reporter is told by others: why a session could not use a version of a topic, and further counters."""

    reason: Callable[[str, str, int], str]
    counters: Callable[[], dict[str, int]]


class Reporter:
    """The reports of one gateway."""

    def __init__(self, node: Node, tab_counts: TabCounts, holds: FaultInjection, told: Told) -> None:
        self._node = node
        self._told = told
        self._census = tab_counts
        self._holds = holds
        self._started_at = time.time()
        self._windows = {
            "committed_to_acked": Window(node.metrics.publish_to_acked),
            "occurred_to_acked": Window(node.metrics.occurred_to_acked),
        }
        self._woken = asyncio.Event()
        self._open_until = float("-inf")
        self._topics: dict[str, float] = {}
        self._last: dict[str, Snapshot] = {}

    @property
    def is_watched(self) -> bool:
        """Whether a console is open."""
        return time.monotonic() < self._open_until

    def looked(self, topics: Sequence[object]) -> None:
        """Note that a console is open and looks at `topics`, for as long as a lease lasts."""
        until = time.monotonic() + lease.LEASE_S
        self._open_until = until
        for name in topics:
            if isinstance(name, str) and (name in self._topics or len(self._topics) < lease.WATCHED_MAX):
                self._topics[name] = until
                self._ask_all(name, True)
        self._woken.set()

    def wake(self) -> None:
        """Report soon: something is wrong with a tab."""
        if self.is_watched:
            self._woken.set()

    async def run(self) -> None:
        """Report until cancelled."""
        registered_at = reported_at = float("-inf")
        try:
            while True:
                now = time.monotonic()
                if now - registered_at >= (REGISTER_S if self.is_watched else IDLE_REGISTER_S):
                    registered_at = now
                    await self._register()
                if self.is_watched:
                    reported_at = time.monotonic()
                    await self._report()
                    # Conflated: whatever happens until then is in the next one.
                    await asyncio.sleep(REPORT_S - min(REPORT_S, time.monotonic() - reported_at))
                    self._woken.clear()
                else:
                    self._rest()
                    with contextlib.suppress(TimeoutError):
                        # Not `wait_for`: on CPython 3.11 it loses a cancel that comes together with the wake-up.
                        async with asyncio.timeout(IDLE_REGISTER_S):
                            await self._woken.wait()
                    self._woken.clear()
                    registered_at = float("-inf") if self.is_watched else registered_at
        finally:
            self._rest()  # also where it failed: else the hub would go on noting changes for nobody
            with contextlib.suppress(StoreError, TimeoutError):
                async with asyncio.timeout(LEAVE_S):
                    await lease.leave(self._node.store, self._node.name)

    def _rest(self) -> None:
        """Leave things as they were before anybody looked."""
        for name in self._topics:
            self._ask_all(name, False)
        self._topics.clear()
        self._last.clear()
        self._census.rest()

    async def _register(self) -> None:
        try:
            found = await lease.register(self._node.store, self._node.name)
        except StoreError as error:
            log.warning("console_unregistered", error=str(error))
            return
        if found.is_open:
            self.looked(found.topics)

    async def _report(self) -> None:
        await self._census.count()
        changes = [(report.gateway_topic(self._node.name), self.overview_bytes())]
        now = time.monotonic()
        for name, until in list(self._topics.items()):
            live = self._node.hub.topic(name)
            if until < now:
                del self._topics[name]
                self._last.pop(report.tabs_topic(self._node.name, name), None)
                self._ask_all(name, False)
            elif live is not None and not live.is_internal:
                self._ask_all(name, True)  # it may have come anew since
                changes.append((report.tabs_topic(self._node.name, name), self._tabs_bytes(live)))
        for topic, state in changes:
            await self._publish(topic, state)

    def _ask_all(self, name: str, ack_all: bool) -> None:
        live = self._node.hub.topic(name)
        if live is not None:
            self._node.hub.set_ack_all(live, ack_all)

    async def _publish(self, topic: str, state: bytes) -> None:
        last = self._last.get(topic)
        if last is not None and last.state == state:
            return
        try:
            committed = await lease.publish(self._node.store, Change(topic, state, previous=last))
        except StoreError as error:
            log.warning("report_unpublished", topic=topic, error=str(error))
            return
        self._last[topic] = Snapshot(topic, committed.version, state, b"", b"")

    # What is reported.

    def overview(self) -> dict[str, Any]:
        """Return this gateway's report of itself, from the counts as they are."""
        node, tab_counts, metrics = self._node, self._census, self._node.metrics
        names = report.trouble(tab_counts.trouble)
        rows: dict[str, Any] = {}
        for name in names:
            live = node.hub.topic(name)
            if live is not None:
                counts = tab_counts.trouble[name]
                status = next(status for status in Status if counts.get(status))
                rows[name] = {
                    "status": status.value,
                    "version": live.version,
                    "sockets": len(live.subscriptions),
                    "tabs": report.statuses(counts),
                }
        return {
            "gateway": node.name,
            "at": int(time.time()),
            "started_at": int(self._started_at),
            "fresh": node.hub.fresh,
            "verified_at_us": node.hub.verified_at_us,
            "draining": metrics.draining,
            "sockets": metrics.sockets,
            "topics": node.hub.topic_count,
            "streams": metrics.streams,
            "tabs": {status.value: tab_counts.total[status] for status in Status},
            "uncounted": tab_counts.uncounted,
            "counters": report.counters(metrics) | self._told.counters(),
            "latency": {name: window.latency(time.monotonic()) for name, window in self._windows.items()},
            "trouble": rows,
            "trouble_total": len(tab_counts.trouble),
        }

    def overview_bytes(self) -> bytes:
        """Return it as it is published."""
        return report.fitted(self.overview(), "trouble", "", self._max_bytes())

    def _max_bytes(self) -> int:
        return min(report.REPORT_MAX_BYTES, self._node.settings.state_max_bytes)

    def chain(self, live: LiveTopic, newest: int, limit: int) -> dict[str, Any]:
        """Return what this gateway has of a topic, and its tabs as rows, the worst first, at most `limit`.

        `newest`: the newest version that is known to be committed.
        """
        now = time.time()
        is_current = self._node.hub.fresh and live.known and live.version >= newest
        view = view_of(self._node, live, now, is_current)
        tabs = worst_first((tab, judged(tab, view)) for tab in live.subscriptions[:CENSUS_MAX])
        counts: dict[Status, int] = {}
        for _, judgement in tabs:
            counts[judgement.status] = counts.get(judgement.status, 0) + 1
        return {
            "gateway": self._node.name,
            **self._standing(live, newest, is_current, now),
            "sockets": len(live.subscriptions),
            "watchers": live.readers,
            "uncounted": max(0, len(live.subscriptions) - CENSUS_MAX),
            "counts": report.statuses(counts),
            "tabs": [self._tab(tab, judgement) for tab, judgement in tabs[:limit]],
        }

    def _standing(self, live: LiveTopic, newest: int, is_current: bool, now: float) -> dict[str, Any]:
        if not self._node.hub.fresh:
            why = "The bus is not proved to deliver: this gateway tells its tabs that what they show may be old."
        elif live.version < newest:
            sweep_s = self._node.settings.sweep_s
            why = f"It has not got the newest version; its next sweep, every {sweep_s:g} s, finds it."
        elif not live.known:
            why = "It is reading the topic again."
        else:
            why = "It has the newest version."
        status = Status.SYNCED if is_current else Status.BEHIND if live.version < newest else Status.STALE
        return {"version": live.version, "age_s": age_s(live.version, now), "status": status.value, "why": why}

    def _tab(self, tab: Subscription, judgement: Judgement) -> dict[str, Any]:
        socket = socket_of(tab)
        session, claims = socket.session, socket.session.claims
        row: dict[str, Any] = {
            "session": session.id,
            "sub": "" if claims is None else claims.sub,
            "client": session.client,
            "status": judgement.status.value,
            "why": judgement.why,
            "sent": max(tab.sent, 0),
            "acked": tab.acked or None,
            "lag_ms": _lag_ms(judgement.owed_s),
            "blocked": socket.pending is not None,
            "buffered_bytes": socket.buffered_bytes(),
            "since": int(socket.opened_at),
        }
        if tab.nacked > tab.acked:
            row |= {"nacked": tab.nacked, "reason": self._told.reason(session.id, tab.live.name, tab.nacked)}
        if self._holds.is_held(socket):
            row["frozen"] = True
        return row

    def _tabs_bytes(self, live: LiveTopic) -> bytes:
        found = self.chain(live, live.version, report.TABS_MAX)
        tabs = found.pop("tabs")
        found.pop("age_s")
        found |= {
            "topic": live.name,
            "at": int(time.time()),
            "tabs": report.listed(tabs),
            "more": max(0, len(live.subscriptions) - len(tabs)),
        }
        return report.fitted(found, "tabs", "more", self._max_bytes())


def _lag_ms(owed_s: float | None) -> int | None:
    """Return for how long an answer is owed; in whole seconds from two on, so that a report does not change for it."""
    if owed_s is None:
        return None
    return round(owed_s * 10) * 100 if owed_s < 2 else int(owed_s) * 1000
