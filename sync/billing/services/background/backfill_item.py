"""Takes one subscription of a provider's list into the store: links, merges and commits it, or parks it.

It is merged like a provider's answer (`Reprojection.refresh`), so newer facts stay. A subscription that cannot be used
goes into the inbox like an event, and is retried when the cause is gone. Purchases and refunds are taken likewise.
`dry_run` does the same without writing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sync.billing.domain.decision import after_erasure
from sync.billing.domain.entitlements.items import unknown_prices
from sync.billing.domain.entitlements.unknown_items import unknown_reason
from sync.billing.domain.facts.drift import Drift, subscription_drift
from sync.billing.domain.facts.model import LIVE_STATUSES, Event, Facts
from sync.billing.domain.facts.reducer import Unusable, merge_fetched
from sync.billing.domain.facts.refunds import with_refund
from sync.billing.domain.outcome import EventResult, Outcome
from sync.billing.domain.refund_decision import of_unknown_payment
from sync.billing.domain.tenant_resolution import (
    Link,
    is_unreal,
    subjects,
    tenant_topic,
    vouched,
)
from sync.billing.providers.base import ListedSubscription
from sync.billing.services.committer import Commit
from sync.billing.services.move import MOVED_TYPE
from sync.billing.services.reproject import Refresh
from sync.billing.services.wiring import BillingServices
from sync.billing.storage.backfill_progress import ItemResult
from sync.billing.storage.links import find_link
from sync.billing.storage.tenants import FactsError, has_facts
from sync.store.command_pipeline import CommandPipeline, run_commands

WHY = "backfill"
TOPICS_AT_ONCE = 1_000


class BackfillItem:
    """Takes subscriptions of one provider's environment. One object per run.

    Every method may raise StoreError, and is idempotent.
    """

    def __init__(self, services: BillingServices, provider: str, environment: str, made_key: str = "") -> None:
        """Write with `services`; `made_key` is the key of the set of tenants that the run creates."""
        self._services = services
        self._reprojection = services.reprojection
        self._known = services.environment(environment)
        self._adapter = services.adapters[provider]
        self._made_key = made_key
        # Without API clients: the body has just come from the provider and need not be fetched again.
        self._parking = replace(services, clients={}).ingest

    async def apply(self, entry: ListedSubscription) -> ItemResult:
        """Apply a subscription of the provider's list; return its result.

        Raises:
            ProviderUnavailable: the provider did not answer about its customer; the next run continues here.
        """
        if entry.event is None:
            return await self._park(entry, EventResult(Outcome.PARKED, f"unparsable: {entry.problem}"))
        event = self._services.named(entry.event)
        if event.ignored or is_unreal(event):
            return await self._learn(event)
        event, link = await self._owner(event)
        if isinstance(link, EventResult):
            return await self._park(entry, link)
        event = vouched(event, link)
        topic = tenant_topic(self._known.name, str(link.tenant_id))
        is_made = await self._is_made(topic)
        unknown = self._unknown(event)
        if unknown:
            # As an event: its known items count, and the unknown ones are reported until the catalog has them.
            return await self._park(entry, EventResult(Outcome.PARKED, unknown, topic))
        try:
            commit = await self._merge(topic, event)
        except FactsError as error:
            return await self._park(entry, EventResult(Outcome.PARKED, str(error)))
        if event.tenant_id is not None:
            # Always: a run that was killed may have stored the links without releasing.
            await self._release(event)
        result, before, after = commit.result, commit.decision.before, commit.decision.after
        if before.erased_ns is not None:
            return await self._park(entry, after_erasure(topic, before.erased_ns, event, event))
        if result.outcome is Outcome.UNCHANGED and result.reason:
            return await self._park(entry, result)
        unusable = _unusable(before, event)
        if unusable:
            return await self._park(entry, EventResult(Outcome.PARKED, unusable))
        if before == after:
            return ItemResult(Outcome.UNCHANGED)
        drift = None if is_made else subscription_drift(topic, WHY, event, before, after, self._services.now_us)
        if drift is not None:
            drift = await self._record_drift(drift, result.version)
        return ItemResult(Outcome.APPLIED, drift=drift)

    def _unknown(self, event: Event) -> str:
        """Return the reason that names the unknown prices of a live subscription; "" if there are none."""
        setting = self._services.setting(self._known.name)
        prices = unknown_prices(event, setting)
        if not prices or event.subscription is None or event.subscription.status not in LIVE_STATUSES:
            return ""
        return unknown_reason([(event.provider, price_id) for price_id in prices], setting, event)

    async def _merge(self, topic: str, event: Event) -> Commit:
        what = "refund" if event.refund is not None else "purchase" if event.is_of_payment else "subscription"
        cause = {"source": WHY, "event_type": f"{event.provider}.{what}"}
        return await self._reprojection.refresh(self._known.name, topic, Refresh(cause, [event]))

    async def count_made(self) -> int:
        """Return how many of the tenants noted by the run it has created."""
        store = self._services.store
        (members,) = await run_commands(store, ("SMEMBERS", self._made_key))
        topics = [member.decode() for member in members]
        count = 0
        for start in range(0, len(topics), TOPICS_AT_ONCE):
            count += sum(version > 0 for version in await store.versions(topics[start : start + TOPICS_AT_ONCE]))
        return count

    async def still_parked(self, parked: Mapping[str, str]) -> dict[str, str]:
        """Return the parked subscriptions that have not been released since: reasons by event id."""
        found: dict[str, str] = {}
        for event_id, reason in parked.items():
            record = await self._known.inbox.read(event_id)
            if record is not None and record.status != "done":
                found[event_id] = record.reason or reason
        return found

    async def _owner(self, event: Event) -> tuple[Event, Link | EventResult]:
        """Return the event with the link of its subscription, which is where it belongs then; or the reason to park it.

        A refund is returned as that of what its payment was for.
        """
        link = await find_link(self._services.store, event)
        assert link is not None
        if event.refund is not None and link.tenant_id is None:
            event, link = await self._services.resolver.payers.refunded(event, link, background=True)
            if link.tenant_id is None:
                return event, of_unknown_payment(event, self._services.setting(self._known.name))
        cause = {"source": WHY, "event_type": MOVED_TYPE}
        return event, await self._services.resolver.owner(event, link, cause, background=True)

    async def _learn(self, event: Event) -> ItemResult:
        """Store the name that a hint gives to its subscription, and process what has waited for it."""
        if event.tenant_id is not None and event.subscription_id is not None and not is_unreal(event):
            await find_link(self._services.store, event)
            await self._release(event)
        return ItemResult(Outcome.UNCHANGED)

    async def _is_made(self, topic: str) -> bool:
        """Return whether this run creates the tenant. Noted before the creation, so that a killed run counts it too."""
        is_new = not has_facts(await self._services.store.read(topic))
        command = "SADD" if is_new else "SISMEMBER"
        (answer,) = await run_commands(self._services.store, (command, self._made_key, topic))
        return is_new or bool(answer)

    async def _release(self, event: Event) -> None:
        """Process the parked events that waited for the subscription's links."""
        await self._services.ingest.release(self._known.name, subjects(event))

    async def _park(self, entry: ListedSubscription, result: EventResult) -> ItemResult:
        """Put a subscription into the inbox, where processing finds the reason to park it; return the result."""
        if entry.event is not None and result.topic:
            await self._release(entry.event)
        received = await self._parking.receive(self._adapter, entry.body, self._known.name, entry.event_id)
        record = await self._known.inbox.read(entry.event_id)
        if record is None or record.status == "done":
            # The cause has disappeared meanwhile, or the same body was done before.
            return ItemResult(Outcome.APPLIED if received.outcome is Outcome.APPLIED else Outcome.UNCHANGED)
        return ItemResult(Outcome.PARKED, record.reason)

    async def _record_drift(self, drift: Drift, version: int) -> Drift:
        """Record the drift that a commit has repaired; return it."""
        drift = replace(drift, version=version)
        batch = CommandPipeline(self._services.store)
        self._known.drifts.add(batch, drift)
        await batch.run()
        return drift


def _unusable(before: Facts, event: Event) -> str:
    """Return why an event cannot be used with the facts that it was merged into; "" if it can."""
    if event.refund is not None:
        return "" if with_refund(before, event) is not None else "a refund of what is not known yet"
    merged = merge_fetched(before, event)
    return merged.reason if isinstance(merged, Unusable) else ""
