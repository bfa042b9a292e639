"""Reprojects every tenant when the catalog is edited. One worker does each sweep."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import structlog

from planwire_client import __version__
from sync.billing.domain.outcome import WAITS_CATALOG, WAITS_SOFTWARE
from sync.billing.services.wiring import BillingServices
from sync.billing.storage.environment import checked_topic, parking_queues
from sync.process.supervisor import Supervisor
from sync.store.command_pipeline import CommandPipeline
from sync.store.isolation import Failure, each_of, failure_of, is_away

QUEUE = "catalog"
"""The sweeps' name, for logs and the metric."""

SECOND_SWEEP_S = 5.0
"""Delay of the second sweep after an edit: every process on this file has read it anew before it."""

_log = structlog.get_logger("sync.worker")


class CatalogSweeps:
    """Reprojects every tenant with the current catalog: at the start, and after each edit of the file; and again later.

    A process may go on with another copy of the file for a while, as in a rolling deploy. What it computes meanwhile is
    computed anew by the later sweep. Parked events and other parked items get another attempt.
    """

    def __init__(self, services: BillingServices, environments: Sequence[str], supervisor: Supervisor) -> None:
        self._services = services
        self._environments = environments
        self._supervisor = supervisor
        self._catalog = services.catalog_watcher.current
        self._waits_on: tuple[str, ...] = (WAITS_CATALOG, WAITS_SOFTWARE)
        now = time.monotonic()
        self._due_at = [now, now + services.late_sweep_s]
        self._reopened: set[tuple[str, str]] = set()

    async def step(self) -> None:
        """Sweep if a sweep is due."""
        current = self._services.catalog_watcher.current
        if current is not self._catalog:
            now = time.monotonic()
            self._catalog, self._waits_on = current, (WAITS_CATALOG,)
            self._due_at = [now, now + SECOND_SWEEP_S, now + self._services.late_sweep_s]
            self._reopened.clear()
        if self._due_at and time.monotonic() >= self._due_at[0]:
            _, is_done = await each_of((self._reopen(), self._sweep()))
            if is_done:
                self._due_at.pop(0)
                self._reopened.clear()

    async def _reopen(self) -> None:
        """Give what is parked another attempt, once for each sweep; another worker may be sweeping for minutes."""
        queues = parking_queues(self._services.store, self._environments)
        reopens: dict[tuple[str, str], Callable[[], Awaitable[int]]] = {
            (name, environment): queue.reopen for name, environment, queue in queues
        }
        for name in self._environments:
            inbox = self._services.environment(name).inbox
            reopens |= {(thing, name): partial(inbox.reopen, thing) for thing in self._waits_on}

        async def once(what: tuple[str, str]) -> None:
            await reopens[what]()
            self._reopened.add(what)

        await each_of(once(what) for what in reopens if what not in self._reopened)

    async def _sweep(self) -> bool:
        """Return whether every environment is swept, by this worker or another with the same build and catalog."""
        what = f"{len(self._due_at)} {self._waits_on} {__version__} {sorted(self._services.clients)} {self._catalog}"
        digest = hashlib.sha256(what.encode()).hexdigest()
        known = [self._services.environment(name) for name in self._environments]
        walks = [one.walk("sweep").run(digest, one.topics(), partial(self._visit, one.name)) for one in known]
        if self._services.is_shadowing:
            walks += [
                one.walk("shadow").run(digest, one.shadow.topics(), partial(self._compare, one.name)) for one in known
            ]
        return all(await each_of(walks))

    async def _visit(self, environment: str, topic: str) -> bool:
        if self._supervisor.stopped.is_set():
            return False
        swept = await failure_of(self._reproject(environment, topic))
        if isinstance(swept, Failure):
            # Its timer retries it, with the current catalog, and parks it if it goes on failing.
            batch = CommandPipeline(self._services.store)
            self._services.environment(environment).timers.schedule_earlier(batch, topic, self._services.now_us)
            await batch.run()
            _log.error("item_failed", queue=QUEUE, item=topic, exc_info=swept.error)
            await self._services.isolation.count(QUEUE)
        return True

    async def _reproject(self, environment: str, topic: str) -> None:
        checked_topic(environment, topic)
        await self._services.reprojection.reproject(environment, topic, "catalog")

    async def _compare(self, environment: str, topic: str) -> bool:
        """Compare a tenant in the shadow again: the catalog says how the other system's answer is read."""
        compared = await failure_of(self._services.shadow_comparisons.after_edit(environment, topic))
        if isinstance(compared, Failure):
            if is_away(compared.error):
                raise compared.error
            _log.error("item_failed", queue=QUEUE, item=topic, exc_info=compared.error)
            await self._services.isolation.count(QUEUE)
        return not self._supervisor.stopped.is_set()
