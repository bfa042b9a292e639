"""Erases a tenant: a tombstone in place of its state, its history removed, and all else that names what it bought.

What stays is the topic's name with the tombstone, and for each of its subscriptions the fact that it was an erased
tenant's. What its provider still sends is ignored, counted (`planwire_erased_events_total`) and not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import orjson

from planwire_client.core.commit import BILLING, PUBLISHER
from planwire_client.core.topic import Topic
from sync.billing.domain.model import Event, Facts
from sync.billing.domain.outcome import ERASED, EventResult, Outcome
from sync.billing.domain.tenant_resolution import named_topic, sanitize
from sync.billing.providers.base import WebhookAdapter
from sync.billing.services.committer import Committer, Decision, Write
from sync.billing.storage.environment import Environment, reconcile_requests
from sync.billing.storage.event_log import EVENTS_KEPT
from sync.billing.storage.inbox import Record
from sync.billing.storage.tenant_facts import FactsError, facts_of
from sync.core import announcement
from sync.store.command_pipeline import CommandPipeline
from sync.store.models import ABSENT, Snapshot
from sync.store.store import Store

PAGE = 500
"""How many parked events are read at a time."""

_Ids = tuple[str, str, str]
"""Provider, subscription and customer ("": none)."""


class Erasure:
    """Erases tenants of one store."""

    def __init__(
        self,
        store: Store,
        committer: Committer,
        adapters: Mapping[str, WebhookAdapter],
        environment: Callable[[str], Environment],
        now_ns: Callable[[], int],
    ) -> None:
        self._store = store
        self._committer = committer
        self._adapters = adapters
        self._environment = environment
        self._now_ns = now_ns

    async def erase(
        self, environment: str, topic: str, reason: str, who: Mapping[str, str] = MappingProxyType({})
    ) -> EventResult:
        """Return what became of it: `applied`, or `unchanged` if the tenant had been erased before.

        The state becomes null, which every tab is sent, and then `gone`. Erasing once more removes what a crash left.

        Args:
            reason, who: go into the tombstone's cause.

        Raises:
            StoreError: the store is unreachable or failing; what was not removed goes when it is called again.
        """
        result = await self._write_tombstone(topic, reason, who)
        await self._remove_traces(environment, topic)
        return result

    async def _write_tombstone(self, topic: str, reason: str, who: Mapping[str, str]) -> EventResult:
        cause = orjson.dumps({"source": "operator", "event_type": announcement.ERASED, "reason": reason, **who})

        def decide(snapshot: Snapshot) -> Decision:
            erasing: tuple[str, ...] = ()
            try:
                facts = facts_of(snapshot)
            except FactsError:
                pass  # not a tenant's: nothing else leads to it
            else:
                if facts.erased_ns is not None:
                    return Decision(EventResult(Outcome.UNCHANGED, version=snapshot.version))
                erasing = tuple(_members(facts))
            # What was only ever published may be published again.
            owner = PUBLISHER if snapshot.owner == PUBLISHER else BILLING
            tombstone = Facts(erased_ns=self._now_ns())
            write = Write(tombstone, ABSENT, cause, owner=owner, erases=True, erasing=erasing)
            return Decision(EventResult(Outcome.APPLIED), write, arms=False)

        return (await self._committer.commit(topic, decide)).result

    async def _remove_traces(self, environment: str, topic: str) -> None:
        known, tenant = self._environment(environment), Topic.parse(topic).id
        batch = CommandPipeline(self._store)
        batch.command("XRANGE", batch.keys.events(topic), "-", "+", "COUNT", 2 * EVENTS_KEPT)
        batch.command("SMEMBERS", batch.keys.erasing(topic))
        entries, members = await batch.run()
        batch = CommandPipeline(self._store)
        for _, fields in entries:
            if fields[b"event_id"]:
                known.inbox.drop_body(batch, fields[b"event_id"].decode())
        found = {_ids(member) for member in members}
        found |= await self._end_parked(environment, topic, batch, found)
        for provider, subscription_id, customer_id in found:
            known.links.erase(batch, provider, tenant, subscription_id or None, customer_id or None)
        known.strike(batch, topic)
        reconcile_requests(self._store).cancel(batch, topic)
        # The tombstone's own version stays: it is what there is.
        batch.command("XTRIM", batch.keys.log(topic), "MAXLEN", 1)
        batch.command(
            "DEL",
            batch.keys.events(topic),
            batch.keys.seen(topic),
            batch.keys.previews(topic),
            batch.keys.provider_snapshots(topic),
        )
        await batch.run()
        await known.drifts.erase(topic)
        # Last: until then another call finds what there is to do.
        batch = CommandPipeline(self._store)
        batch.command("DEL", batch.keys.erasing(topic))
        await batch.run()

    async def _end_parked(
        self, environment: str, topic: str, batch: CommandPipeline, known_ids: Iterable[_Ids]
    ) -> set[_Ids]:
        """Add to `batch` the end of every parked event of the tenant; return the ids by which these lead to it."""
        inbox = self._environment(environment).inbox
        subscriptions = {(provider, subscription_id) for provider, subscription_id, _ in known_ids}
        found: set[_Ids] = set()
        after: tuple[int, str] | None = None
        while True:
            page = await inbox.parked(after, PAGE)
            for record in page:
                event = self._parsed(record, environment)
                is_named = event is not None and named_topic(event) == topic
                if event is not None and event.subscription_id is not None:
                    is_named = is_named or (event.provider, event.subscription_id) in subscriptions
                    if is_named or record.topic == topic:
                        found.add((event.provider, event.subscription_id, event.customer_id or ""))
                if is_named or record.topic == topic:
                    inbox.end(batch, record.event_id, ERASED)
            if len(page) < PAGE:
                return found
            after = page[-1].parked_us, page[-1].event_id

    def _parsed(self, record: Record, environment: str) -> Event | None:
        adapter = self._adapters.get(record.provider)
        event = None if adapter is None else sanitize(adapter.parse(record.body, environment))
        return event if isinstance(event, Event) else None


def _members(facts: Facts) -> Iterable[str]:
    """Return what leads to the tenant, to be kept until all of it is gone: the tombstone does not know it any more."""
    for entry in facts.subscriptions.values():
        yield "\n".join((entry.provider, entry.subscription.id, entry.subscription.customer_id or ""))


def _ids(member: bytes) -> _Ids:
    provider, subscription_id, customer_id = member.decode().split("\n")
    return provider, subscription_id, customer_id
