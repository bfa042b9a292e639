"""Catches up after an outage: reads the provider's list of events from a cursor on, and puts them into the inbox.

Events that webhooks have brought are duplicates there. The others become pending, so that workers process them, and are
recorded as drift.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from sync.billing.domain.facts.drift import Drift
from sync.billing.domain.facts.order import CLOCK_SLACK_NS
from sync.billing.providers.base import ProviderClient, ProviderEvent, ProviderRejected
from sync.billing.services.context import BillingContext
from sync.billing.storage.inbox import Claim, Inbox
from sync.store.command_pipeline import CommandPipeline, failure
from sync.store.lease import Lease
from sync.store.models import StoreRejected

FIRST_S = 3 * 86_400
"""How far back the first run reads: as long as providers retry."""

SETTLE_S = 60.0
"""Age from which an event counts as missed: a younger one's webhook may still arrive."""

PAGES_MAX = 200
"""Maximum pages of one run; the next run continues after them."""

QUEUE = "catch-up"
"""The queue's name, for logs and the metric."""

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

    async def run(self, settle_s: float | None = None) -> int:
        """Return the number of missed events: those that no webhook had brought.

        Args:
            settle_s: age from which an event counts as missed; None for SETTLE_S.

        Raises:
            StoreError: the store is unreachable or failing; the next run continues where this one stopped.
            ProviderUnavailable: the provider is unreachable or failing; the next run continues likewise.
            ProviderRejected: the API key lacks a permission.
        """
        missed = 0
        until_ns = self._context.now_ns() - int((SETTLE_S if settle_s is None else settle_s) * 1e9)
        # An event of a test clock may lie months ahead. Waiting for its time would hold up the real events behind it.
        future_ns = self._context.now_ns() + CLOCK_SLACK_NS
        for _ in range(PAGES_MAX):
            batch = CommandPipeline(self._store)
            self._lease.add_acquire(batch)
            batch.command("GET", self._cursor)
            is_held, cursor = await batch.run()
            if not is_held:
                return missed
            try:
                after = cursor.decode(errors="replace") if cursor else ""
                page, more = await self._page(after, until_ns - FIRST_S * 1_000_000_000)
                settled = [entry for entry in page if not until_ns < entry.occurred_ns <= future_ns]
                found, is_held = await self._store_events(settled)
                missed += found
            finally:
                await self._lease.release()
            if len(settled) < len(page) or not more or not is_held:
                break
        return missed

    async def _page(self, after: str, since_ns: int) -> tuple[Sequence[ProviderEvent], bool]:
        """Return the page after a cursor, or since an instant if there is no cursor that the provider accepts."""
        if after:
            try:
                return await self._client.events(after, since_ns, MAX_WAIT_S)
            except ProviderRejected as error:
                _log.warning("cursor_rejected", environment=self._environment.name, after=after, reason=str(error))
        return await self._client.events("", since_ns, MAX_WAIT_S)

    async def _store_events(self, events: Sequence[ProviderEvent]) -> tuple[int, bool]:
        """Put events into the inbox and move the cursor past them.

        Returns:
            How many were new to the inbox, and whether this process still had the lease: without it the cursor stays.
        """
        if not events:
            return 0, True
        known, at_us = self._environment, self._context.now_us
        batch, ids = CommandPipeline(self._store), []
        for entry in events:
            for event_id, body in self._adapter.split(entry.body, entry.event_id):
                event = self._context.parse(self._adapter.name, body, known.name, event_id)
                known.inbox.put(batch, event, body, self._adapter.name, at_us)
                ids.append(event_id)
        missed = []
        for event_id, reply in zip(ids, await batch.attempt(), strict=True):
            if not isinstance(reply, Exception):
                put = Inbox.put_reply(reply)
                missed += [event_id] if isinstance(put, Claim) and put.number == 1 else []
            elif isinstance(rejection := failure(reply), StoreRejected):  # only this event cannot be stored
                _log.error("item_failed", queue=QUEUE, item=event_id, error=str(rejection))
                await self._context.isolation.count(QUEUE)
            else:
                raise rejection
        batch = CommandPipeline(self._store)
        for event_id in missed:
            known.inbox.postpone(batch, event_id, 0)
            known.drifts.add(batch, Drift("missed_event", "", event_id, "catch-up", at_us))
        batch.barrier()
        self._lease.add_set(batch, self._cursor, events[-1].after)
        is_held = bool((await batch.run())[-1])
        if missed:
            _log.warning("events_missed", environment=known.name, count=len(missed))
        return len(missed), is_held
