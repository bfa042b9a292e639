"""Processes a webhook event in five stages: store, fetch, resolve the tenant, decide, finish.

Every stage is idempotent: a crash anywhere leaves the event pending in the inbox, and the next worker that claims it
starts at the first stage. The stages do the I/O with the store and the provider; the domain makes the decisions.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
from collections.abc import Sequence

from sync.billing.catalog.catalog import Catalog
from sync.billing.domain import tenant_resolution
from sync.billing.domain.facts.model import Unparsable, subscription_key
from sync.billing.domain.outcome import (
    MOVED,
    WAITS_SOFTWARE,
    EventResult,
    Outcome,
    most_telling,
)
from sync.billing.domain.tenant_resolution import subjects
from sync.billing.providers.webhook_adapter import WebhookAdapter
from sync.billing.services.committer import Commit, Committer, Decision
from sync.billing.services.context import BillingContext
from sync.billing.services.events.attempt import Attempt, Processed, decide_attempt, unblocked_by, unparsable
from sync.billing.services.events.event_queue import RELEASE_MAX, EventQueue
from sync.billing.services.events.fetch import ProviderFetch
from sync.billing.services.events.finish import Finisher
from sync.billing.services.events.resolve import TenantResolver
from sync.billing.services.move import Moves, move_cause
from sync.billing.storage.checkouts import query_checkout, with_checkout
from sync.billing.storage.inbox import Inbox, Record
from sync.billing.storage.links import find_link, query_link, read_link
from sync.store.command_pipeline import CommandPipeline, run_commands
from sync.store.delayed_queue import due_of, member_of
from sync.store.models import ALL_FIELDS, Snapshot, StoreError, snapshot_of


class Ingest:
    """Takes events from a verified body to the committed state. One per process, shared by its tasks."""

    def __init__(self, context: BillingContext, committer: Committer, moves: Moves, resolver: TenantResolver) -> None:
        self._context = context
        self._committer = committer
        self._moves = moves
        self._resolver = resolver
        self._provider_fetch = ProviderFetch(context)
        self.finisher = Finisher(context, committer, resolver, self)
        self._store = context.store
        self._name = secrets.token_hex(8)
        self._claims = itertools.count(1)

    async def receive(self, adapter: WebhookAdapter, body: bytes, environment: str, event_id: str = "") -> EventResult:
        """Store and process a verified delivery; return its result.

        Args:
            event_id: the id of an event whose body has none.

        Raises:
            StoreError: the event may not be stored, or not be processed completely. The provider should send it again;
                if it is stored, a worker retries it anyway.
        """
        parts = adapter.split(body, event_id)
        results = [await self._receive(adapter, part, environment, id) for id, part in parts]
        return results[0] if len(results) == 1 else most_telling(results)

    async def _receive(self, adapter: WebhookAdapter, body: bytes, environment: str, event_id: str) -> EventResult:
        """Store and process one event of a delivery."""
        stored = await self._store_event(adapter, body, environment, event_id)
        if isinstance(stored, EventResult):
            return stored
        try:
            return await self._process(stored)
        except StoreError:
            with contextlib.suppress(StoreError):
                await self.postpone(environment, stored.event.event_id, 0, stored.claim)
            raise

    async def resume(self, record: Record, environment: str) -> EventResult:
        """Process a stored event that the caller has claimed; return its result.

        Raises:
            StoreError: the store is unreachable or failing; the event stays pending.
        """
        catalog = self._context.catalog_watcher.current
        event = self._context.parse(record.provider, record.body, environment, record.event_id, catalog)
        if isinstance(event, Unparsable):
            return await self._process(unparsable(environment, event, record.claim))
        number, received_us = record.attempts, record.received_us
        event = tenant_resolution.received(event, received_us)
        link = await find_link(self._store, event)
        batch = CommandPipeline(self._store)
        if query_checkout(batch, event):
            event, link = await with_checkout(self._store, event, link, *await batch.run())
        attempt = Attempt(event, environment, number, received_us, catalog, link, claim=record.claim)
        return await self._process(attempt)

    async def retry(self, environment: str, event_id: str) -> EventResult | None:
        """Retry a parked event now; return its result, or None if no event of that id is parked.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        inbox = self._context.environment(environment).inbox
        record = await inbox.read(event_id)
        is_parked = record is not None and record.parked_us
        begun = await inbox.begin(due_of(member_of(event_id))) if is_parked else None
        return None if begun is None else await self.resume(begun, environment)

    async def postpone(
        self, environment: str, event_id: str, delay_s: float, claim: str = "", *, counts: bool = False
    ) -> None:
        """Make a claimed event due in `delay_s`, unless another has claimed it. `counts`: this attempt has failed.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        batch = CommandPipeline(self._store)
        # The store's clock decides what is due and may differ from ours: 0 is due by any clock.
        due_us = self._context.now_us + int(delay_s * 1_000_000) if delay_s else 0
        self._context.environment(environment).inbox.postpone(batch, event_id, due_us, claim, counts=counts)
        await batch.run()

    async def give_up(self, record: Record, environment: str, reason: str) -> None:
        """Park a claimed event that cannot be processed, until a newer release or an operator retries it."""
        event = Unparsable(record.event_id, record.type, reason)
        result = EventResult(Outcome.PARKED, reason, record.topic, waits=(WAITS_SOFTWARE,))
        await self.finisher.finish(Processed(environment, event, result, claim=record.claim))

    async def release(self, environment: str, waits_on: Sequence[str]) -> None:
        """Retry the parked events that wait on any of these (RELEASE_MAX each). One that fails is retried by a worker.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        await EventQueue(self._context, self, environment).release(waits_on, RELEASE_MAX)

    async def _process(self, step: Attempt | Processed) -> EventResult:
        """Run the stages after the first on an event that is stored and claimed."""
        for stage in (self._provider_fetch.fetch, self._resolve_tenant, self._decide):
            if isinstance(step, Attempt):
                step = await stage(step)
        assert isinstance(step, Processed)
        return await self.finisher.finish(step)

    # Stage 1: store.

    async def _store_event(
        self, adapter: WebhookAdapter, body: bytes, environment: str, event_id: str
    ) -> Attempt | Processed | EventResult:
        """Return the claimed event, or EventResult for a duplicate. Link and topic are read in the same round trip."""
        catalog = self._context.catalog_watcher.current
        event, now_us = self._context.parse(adapter.name, body, environment, event_id, catalog), self._context.now_us
        event = event if isinstance(event, Unparsable) else tenant_resolution.received(event, now_us)
        batch = CommandPipeline(self._store)
        claim = f"{self._name}.{next(self._claims):x}"
        self._context.environment(environment).inbox.put(batch, event, body, adapter.name, now_us, claim)
        topic = tenant_resolution.named_topic(event)
        if topic is not None:
            batch.command("HMGET", batch.keys.snap(topic), *ALL_FIELDS)
        query_link(batch, event)
        has_checkout = query_checkout(batch, event)
        put, *replies = await batch.run()
        claimed = Inbox.put_reply(put)
        if isinstance(claimed, EventResult):
            return claimed
        claim = claim if claimed.number else ""  # a parked event is retried without a claim
        if isinstance(event, Unparsable):
            return unparsable(environment, event, claim)
        snapshot = None if topic is None else snapshot_of(topic, replies.pop(0))
        checkout = replies.pop() if has_checkout else None
        link = read_link(event, replies)
        if checkout is not None:
            event, link = await with_checkout(self._store, event, link, checkout)
        return Attempt(event, environment, *claimed, catalog, link, snapshot, claim=claim)

    # Stage 2 is `fetch`. Stage 3: resolve the tenant (`resolve`).

    async def _resolve_tenant(self, attempt: Attempt) -> Attempt | Processed:
        """Return the attempt with its topic, or the end of an event without a usable tenant."""
        event, resolved = attempt.event, await self._resolver.resolve(attempt)
        link, is_proof = resolved.link, event.is_signed and event.subscription is None
        if link is not None and (link.learned_subscription or link.learned_customer or is_proof):
            return resolved._replace(unblocks=(*attempt.unblocks, *subjects(event)))
        if tenant_resolution.is_about_customer(event):
            return resolved._replace(unblocks=tenant_resolution.customer_subjects(event))
        return resolved

    # Stage 4: decide, and commit the decision.

    async def _decide(self, attempt: Attempt) -> Processed:
        """Decide what the event changes, and commit it by compare-and-set."""
        topic, event, catalog = attempt.topic, attempt.event, self._context.catalog_watcher.current
        commit = await self._commit(attempt, catalog)
        if commit.result.reason == MOVED.reason:
            # It was moved after its link was read. If it was not, the store has lost its link.
            link = await find_link(self._store, event)
            resolved = await self._resolve_tenant(attempt._replace(link=link, snapshot=None))
            if isinstance(resolved, Processed):
                return resolved
            attempt, topic = resolved, resolved.topic
            commit = await self._commit(attempt, catalog, moved_us=self._context.now_us)
        if commit.decision.write is not None:
            await self._check_home(attempt, commit)
        result, is_recovered = commit.result, commit.is_repeated
        if result.outcome is Outcome.REFUSED and attempt.number != 1:
            (score,) = await run_commands(self._store, ("ZSCORE", self._store.keys.seen(topic), event.event_id))
            if score is not None:  # committed by an earlier attempt that did not finish
                result, is_recovered = result._replace(outcome=Outcome.APPLIED, reason=""), True
                await self._committer.arm_at_once(topic)
        unblocked = unblocked_by(event, commit, self._context.setting(attempt.environment, catalog))
        return attempt.ended(result)._replace(
            commit=commit,
            catalog=catalog,
            unblocks=(*attempt.unblocks, *unblocked),
            is_recovered=is_recovered,
        )

    async def _commit(self, attempt: Attempt, catalog: Catalog, moved_us: int = 0) -> Commit:
        def decision(snapshot: Snapshot) -> Decision:
            return decide_attempt(attempt, snapshot, self._context.setting(attempt.environment, catalog), moved_us)

        return await self._committer.commit(attempt.topic, decision, attempt.snapshot)

    async def _check_home(self, attempt: Attempt, commit: Commit) -> None:
        """Move a subscription that is new to its tenant on, if its link was flipped between its query and the commit.

        Otherwise the move has not seen it. At a tenant that has had it, a tombstone rejects the event.
        """
        event, before, after = attempt.event, commit.decision.before, commit.decision.after
        key = subscription_key(event.provider, str(event.subscription_id))
        if key in after.subscriptions and (attempt.number != 1 or key not in before.subscriptions):
            await self._moves.check(commit.topic, [after.subscriptions[key]], move_cause(event))
