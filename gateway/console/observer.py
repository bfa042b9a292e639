"""The console's part of a gateway: observes the hub, reports to consoles, and answers other gateways' consoles.

Its tasks run under their own supervisor, so that a failure in any of them does not stop the push.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import orjson
import structlog

from gateway.console.fault_injection import FaultInjection
from gateway.console.rejected_webhooks import RejectedWebhooks
from gateway.console.reports import lease
from gateway.console.reports.reporter import Reporter
from gateway.console.reports.tab_counts import TabCounts, socket_of
from gateway.console.reports.topic_list import TopicQuery, live_page
from gateway.fleet.ask import Answers, ConsoleFormat, FleetQuery
from gateway.hub.observer import HubObserver
from gateway.hub.subscription import Subscription
from gateway.node import Node
from sync.store.models import StoreError

NACKS_KEPT = 1000
"""Maximum number of stored nack reasons. Beyond it the oldest is dropped."""

FLUSH_S = 1.0
"""Seconds between two writes of rejected webhooks to the store."""

HERE_S = 12.0
"""A gateway is expected to answer for this many seconds after its last registration."""

TABS_MAX = 500
"""Maximum number of tabs in one gateway's answer about a topic. The counts include all tabs."""

RETRY_MIN_S, RETRY_MAX_S = 0.5, 60.0
"""Bounds of the backoff before a failed task is restarted, in seconds. It doubles each time."""

log = structlog.get_logger("gateway.console")


async def supervise(name: str, job: Callable[[], Awaitable[None]]) -> None:
    """Run `job` until cancelled, and restart it when it ends or raises. A long run resets the backoff."""
    pause_s = RETRY_MIN_S
    while True:
        began = time.monotonic()
        try:
            await job()
        except Exception as error:
            # An unforeseen failure of the console must not affect the tabs.
            log.error("console_task_failed", task=name, retry_s=pause_s, exc_info=error)
        if time.monotonic() - began > RETRY_MAX_S:
            pause_s = RETRY_MIN_S
        await asyncio.sleep(pause_s)
        pause_s = min(RETRY_MAX_S, 2 * pause_s)


class ConsoleObserver(HubObserver):
    """One gateway's data for consoles."""

    def __init__(self, node: Node) -> None:
        """Observe `node` from now on; `run` runs the tasks."""
        self.node = node
        self._reasons: dict[tuple[str, str], tuple[int, str]] = {}
        self.tab_counts = TabCounts(node)
        self._fault_injection = FaultInjection()
        self.rejected_webhooks = RejectedWebhooks(node.store)
        counters = self.rejected_webhooks.counters
        self.reporter = Reporter(node, self.tab_counts, self._fault_injection, self.nack_reason, counters)
        self.fleet_query = FleetQuery(node.store, node.name, ConsoleFormat(), self._answer)
        node.control.on(ConsoleFormat.op, self.fleet_query.heard)
        node.control.on(lease.OP, self._look_heard)
        node.hub.observers.add(self)

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Run the console's tasks while the context is open, each under `supervise`."""
        jobs: dict[str, Callable[[], Awaitable[None]]] = {
            "reports": self.reporter.run,
            "survey": self.fleet_query.run,
            "refusals": self._flush,
        }
        tasks = [asyncio.create_task(supervise(name, job), name=name) for name, job in jobs.items()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            with contextlib.suppress(StoreError):
                await self.rejected_webhooks.flush()

    def _look_heard(self, message: Mapping[str, Any]) -> None:
        if isinstance(topics := message.get("topics"), list):
            self.reporter.extend_watch(topics)

    def version_nacked(self, subscription: Subscription, reason: str) -> None:
        """Remember why a browser could not use a version."""
        key = socket_of(subscription).session.id, subscription.live.name
        self._reasons.pop(key, None)
        self._reasons[key] = subscription.nacked, reason
        if len(self._reasons) > NACKS_KEPT:
            del self._reasons[next(iter(self._reasons))]

    def nack_reason(self, session: str, topic: str, version: int) -> str:
        """Return why a session could not use this version of a topic; empty if it gave no reason or it was dropped."""
        kept, reason = self._reasons.get((session, topic), (0, ""))
        return reason if kept == version else ""

    # Queries between the gateways of a deployment.

    async def ask_gateways(self, what: str, **about: Any) -> Answers:
        """Return the answers of all gateways with a console, this one included.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        now = time.time()
        known = await lease.gateways(self.node.store)
        others = {name for name, at in known.items() if now - at < HERE_S and name != self.node.name}
        return await self.fleet_query.ask_others(others, what, about)

    async def _answer(self, what: str, about: Mapping[str, Any]) -> Any:
        match what:
            case "overview":
                await self.tab_counts.count()
                return orjson.loads(self.reporter.overview_bytes())
            case "topics":
                await self.tab_counts.count()
                return live_page(self.node.hub, self.tab_counts, TopicQuery.read(about))
            case "tabs":
                live = self.node.hub.topic(str(about.get("topic")))
                if live is None or live.is_internal:
                    return None
                newest = about.get("newest")
                return self.reporter.chain(live, newest if isinstance(newest, int) else 0, TABS_MAX)
            case "socket" if self.node.settings.dev:
                sockets = (one for one in self.node.registry.sockets if one.session.id == about.get("session"))
                if (socket := next(sockets, None)) is not None:
                    self._fault_injection.inject(socket, about)
                return socket is not None
            case _:
                return None
