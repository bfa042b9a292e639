"""Finishes a processed event: writes its result and what follows from its commit, and ends it in the inbox.

A parked event is checked once more: what it waits on may have appeared between the decision and the parking.
"""

from __future__ import annotations

import structlog

from planwire_client.core.topic import Topic
from sync.billing.domain import tenant_resolution
from sync.billing.domain.facts.model import Event
from sync.billing.domain.outcome import ERASED_REASON, WAITS_CATALOG, EventResult, Outcome, revival_of
from sync.billing.domain.tenant_resolution import SubscriptionRef, subjects
from sync.billing.services.bills import compare_bill
from sync.billing.services.committer import Committer
from sync.billing.services.context import BillingContext
from sync.billing.services.events.attempt import Answer, Processed
from sync.billing.services.events.event_queue import RELEASE_MAX, EventQueue, Processing
from sync.billing.services.events.resolve import TenantResolver
from sync.billing.storage.customers import store_customers
from sync.billing.storage.environment import reconcile_requests
from sync.billing.storage.links import erase_links, store_name
from sync.billing.storage.records import append_event, record_snapshots
from sync.billing.storage.tenants import known_facts
from sync.store.command_pipeline import CommandPipeline

CLOCKS_DIFFER_US = 10_000_000
"""By how much the clock of a process that logs an event may be behind that of the one that received it."""

_log = structlog.get_logger("sync.pipeline")


class Finisher:
    """Finishes the events of one process."""

    def __init__(
        self, context: BillingContext, committer: Committer, resolver: TenantResolver, processing: Processing
    ) -> None:
        self._context = context
        self._store = context.store
        self._committer = committer
        self._resolver = resolver
        self._processing = processing

    async def finish(self, processed: Processed) -> EventResult:
        """Write the result to the event log, end the event in the inbox, and return the result.

        Raises:
            StoreError: the store is unreachable or failing; the event stays pending.
        """
        event, result, known = processed.event, processed.result, self._context.environment(processed.environment)
        if processed.retry_s is not None:
            await self._processing.postpone(processed.environment, event.event_id, processed.retry_s, processed.claim)
            return result
        batch = CommandPipeline(self._store)
        unblocked = list(dict.fromkeys(processed.unblocks))
        for waits_on in unblocked:
            known.inbox.release(batch, waits_on, RELEASE_MAX)
        known.count(batch, result)
        if result.reason == ERASED_REASON and isinstance(event, Event):
            link = processed.link
            is_its = link is None or link.tenant_id in (event.tenant_id, tenant_resolution.TOMBSTONE)
            if event.tenant_id is not None and is_its:  # its subscription may have been unknown until now
                erase_links(batch, SubscriptionRef.of(event), event.customer_id, event.tenant_id)
        if processed.commit is not None and isinstance(event, Event):
            self._committer.follow_up(batch, processed.commit)
            decision, tenant_id = processed.commit.decision, Topic.parse(processed.commit.topic).id
            store_customers(batch, event, tenant_id, decision.before, decision.after)
        if isinstance(event, Event) and event.billed is not None and not tenant_resolution.is_unreal(event):
            await compare_bill(self._context, batch, event.environment, event.provider, event.billed, event.event_id)
        if result.topic:
            answer = processed.answer or Answer()
            if answer.is_away and (processed.commit is None or processed.commit.decision.write is None):
                reconcile_requests(self._store).request(batch, [result.topic])
            if answer.fetched is not None:
                record_snapshots(batch, result.topic, [answer.fetched])
                store_name(batch, answer.fetched)
            self._log(batch, processed)
        # Last, so that a failure before it leaves the event pending and all of this is repeated.
        batch.barrier()
        known.inbox.end(batch, event.event_id, result, again=processed.rechecks_link, claim=processed.claim)
        replies = await batch.run()
        if result.waits or result.outcome is Outcome.PARKED:
            await self._recheck(processed)
        released = dict.fromkeys(id for ids in replies[: len(unblocked)] for id in ids)
        await self._queue(processed.environment).take_up([id for id in released if id != event.event_id.encode()])
        return result

    def _log(self, batch: CommandPipeline, processed: Processed) -> None:
        event, result = processed.event, processed.result
        # What an event is older than, and what it is beside, may be something else by now; and of one that is committed
        # already nobody knows whether it was the newest then.
        any_end = processed.is_recovered or result.outcome is Outcome.REFUSED
        append_event(
            batch,
            result.topic,
            event.event_id,
            event.type,
            result,
            self._context.now_us,
            since_us=max(0, processed.received_us - CLOCKS_DIFFER_US),
            any_end=any_end,
        )

    async def _recheck(self, processed: Processed) -> None:
        """Release a parked event if its cause has disappeared between the decision and the parking."""
        event, environment, reason = processed.event, processed.environment, processed.result.reason
        _log.warning("event_parked", environment=environment, event_id=event.event_id, type=event.type, reason=reason)
        if WAITS_CATALOG in processed.result.waits and self._context.catalog_watcher.current is not processed.catalog:
            await self._context.environment(environment).inbox.reopen(WAITS_CATALOG)
        topic, waits = processed.result.topic, processed.result.waits
        if waits == (revival_of(topic),):
            facts = known_facts(await self._store.read(topic))
            if facts is None or facts.erased_ns is None:
                await self._queue(environment).release(waits, RELEASE_MAX)
        if processed.rechecks_link and isinstance(event, Event):
            await self.recheck_link(event)

    async def recheck_link(self, event: Event) -> None:
        """Release the events that wait on a link if it was learned between the query and the parking.

        If this process or the store stops first, the event is retried once when its lease has expired.
        """
        if await self._resolver.is_known(event):
            await self._queue(event.environment).release(subjects(event), RELEASE_MAX)
            return
        batch = CommandPipeline(self._store)
        self._context.environment(event.environment).inbox.cancel_retry(batch, event.event_id)
        await batch.run()

    def _queue(self, environment: str) -> EventQueue:
        return EventQueue(self._context, self._processing, environment)
