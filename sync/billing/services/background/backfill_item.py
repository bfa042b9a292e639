"""Takes one subscription of a provider's list into the store: links, merges and commits it, or parks it.

It is merged like a provider's answer (`Reprojection.refresh`), so newer facts stay. A subscription that cannot be used
goes into the inbox like an event, and is retried when the cause is gone. `DryRun` does the same without writing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from planwire_client.core.commit import BILLING
from sync.billing.domain.decision import after_erasure
from sync.billing.domain.entitlements.items import unknown_prices
from sync.billing.domain.entitlements.unknown_items import unknown_reason
from sync.billing.domain.facts import codec
from sync.billing.domain.facts.drift import Drift, subscription_drift
from sync.billing.domain.facts.model import LIVE_STATUSES, Event
from sync.billing.domain.facts.reducer import Unusable, merge_fetched
from sync.billing.domain.outcome import ERASED_REASON, EventResult, Outcome
from sync.billing.domain.tenant_resolution import (
    TOMBSTONE,
    Link,
    SubscriptionRef,
    name_in,
    strongest,
    subjects,
    tenant_topic,
    unresolved,
    vouched,
)
from sync.billing.providers.base import ListedSubscription
from sync.billing.services.committer import Commit, Committer, Decision
from sync.billing.services.context import BillingContext
from sync.billing.services.events.fetch import named_by_customer
from sync.billing.services.move import MOVED_TYPE
from sync.billing.services.reproject import Refresh, Reprojection
from sync.billing.services.wiring import BillingServices
from sync.billing.storage.backfill_progress import ItemResult
from sync.billing.storage.customers import read_customer
from sync.billing.storage.links import find_link, read_stored
from sync.billing.storage.tenants import FactsError, has_facts
from sync.store.command_pipeline import CommandPipeline, run_commands
from sync.store.models import Committed, Snapshot, Verdict

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
        link = await self._owner(event)
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
        merged = merge_fetched(before, event)
        if isinstance(merged, Unusable):
            return await self._park(entry, EventResult(Outcome.PARKED, merged.reason))
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
        return unknown_reason([(event.provider, price_id) for price_id in prices], setting)

    async def _merge(self, topic: str, event: Event) -> Commit:
        cause = {"source": WHY, "event_type": f"{event.provider}.subscription"}
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

    async def _owner(self, event: Event) -> Link | EventResult:
        """Return the link of a subscription, which is where it belongs then; or the reason to park it."""
        link = await find_link(self._services.store, event)
        assert link is not None
        cause = {"source": WHY, "event_type": MOVED_TYPE}
        return await self._services.resolver.owner(event, link, cause, background=True)

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


class DryRun(BackfillItem):
    """Returns the results that subscriptions would have. Each sees the writes that earlier ones would have made."""

    def __init__(self, services: BillingServices, provider: str, environment: str) -> None:
        super().__init__(services, provider, environment)
        self._committer = DryCommitter(services)
        self._reprojection = Reprojection(services, self._committer)
        self._made: set[str] = set()
        self._links: dict[str, Link] = {}
        self._learned: defaultdict[str, set[str]] = defaultdict(set)
        self._unlinked: list[ListedSubscription] = []

    async def count_made(self) -> int:
        """Return how many tenants would be created."""
        return len(self._made & self._committer.written.keys())

    async def still_parked(self, parked: Mapping[str, str]) -> dict[str, str]:
        """Return the parked subscriptions, without those whose link another one of the run would have stored."""
        found = dict(parked)
        unlinked, self._unlinked = self._unlinked, []
        for entry in unlinked:
            item = await self.apply(entry)
            if item.outcome is Outcome.PARKED:
                found[entry.event_id] = item.reason
            else:
                found.pop(entry.event_id, None)
        return found

    async def _owner(self, event: Event) -> Link | EventResult:
        store, (subject, *customer) = self._services.store, subjects(event)
        link = self._links.get(subject) or await read_stored(store, SubscriptionRef.of(event))
        if link.tenant_id is None:
            named = await named_by_customer(self._services, event, background=True)
            event = event if named.tenant_id is None else named
        name, candidates = name_in(event), set[str]()
        if name is not None and link.tenant_id != TOMBSTONE:
            link = replace(link, names={**link.names, name.strength: name.tenant_id})
            self._learned[customer[0] if customer else ""].add(name.tenant_id)
        elif link.tenant_id is None and customer:
            known = await read_customer(store, event)
            link = replace(link, names={**link.names, **{each.strength: each.tenant_id for each in known.names}})
            candidates = self._learned[customer[0]].union(known.tenants)
        strong = strongest(link)
        if link.tenant_id != TOMBSTONE and strong is not None:
            link = replace(link, tenant_id=strong[1])
        elif len(candidates) == 1:
            link = replace(link, tenant_id=next(iter(candidates)))
        self._links[subject] = link
        return unresolved(event, link, self._services.setting(self._known.name), list(candidates)) or link

    async def _is_made(self, topic: str) -> bool:
        if not has_facts(await self._committer.read(topic)):
            self._made.add(topic)
        return topic in self._made

    async def _release(self, event: Event) -> None:
        """Do nothing: `still_parked` checks again at the end."""

    async def _park(self, entry: ListedSubscription, result: EventResult) -> ItemResult:
        """Return `parked`, or `unchanged` if the tenant was erased or other software sells it."""
        if result.outcome is Outcome.IGNORED or result.reason == ERASED_REASON:
            return ItemResult(Outcome.UNCHANGED)
        if result.topic and entry.event is not None:
            await self._merge(result.topic, entry.event)
        elif any(":" in thing for thing in result.waits):  # a link's subject
            self._unlinked.append(entry)
        return ItemResult(Outcome.PARKED, result.reason)

    async def _record_drift(self, drift: Drift, version: int) -> Drift:
        return drift


class DryCommitter(Committer):
    """Decides like `Committer`, and stores in `written` what would be committed."""

    def __init__(self, context: BillingContext) -> None:
        super().__init__(context)
        self.written: dict[str, Snapshot] = {}

    async def read(self, topic: str) -> Snapshot:
        """Return the topic with the writes that would have been made."""
        return self.written.get(topic) or await super().read(topic)

    async def write(self, snapshot: Snapshot, decision: Decision) -> Committed:
        """Store the decision in `written`; return that it is applied."""
        assert decision.write is not None
        version, private = max(snapshot.version, 1), codec.encode(decision.after)
        self.written[snapshot.topic] = replace(
            snapshot, version=version, state=decision.write.state, private=private, owner=BILLING, restored=False
        )
        return Committed(Verdict.APPLIED, version, snapshot.rev + 1)

    async def record(
        self, commit: Commit, what: str, fetched: Sequence[Event] = (), missing: Sequence[str] = ()
    ) -> None:
        """Write nothing."""
