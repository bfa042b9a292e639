"""A backfill that writes nothing: the results that subscriptions, purchases and refunds would have."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from planwire_client.core.commit import BILLING
from sync.billing.domain.facts import codec
from sync.billing.domain.facts.drift import Drift
from sync.billing.domain.facts.model import Event
from sync.billing.domain.outcome import ERASED_REASON, EventResult, Outcome
from sync.billing.domain.refund_decision import of_unknown_payment
from sync.billing.domain.tenant_resolution import (
    TOMBSTONE,
    Link,
    SubscriptionRef,
    name_in,
    strongest,
    subjects,
    unresolved,
)
from sync.billing.providers.base import ListedSubscription
from sync.billing.services.background.backfill_item import BackfillItem
from sync.billing.services.committer import Commit, Committer, Decision
from sync.billing.services.context import BillingContext
from sync.billing.services.events.fetch import named_by_customer
from sync.billing.services.reproject import Reprojection
from sync.billing.services.wiring import BillingServices
from sync.billing.storage.backfill_progress import ItemResult
from sync.billing.storage.customers import read_customer
from sync.billing.storage.links import read_stored
from sync.billing.storage.tenants import has_facts
from sync.store.models import Committed, Snapshot, Verdict


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

    async def _learn(self, event: Event) -> ItemResult:
        """Note the name that a hint gives to its subscription: what would have waited for it is applied at the end."""
        name = name_in(event)
        if name is not None and event.subscription_id is not None:
            subject = subjects(event)[0]
            link = self._links.get(subject) or await read_stored(self._services.store, SubscriptionRef.of(event))
            self._links[subject] = replace(link, names={**link.names, name.strength: name.tenant_id})
        return ItemResult(Outcome.UNCHANGED)

    async def _owner(self, event: Event) -> tuple[Event, Link | EventResult]:
        if event.refund is None:
            return event, await self._named_owner(event)
        link = self._links.get(subjects(event)[0]) or await read_stored(self._services.store, SubscriptionRef.of(event))
        if link.tenant_id is None:
            event, link = await self._services.resolver.payers.refunded(event, link, background=True)
            link = self._links.get(subjects(event)[0], link)
        if link.tenant_id is None:
            return event, of_unknown_payment(event, self._services.setting(self._known.name))
        return event, link

    async def _named_owner(self, event: Event) -> Link | EventResult:
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
