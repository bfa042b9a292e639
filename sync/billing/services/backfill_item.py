"""One subscription out of a provider's list into the store: linked, merged, committed; or parked with the reason.

It is taken like a provider's answer (`Reprojection.refresh`), so what is known to be newer stands. What cannot be taken
goes into the inbox like an event and is tried again when its cause is gone. `DryRun` takes it without writing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sync.billing.domain import codec
from sync.billing.domain.drift import Drift, subscription_drift
from sync.billing.domain.model import Event, Unparsable
from sync.billing.domain.outcome import ERASED_REASON, EventResult, Outcome
from sync.billing.domain.reducer import Unusable, merge_fetched
from sync.billing.domain.tenant_resolution import Link, sanitize, subjects, tenant_topic, unresolved
from sync.billing.providers.base import ListedSubscription
from sync.billing.services.committer import Commit, Committer, Decision
from sync.billing.services.context import BillingContext
from sync.billing.services.reproject import Refresh, Reprojection
from sync.billing.services.wiring import BillingServices
from sync.billing.storage.backfill_progress import ItemResult
from sync.billing.storage.tenants import find_link, look_up
from sync.store.command_pipeline import CommandPipeline, run_commands
from sync.store.models import Committed, Snapshot, Verdict

WHY = "backfill"
TOPICS_AT_ONCE = 1_000


class BackfillItem:
    """Takes subscriptions of one provider's environment. Made for one run.

    Every method may raise StoreError, and may be repeated without harm.
    """

    def __init__(self, services: BillingServices, provider: str, environment: str, made_key: str = "") -> None:
        """Write with `services`; `made_key` is the set of the tenants that the run makes."""
        self._services = services
        self._reprojection = services.reprojection
        self._known = services.environment(environment)
        self._adapter = services.adapters[provider]
        self._made_key = made_key
        # The body just came from the provider: to park it, it need not be fetched again.
        self._parking = replace(services, clients={}).ingest

    async def take(self, entry: ListedSubscription) -> ItemResult:
        """Return what became of a subscription."""
        if entry.event is None:
            return await self._park(entry, EventResult(Outcome.PARKED, f"unparsable: {entry.problem}"))
        event = sanitize(entry.event)
        assert not isinstance(event, Unparsable)
        link = await self._link(event)
        result = unresolved(event, link, self._adapter.metadata_field)
        if result is not None:
            return await self._park(entry, result)
        topic = tenant_topic(self._known.name, str(link.tenant_id))
        is_made = await self._is_made(topic)
        cause = {"source": WHY, "event_type": f"{event.provider}.subscription"}
        commit = await self._reprojection.refresh(self._known.name, topic, Refresh(cause, [event]))
        if event.tenant_id is not None:
            # Always: a run that was killed may have taught the links and not come to this.
            await self._release(event)
        result, before, after = commit.result, commit.decision.before, commit.decision.after
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

    async def count_made(self) -> int:
        """Return how many of the tenants that the run noted it has made."""
        store = self._services.store
        (members,) = await run_commands(store, ("SMEMBERS", self._made_key))
        topics = [member.decode() for member in members]
        count = 0
        for start in range(0, len(topics), TOPICS_AT_ONCE):
            count += sum(version > 0 for version in await store.versions(topics[start : start + TOPICS_AT_ONCE]))
        return count

    async def still_parked(self, parked: Mapping[str, str]) -> dict[str, str]:
        """Return those of the parked subscriptions, reasons by event id, that nothing has released since."""
        found: dict[str, str] = {}
        for event_id, reason in parked.items():
            record = await self._known.inbox.read(event_id)
            if record is not None and record.status != "done":
                found[event_id] = record.reason or reason
        return found

    async def _link(self, event: Event) -> Link:
        """Return what the links say about a subscription, which has taught them its tenant if it names one."""
        link = await find_link(self._services.store, event)
        assert link is not None
        return link

    async def _is_made(self, topic: str) -> bool:
        """Return whether this run makes the tenant. Noted before it is made, so that a killed run counts it too."""
        is_new = not (await self._services.store.read(topic)).private
        command = "SADD" if is_new else "SISMEMBER"
        (answer,) = await run_commands(self._services.store, (command, self._made_key, topic))
        return is_new or bool(answer)

    async def _release(self, event: Event) -> None:
        """Process the parked events that waited for the links that the subscription has taught."""
        await self._services.ingest.release(self._known.name, subjects(event))

    async def _park(self, entry: ListedSubscription, result: EventResult) -> ItemResult:
        """Return what became of a subscription that is put into the inbox, which finds the reason itself."""
        received = await self._parking.receive(self._adapter, entry.body, self._known.name)
        record = await self._known.inbox.read(entry.event_id)
        if record is None or record.status == "done":
            # Its cause has gone meanwhile; or the same body was done with before.
            return ItemResult(Outcome.APPLIED if received.outcome is Outcome.APPLIED else Outcome.UNCHANGED)
        return ItemResult(Outcome.PARKED, record.reason)

    async def _record_drift(self, drift: Drift, version: int) -> Drift:
        """Return the drift that a commit has repaired, recorded."""
        drift = replace(drift, version=version)
        batch = CommandPipeline(self._services.store)
        self._known.drifts.add(batch, drift)
        await batch.run()
        return drift


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
