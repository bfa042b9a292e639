"""Erase a tenant: a tombstone in the place of its state, its history gone, and whatever else names what it bought.

The links from the provider's ids stay: by them later events are known for the tenant's, and parked.
"""

from __future__ import annotations

import asyncio
import random

import orjson

from sync.billing import model
from sync.billing.batch import Batch
from sync.billing.model import Facts
from sync.billing.pipeline import CONFLICT_PAUSE_S, CONFLICTS_MAX, EVENTS_KEPT, Pipeline, Receipt, events_key
from sync.state import keys
from sync.state.store import ABSENT, Change, StoreError, Verdict


async def erase(pipeline: Pipeline, environment: str, topic: str, reason: str) -> Receipt:
    """Return what became of it: `applied`, or `unchanged` where the tenant had been erased before.

    The state becomes null, which every tab is sent. Done once more it removes what a crash had left.

    Raises:
        StoreError: the store is unreachable or failing; what was not removed goes when it is called again.
    """
    receipt = await _bury(pipeline, topic, reason)
    known = pipeline.environment(environment)
    batch = Batch(pipeline.store.redis)
    batch.command("XRANGE", events_key(topic), "-", "+", "COUNT", 2 * EVENTS_KEPT)
    (entries,) = await batch.run()
    batch = Batch(pipeline.store.redis)
    for _, fields in entries:
        if fields[b"event_id"]:
            known.inbox.forget(batch, fields[b"event_id"].decode())
    known.strike(batch, topic)
    # The tombstone's own version stays: it is what there is.
    batch.command("XTRIM", keys.log(topic), "MAXLEN", 1)
    batch.command("DEL", events_key(topic), keys.seen(topic))
    await batch.run()
    await known.drifts.erase(topic)
    return receipt


async def _bury(pipeline: Pipeline, topic: str, reason: str) -> Receipt:
    cause = orjson.dumps({"source": "operator", "event_type": "tenant.erased", "reason": reason})
    async with pipeline.turns.of(topic):
        for _ in range(CONFLICTS_MAX):
            snapshot = await pipeline.store.read(topic)
            if is_erased(snapshot.private):
                return Receipt("unchanged", snapshot.version)
            tombstone = model.encode(Facts(erased_ns=pipeline.now_ns()))
            change = Change(topic, ABSENT, tombstone, if_version=snapshot.version, cause=cause)
            committed = await pipeline.store.commit(change)
            if committed.verdict is not Verdict.CONFLICT:
                return Receipt(committed.verdict.value, committed.version)
            await asyncio.sleep(random.uniform(0, CONFLICT_PAUSE_S))  # noqa: S311 - spreads, guards nothing
    raise StoreError(f"{topic}: {CONFLICTS_MAX} commits in a row came too late")


def is_erased(private: bytes) -> bool:
    """Return whether a topic's private part is a tombstone."""
    try:
        return model.decode(private).erased_ns is not None
    except ValueError:
        return False
