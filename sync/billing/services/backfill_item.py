"""One subscription out of a provider's list into the store: linked, joined, committed; or parked with the reason.

What is taken goes the way of a provider's answer (`Reprojection.adopt`), so whatever is known to be newer stands; what
cannot be taken goes into the inbox like an event and is tried again when its cause is gone. `Rehearsal` finds out the
same and writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from sync.billing.domain import tenant_resolution
from sync.billing.domain.drift import Drift, subscription_drift
from sync.billing.domain.model import Event, Facts, Unparsable
from sync.billing.domain.outcome import EventResult, Outcome
from sync.billing.domain.projection import Unprojectable, publishable
from sync.billing.domain.reducer import Reduced, Stale, Unusable, merge_fetched
from sync.billing.domain.tenant_resolution import (
    Link,
    customer_subject,
    subjects,
    subscription_subject,
    tenant_topic,
    unresolved,
)
from sync.billing.providers.base import ListedSubscription
from sync.billing.services.ingest import Pipeline
from sync.billing.services.reproject import Reprojection
from sync.billing.storage.tenant_facts import FactsError, facts_of
from sync.billing.storage.tenant_links import TenantLinks
from sync.store.command_pipeline import Batch

WHY = "backfill"
TOPICS_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Filled:
    """What became of one subscription: `taken`, `unchanged` or `parked` (with the `reason`).

    `drift` is what differed of a tenant that was there before; one made by this run has none.
    """

    what: Outcome
    reason: str = ""
    drift: Drift | None = None


class Fill(Protocol):
    """Takes subscriptions; made for one run."""

    async def take(self, entry: ListedSubscription) -> Filled:
        """Return what became of a subscription.

        Raises:
            StoreError: the store is unreachable or failing; it may be taken once more without harm.
        """
        ...

    async def made(self) -> int:
        """Return how many tenants the run has made.

        Raises:
            StoreError: as above.
        """
        ...

    async def still_parked(self, parked: Mapping[str, str]) -> Mapping[str, str]:
        """Return those of the parked ones, reasons by event id, that nothing has released since.

        Raises:
            StoreError: as above.
        """
        ...


class BackfillWriter:
    """Takes a provider's subscriptions in one environment. `made_key` is the set of the tenants that the run makes."""

    def __init__(self, pipeline: Pipeline, provider: str, environment: str, made_key: str) -> None:
        self._pipeline = pipeline
        self._environment = environment
        self._adapter = pipeline.adapters[provider]
        self._made_key = made_key
        self._reprojection = Reprojection(pipeline)
        # The body just came from the provider: what is parked need not be fetched to find out why.
        self._parking = Pipeline(pipeline.store, pipeline.catalog_watcher, pipeline.adapters, now_ns=pipeline.now_ns)

    async def take(self, entry: ListedSubscription) -> Filled:
        """Return what became of a subscription."""
        if entry.event is None:
            return await self._park(entry)
        event = tenant_resolution.sanitize(entry.event)
        assert not isinstance(event, Unparsable)
        batch = Batch(self._pipeline.store)
        self._pipeline.environment(self._environment).links.query(batch, event)
        link = TenantLinks.read(event, await batch.run())
        if unresolved(event, link, self._adapter.metadata_field) is not None:
            return await self._park(entry)
        topic = tenant_topic(self._environment, str(link.tenant_id))
        is_made = await self._is_made(topic)
        adopted = await self._reprojection.adopt(
            self._environment, topic, [event], {"source": WHY, "event_type": f"{event.provider}.subscription"}
        )
        await self._reprojection.arm(self._environment, topic, adopted)
        if event.tenant_id is not None:
            # Always: a run that was killed may have learned the link and not come to this.
            await self._pipeline.release(self._environment, *subjects(event))
        left = adopted.receipt.outcome == "unchanged" and bool(adopted.receipt.reason)
        if left or isinstance(merge_fetched(adopted.before, event), Unusable):
            return await self._park(entry)
        if adopted.before == adopted.after:
            return Filled(Outcome.UNCHANGED)
        at_us = self._pipeline.now_ns() // 1000
        drift = None if is_made else subscription_drift(topic, WHY, event, adopted.before, adopted.after, at_us)
        if drift is not None:
            drift = replace(drift, version=adopted.receipt.version)
            batch = Batch(self._pipeline.store)
            self._pipeline.environment(self._environment).drifts.add(batch, drift)
            await batch.run()
        return Filled(Outcome.APPLIED, drift=drift)

    async def made(self) -> int:
        """Return how many tenants the run has made."""
        batch = Batch(self._pipeline.store)
        batch.command("SMEMBERS", self._made_key)
        (members,) = await batch.run()
        topics = [member.decode() for member in members]
        # Some were noted, and then could not be made.
        count = 0
        for start in range(0, len(topics), TOPICS_AT_ONCE):
            versions = await self._pipeline.store.versions(topics[start : start + TOPICS_AT_ONCE])
            count += sum(version > 0 for version in versions)
        return count

    async def still_parked(self, parked: Mapping[str, str]) -> Mapping[str, str]:
        """Return those of the parked ones that nothing has released since."""
        inbox = self._pipeline.environment(self._environment).inbox
        found: dict[str, str] = {}
        for event_id, reason in parked.items():
            record = await inbox.read(event_id)
            if record is not None and record.status != "done":
                found[event_id] = record.reason or reason
        return found

    async def _is_made(self, topic: str) -> bool:
        """Whether this run makes the tenant. Noted before it is made: a run that is killed counts it all the same."""
        is_new = not (await self._pipeline.store.read(topic)).private
        batch = Batch(self._pipeline.store)
        batch.command("SADD" if is_new else "SISMEMBER", self._made_key, topic)
        (answer,) = await batch.run()
        return is_new or bool(answer)

    async def _park(self, entry: ListedSubscription) -> Filled:
        receipt = await self._parking.receive(self._adapter, entry.body, self._environment)
        record = await self._pipeline.environment(self._environment).inbox.read(entry.event_id)
        if record is None or record.status == "done":
            # What was wrong has gone meanwhile; or the same body was done with before.
            return Filled(receipt.outcome if receipt.outcome is Outcome.APPLIED else Outcome.UNCHANGED)
        return Filled(Outcome.PARKED, record.reason)


@dataclass(slots=True)
class DryRun:
    """Finds out what `Filling` would do, by reading only. It remembers what it would have written."""

    pipeline: Pipeline
    environment: str
    _facts: dict[str, Facts] = field(default_factory=dict)
    _made: set[str] = field(default_factory=set)
    _tenants: dict[str, str] = field(default_factory=dict)
    _customers: dict[str, set[str]] = field(default_factory=dict)
    _unowned: dict[str, Event] = field(default_factory=dict)

    async def take(self, entry: ListedSubscription) -> Filled:
        """Return what would become of a subscription."""
        if entry.event is None:
            return Filled(Outcome.PARKED, f"unparsable: {entry.problem}")
        event = tenant_resolution.sanitize(entry.event)
        assert not isinstance(event, Unparsable)
        return await self._take(entry.event_id, event)

    async def _take(self, event_id: str, event: Event) -> Filled:
        link = await self._link(event)
        ending = unresolved(event, link, self.pipeline.adapters[event.provider].metadata_field)
        if ending is not None:
            self._unowned[event_id] = event
            return Filled(Outcome.PARKED, ending.reason)
        topic = tenant_topic(self.environment, str(link.tenant_id))
        before = self._facts.get(topic)
        if before is None:
            snapshot = await self.pipeline.store.read(topic)
            try:
                before = facts_of(snapshot)
            except FactsError as error:
                return Filled(Outcome.PARKED, str(error))
            if not snapshot.private:
                self._made.add(topic)
        after = self._joined(before, event)
        if isinstance(after, EventResult):
            return Filled(after.outcome, after.reason)
        self._facts[topic] = after
        drift = (
            None
            if topic in self._made
            else subscription_drift(topic, WHY, event, before, after, self.pipeline.now_ns() // 1000)
        )
        return Filled(Outcome.APPLIED, drift=drift)

    def _joined(self, before: Facts, event: Event) -> Facts | EventResult:
        """The facts with the subscription in them, or how it ends without."""
        if before.erased_ns is not None:
            return EventResult(Outcome.UNCHANGED)
        answer = merge_fetched(before, event)
        if isinstance(answer, Stale):
            return EventResult(Outcome.UNCHANGED)
        if isinstance(answer, Unusable):
            return EventResult(Outcome.PARKED, answer.reason)
        assert isinstance(answer, Reduced)
        catalog, now_ns = self.pipeline.catalog_watcher.current, self.pipeline.now_ns()
        after = publishable(answer.facts, catalog, self.environment, now_ns)
        return EventResult(Outcome.PARKED, after.reason) if isinstance(after, Unprojectable) else after.facts

    async def _link(self, event: Event) -> Link:
        """What the links would say, were those that came before learned."""
        assert event.subscription_id is not None
        batch = Batch(self.pipeline.store)
        TenantLinks(self.pipeline.store, self.environment).look_up(
            batch, event.provider, event.subscription_id, event.customer_id
        )
        subscription, *customer = await batch.run()
        subject = subscription_subject(event.provider, event.subscription_id)
        known = subscription.decode() if subscription is not None else self._tenants.get(subject)
        mine: set[str] = set()
        if event.customer_id is not None:
            mine = self._customers.setdefault(customer_subject(event.provider, event.customer_id), set())
        if event.tenant_id is not None:
            if known is not None and known != event.tenant_id:
                return Link(event.tenant_id, conflict=known)
            self._tenants[subject] = event.tenant_id
            mine.add(event.tenant_id)
            return Link(event.tenant_id)
        tenants = mine | {tenant.decode() for found in customer for tenant in found}
        return Link(known or (next(iter(tenants)) if len(tenants) == 1 else None))

    async def made(self) -> int:
        """Return how many tenants would be made."""
        return len(self._made & self._facts.keys())

    async def still_parked(self, parked: Mapping[str, str]) -> Mapping[str, str]:
        """Return those of the parked ones that nothing would release."""
        found = dict(parked)
        for event_id, event in list(self._unowned.items()):
            filled = await self._take(event_id, event)
            if filled.what == "parked":
                found[event_id] = filled.reason
            else:
                del found[event_id]
        return found
