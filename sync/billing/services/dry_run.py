"""The dry run of a backfill: effects of `backfill_item` that read the store and only remember what they would write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from sync.billing.domain import codec
from sync.billing.domain.drift import Drift
from sync.billing.domain.model import Event
from sync.billing.domain.outcome import ERASED_REASON, EventResult, Outcome
from sync.billing.domain.tenant_resolution import Link, customer_subject, subscription_subject
from sync.billing.providers.base import ListedSubscription
from sync.billing.services.committer import Commit, Committer, Decision
from sync.billing.services.reproject import Reprojection
from sync.billing.services.wiring import BillingServices
from sync.billing.storage.backfill_progress import ItemResult
from sync.billing.storage.environment import Environment
from sync.store.command_pipeline import CommandPipeline
from sync.store.models import Committed, Snapshot, Verdict
from sync.store.store import Store


class DryEffects:
    """Reads the store, and remembers what would have been written."""

    def __init__(self, services: BillingServices, environment: str) -> None:
        self._store = services.store
        self._links = services.environment(environment).links
        self._committer = DryCommitter(services.store, services.environment, services.now_ns)
        self.reprojection = Reprojection(
            self._committer, services.catalog_watcher, tuple(services.clients), services.now_ns
        )
        self._made: set[str] = set()
        self._tenants: dict[str, str] = {}
        self._customers: dict[str, set[str]] = {}
        self._unlinked: list[ListedSubscription] = []

    async def link(self, event: Event) -> Link:
        """Return what the links would say, had they learned from the subscriptions before."""
        assert event.subscription_id is not None
        batch = CommandPipeline(self._store)
        self._links.look_up(batch, event.provider, event.subscription_id, event.customer_id)
        subscription, *customer = await batch.run()
        subject = subscription_subject(event.provider, event.subscription_id)
        known = subscription.decode() if subscription is not None else self._tenants.get(subject)
        learned: set[str] = set()
        if event.customer_id is not None:
            learned = self._customers.setdefault(customer_subject(event.provider, event.customer_id), set())
        if event.tenant_id is not None:
            if known is not None and known != event.tenant_id:
                return Link(event.tenant_id, conflict=known)
            self._tenants[subject] = event.tenant_id
            learned.add(event.tenant_id)
            return Link(event.tenant_id)
        tenants = learned | {tenant.decode() for found in customer for tenant in found}
        return Link(known or (next(iter(tenants)) if len(tenants) == 1 else None))

    async def is_made(self, topic: str) -> bool:
        """Return whether the run would make the tenant."""
        if not (await self._committer.read(topic)).private:
            self._made.add(topic)
        return topic in self._made

    async def release(self, event: Event) -> None:
        """Do nothing: `unlinked` are looked at again in the end."""

    async def park(self, entry: ListedSubscription, result: EventResult) -> ItemResult:
        """Return that it would be parked, or ignored if its tenant was erased."""
        if result.reason == ERASED_REASON:
            return ItemResult(Outcome.UNCHANGED)
        if any(":" in thing for thing in result.waits):  # a link's subject
            self._unlinked.append(entry)
        return ItemResult(Outcome.PARKED, result.reason)

    async def record_drift(self, drift: Drift, version: int) -> Drift:
        """Return the drift; no version has repaired it."""
        return drift

    async def count_made(self) -> int:
        """Return how many tenants would be made."""
        return len(self._made & self._committer.written.keys())

    async def still_parked(self, parked: Mapping[str, str]) -> dict[str, str]:
        """Return all of them."""
        return dict(parked)

    def unlinked(self) -> Sequence[ListedSubscription]:
        """Return those that may have been linked since, once."""
        unlinked, self._unlinked = self._unlinked, []
        return unlinked


class DryCommitter(Committer):
    """Decides like the real one, and keeps in `written` what would be committed."""

    def __init__(self, store: Store, environment: Callable[[str], Environment], now_ns: Callable[[], int]) -> None:
        super().__init__(store, environment, now_ns)
        self.written: dict[str, Snapshot] = {}

    async def read(self, topic: str) -> Snapshot:
        """Return the topic as it would stand by now."""
        return self.written.get(topic) or await super().read(topic)

    async def write(self, snapshot: Snapshot, decision: Decision) -> Committed:
        """Return that the decision would be applied."""
        assert decision.write is not None
        version, private = max(snapshot.version, 1), codec.encode(decision.write.facts)
        self.written[snapshot.topic] = replace(
            snapshot, version=version, state=decision.write.state, private=private, restored=False
        )
        return Committed(Verdict.APPLIED, version)

    async def record(
        self, commit: Commit, what: str, fetched: Sequence[Event] = (), missing: Sequence[str] = ()
    ) -> None:
        """Write nothing."""
