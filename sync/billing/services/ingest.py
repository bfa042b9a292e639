"""The way of one event: inbox -> link -> read -> ask the provider -> reduce -> project -> commit -> finish or park.

The pure parts decide; here is the order in which the store is asked and told, and what happens when it fails halfway.
Every step may be repeated: a crash anywhere leaves the event pending in the inbox, and whoever claims it next starts
from the top. It speaks no HTTP and owns no task.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import structlog

from planwire_client.core import canonical_json
from planwire_client.core.commit import BILLING
from sync.billing.catalog.watcher import CatalogWatcher
from sync.billing.domain import codec, tenant_resolution, wakeups
from sync.billing.domain.decision import Decided, decide, event_cause
from sync.billing.domain.drift import Drift
from sync.billing.domain.model import Event, Facts, Unparsable
from sync.billing.domain.outcome import ERASED_REASON, WAITS_CATALOG, WAITS_SOFTWARE, EventResult, Outcome
from sync.billing.domain.projection import Projected
from sync.billing.domain.tenant_resolution import is_unreal, sanitize, subjects, tenant_topic, unresolved, with_fetched
from sync.billing.providers.base import ProviderClient, ProviderRejected, ProviderUnavailable, WebhookAdapter
from sync.billing.storage.environment import Environment
from sync.billing.storage.event_log import ask_noted, is_noted, note
from sync.billing.storage.inbox import Inbox, Record
from sync.billing.storage.provider_snapshots import record_snapshots
from sync.billing.storage.tenant_facts import FactsError, facts_of
from sync.billing.storage.tenant_links import TenantLinks
from sync.store.coalescer import Coalescer
from sync.store.command_pipeline import Batch, Script
from sync.store.keyed_lock import KeyedLock
from sync.store.store import COMMIT_LUA, FIELDS, Change, Committed, Snapshot, Store, StoreError, Verdict, snapshot_of

LEASE_S = 30.0
"""How long a claimed event or timer is nobody else's. A crashed process's events are taken up after it."""

CONFLICTS_MAX = 25
"""How often a commit is tried anew because another writer came first."""

CONFLICT_PAUSE_S = 0.02
RELEASE_MAX = 100
"""How many waiting events one newly learned link takes along at once; the rest are claimed by workers."""

FETCH_PATIENCE_S = 2.5
"""How long a delivery waits for the provider's answer before its own body has to do; providers wait 5 s for ours."""

UNFETCHED_AGAIN_S = 30
"""When an event is tried again that has to be fetched, and whose provider was away."""

_COMMIT = Script.of(COMMIT_LUA)

_log = structlog.get_logger("sync.pipeline")


class Pipeline:
    """Everything between a verified body and the committed state. One per process, shared by its tasks."""

    def __init__(
        self,
        store: Store,
        catalog_watcher: CatalogWatcher,
        adapters: Mapping[str, WebhookAdapter],
        sources: Mapping[tuple[str, str], ProviderClient] = MappingProxyType({}),
        *,
        lease_s: float = LEASE_S,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Process with `store`, the catalog on `shelf` and the providers in `adapters`, by the clock `now_ns`.

        `sources` are those that can be asked, by provider and environment: there an event is a hint only.
        """
        self.store = store
        self.catalog_watcher = catalog_watcher
        self.adapters = adapters
        self.sources = sources
        self._lease_s = lease_s
        self.now_ns = now_ns
        self._environments: dict[str, Environment] = {}
        self._name = secrets.token_hex(8)
        self._claims = itertools.count(1)
        self._durable: Coalescer[None, None] = Coalescer(
            self._wait_durable, lambda: StoreError("whoever waited was stopped")
        )
        self.turns = KeyedLock()

    async def aclose(self) -> None:
        """Close the connections to the providers; the store is the caller's."""
        for source in self.sources.values():
            await source.aclose()

    def environment(self, name: str) -> Environment:
        """Return what is kept for an environment."""
        known = self._environments.get(name)
        if known is None:
            known = self._environments[name] = Environment(self.store, name, self._lease_s)
        return known

    async def receive(self, adapter: WebhookAdapter, body: bytes, environment: str) -> EventResult:
        """Return what became of a verified delivery, once it is stored.

        Raises:
            StoreError: it may not be stored, or not be processed to the end; the provider should send it again, and a
                worker takes it up anyway if it was stored.
        """
        event = sanitize(adapter.parse(body, environment))
        received_us = self.now_ns() // 1000
        known = self.environment(environment)
        batch = Batch(self.store)
        claim = f"{self._name}.{next(self._claims):x}"
        known.inbox.put(batch, event.event_id, body, adapter.name, event.type, received_us, claim)
        batch.then()  # a link learned by an event that is not stored would never release what waits on it
        topic = tenant_resolution.named_topic(event)
        if topic is not None:
            _read(batch, topic)
        known.links.query(batch, event)
        replies = await batch.run()
        put = Inbox.put_reply(replies.pop(0))
        read = snapshot_of(topic, replies.pop(0)) if topic is not None else None
        if isinstance(put, EventResult):
            return put
        try:
            return await self._process(event, environment, replies, put, received_us, read)
        except StoreError:
            with contextlib.suppress(StoreError):
                await self.postpone(environment, event.event_id, 0)
            raise

    async def resume(self, record: Record, environment: str) -> EventResult:
        """Return what became of a stored event that the caller has claimed.

        Raises:
            StoreError: the store is unreachable or failing; the event stays pending.
        """
        event = sanitize(self.adapters[record.provider].parse(record.body, environment))
        batch = Batch(self.store)
        self.environment(environment).links.query(batch, event)
        return await self._process(event, environment, await batch.run(), record.attempts, record.received_us)

    async def retry(self, environment: str, event_id: str) -> EventResult | None:
        """Return what becomes of a parked event now, or None where none of that id is parked.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        record = await self.environment(environment).inbox.read(event_id)
        if record is None or record.status != "parked":
            return None
        return await self.resume(record, environment)

    async def wait_durable(self) -> None:
        """Return when what was written before is on disk, as `Store.wait_durable`; who waits meanwhile waits together.

        Raises:
            StoreError: it is not, or nobody can tell.
        """
        await self._durable.submit(None)

    async def _wait_durable(self, waiting: Sequence[None]) -> list[Exception | None]:
        await self.store.wait_durable()
        return [None] * len(waiting)

    async def postpone(self, environment: str, event_id: str, delay_s: float) -> None:
        """Have a claimed event claimable again in `delay_s`, whatever its lease says.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        batch = Batch(self.store)
        # What is due is decided by the store's clock, which may be another: at once is at once by any.
        due_us = self.now_ns() // 1000 + int(delay_s * 1_000_000) if delay_s else 0
        self.environment(environment).inbox.postpone(batch, event_id, due_us)
        await batch.run()

    async def give_up(self, record: Record, environment: str, reason: str) -> None:
        """Park a claimed event that cannot be processed, for a newer release or an operator to try again.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        event = Unparsable(record.event_id, record.type, reason)
        await self._end(environment, event, EventResult(Outcome.PARKED, reason, record.topic, waits=(WAITS_SOFTWARE,)))

    async def reopen(self, environment: str, waits_on: str) -> int:
        """Return how many parked events that waited on this thing are pending again, for workers to claim.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        inbox = self.environment(environment).inbox
        seen: set[bytes] = set()
        while True:
            batch = Batch(self.store)
            inbox.release(batch, waits_on, RELEASE_MAX, claim=False)
            (ids,) = await batch.run()
            # One that came before was tried meanwhile and is parked again: then all others came by too.
            if not ids or not seen.isdisjoint(ids):
                return len(seen)
            seen.update(ids)

    async def release(self, environment: str, *waits_on: str) -> int:
        """Return how many parked events that waited on one of these things were tried again (RELEASE_MAX each).

        Raises:
            StoreError: the store is unreachable or failing.
        """
        inbox = self.environment(environment).inbox
        batch = Batch(self.store)
        for thing in waits_on:
            inbox.release(batch, thing, RELEASE_MAX)
        records = [record for ids in await batch.run() for record in await inbox.tried(ids)]
        for record in records:
            await self.resume(record, environment)
        return len(records)

    async def _process(
        self,
        event: Event | Unparsable,
        environment: str,
        link_replies: list[object],
        attempts: int,
        received_us: int,
        read: Snapshot | None = None,
    ) -> EventResult:
        if isinstance(event, Unparsable):
            reason = f"unparsable: {event.problem}"
            return await self._end(environment, event, EventResult(Outcome.PARKED, reason, waits=(WAITS_SOFTWARE,)))
        if is_unreal(event):
            return await self._end(
                environment, event, EventResult(Outcome.IGNORED, "simulated event in the live environment")
            )
        fetched: tuple[Event | None, bool] | None = None
        if event.subscription is None and not event.ignored:
            fetched = await self._fetched(event)
            if fetched[0] is None:
                return await self._unfetched(event, wanted=fetched[1])
            event = with_fetched(event, fetched[0])
            batch = Batch(self.store)
            self.environment(environment).links.query(batch, event)
            link_replies = await batch.run()
        if not link_replies:
            return await self._end(environment, event, EventResult(Outcome.IGNORED, event.ignored))
        link = TenantLinks.read(event, link_replies)
        ending = unresolved(event, link, self.adapters[event.provider].metadata_field)
        if ending is None and event.subscription is None:
            ending = EventResult(Outcome.UNCHANGED if link.learned_subscription else Outcome.IGNORED, event.ignored)
        if link.learned_subscription or link.learned_customer or (attempts != 1 and event.tenant_id is not None):
            # Before the end of this event: should that fail, it is done once more, and so is this.
            await self.release(environment, *subjects(event))
        if ending is None:
            topic = tenant_topic(environment, str(link.tenant_id))
            return await self._apply(topic, event, attempts, received_us, read, fetched)
        is_unlinked = ending.outcome is Outcome.PARKED and link.conflict is None
        receipt = await self._end(environment, event, ending, again=is_unlinked)
        if is_unlinked:
            await self._look_again(event)
        return receipt

    async def _unfetched(self, event: Event, *, wanted: bool) -> EventResult:
        """End the try of an event that carries nothing and whose subscription could not be fetched."""
        if wanted:
            # It stays pending: a worker tries it again.
            await self.postpone(event.environment, event.event_id, UNFETCHED_AGAIN_S)
            return EventResult(Outcome.PARKED, f"the provider could not be asked; tried again in {UNFETCHED_AGAIN_S} s")
        can_ask = (event.provider, event.environment) in self.sources
        setting = f"set PLANWIRE_{event.provider.upper()}_API_KEYS={event.environment}:KEY"
        problem = "would not tell it" if can_ask else f"cannot be asked for it: {setting}"
        reason = f"{event.type[:60]} carries no subscription, and {event.provider} {problem}"
        return await self._end(event.environment, event, EventResult(Outcome.PARKED, reason, waits=(WAITS_SOFTWARE,)))

    async def _look_again(self, event: Event) -> None:
        """Release what was parked for want of a link that was learned between our look and our parking.

        Should this process or the store end before it is done, the event is tried once more when its lease has.
        """
        known = self.environment(event.environment)
        batch = Batch(self.store)
        known.links.query(batch, event)
        if TenantLinks.read(event, await batch.run()).tenant_id is not None:
            await self.release(event.environment, *subjects(event))
            return
        batch = Batch(self.store)
        known.inbox.rest(batch, event.event_id)
        await batch.run()

    async def _apply(
        self,
        topic: str,
        event: Event,
        attempts: int,
        received_us: int,
        read: Snapshot | None,
        asked: tuple[Event | None, bool] | None = None,
    ) -> EventResult:
        """Commit what the event makes of the topic, against whoever else writes it.

        `read`: the topic, seen before. `asked`: what `_fetched` said, if it was asked before.
        """
        fetched, wanted = asked or await self._fetched(event)
        if fetched is not None:
            read = None  # older than the answer: it would be refused as a conflict more often than not
        async with self.turns.of(topic):
            catalog = self.catalog_watcher.current
            for _ in range(CONFLICTS_MAX):
                snapshot, read = read or await self.store.read(topic), None
                try:
                    facts = facts_of(snapshot)
                except FactsError as error:
                    decided: EventResult | Decided = EventResult(Outcome.PARKED, str(error), waits=(WAITS_SOFTWARE,))
                else:
                    decided = decide(topic, facts, event, fetched, catalog, self.now_ns())
                if isinstance(decided, EventResult):
                    if decided.reason != ERASED_REASON:
                        decided = replace(decided, topic=topic, version=snapshot.version)
                    if decided.outcome is Outcome.REFUSED and attempts != 1 and await self._was_committed(topic, event):
                        return await self._finish_late(event, EventResult(Outcome.APPLIED, "", topic, snapshot.version))
                    receipt = await self._end(
                        event.environment, event, decided, wanted=wanted, is_first=attempts == 1, fetched=fetched
                    )
                    if WAITS_CATALOG in decided.waits and self.catalog_watcher.current is not catalog:
                        # Edited between our look and our parking: a worker's sweep may have come in between.
                        await self.reopen(event.environment, WAITS_CATALOG)
                    return receipt
                facts, projected = decided.facts, decided.projected
                change = Change(
                    topic,
                    canonical_json.encode(projected.state),
                    codec.encode(facts),
                    event_id=event.event_id,
                    if_rev=snapshot.rev,
                    cause=event_cause(event, fetched, received_us, facts, self.now_ns()),
                    previous=snapshot,
                    owner=BILLING,
                )
                done = await self.commit(change)
                if done.verdict is Verdict.CONFLICT:
                    await asyncio.sleep(random.uniform(0, CONFLICT_PAUSE_S))  # noqa: S311 - spreads, guards nothing
                    continue
                # Duplicate: this very event was committed, and the answer was lost on its way or to a crash.
                is_repeated = done.verdict is Verdict.DUPLICATE
                outcome = Outcome.APPLIED if is_repeated else Outcome(done.verdict.value)
                return await self._end(
                    event.environment,
                    event,
                    EventResult(outcome, decided.note, topic, done.version),
                    timer_us=self.wake_us(event.environment, projected, facts),
                    is_new=is_repeated or not snapshot.private,
                    wanted=wanted,
                    missed=decided.missed,
                    is_first=attempts == 1 and not is_repeated,
                    fetched=fetched,
                )
        raise StoreError(f"{topic}: {CONFLICTS_MAX} commits in a row came too late")

    async def commit(self, change: Change) -> Committed:
        """Return what became of a change; as `Store.commit`, in one round trip with whatever else is under way.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        batch = Batch(self.store)
        names, arguments = self.store.arguments(change)
        batch.script(_COMMIT, names, *arguments)
        (reply,) = await batch.run()
        return self.store.committed(change, reply)

    async def _fetched(self, event: Event) -> tuple[Event | None, bool]:
        """The subscription as its provider has it now, if it can be asked, and whether it has to be asked later."""
        source = self.sources.get((event.provider, event.environment))
        if source is None or event.subscription_id is None:
            return None, False
        try:
            return await source.fetch(event.subscription_id, FETCH_PATIENCE_S), False
        except ProviderUnavailable as error:
            _log.warning("not_fetched", subscription_id=event.subscription_id, reason=error.reason)
            return None, True
        except ProviderRejected as error:
            # Asking again would not help: the key is of another account, or the event of a simulation.
            _log.warning("not_fetched", subscription_id=event.subscription_id, reason=str(error))
            return None, False

    def wake_us(self, environment: str, projected: Projected, facts: Facts) -> int | None:
        """Return when time has to look at a topic again, or None for never; see `alarm.wake_us`."""
        return wakeups.next_wakeup_us(projected, facts, environment, self.sources, self.now_ns() // 1000)

    async def _was_committed(self, topic: str, event: Event) -> bool:
        """Whether an earlier attempt, which did not come to its end, has committed the event already."""
        batch = Batch(self.store)
        batch.command("ZSCORE", batch.keys.seen(topic), event.event_id)
        (score,) = await batch.run()
        return score is not None

    async def _finish_late(self, event: Event, ending: EventResult) -> EventResult:
        """Do what the attempt that committed the event has left undone; the timer fires at once and sets itself."""
        now_us = self.now_ns() // 1000
        return await self._end(event.environment, event, ending, timer_us=now_us, is_new=True, is_first=False)

    async def _end(
        self,
        environment: str,
        event: Event | Unparsable,
        ending: EventResult,
        *,
        timer_us: int | None = None,
        is_new: bool = False,
        wanted: bool = False,
        missed: Drift | None = None,
        is_first: bool = True,
        fetched: Event | None = None,
        again: bool = False,
    ) -> EventResult:
        known = self.environment(environment)
        batch = Batch(self.store)
        if ending.reason == ERASED_REASON and isinstance(event, Event):
            known.count_erased(batch)
            if event.tenant_id is not None:  # it may have told of a subscription that was not known yet
                known.links.erase(batch, event.provider, event.tenant_id, event.subscription_id, event.customer_id)
        is_told = False
        if ending.topic and not is_first:
            # An attempt that was cut off between these commands has told it; in the history it stands once.
            ask_noted(batch, ending.topic)
            is_told = is_noted((await batch.run())[-1], event.event_id, ending)
            batch = Batch(self.store)
        if wanted:
            batch.command("ZADD", batch.keys.reconcile, "NX", self.now_ns() // 1_000_000_000, ending.topic)
        if timer_us is not None:
            known.timers.arm(batch, ending.topic, timer_us)
        if is_new:
            known.enlist(batch, ending.topic, self.now_ns() // 1000)
        if fetched is not None and ending.topic:
            record_snapshots(batch, ending.topic, [fetched])
        if missed is not None:
            known.drifts.add(batch, replace(missed, version=ending.version))
        if ending.topic and not is_told:
            note(batch, ending.topic, event.event_id, event.type, ending, self.now_ns() // 1000)
        # Last, so that a failure before it leaves the event pending and everything is done once more.
        batch.then()
        known.inbox.end(batch, event.event_id, ending, again=again)
        await batch.run()
        if ending.outcome is Outcome.PARKED:
            _log.warning(
                "event_parked", environment=environment, event_id=event.event_id, type=event.type, reason=ending.reason
            )
        return ending


def _read(batch: Batch, topic: str) -> None:
    batch.command("HMGET", batch.keys.snap(topic), *FIELDS, "private")
