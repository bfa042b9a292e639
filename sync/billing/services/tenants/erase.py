"""Erases a tenant, and revives it.

A tombstone replaces the state of an erased tenant. Its history and all records of its purchases are removed; the
topic's name with the tombstone stays, and a TOMBSTONE link for each of its subscriptions. Later events of these are
ignored, counted (`planwire_erased_events_total`) and not kept. A new subscription that names the tenant is parked until
an operator revives the tenant, or drops the event.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import orjson

from planwire_client.core import canonical_json
from planwire_client.core.commit import BILLING, PUBLISHER
from planwire_client.core.topic import Topic
from sync.billing.domain.entitlements.projection import Projected, project
from sync.billing.domain.facts.model import NOTHING, Event, Facts
from sync.billing.domain.outcome import ERASED, EventResult, Outcome
from sync.billing.domain.tenant_resolution import SubscriptionRef, named_topic
from sync.billing.services.committer import Committer, Decision, Write
from sync.billing.services.context import BillingContext
from sync.billing.storage.environment import reconcile_requests
from sync.billing.storage.inbox import Record
from sync.billing.storage.links import erase_links
from sync.billing.storage.records import EVENTS_KEPT
from sync.billing.storage.tenants import has_facts, known_facts
from sync.store import losses
from sync.store.command_pipeline import CommandPipeline, run_commands
from sync.store.delayed_queue import DelayedQueue
from sync.store.models import ABSENT, Snapshot

PAGE = 500
"""Parked events read at a time."""


class Erasure:
    """Erases tenants of one store."""

    def __init__(self, context: BillingContext, committer: Committer) -> None:
        self._context = context
        self._store = context.store
        self._committer = committer
        self._others: list[Callable[[str, str], Awaitable[None]]] = []

    def also(self, erase: Callable[[str, str], Awaitable[None]]) -> None:
        """Have `erase` called, with its environment and topic, for each tenant that is erased from now on.

        It removes what other parts of the process keep of the tenant. A repeated erasure calls it again.
        """
        self._others.append(erase)

    async def erase(self, environment: str, topic: str, reason: str, who: Mapping[str, str]) -> EventResult:
        """Return `applied`, or `unchanged` if the tenant was already erased.

        Every tab receives the state null and then `gone`. A repeated call removes what a crash has left.

        Args:
            reason, who: go into the tombstone's cause.

        Raises:
            StoreError: the store is unreachable or failing; a repeated call removes the rest.
        """
        result = await self._write_tombstone(topic, reason, who)
        await self._remove_traces(environment, topic)
        return result

    async def revive(self, environment: str, topic: str, reason: str, who: Mapping[str, str]) -> EventResult:
        """Return `applied`, or `unchanged` if the tenant is not erased.

        The tenant has the default plan then. The caller releases the events that wait on `revival_of(topic)`. What was
        erased does not come back, and the subscriptions of before stay ignored, unless an operator links them.

        Args:
            reason, who: go into the version's cause.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        cause = orjson.dumps({"source": "operator", "event_type": "tenant.revived", "reason": reason, **who})
        projected = project(NOTHING, self._context.setting(environment))
        assert isinstance(projected, Projected), "there is no price that could be unknown"
        write = Write(canonical_json.encode(projected.state), cause, enlists=True)

        def decide(snapshot: Snapshot) -> Decision:
            facts = known_facts(snapshot)
            if facts is None or facts.erased_ns is None:
                return Decision(EventResult(Outcome.UNCHANGED, topic=topic, version=snapshot.version))
            return Decision(EventResult(Outcome.APPLIED), write)

        commit = await self._committer.commit(topic, decide)
        await self._committer.record(commit, "tenant.revived")
        return commit.result

    async def _write_tombstone(self, topic: str, reason: str, who: Mapping[str, str]) -> EventResult:
        cause = orjson.dumps({"source": "operator", "event_type": "tenant.erased", "reason": reason, **who})

        def decide(snapshot: Snapshot) -> Decision:
            facts = known_facts(snapshot)
            if facts is not None and facts.erased_ns is not None:
                return Decision(EventResult(Outcome.UNCHANGED, version=snapshot.version))
            # Stored until everything is removed, since the tombstone does not contain it.
            subscriptions = facts.subscriptions.values() if facts is not None else ()
            bodies = [(entry.provider, entry.subscription) for entry in subscriptions]
            erasing = tuple("\n".join((provider, body.id, body.customer_id or "")) for provider, body in bodies)
            # A topic that only a publisher has written may be published again.
            is_published = snapshot.owner == PUBLISHER and snapshot.version > 0 and not has_facts(snapshot)
            owner = PUBLISHER if is_published else BILLING
            write = Write(ABSENT, cause, owner=owner, erases=True, erasing=erasing)
            tombstone = Facts(erased_ns=self._context.now_ns())
            return Decision(EventResult(Outcome.APPLIED), write, after=tombstone, arms=False)

        return (await self._committer.commit(topic, decide)).result

    async def _remove_traces(self, environment: str, topic: str) -> None:
        known, keys, tenant = self._context.environment(environment), self._store.keys, Topic.parse(topic).id
        entries, members, endpoints = await run_commands(
            self._store,
            ("XRANGE", keys.events(topic), "-", "+", "COUNT", 2 * EVENTS_KEPT),
            ("SMEMBERS", keys.erasing(topic)),
            ("HKEYS", keys.webhooks("since")),
        )
        batch = CommandPipeline(self._store)
        for _, fields in entries:
            if fields[b"event_id"]:
                known.inbox.drop_body(batch, fields[b"event_id"].decode())
        linked: set[tuple[SubscriptionRef, str | None]] = set()
        for member in members:
            provider, subscription_id, customer_id = member.decode().split("\n")
            linked.add((SubscriptionRef(environment, provider, subscription_id), customer_id or None))
        linked |= await self._end_parked(environment, topic, batch, {ref for ref, _ in linked})
        for ref, customer in linked:
            erase_links(batch, ref, customer, tenant)
        known.strike(batch, topic)
        reconcile_requests(self._store).cancel(batch, topic)
        losses.searches(self._store).cancel(batch, topic)
        for name in endpoints:
            DelayedQueue(self._store, keys.webhooks(f"to:{name.decode()}")).cancel(batch, topic)
        # Keep one version: the tombstone's own.
        batch.command("XTRIM", keys.log(topic), "MAXLEN", 1)
        traces = (
            keys.events(topic),
            keys.seen(topic),
            keys.previews(topic),
            keys.provider_snapshots(topic),
            keys.delivered(topic),
        )
        batch.command("DEL", *traces)
        await batch.run()
        await known.drifts.erase(topic)
        for erase in self._others:
            await erase(environment, topic)
        # Last: until then a repeated call still finds what to remove.
        await run_commands(self._store, ("DEL", keys.erasing(topic)))

    async def _end_parked(
        self, environment: str, topic: str, batch: CommandPipeline, subscriptions: set[SubscriptionRef]
    ) -> set[tuple[SubscriptionRef, str | None]]:
        """Add to `batch` the end of every parked event of the tenant; return their subscriptions and customers."""
        inbox = self._context.environment(environment).inbox
        linked: set[tuple[SubscriptionRef, str | None]] = set()
        after: tuple[int, str] | None = None
        while True:
            page = await inbox.parked(after, PAGE)
            for record in page:
                event = self._parsed(record, environment)
                is_about = record.topic == topic or (event is not None and named_topic(event) == topic)
                if event is not None and event.subscription_id is not None:
                    ref = SubscriptionRef.of(event)
                    is_about = is_about or ref in subscriptions
                    if is_about:
                        linked.add((ref, event.customer_id))
                if is_about:
                    inbox.end(batch, record.event_id, ERASED)
            if len(page) < PAGE:
                return linked
            after = page[-1].parked_us, page[-1].event_id

    def _parsed(self, record: Record, environment: str) -> Event | None:
        if record.provider not in self._context.adapters:
            return None
        event = self._context.parse(record.provider, record.body, environment)
        return event if isinstance(event, Event) else None
