"""A webhook's way through billing, in five stages: store, resolve the tenant, fetch, decide, finish.

Every stage may be repeated: a crash anywhere leaves the event pending in the inbox, and the worker that claims it next
starts from the top. The domain decides; the stages ask the store and the provider.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import structlog

from sync.billing.catalog.watcher import CatalogWatcher
from sync.billing.domain.decision import Setting
from sync.billing.domain.model import Event, Unparsable
from sync.billing.domain.outcome import WAITS_CATALOG, WAITS_SOFTWARE, EventResult, Outcome
from sync.billing.domain.tenant_resolution import (
    is_unreal,
    named_topic,
    sanitize,
    subjects,
    tenant_topic,
    unresolved,
    with_fetched,
)
from sync.billing.providers.base import ProviderClient, WebhookAdapter
from sync.billing.services.attempt import Answer, Attempt, Done, ask_provider, decide_attempt, unparsable
from sync.billing.services.committer import Committer, Decision
from sync.billing.services.finish import Finisher
from sync.billing.storage.environment import Environment
from sync.billing.storage.inbox import Inbox, Record
from sync.billing.storage.tenant_links import TenantLinks
from sync.store.command_pipeline import CommandPipeline
from sync.store.models import ALL_FIELDS, Snapshot, StoreError, snapshot_of
from sync.store.store import Store

RELEASE_MAX = 100
"""How many waiting events one newly learned link takes along at once; workers claim the rest."""

FETCH_PATIENCE_S = 2.5
"""How long a delivery waits for the provider's answer before its own body has to do; providers wait 5 s for ours."""

UNFETCHED_AGAIN_S = 30
"""Delay before an event without a body is tried again because its provider was away."""

_log = structlog.get_logger("sync.pipeline")


class Ingest:
    """Takes events from a verified body to the committed state. One per process, shared by its tasks."""

    def __init__(
        self,
        store: Store,
        committer: Committer,
        catalog_watcher: CatalogWatcher,
        adapters: Mapping[str, WebhookAdapter],
        clients: Mapping[tuple[str, str], ProviderClient],
        environment: Callable[[str], Environment],
        now_ns: Callable[[], int],
    ) -> None:
        """Process events of the providers in `adapters`.

        Args:
            clients: the providers that can be asked, by name and environment: there an event is only a hint.
        """
        self._store = store
        self._committer = committer
        self._catalog_watcher = catalog_watcher
        self._adapters = adapters
        self._clients = clients
        self._environment = environment
        self._now_ns = now_ns
        self._finisher = Finisher(store, committer, environment, now_ns)
        self._name = secrets.token_hex(8)
        self._claims = itertools.count(1)

    async def receive(self, adapter: WebhookAdapter, body: bytes, environment: str) -> EventResult:
        """Return what became of a verified delivery, once it is stored.

        Raises:
            StoreError: it may not be stored, or not be processed to the end. The provider should send it again; if it
                was stored, a worker takes it up anyway.
        """
        stored = await self._store_event(adapter, body, environment)
        if isinstance(stored, EventResult):
            return stored
        try:
            return await self._process(stored)
        except StoreError:
            with contextlib.suppress(StoreError):
                await self.postpone(environment, stored.event.event_id, 0)
            raise

    async def resume(self, record: Record, environment: str) -> EventResult:
        """Return what became of a stored event that the caller has claimed.

        Raises:
            StoreError: the store is unreachable or failing; the event stays pending.
        """
        event = sanitize(self._adapters[record.provider].parse(record.body, environment))
        if isinstance(event, Unparsable):
            return await self._process(unparsable(environment, event))
        attempt = Attempt(event, environment, record.attempts, record.received_us)
        return await self._process(await self._query_links(attempt))

    async def retry(self, environment: str, event_id: str) -> EventResult | None:
        """Return what becomes of a parked event now, or None if no event of that id is parked.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        record = await self._environment(environment).inbox.read(event_id)
        if record is None or record.status != "parked":
            return None
        return await self.resume(record, environment)

    async def postpone(self, environment: str, event_id: str, delay_s: float) -> None:
        """Make a claimed event claimable again in `delay_s`, whatever its lease says.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        batch = CommandPipeline(self._store)
        # The store's clock decides what is due, and may differ from ours: 0 is "at once" by any clock.
        due_us = self._now_ns() // 1000 + int(delay_s * 1_000_000) if delay_s else 0
        self._environment(environment).inbox.postpone(batch, event_id, due_us)
        await batch.run()

    async def give_up(self, record: Record, environment: str, reason: str) -> None:
        """Park a claimed event that cannot be processed; a newer release or an operator tries it again.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        event = Unparsable(record.event_id, record.type, reason)
        result = EventResult(Outcome.PARKED, reason, record.topic, waits=(WAITS_SOFTWARE,))
        await self._finish(Done(environment, event, result))

    async def release(self, environment: str, waits_on: Sequence[str]) -> int:
        """Return how many parked events that waited on one of these things were tried again (RELEASE_MAX each).

        Raises:
            StoreError: the store is unreachable or failing.
        """
        inbox = self._environment(environment).inbox
        batch = CommandPipeline(self._store)
        for thing in waits_on:
            inbox.release(batch, thing, RELEASE_MAX)
        records = [record for ids in await batch.run() for record in await inbox.tried(ids)]
        for record in records:
            await self.resume(record, environment)
        return len(records)

    async def _process(self, step: Attempt | Done) -> EventResult:
        """Take an event that is stored and claimed through the other stages."""
        for stage in (self._resolve_tenant, self._fetch, self._decide):
            if isinstance(step, Attempt):
                step = await stage(step)
        assert isinstance(step, Done)
        return await self._finish(step)

    # Stage 1: store.

    async def _store_event(
        self, adapter: WebhookAdapter, body: bytes, environment: str
    ) -> Attempt | Done | EventResult:
        """Return the claimed event, or EventResult for a duplicate. Link and topic are read in the same round trip."""
        event = sanitize(adapter.parse(body, environment))
        received_us = self._now_ns() // 1000
        known = self._environment(environment)
        batch = CommandPipeline(self._store)
        claim = f"{self._name}.{next(self._claims):x}"
        known.inbox.put(batch, event.event_id, body, adapter.name, event.type, received_us, claim)
        batch.barrier()  # a link learned by an event that is not stored would never release what waits on it
        topic = named_topic(event)
        if topic is not None:
            batch.command("HMGET", batch.keys.snap(topic), *ALL_FIELDS)
        known.links.query(batch, event)
        put, *replies = await batch.run()
        number = Inbox.put_reply(put)
        if isinstance(number, EventResult):
            return number
        if isinstance(event, Unparsable):
            return unparsable(environment, event)
        snapshot = None if topic is None else snapshot_of(topic, replies.pop(0))
        return Attempt(event, environment, number, received_us, replies, snapshot)

    # Stage 2: resolve the tenant.

    async def _resolve_tenant(self, attempt: Attempt) -> Attempt | Done:
        """Return the attempt with its topic, or how an event without a usable tenant ends."""
        event, environment = attempt.event, attempt.environment
        if is_unreal(event):
            return attempt.done(EventResult(Outcome.IGNORED, "simulated event in the live environment"))
        if event.subscription is None and not event.ignored:
            thin = await self._fetch_thin(attempt)
            if isinstance(thin, Done):
                return thin
            attempt, event = thin, thin.event
        if not attempt.link_replies:
            return attempt.done(EventResult(Outcome.IGNORED, event.ignored))
        link = TenantLinks.read(event, list(attempt.link_replies))
        result = unresolved(event, link, self._adapters[event.provider].metadata_field)
        if result is None and event.subscription is None:
            outcome = Outcome.UNCHANGED if link.learned_subscription else Outcome.IGNORED
            result = EventResult(outcome, event.ignored)
        if link.learned_subscription or link.learned_customer or (attempt.number != 1 and event.tenant_id is not None):
            # Before this event ends: if releasing fails, the event is tried again, and releases again.
            await self.release(environment, subjects(event))
        if result is None:
            return replace(attempt, topic=tenant_topic(environment, str(link.tenant_id)))
        is_unlinked = result.outcome is Outcome.PARKED and link.conflict is None
        return attempt.done(result, rechecks_link=is_unlinked)

    async def _fetch_thin(self, attempt: Attempt) -> Attempt | Done:
        """Return an event without a body with what was fetched for it, and its links."""
        attempt, event = await self._fetch(attempt), attempt.event
        assert attempt.answer is not None
        if attempt.answer.fetched is not None:
            return await self._query_links(replace(attempt, event=with_fetched(event, attempt.answer.fetched)))
        if attempt.answer.is_away:
            reason = f"the provider could not be asked; tried again in {UNFETCHED_AGAIN_S} s"
            return attempt.done(EventResult(Outcome.PARKED, reason), retry_s=UNFETCHED_AGAIN_S)
        can_ask = (event.provider, event.environment) in self._clients
        setting = f"set PLANWIRE_{event.provider.upper()}_API_KEYS={event.environment}:KEY"
        problem = "would not tell it" if can_ask else f"cannot be asked for it: {setting}"
        reason = f"{event.type[:60]} carries no subscription, and {event.provider} {problem}"
        return attempt.done(EventResult(Outcome.PARKED, reason, waits=(WAITS_SOFTWARE,)))

    async def _query_links(self, attempt: Attempt) -> Attempt:
        batch = CommandPipeline(self._store)
        self._environment(attempt.environment).links.query(batch, attempt.event)
        return replace(attempt, link_replies=await batch.run())

    # Stage 3: fetch.

    async def _fetch(self, attempt: Attempt) -> Attempt:
        """Return the attempt with the subscription as its provider has it now, if the provider can be asked."""
        if attempt.answer is not None:
            return attempt
        answer = await ask_provider(self._clients, attempt.event, FETCH_PATIENCE_S)
        # The snapshot is older than an answer: a commit against it would conflict more often than not.
        return replace(attempt, answer=answer, snapshot=None if answer.fetched else attempt.snapshot)

    # Stage 4: decide, and commit the decision.

    async def _decide(self, attempt: Attempt) -> Done:
        """Commit what the event makes of the topic, against all other writers."""
        topic, event, catalog = attempt.topic, attempt.event, self._catalog_watcher.current
        answer = attempt.answer or Answer()

        def decision(snapshot: Snapshot) -> Decision:
            now_ns = self._now_ns()
            return decide_attempt(
                snapshot, attempt, Setting(catalog, attempt.environment, self._clients.keys(), now_ns)
            )

        commit = await self._committer.commit(topic, decision, attempt.snapshot)
        result = commit.result
        if result.outcome is Outcome.REFUSED and attempt.number != 1 and await self._was_committed(topic, event):
            result = replace(result, outcome=Outcome.APPLIED, reason="")
            await self._committer.arm_at_once(topic)
        is_first = attempt.number == 1 and not commit.is_repeated
        return Done(attempt.environment, event, result, is_first, answer, commit, catalog)

    async def _was_committed(self, topic: str, event: Event) -> bool:
        """Return whether an earlier attempt, which did not come to its end, has committed the event."""
        batch = CommandPipeline(self._store)
        batch.command("ZSCORE", batch.keys.seen(topic), event.event_id)
        (score,) = await batch.run()
        return score is not None

    # Stage 5: finish.

    async def _finish(self, done: Done) -> EventResult:
        """Return the result, once the history has it and the inbox has ended the event."""
        if done.retry_s is not None:
            await self.postpone(done.environment, done.event.event_id, done.retry_s)
            return done.result
        await self._finisher.finish(done)
        await self._recheck(done)
        return done.result

    async def _recheck(self, done: Done) -> None:
        """Release a parked event whose cause has gone between the decision and the parking."""
        event, result = done.event, done.result
        if result.outcome is Outcome.PARKED:
            _log.warning(
                "event_parked",
                environment=done.environment,
                event_id=event.event_id,
                type=event.type,
                reason=result.reason,
            )
        if WAITS_CATALOG in result.waits and self._catalog_watcher.current is not done.catalog:
            await self._environment(done.environment).inbox.reopen(WAITS_CATALOG)
        if done.rechecks_link and isinstance(event, Event):
            await self._recheck_link(event)

    async def _recheck_link(self, event: Event) -> None:
        """Release what waits on a link that was learned between our query and our parking.

        If this process or the store ends first, the event is tried once more when its lease has run out.
        """
        known = self._environment(event.environment)
        batch = CommandPipeline(self._store)
        known.links.query(batch, event)
        if TenantLinks.read(event, await batch.run()).tenant_id is not None:
            await self.release(event.environment, subjects(event))
            return
        batch = CommandPipeline(self._store)
        known.inbox.cancel_retry(batch, event.event_id)
        await batch.run()
