"""What operators do about parked events and parked items of the worker's queues, also damaged ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sync.billing.api.bodies import requests
from sync.billing.api.operations import Asked
from sync.billing.api.parked import ParkedEvents, ParkedItems
from sync.billing.catalog.watcher import EXAMPLE, CatalogWatcher
from sync.billing.storage.environment import PARKING_QUEUES, parking_queues
from sync.http.endpoint import trusted
from sync.http.fields import Reader
from sync.http.problem import Problem
from sync.store.command_pipeline import CommandPipeline
from sync.store.delayed_queue import Due
from sync.store.isolation import ATTEMPTS_MAX
from sync.store.keys import DEFAULT_KEYS as keys
from tests.support.services import Billing, billing

LIVE, SANDBOX = Asked("live", caller=trusted("eve")), Asked("sandbox", caller=trusted("eve"))
REASON = requests.Reasoned(reason="damaged", by="eve")


@pytest.fixture
def services() -> Iterator[Billing]:
    with billing(CatalogWatcher(EXAMPLE)) as services:
        yield services


async def listed(services: Billing, asked: Asked = LIVE, limit: int = 100) -> Any:
    """The parked items as an operator sees them."""
    return (await ParkedItems(services).listing(asked, limit))["items"]


async def park(services: Billing, name: str, environment: str, member: bytes) -> None:
    """Park an item as the worker does."""
    queue = next(queue for of, env, queue in parking_queues(services.store, (environment,)) if of == name)
    batch = CommandPipeline(services.store)
    queue.schedule_earlier(batch, member, 1)
    await batch.run()
    for _ in range(ATTEMPTS_MAX):
        (due,) = await queue.claim(1)
        begun = await queue.begin(due)
        assert isinstance(begun, Due)
        await (queue.park(begun, "it raised") if begun.tries == ATTEMPTS_MAX else queue.fail(begun, 0))


class TestItems:
    async def test_each_environment_lists_its_own(self, services: Billing) -> None:
        await park(services, "timers", "live", b"tenant:acme")
        await park(services, "audits", "sandbox", b"sandbox/tenant:acme")
        await park(services, "reconcile", "live", b"sandbox/tenant:acme")
        await park(services, "checkouts", "live", b"tenant:acme cs_1")
        note = {"attempts": ATTEMPTS_MAX, "reason": "it raised"}
        assert await listed(services) == [
            {"queue": "checkouts", "item": "tenant:acme cs_1", "env": "live", **note},
            {"queue": "timers", "item": "tenant:acme", "env": "live", **note},
        ]
        assert await listed(services, SANDBOX) == [
            {"queue": "reconcile", "item": "sandbox/tenant:acme", "env": "sandbox", **note},
            {"queue": "audits", "item": "sandbox/tenant:acme", "env": "sandbox", **note},
        ]
        assert len(await listed(services, limit=1)) == 1

    @pytest.mark.parametrize("member", [b"tenant:acme", b"not a topic", b"tenant:\xff\xfe"])
    async def test_one_is_tried_again_or_dropped(self, services: Billing, member: bytes) -> None:
        redis: Any = services.store.redis
        key, items = keys.timers("live"), ParkedItems(services)
        await park(services, "timers", "live", member)
        item = (await listed(services))[0]["item"]
        named = requests.QueueItem(queue="timers", item=item)
        assert await redis.zscore(key, member) is None
        assert await items.retry(LIVE, named) == {"outcome": "queued"}
        assert await redis.zscore(key, member) is not None
        # It is on the list until its work is done, and dropping it there leaves what has queued it since.
        dropped = requests.DroppedItem(queue="timers", item=item, reason="damaged")
        assert await items.drop(LIVE, dropped) == {"outcome": "dropped"}
        assert await redis.zscore(key, member) is not None
        assert await listed(services) == []
        for again in (items.retry(LIVE, named), items.drop(LIVE, dropped)):
            with pytest.raises(Problem, match="is not parked in the queue timers"):
                await again

    async def test_the_items_of_another_environment_are_out_of_reach(self, services: Billing) -> None:
        await park(services, "search", "live", b"sandbox/tenant:acme")
        named = requests.QueueItem(queue="search", item="sandbox/tenant:acme")
        with pytest.raises(Problem, match="is not parked"):
            await ParkedItems(services).retry(LIVE, named)
        assert await ParkedItems(services).retry(SANDBOX, named) == {"outcome": "queued"}

    @pytest.mark.parametrize("member", [b"weird/thing", b"sandbox/no topic", b"\xff/tenant:acme"])
    async def test_damaged_items_of_a_queue_of_all_environments_are_in_reach(
        self, services: Billing, member: bytes
    ) -> None:
        await park(services, "reconcile", "live", member)
        (found,) = await listed(services)
        dropped = requests.DroppedItem(queue="reconcile", item=found["item"], reason="damaged")
        assert await ParkedItems(services).drop(LIVE, dropped) == {"outcome": "dropped"}

    async def test_an_unknown_queue_is_answered_with_the_known_ones(self, services: Billing) -> None:
        with pytest.raises(Problem, match=r"queue must be one of audits, .*timers"):
            Reader(requests.QueueItem).read({"queue": "inbox", "item": "evt_1"})
        named = {name for name, _, _ in parking_queues(services.store, ("live",))}
        assert named == set(PARKING_QUEUES)

    async def test_a_damaged_list_hides_no_other_queue(self, services: Billing) -> None:
        redis: Any = services.store.redis
        await redis.set(keys.parked_members(keys.reconcile), "a string")
        await park(services, "timers", "live", b"tenant:acme")
        damaged, good = await listed(services)
        assert (damaged["queue"], damaged["item"], good["item"]) == ("reconcile", "*", "tenant:acme")
        assert damaged["reason"].startswith("the list cannot be read: WRONGTYPE")

    async def test_a_damaged_note_hides_nothing(self, services: Billing) -> None:
        redis: Any = services.store.redis
        await redis.hset(keys.parked_members(keys.timers("live")), mapping={"tenant:a": b"{", "tenant:b": b"7"})
        first, second = await listed(services)
        assert (first["item"], second["item"]) == ("tenant:a", "tenant:b")
        assert first["reason"] == "its note cannot be read: b'{'"


class TestEvents:
    """Events whose records cannot be read, and those that somebody has repaired."""

    @pytest.mark.parametrize("member", [b"evt_1", b"evt_\xff"])
    async def test_one_that_cannot_be_read_is_listed_not_retried_and_can_be_dropped(
        self, services: Billing, member: bytes
    ) -> None:
        redis: Any = services.store.redis
        record, parked = keys.inbox("live", "event:").encode() + member, keys.inbox("live", "parked")
        await redis.set(record, "a string where a hash should be")
        await redis.zadd(parked, {member: 5})
        events = ParkedEvents(services)
        page: Any = await events.listing(LIVE, 10, None)
        event_id = page["parked"][0]["event_id"]
        with pytest.raises(Problem, match=r"its record cannot be read: .*; repair it, or drop the event"):
            await events.retry(LIVE, event_id)
        assert (await events.drop(LIVE, event_id, REASON))["outcome"] == "ignored"
        assert await redis.exists(record) == 0 == await redis.zcard(parked)

    async def test_one_that_was_repaired_is_retried(self, services: Billing) -> None:
        redis: Any = services.store.redis
        await redis.zadd(keys.inbox("live", "parked"), {"evt_1": 5})
        repaired = {"body": services.body(event_id="evt_1"), "provider": "paddle", "status": "pending", "attempts": 1}
        await redis.hset(keys.inbox("live", "event:evt_1"), mapping=repaired)
        assert (await ParkedEvents(services).retry(LIVE, "evt_1"))["outcome"] == "applied"
        assert await redis.zcard(keys.inbox("live", "parked")) == 0
        with pytest.raises(Problem, match="no event of this id is parked"):
            await ParkedEvents(services).drop(LIVE, "evt_1", REASON)

    async def test_one_whose_tenant_cannot_be_read_stays_parked_and_is_not_to_be_dropped(
        self, services: Billing
    ) -> None:
        redis: Any = services.store.redis
        stored = {"body": services.body(event_id="evt_1"), "provider": "paddle", "status": "parked", "attempts": 1}
        await redis.zadd(keys.inbox("live", "parked"), {"evt_1": 5})
        await redis.hset(keys.inbox("live", "event:evt_1"), mapping=stored)
        await redis.set(keys.snap("tenant:acme"), "a string where a hash should be")
        with pytest.raises(Problem, match=r"its tenant's data cannot be used: WRONGTYPE .*; it stays parked"):
            await ParkedEvents(services).retry(LIVE, "evt_1")
        await redis.delete(keys.snap("tenant:acme"))
        assert (await ParkedEvents(services).retry(LIVE, "evt_1"))["outcome"] == "applied"
