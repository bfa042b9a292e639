"""Erasing a tenant: the tombstone, what is removed with it, and what comes later."""

from __future__ import annotations

from typing import Any

from sync.billing.domain.outcome import Outcome
from tests.support.services import TOPIC, Billing

WHO = {"by": "support"}


async def test_a_tombstone_is_all_that_stays(services: Billing) -> None:
    await services.receive(event_id="evt_1", kind="subscription.past_due", status="past_due")
    await services.receive(None, id="sub_2", event_id="evt_2")
    erased = await services.erasure.erase("live", TOPIC, "asked for it", WHO)
    assert erased.outcome is Outcome.APPLIED
    snapshot = await services.store.read(TOPIC)
    assert (snapshot.erased, await services.state()) == (True, None)
    redis: Any = services.store.redis
    keys = services.store.keys
    for key in (keys.events(TOPIC), keys.seen(TOPIC), keys.previews(TOPIC), keys.provider_snapshots(TOPIC)):
        assert not await redis.exists(key), key
    assert await redis.xlen(keys.log(TOPIC)) == 1
    assert [topic async for topic in services.environment("live").topics()] == []
    services.clock.advance(8 * 86_400)
    assert await services.fire_due() == 0
    record = await services.environment("live").inbox.read("evt_1")
    assert record is None or record.body == b""


async def test_it_may_be_repeated(services: Billing) -> None:
    await services.receive()
    first = await services.erasure.erase("live", TOPIC, "asked for it", WHO)
    again = await services.erasure.erase("live", TOPIC, "once more", WHO)
    assert (again.outcome, again.version) == (Outcome.UNCHANGED, first.version)


async def test_later_events_of_its_subscription_are_ignored_and_counted(services: Billing) -> None:
    await services.receive()
    await services.erasure.erase("live", TOPIC, "asked for it", WHO)
    services.clock.advance(1)
    late = await services.receive(kind="subscription.canceled", status="canceled")
    assert late.outcome is Outcome.IGNORED
    assert await services.state() is None
    redis: Any = services.store.redis
    counted = await redis.hgetall(services.store.keys.counters)
    assert [value for field, value in counted.items() if b"erased_events" in field] == [b"1"]
