"""Catches up after an outage: reads the provider's list of events from a cursor on, and puts them into the inbox.

Events that webhooks have brought are duplicates there. The others become pending, so that workers process them, and are
recorded as drift.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from sync.billing.domain.drift import Drift
from sync.billing.providers.base import ProviderClient, ProviderEvent
from sync.billing.services.context import BillingContext
from sync.billing.storage.inbox import Inbox
from sync.store.command_pipeline import CommandPipeline
from sync.store.lease import Lease

FIRST_S = 3 * 86_400
"""How far back the first run reads: as long as providers retry."""

SETTLE_S = 60.0
"""Age from which an event counts as missed: a younger one's webhook may still arrive."""

PAGES_MAX = 200
"""Maximum pages of one run; the next run continues after them."""

LEASE_S = 120.0
MAX_WAIT_S = 60.0

_log = structlog.get_logger("sync.catchup")


class CatchUp:
    """Reads the new events of one provider's environment, in one process at a time."""

    def __init__(self, context: BillingContext, provider: str, environment: str, client: ProviderClient) -> None:
        self._context = context
        self._store = context.store
        self._environment = context.environment(environment)
        self._adapter = context.adapters[provider]
        self._client = client
        keys = context.store.keys
        self._cursor = keys.provider_events(environment, provider, "cursor")
        self._lease = Lease(context.store, keys.provider_events(environment, provider, "lease"), LEASE_S)

    async def run(self, settle_s: float = SETTLE_S) -> int:
        """Return the number of missed events: those that no webhook had brought.

        Args:
            settle_s: age from which an event counts as missed.

        Raises:
            StoreError: the store is unreachable or failing; the next run continues where this one stopped.
            ProviderUnavailable: the provider is unreachable or failing; the next run continues likewise.
            ProviderRejected: the API key lacks a permission.
        """
        missed = 0
        until_ns = self._context.now_ns() - int(settle_s * 1e9)
        for _ in range(PAGES_MAX):
            batch = CommandPipeline(self._store)
            self._lease.add_acquire(batch)
            batch.command("GET", self._cursor)
            is_held, cursor = await batch.run()
            if not is_held:
                return missed
            try:
                after = cursor.decode() if cursor else ""
                page, more = await self._client.events(after, until_ns - FIRST_S * 1_000_000_000, MAX_WAIT_S)
                settled = [entry for entry in page if entry.occurred_ns <= until_ns]
                missed += await self._store_events(settled)
            finally:
                await self._lease.release()
            if len(settled) < len(page) or not more:
                break
        return missed

    async def _store_events(self, events: Sequence[ProviderEvent]) -> int:
        """Put events into the inbox, move the cursor past them, and return how many were new to the inbox."""
        if not events:
            return 0
        known, at_us = self._environment, self._context.now_us
        batch = CommandPipeline(self._store)
        for entry in events:
            event = self._adapter.parse(entry.body, known.name)
            known.inbox.put(batch, event, entry.body, self._adapter.name, at_us)
        puts = [Inbox.put_reply(reply) for reply in await batch.run()]
        missed = [entry for entry, put in zip(events, puts, strict=True) if put == 1]
        batch = CommandPipeline(self._store)
        for entry in missed:
            known.inbox.postpone(batch, entry.event_id, 0)
            known.drifts.add(batch, Drift("missed_event", "", entry.event_id, "catch-up", at_us))
        batch.command("SET", self._cursor, events[-1].event_id)
        await batch.run()
        if missed:
            _log.warning("events_missed", environment=known.name, count=len(missed))
        return len(missed)
