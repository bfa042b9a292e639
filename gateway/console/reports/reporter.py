"""Publishes this gateway's reports to consoles, as states of topics, while a console is open.

Nothing is counted or published unless a console is open. A gateway without a working bus still reports: it reads from
the store whether a console is open, and other gateways receive its report.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from gateway.console.fault_injection import FaultInjection
from gateway.console.reports import lease, report
from gateway.console.reports.report import Window
from gateway.console.reports.tab_counts import COUNTED_MAX, TabCounts, socket_of, view_of
from gateway.console.reports.tab_status import Status, TabStatus, evaluate, nonzero, worst, worst_first
from gateway.console.reports.topic_views import age_s
from gateway.hub.subscription import Subscription
from gateway.hub.topic import LiveTopic
from gateway.node import Node
from sync.store.models import Change, Snapshot, StoreError

log = structlog.get_logger("gateway.console")

REPORT_S = 0.5
"""Minimum seconds between two reports on one topic."""

REGISTER_S = 1.0
IDLE_REGISTER_S = 5.0
"""Seconds between two registrations of a gateway: while a console is open, and otherwise."""

LEAVE_S = 1.0
"""Maximum seconds to remove the registration on exit. Without an answer of the store it expires by itself."""


@dataclass(eq=False)
class Reporter:
    """The reports of one gateway.

    Attributes:
        node: the gateway.
        tab_counts: its tabs by status.
        fault_injection: the sockets that a developer holds back.
        nack_reason: takes session, topic and version; returns why the session could not use the version.
        counters: further counters for the report.
    """

    node: Node
    tab_counts: TabCounts
    fault_injection: FaultInjection
    nack_reason: Callable[[str, str, int], str]
    counters: Mapping[str, int]

    def __post_init__(self) -> None:
        """Start as if no console were open."""
        node = self.node
        self._max_bytes = min(report.REPORT_MAX_BYTES, node.settings.state_max_bytes)
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
        """Whether a console is open, as far as this gateway knows."""
        return time.monotonic() < self._open_until

    def extend_watch(self, topics: Sequence[object]) -> None:
        """Report for the length of a lease from now, also on the tabs of `topics`."""
        until = time.monotonic() + lease.LEASE_S
        self._open_until = until
        for name in topics:
            if isinstance(name, str) and (name in self._topics or len(self._topics) < lease.WATCHED_MAX):
                self._topics[name] = until
                self._set_ack_all(name, True)
        self._woken.set()

    async def run(self) -> None:
        """Report until cancelled."""
        registered_at = float("-inf")
        try:
            while True:
                now = time.monotonic()
                if now - registered_at >= (REGISTER_S if self.is_watched else IDLE_REGISTER_S):
                    registered_at = now
                    await self._register()
                if self.is_watched:
                    reported_at = time.monotonic()
                    await self._report()
                    # Changes during the pause are in the next report.
                    await asyncio.sleep(REPORT_S - min(REPORT_S, time.monotonic() - reported_at))
                    self._woken.clear()
                else:
                    self._stop()
                    with contextlib.suppress(TimeoutError):
                        # Not `wait_for`: on CPython 3.11 it loses a cancellation that arrives with the wake-up.
                        async with asyncio.timeout(IDLE_REGISTER_S):
                            await self._woken.wait()
                    self._woken.clear()
                    registered_at = float("-inf") if self.is_watched else registered_at
        finally:
            self._stop()  # also after a failure; otherwise observing would continue
            with contextlib.suppress(StoreError, TimeoutError):
                async with asyncio.timeout(LEAVE_S):
                    await lease.leave(self.node.store, self.node.name)

    def _stop(self) -> None:
        """Undo what was set up for open consoles."""
        for name in self._topics:
            self._set_ack_all(name, False)
        self._topics.clear()
        self._last.clear()
        self.tab_counts.stop()

    async def _register(self) -> None:
        try:
            topics = await lease.register(self.node.store, self.node.name)
        except StoreError as error:
            log.warning("console_unregistered", error=str(error))
            return
        if topics is not None:
            self.extend_watch(topics)

    async def _report(self) -> None:
        await self.tab_counts.count()
        changes = [(report.gateway_topic(self.node.name), self.overview_bytes())]
        now = time.monotonic()
        for name, until in list(self._topics.items()):
            live = self.node.hub.topic(name)
            if until < now:
                del self._topics[name]
                self._last.pop(report.tabs_topic(self.node.name, name), None)
                self._set_ack_all(name, False)
            elif live is not None and not live.is_internal:
                self._set_ack_all(name, True)  # the live topic may have been replaced
                changes.append((report.tabs_topic(self.node.name, name), self._tabs_bytes(live)))
        for topic, state in changes:
            await self._publish(topic, state)

    def _set_ack_all(self, name: str, ack_all: bool) -> None:
        if (live := self.node.hub.topic(name)) is not None:
            self.node.hub.acks.set_all(live, ack_all)

    async def _publish(self, topic: str, state: bytes) -> None:
        last = self._last.get(topic)
        if last is not None and last.state == state:
            return
        try:
            committed = await lease.publish(self.node.store, Change(topic, state, previous=last))
        except StoreError as error:
            log.warning("report_unpublished", topic=topic, error=str(error))
            return
        self._last[topic] = Snapshot(topic, committed.version, state, b"", b"")

    # The content of reports.

    def overview(self) -> dict[str, Any]:
        """Return this gateway's report on itself, from the existing counts."""
        node, tab_counts, metrics = self.node, self.tab_counts, self.node.metrics
        rows: dict[str, Any] = {}
        for name in report.worst_topics(tab_counts.unhealthy):
            if (live := node.hub.topic(name)) is not None:
                counts = tab_counts.unhealthy[name]
                rows[name] = {
                    "status": worst(counts),
                    "version": live.version,
                    "sockets": len(live.subscriptions),
                    "tabs": nonzero(counts),
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
            "counters": {**report.counters(metrics), **self.counters},
            "latency": {name: window.latency(time.monotonic()) for name, window in self._windows.items()},
            "trouble": rows,
            "trouble_total": len(tab_counts.unhealthy),
        }

    def overview_bytes(self) -> bytes:
        """Return this gateway's report on itself, as JSON of limited size."""
        return report.fitted(self.overview(), "trouble", "", self._max_bytes)

    def chain(self, live: LiveTopic, newest: int, limit: int) -> dict[str, Any]:
        """Return this gateway's state of a topic, and its tabs as rows.

        Args:
            live: the topic.
            newest: the newest version known to be committed.
            limit: maximum number of tabs; the worst come first.
        """
        now = time.time()
        is_current = self.node.hub.fresh and live.known and live.version >= newest
        view = view_of(self.node, live, now, is_current)
        tabs = worst_first((tab, evaluate(tab, view)) for tab in live.subscriptions[:COUNTED_MAX])
        counts = Counter[str](tab_status.status for _, tab_status in tabs)
        return {
            "gateway": self.node.name,
            **self._gateway_status(live, newest, is_current, now),
            "sockets": len(live.subscriptions),
            "watchers": live.readers,
            "uncounted": max(0, len(live.subscriptions) - COUNTED_MAX),
            "counts": nonzero(counts),
            "tabs": [self._tab(tab, tab_status) for tab, tab_status in tabs[:limit]],
        }

    def _gateway_status(self, live: LiveTopic, newest: int, is_current: bool, now: float) -> dict[str, Any]:
        if not self.node.hub.fresh:
            why = "The bus is not proved to deliver: this gateway's tabs show that their states may be old."
        elif live.version < newest:
            sweep_s = self.node.settings.sweep_s
            why = f"It has not got the newest version; its next sweep, every {sweep_s:g} s, finds it."
        elif not live.known:
            why = "It is reading the topic again."
        else:
            why = "It has the newest version."
        status = Status.SYNCED if is_current else Status.BEHIND if live.version < newest else Status.STALE
        return {"version": live.version, "age_s": age_s(live.version, now), "status": status.value, "why": why}

    def _tab(self, tab: Subscription, tab_status: TabStatus) -> dict[str, Any]:
        socket = socket_of(tab)
        session, claims = socket.session, socket.session.claims
        row: dict[str, Any] = {
            "session": session.id,
            "sub": "" if claims is None else claims.sub,
            "client": session.client,
            "status": tab_status.status.value,
            "why": tab_status.why,
            "sent": max(tab.sent, 0),
            "acked": tab.acked or None,
            "lag_ms": _lag_ms(tab_status.owed_s),
            "blocked": socket.pending is not None,
            "buffered_bytes": socket.buffered_bytes(),
            "since": int(socket.opened_at),
        }
        if tab.nacked > tab.acked:
            row |= {"nacked": tab.nacked, "reason": self.nack_reason(session.id, tab.live.name, tab.nacked)}
        if self.fault_injection.is_held_back(socket):
            row["frozen"] = True
        return row

    def _tabs_bytes(self, live: LiveTopic) -> bytes:
        found = self.chain(live, live.version, report.TABS_MAX)
        del found["age_s"]
        found["more"] = max(0, len(live.subscriptions) - len(found["tabs"]))
        found |= {"topic": live.name, "at": int(time.time()), "tabs": report.rows_by_session(found["tabs"])}
        return report.fitted(found, "tabs", "more", self._max_bytes)


def _lag_ms(owed_s: float | None) -> int | None:
    """Return for how long an ack is due, in ms. From 2 s on it is in whole seconds, so that reports seldom change."""
    if owed_s is None:
        return None
    return round(owed_s * 10) * 100 if owed_s < 2 else int(owed_s) * 1000
