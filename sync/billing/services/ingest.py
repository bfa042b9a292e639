"""A webhook's way through billing, in five stages: store, resolve the tenant, fetch, decide, finish.

Every stage may be repeated: a crash anywhere leaves the event pending in the inbox, and the worker that claims it next
starts from the top. The domain decides; the stages ask the store and the provider.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
from collections.abc import Sequence
from dataclasses import replace

import structlog

from sync.billing.domain import tenant_resolution
from sync.billing.domain.model import Event, Unparsable
from sync.billing.domain.outcome import ERASED_REASON, WAITS_CATALOG, WAITS_SOFTWARE, EventResult, Outcome
from sync.billing.domain.tenant_resolution import subjects
from sync.billing.providers.base import ProviderRejected, ProviderUnavailable, WebhookAdapter
from sync.billing.services.attempt import Answer, Attempt, Done, decide_attempt, unparsable
from sync.billing.services.committer import Committer, Decision
from sync.billing.services.context import BillingContext
from sync.billing.storage.environment import reconcile_requests
from sync.billing.storage.inbox import Inbox, Record
from sync.billing.storage.records import append_event, has_event, record_snapshots
from sync.billing.storage.tenants import erase_links, find_link, query_link, read_link
from sync.store.command_pipeline import CommandPipeline, run_commands
from sync.store.models import ALL_FIELDS, Snapshot, StoreError, snapshot_of

RELEASE_MAX = 100
"""How many waiting events one newly learned link takes along at once; workers claim the rest."""

FETCH_MAX_WAIT_S = 2.5
"""How long a delivery waits for the provider's answer before its own body has to do; providers wait 5 s for ours."""

UNFETCHED_AGAIN_S = 30
"""Delay before an event without a body is tried again because its provider was away."""

_log = structlog.get_logger("sync.pipeline")


class Ingest:
    """Takes events from a verified body to the committed state. One per process, shared by its tasks."""

    def __init__(self, context: BillingContext, committer: Committer) -> None:
        self._context = context
        self._committer = committer
        self._store = context.store
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
        event = tenant_resolution.sanitize(self._context.adapters[record.provider].parse(record.body, environment))
        if isinstance(event, Unparsable):
            return await self._process(unparsable(environment, event))
        link = await find_link(self._store, event)
        return await self._process(Attempt(event, environment, record.attempts, record.received_us, link))

    async def retry(self, environment: str, event_id: str) -> EventResult | None:
        """Return what becomes of a parked event now, or None if no event of that id is parked.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        record = await self._context.environment(environment).inbox.read(event_id)
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
        due_us = self._context.now_us + int(delay_s * 1_000_000) if delay_s else 0
        self._context.environment(environment).inbox.postpone(batch, event_id, due_us)
        await batch.run()

    async def give_up(self, record: Record, environment: str, reason: str) -> None:
        """Park a claimed event that cannot be processed; a newer release or an operator tries it again.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        event = Unparsable(record.event_id, record.type, reason)
        result = EventResult(Outcome.PARKED, reason, record.topic, waits=(WAITS_SOFTWARE,))
        await self._finish(Done(environment, event, result))

    async def release(self, environment: str, waits_on: Sequence[str]) -> None:
        """Try the parked events that waited on one of these things again (RELEASE_MAX each).

        Raises:
            StoreError: the store is unreachable or failing.
        """
        inbox = self._context.environment(environment).inbox
        batch = CommandPipeline(self._store)
        for thing in waits_on:
            inbox.release(batch, thing, RELEASE_MAX)
        released = [id.decode() for ids in await batch.run() for id in ids]
        for record in await inbox.tried(released):
            await self.resume(record, environment)

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
        event = tenant_resolution.sanitize(adapter.parse(body, environment))
        received_us = self._context.now_us
        batch = CommandPipeline(self._store)
        claim = f"{self._name}.{next(self._claims):x}"
        self._context.environment(environment).inbox.put(batch, event, body, adapter.name, received_us, claim)
        batch.barrier()  # a link learned by an event that is not stored would never release what waits on it
        topic = tenant_resolution.named_topic(event)
        if topic is not None:
            batch.command("HMGET", batch.keys.snap(topic), *ALL_FIELDS)
        query_link(batch, event)
        put, *replies = await batch.run()
        number = Inbox.put_reply(put)
        if isinstance(number, EventResult):
            return number
        if isinstance(event, Unparsable):
            return unparsable(environment, event)
        snapshot = None if topic is None else snapshot_of(topic, replies.pop(0))
        return Attempt(event, environment, number, received_us, read_link(event, replies), snapshot)

    # Stage 2: resolve the tenant.

    async def _resolve_tenant(self, attempt: Attempt) -> Attempt | Done:
        """Return the attempt with its topic, or how an event without a usable tenant ends."""
        if tenant_resolution.is_unreal(attempt.event):
            return attempt.done(EventResult(Outcome.IGNORED, "simulated event in the live environment"))
        if attempt.event.subscription is None and not attempt.event.ignored:
            thin = await self._fetch_thin(attempt)
            if isinstance(thin, Done):
                return thin
            attempt = thin
        event, link = attempt.event, attempt.link
        if link is None:
            return attempt.done(EventResult(Outcome.IGNORED, event.ignored))
        metadata_field = self._context.adapters[event.provider].metadata_field
        result = tenant_resolution.unresolved(event, link, metadata_field)
        if result is None and event.subscription is None:
            outcome = Outcome.UNCHANGED if link.learned_subscription else Outcome.IGNORED
            result = EventResult(outcome, event.ignored)
        if link.learned_subscription or link.learned_customer or (attempt.number != 1 and event.tenant_id is not None):
            # Before this event ends: if releasing fails, the event is tried again, and releases again.
            await self.release(attempt.environment, subjects(event))
        if result is None:
            return replace(attempt, topic=tenant_resolution.tenant_topic(attempt.environment, str(link.tenant_id)))
        is_unlinked = result.outcome is Outcome.PARKED and link.conflict is None
        return replace(attempt.done(result), rechecks_link=is_unlinked)

    async def _fetch_thin(self, attempt: Attempt) -> Attempt | Done:
        """Return an event without a body with what was fetched for it, and its links."""
        attempt, event = await self._fetch(attempt), attempt.event
        assert attempt.answer is not None
        if attempt.answer.fetched is not None:
            whole = tenant_resolution.with_fetched(event, attempt.answer.fetched)
            return replace(attempt, event=whole, link=await find_link(self._store, whole))
        if attempt.answer.is_away:
            reason = f"the provider could not be asked; tried again in {UNFETCHED_AGAIN_S} s"
            return replace(attempt.done(EventResult(Outcome.PARKED, reason)), retry_s=UNFETCHED_AGAIN_S)
        can_ask = (event.provider, event.environment) in self._context.clients
        setting = f"set PLANWIRE_{event.provider.upper()}_API_KEYS={event.environment}:KEY"
        problem = "would not tell it" if can_ask else f"cannot be asked for it: {setting}"
        reason = f"{event.type[:60]} carries no subscription, and {event.provider} {problem}"
        return attempt.done(EventResult(Outcome.PARKED, reason, waits=(WAITS_SOFTWARE,)))

    # Stage 3: fetch.

    async def _fetch(self, attempt: Attempt) -> Attempt:
        """Return the attempt with the subscription as its provider has it now, if the provider can be asked."""
        event = attempt.event
        client = self._context.clients.get((event.provider, event.environment))
        if attempt.answer is not None or client is None or event.subscription_id is None:
            return replace(attempt, answer=attempt.answer or Answer())
        try:
            # The snapshot is older than an answer: a commit against it would conflict more often than not.
            fetched = await client.fetch(event.subscription_id, FETCH_MAX_WAIT_S)
            return replace(attempt, answer=Answer(fetched), snapshot=None)
        except ProviderUnavailable as error:
            _log.warning("not_fetched", subscription_id=event.subscription_id, reason=error.reason)
            return replace(attempt, answer=Answer(is_away=True))
        except ProviderRejected as error:
            # Asking again would not help: the key is of another account, or the event of a simulation.
            _log.warning("not_fetched", subscription_id=event.subscription_id, reason=str(error))
            return replace(attempt, answer=Answer())

    # Stage 4: decide, and commit the decision.

    async def _decide(self, attempt: Attempt) -> Done:
        """Commit what the event makes of the topic, against all other writers."""
        topic, event, catalog = attempt.topic, attempt.event, self._context.catalog_watcher.current

        def decision(snapshot: Snapshot) -> Decision:
            return decide_attempt(attempt, snapshot, self._context.setting(attempt.environment, catalog))

        commit = await self._committer.commit(topic, decision, attempt.snapshot)
        result = commit.result
        if result.outcome is Outcome.REFUSED and attempt.number != 1:
            (score,) = await run_commands(self._store, ("ZSCORE", self._store.keys.seen(topic), event.event_id))
            if score is not None:  # committed by an earlier attempt, which did not come to its end
                result = replace(result, outcome=Outcome.APPLIED, reason="")
                await self._committer.arm_at_once(topic)
        is_first = attempt.number == 1 and not commit.is_repeated
        return Done(attempt.environment, event, result, is_first, attempt.answer, commit, catalog)

    # Stage 5: finish.

    async def _finish(self, done: Done) -> EventResult:
        """Return the result, once the event log has it and the inbox has ended the event."""
        event, result, known = done.event, done.result, self._context.environment(done.environment)
        if done.retry_s is not None:
            await self.postpone(done.environment, event.event_id, done.retry_s)
            return result
        is_logged = not done.is_first and bool(result.topic)
        is_logged = is_logged and await has_event(self._store, result.topic, event.event_id, result)
        batch = CommandPipeline(self._store)
        if result.reason == ERASED_REASON and isinstance(event, Event):
            known.count_erased(batch)
            if event.tenant_id is not None:  # it may name a subscription that was not known yet
                erase_links(batch, done.environment, subjects(event), event.tenant_id)
        if done.commit is not None:
            self._committer.follow_up(batch, done.commit)
        if result.topic:
            answer = done.answer or Answer()
            if answer.is_away and (done.commit is None or done.commit.decision.write is None):
                reconcile_requests(self._store).request(batch, [result.topic])
            if answer.fetched is not None:
                record_snapshots(batch, result.topic, [answer.fetched])
            if not is_logged:
                append_event(batch, result.topic, event.event_id, event.type, result, self._context.now_us)
        # Last, so that a failure before it leaves the event pending: then all of this is done again.
        batch.barrier()
        known.inbox.end(batch, event.event_id, result, again=done.rechecks_link)
        await batch.run()
        if result.outcome is Outcome.PARKED:
            await self._recheck(done)
        return result

    async def _recheck(self, done: Done) -> None:
        """Release a parked event whose cause has gone between the decision and the parking."""
        event, environment, reason = done.event, done.environment, done.result.reason
        _log.warning("event_parked", environment=environment, event_id=event.event_id, type=event.type, reason=reason)
        if WAITS_CATALOG in done.result.waits and self._context.catalog_watcher.current is not done.catalog:
            await self._context.environment(environment).inbox.reopen(WAITS_CATALOG)
        if done.rechecks_link and isinstance(event, Event):
            await self._recheck_link(event)

    async def _recheck_link(self, event: Event) -> None:
        """Release what waits on a link that was learned between our query and our parking.

        If this process or the store ends first, the event is tried once more when its lease has run out.
        """
        link = await find_link(self._store, event)
        if link is not None and link.tenant_id is not None:
            await self.release(event.environment, subjects(event))
            return
        batch = CommandPipeline(self._store)
        self._context.environment(event.environment).inbox.cancel_retry(batch, event.event_id)
        await batch.run()
