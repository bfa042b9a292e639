"""One subscription out of a provider's list into the store: linked, merged, committed; or parked with the reason.

It is taken like a provider's answer (`Reprojection.refresh`), so what is known to be newer stands. What cannot be taken
goes into the inbox like an event and is tried again when its cause is gone. `dry_run` has effects that write nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from sync.billing.domain.drift import Drift, subscription_drift
from sync.billing.domain.model import Event, Unparsable
from sync.billing.domain.outcome import EventResult, Outcome
from sync.billing.domain.reducer import Unusable, merge_fetched
from sync.billing.domain.tenant_resolution import Link, sanitize, subjects, tenant_topic, unresolved
from sync.billing.providers.base import ListedSubscription
from sync.billing.services.ingest import Ingest
from sync.billing.services.reproject import Refresh, Reprojection
from sync.billing.services.wiring import BillingServices
from sync.billing.storage.backfill_progress import ItemResult
from sync.billing.storage.tenant_links import TenantLinks
from sync.store.command_pipeline import CommandPipeline

WHY = "backfill"
TOPICS_AT_ONCE = 1_000


class Effects(Protocol):
    """What taking a subscription reads and writes. Every method may raise StoreError; repeating one does no harm."""

    reprojection: Reprojection

    async def link(self, event: Event) -> Link:
        """Return what the links say about a subscription, which has taught them its tenant if it names one."""
        ...

    async def is_made(self, topic: str) -> bool:
        """Return whether this run makes the tenant."""
        ...

    async def release(self, event: Event) -> None:
        """Try again what waited for the links that the subscription has taught."""
        ...

    async def park(self, entry: ListedSubscription, result: EventResult) -> ItemResult:
        """Return what became of a subscription that cannot be taken: most often it is parked."""
        ...

    async def record_drift(self, drift: Drift, version: int) -> Drift:
        """Return the drift that a commit has repaired, recorded."""
        ...

    async def count_made(self) -> int:
        """Return how many tenants the run has made."""
        ...

    async def still_parked(self, parked: Mapping[str, str]) -> dict[str, str]:
        """Return those of the parked subscriptions, reasons by event id, that nothing has released since."""
        ...

    def unlinked(self) -> Sequence[ListedSubscription]:
        """Return the subscriptions that only a second look can take: no worker releases them."""
        ...


class BackfillItem:
    """Takes subscriptions of one environment. Made for one run."""

    def __init__(self, services: BillingServices, effects: Effects, provider: str, environment: str) -> None:
        self._effects = effects
        self._environment = environment
        self._metadata_field = services.adapters[provider].metadata_field
        self._now_ns = services.now_ns

    async def take(self, entry: ListedSubscription) -> ItemResult:
        """Return what became of a subscription.

        Raises:
            StoreError: the store is unreachable or failing; the subscription may be taken again without harm.
        """
        effects, event = self._effects, entry.event
        if event is None:
            return await effects.park(entry, EventResult(Outcome.PARKED, f"unparsable: {entry.problem}"))
        event = _sanitized(event)
        link = await effects.link(event)
        result = unresolved(event, link, self._metadata_field)
        if result is not None:
            return await effects.park(entry, result)
        topic = tenant_topic(self._environment, str(link.tenant_id))
        is_made = await effects.is_made(topic)
        cause = {"source": WHY, "event_type": f"{event.provider}.subscription"}
        refreshed = await effects.reprojection.refresh(self._environment, topic, Refresh(cause, [event]))
        if event.tenant_id is not None:
            # Always: a run that was killed may have taught the links and not come to this.
            await effects.release(event)
        result, before, after = refreshed.result, refreshed.before, refreshed.after
        if result.outcome is Outcome.UNCHANGED and result.reason:
            return await effects.park(entry, result)
        merged = merge_fetched(before, event)
        if isinstance(merged, Unusable):
            return await effects.park(entry, EventResult(Outcome.PARKED, merged.reason))
        if before == after:
            return ItemResult(Outcome.UNCHANGED)
        drift = None
        if not is_made:
            drift = subscription_drift(topic, WHY, event, before, after, self._now_ns() // 1000)
        if drift is not None:
            drift = await effects.record_drift(drift, result.version)
        return ItemResult(Outcome.APPLIED, drift=drift)

    async def still_parked(self, parked: Mapping[str, str]) -> dict[str, str]:
        """Return those of the parked subscriptions, reasons by event id, that nothing has released since.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        found = await self._effects.still_parked(parked)
        for entry in self._effects.unlinked():
            item = await self.take(entry)
            if item.outcome is Outcome.PARKED:
                found[entry.event_id] = item.reason
            else:
                found.pop(entry.event_id, None)
        return found


class StoredEffects:
    """Writes to the store."""

    def __init__(self, services: BillingServices, provider: str, environment: str, made_key: str) -> None:
        """Write with `services`; `made_key` is the set of the tenants that the run makes."""
        self.reprojection = services.reprojection
        self._store = services.store
        self._known = services.environment(environment)
        self._adapter = services.adapters[provider]
        self._ingest = services.ingest
        # The body just came from the provider: to park it, it need not be fetched again.
        self._parking = Ingest(
            services.store,
            services.committer,
            services.catalog_watcher,
            services.adapters,
            {},
            services.environment,
            services.now_ns,
        )
        self._made_key = made_key

    async def link(self, event: Event) -> Link:
        """Return what the links say; they learn the tenant."""
        batch = CommandPipeline(self._store)
        self._known.links.query(batch, event)
        return TenantLinks.read(event, await batch.run())

    async def is_made(self, topic: str) -> bool:
        """Return whether this run makes the tenant. Noted before it is made, so that a killed run counts it too."""
        is_new = not (await self._store.read(topic)).private
        batch = CommandPipeline(self._store)
        batch.command("SADD" if is_new else "SISMEMBER", self._made_key, topic)
        (answer,) = await batch.run()
        return is_new or bool(answer)

    async def release(self, event: Event) -> None:
        """Process the parked events that waited for these links."""
        await self._ingest.release(self._known.name, subjects(event))

    async def park(self, entry: ListedSubscription, result: EventResult) -> ItemResult:
        """Put the subscription into the inbox, which finds the reason itself; it may have gone meanwhile."""
        received = await self._parking.receive(self._adapter, entry.body, self._known.name)
        record = await self._known.inbox.read(entry.event_id)
        if record is None or record.status == "done":
            # Its cause has gone meanwhile; or the same body was done with before.
            return ItemResult(Outcome.APPLIED if received.outcome is Outcome.APPLIED else Outcome.UNCHANGED)
        return ItemResult(Outcome.PARKED, record.reason)

    async def record_drift(self, drift: Drift, version: int) -> Drift:
        """Return the drift with the version that repaired it."""
        drift = replace(drift, version=version)
        batch = CommandPipeline(self._store)
        self._known.drifts.add(batch, drift)
        await batch.run()
        return drift

    async def count_made(self) -> int:
        """Return how many of the noted tenants could be made."""
        batch = CommandPipeline(self._store)
        batch.command("SMEMBERS", self._made_key)
        (members,) = await batch.run()
        topics = [member.decode() for member in members]
        count = 0
        for start in range(0, len(topics), TOPICS_AT_ONCE):
            versions = await self._store.versions(topics[start : start + TOPICS_AT_ONCE])
            count += sum(version > 0 for version in versions)
        return count

    async def still_parked(self, parked: Mapping[str, str]) -> dict[str, str]:
        """Return those that the inbox still has, with its reasons."""
        found: dict[str, str] = {}
        for event_id, reason in parked.items():
            record = await self._known.inbox.read(event_id)
            if record is not None and record.status != "done":
                found[event_id] = record.reason or reason
        return found

    def unlinked(self) -> Sequence[ListedSubscription]:
        """Return none: the inbox releases them."""
        return ()


def _sanitized(event: Event) -> Event:
    sanitized = sanitize(event)
    assert not isinstance(sanitized, Unparsable)
    return sanitized
