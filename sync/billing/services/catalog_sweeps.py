"""Reprojects every tenant when the catalog is edited. One worker does each sweep."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from functools import partial

from planwire_client import __version__
from sync.billing.domain.outcome import WAITS_CATALOG, WAITS_SOFTWARE
from sync.billing.services.wiring import BillingServices
from sync.process.supervisor import Supervisor

SECOND_SWEEP_S = 5.0
"""Delay of the second sweep after an edit: every process has read the new file before it."""


class CatalogSweeps:
    """Reprojects every tenant with the current catalog: at the start, and after each edit of the file."""

    def __init__(self, services: BillingServices, environments: Sequence[str], supervisor: Supervisor) -> None:
        self._services = services
        self._environments = environments
        self._supervisor = supervisor
        self._catalog = services.catalog_watcher.current
        self._waits_on: tuple[str, ...] = (WAITS_CATALOG, WAITS_SOFTWARE)
        self._due_at = [time.monotonic()]

    async def step(self) -> None:
        """Sweep if a sweep is due."""
        current = self._services.catalog_watcher.current
        if current is not self._catalog:
            now = time.monotonic()
            self._catalog, self._waits_on, self._due_at = current, (WAITS_CATALOG,), [now, now + SECOND_SWEEP_S]
        if self._due_at and time.monotonic() >= self._due_at[0] and await self._sweep():
            self._due_at.pop(0)

    async def _sweep(self) -> bool:
        """Return whether every environment is swept, by this worker or another with the same build and catalog."""
        what = f"{len(self._due_at)} {self._waits_on} {__version__} {sorted(self._services.clients)} {self._catalog}"
        digest = hashlib.sha256(what.encode()).hexdigest()
        is_done = True
        for name in self._environments:
            known = self._services.environment(name)
            for thing in self._waits_on:
                await known.inbox.reopen(thing)
            is_done &= await known.walk("sweep").run(digest, known.topics(), partial(self._visit, name))
        return is_done

    async def _visit(self, environment: str, topic: str) -> bool:
        if self._supervisor.stopped.is_set():
            return False

        reproject = self._services.reprojection.reproject
        await self._supervisor.isolate("catalog", topic, lambda topic: reproject(environment, topic, "catalog"), topic)
        return True
