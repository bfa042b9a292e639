"""The dry run of a backfill: reads the store, writes nothing, and remembers what would have been written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sync.billing.domain import codec
from sync.billing.domain.drift import Drift
from sync.billing.domain.model import Event
from sync.billing.domain.outcome import ERASED_REASON, EventResult, Outcome
from sync.billing.domain.tenant_resolution import Link, subjects
from sync.billing.providers.base import ListedSubscription
from sync.billing.services.backfill_item import BackfillItem
from sync.billing.services.committer import Commit, Committer, Decision
from sync.billing.services.context import BillingContext
from sync.billing.services.reproject import Reprojection
from sync.billing.services.wiring import BillingServices
from sync.billing.storage.backfill_progress import ItemResult
from sync.billing.storage.tenants import look_up
from sync.store.command_pipeline import CommandPipeline
from sync.store.models import Committed, Snapshot, Verdict


class DryRun(BackfillItem):
    """Returns what would become of subscriptions. Each sees what those before it would have written."""

    def __init__(self, services: BillingServices, provider: str, environment: str) -> None:
        super().__init__(services, provider, environment)
        self._committer = DryCommitter(services)
        self._reprojection = Reprojection(services, self._committer)
        self._made: set[str] = set()
        self._learned: defaultdict[str, set[str]] = defaultdict(set)
        self._unlinked: list[ListedSubscription] = []

    async def count_made(self) -> int:
        """Return how many tenants would be made."""
        return len(self._made & self._committer.written.keys())

    async def still_parked(self, parked: Mapping[str, str]) -> dict[str, str]:
        """Return the parked subscriptions but those whose link others of the run would have taught."""
        found = dict(parked)
        unlinked, self._unlinked = self._unlinked, []
        for entry in unlinked:
            item = await self.take(entry)
            if item.outcome is Outcome.PARKED:
                found[entry.event_id] = item.reason
            else:
                found.pop(entry.event_id, None)
        return found

    async def _link(self, event: Event) -> Link:
        batch = CommandPipeline(self._services.store)
        look_up(batch, self._known.name, subjects(event))
        stored, *payers = await batch.run()
        subscription, *customer = subjects(event)
        known = self._learned[subscription] if stored is None else {stored.decode()}
        if event.tenant_id is None:
            tenants = {tenant.decode() for payer in payers for tenant in payer}
            candidates = known or tenants.union(*(self._learned[subject] for subject in customer))
            return Link(next(iter(candidates)) if len(candidates) == 1 else None)
        if known and event.tenant_id not in known:
            return Link(event.tenant_id, conflict=next(iter(known)))
        for subject in subjects(event):
            self._learned[subject].add(event.tenant_id)
        return Link(event.tenant_id)

    async def _is_made(self, topic: str) -> bool:
        if not (await self._committer.read(topic)).private:
            self._made.add(topic)
        return topic in self._made

    async def _release(self, event: Event) -> None:
        """Do nothing: `still_parked` looks again in the end."""

    async def _park(self, entry: ListedSubscription, result: EventResult) -> ItemResult:
        """Return that it would be parked, or ignored if its tenant was erased."""
        if result.reason == ERASED_REASON:
            return ItemResult(Outcome.UNCHANGED)
        if any(":" in thing for thing in result.waits):  # a link's subject
            self._unlinked.append(entry)
        return ItemResult(Outcome.PARKED, result.reason)

    async def _record_drift(self, drift: Drift, version: int) -> Drift:
        return drift


class DryCommitter(Committer):
    """Decides like the real one, and keeps in `written` what would be committed."""

    def __init__(self, context: BillingContext) -> None:
        super().__init__(context)
        self.written: dict[str, Snapshot] = {}

    async def read(self, topic: str) -> Snapshot:
        """Return the topic as it would stand by now."""
        return self.written.get(topic) or await super().read(topic)

    async def write(self, snapshot: Snapshot, decision: Decision) -> Committed:
        """Return that the decision would be applied."""
        assert decision.write is not None
        version, private = max(snapshot.version, 1), codec.encode(decision.after)
        self.written[snapshot.topic] = replace(
            snapshot, version=version, state=decision.write.state, private=private, restored=False
        )
        return Committed(Verdict.APPLIED, version)

    async def record(
        self, commit: Commit, what: str, fetched: Sequence[Event] = (), missing: Sequence[str] = ()
    ) -> None:
        """Write nothing."""
