"""Erase a tenant: a tombstone in the place of its state, its history gone, and whatever else names what it bought.

What is left is the topic's name with the tombstone, and of each subscription that it was an erased tenant's, not whose:
so what its provider still sends is ignored, counted (`planwire_erased_events_total`) and not kept.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import orjson

from planwire_client.core.commit import BILLING, PUBLISHER
from planwire_client.core.topic import Topic
from sync.billing.domain import codec, tenant_resolution
from sync.billing.domain.model import Event, Facts
from sync.billing.domain.outcome import ERASED, EventResult, Outcome
from sync.billing.services.ingest import CONFLICT_PAUSE_S, CONFLICTS_MAX, Pipeline
from sync.billing.storage.event_log import EVENTS_KEPT
from sync.billing.storage.inbox import Record
from sync.billing.storage.tenant_facts import FactsError, facts_of, is_erased
from sync.core import announcement
from sync.store.command_pipeline import Batch
from sync.store.store import ABSENT, Change, Snapshot, StoreError, Verdict

PAGE = 500
"""How many parked events are looked through at a time."""

_Ids = tuple[str, str, str]
"""Provider, subscription and customer ("": none)."""


async def erase(
    pipeline: Pipeline,
    environment: str,
    topic: str,
    reason: str,
    who: Mapping[str, str] = MappingProxyType({}),
) -> EventResult:
    """Return what became of it: `applied`, or `unchanged` where the tenant had been erased before.

    `reason` and `who` go into the tombstone's cause.

    The state becomes null, which every tab is sent, and then `gone`. Done once more it removes what a crash had left.

    Raises:
        StoreError: the store is unreachable or failing; what was not removed goes when it is called again.
    """
    receipt = await _close_erased(pipeline, topic, reason, who)
    known, tenant = pipeline.environment(environment), Topic.parse(topic).id
    batch = Batch(pipeline.store)
    batch.command("XRANGE", batch.keys.events(topic), "-", "+", "COUNT", 2 * EVENTS_KEPT)
    batch.command("SMEMBERS", batch.keys.erasing(topic))
    entries, members = await batch.run()
    batch = Batch(pipeline.store)
    for _, fields in entries:
        if fields[b"event_id"]:
            known.inbox.forget(batch, fields[b"event_id"].decode())
    found = {_ids(member) for member in members}
    found |= await _parked(pipeline, environment, topic, batch, found)
    for provider, subscription_id, customer_id in found:
        known.links.erase(batch, provider, tenant, subscription_id or None, customer_id or None)
    known.strike(batch, topic)
    batch.command("ZREM", batch.keys.reconcile, topic)
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
    # Last: until then whoever calls again finds what there is to do.
    batch = Batch(pipeline.store)
    batch.command("DEL", batch.keys.erasing(topic))
    await batch.run()
    return receipt


async def _close_erased(pipeline: Pipeline, topic: str, reason: str, who: Mapping[str, str]) -> EventResult:
    cause = orjson.dumps({"source": "operator", "event_type": announcement.ERASED, "reason": reason, **who})
    async with pipeline.turns.of(topic):
        for _ in range(CONFLICTS_MAX):
            snapshot = await pipeline.store.read(topic)
            if is_erased(snapshot):
                return EventResult(Outcome.UNCHANGED, version=snapshot.version)
            await _remember(pipeline, snapshot)
            tombstone = codec.encode(Facts(erased_ns=pipeline.now_ns()))
            change = Change(
                topic,
                ABSENT,
                tombstone,
                if_rev=snapshot.rev,
                cause=cause,
                # What was only ever published may be published again.
                owner=PUBLISHER if snapshot.owner == PUBLISHER else BILLING,
                erases=True,
            )
            committed = await pipeline.commit(change)
            if committed.verdict is not Verdict.CONFLICT:
                return EventResult(Outcome(committed.verdict.value), version=committed.version)
            await asyncio.sleep(random.uniform(0, CONFLICT_PAUSE_S))  # noqa: S311 - spreads, guards nothing
    raise StoreError(f"{topic}: {CONFLICTS_MAX} commits in a row came too late")


async def _remember(pipeline: Pipeline, snapshot: Snapshot) -> None:
    """Keep what leads to the tenant until all of it is gone: the tombstone does not know it any more."""
    try:
        facts = facts_of(snapshot)
    except FactsError:
        return
    ids = [
        (entry.provider, entry.subscription.id, entry.subscription.customer_id or "")
        for entry in facts.subscriptions.values()
    ]
    if ids:
        batch = Batch(pipeline.store)
        batch.command("SADD", batch.keys.erasing(snapshot.topic), *("\n".join(entry) for entry in ids))
        await batch.run()


async def _parked(
    pipeline: Pipeline, environment: str, topic: str, batch: Batch, known_ids: Iterable[_Ids]
) -> set[_Ids]:
    """Add to `batch` the end of every parked event of the tenant; return what these lead to it by."""
    inbox = pipeline.environment(environment).inbox
    subscriptions = {(provider, subscription_id) for provider, subscription_id, _ in known_ids}
    found: set[_Ids] = set()
    after: tuple[int, str] | None = None
    while True:
        page = await inbox.parked(after, PAGE)
        for record in page:
            event = _read(pipeline, record, environment)
            named = event is not None and tenant_resolution.named_topic(event) == topic
            if event is not None and event.subscription_id is not None:
                named = named or (event.provider, event.subscription_id) in subscriptions
                if named or record.topic == topic:
                    found.add((event.provider, event.subscription_id, event.customer_id or ""))
            if named or record.topic == topic:
                inbox.end(batch, record.event_id, ERASED)
        if len(page) < PAGE:
            return found
        after = page[-1].parked_us, page[-1].event_id


def _read(pipeline: Pipeline, record: Record, environment: str) -> Event | None:
    adapter = pipeline.adapters.get(record.provider)
    event = None if adapter is None else tenant_resolution.sanitize(adapter.parse(record.body, environment))
    return event if isinstance(event, Event) else None


def _ids(member: bytes) -> _Ids:
    provider, subscription_id, customer_id = member.decode().split("\n")
    return provider, subscription_id, customer_id
