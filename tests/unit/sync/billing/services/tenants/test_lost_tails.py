"""The tenants of a shard that has lost facts are compared once, where a provider can be asked."""

from __future__ import annotations

from typing import Any

import pytest

from sync.billing.services.tenants.lost_tails import LostTails
from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.models import StoreRejected
from tests.support.services import TOPIC, Billing

CANARY = "probe:a.1"


@pytest.mark.parametrize("environments", [["live"], []], ids=["a provider", "no provider"])
async def test_a_lost_tail_is_handled_once(services: Billing, environments: list[str]) -> None:
    await services.receive()
    await services.receive("other", id="sub_other")
    redis: Any = services.store.redis
    planned = await redis.zrange(keys.audits("live"), 0, -1, withscores=True)
    tails = LostTails(services, environments)
    assert await tails.step() is False
    await services.store.request(keys.lost_tails, [CANARY])
    assert await tails.step() is False
    assert await redis.zcard(keys.lost_tails) == 0
    due = dict(await redis.zrange(keys.audits("live"), 0, -1, withscores=True))
    assert sorted(due) == [TOPIC.encode(), b"tenant:other"]
    is_now = [at <= services.now_us for at in due.values()]
    assert is_now == ([True, True] if environments else [False, False])
    assert environments or sorted(due.items()) == sorted(planned)
    assert await redis.zcard(keys.searches) == (2 if environments else 0)
    assert await tails.step() is False


async def test_a_damaged_list_of_tenants_stops_no_other_environment(services: Billing) -> None:
    redis: Any = services.store.redis
    await redis.set(keys.tenants("live"), "a string")
    await redis.sadd(keys.tenants("sandbox"), "sandbox/tenant:acme", b"sandbox/tenant:\xff")
    await redis.zadd(keys.lost_tails, {CANARY: 1})
    tails = LostTails(services, ("live", "sandbox"))
    with pytest.raises(StoreRejected):
        await tails.step()
    assert await redis.zscore(keys.audits("sandbox"), "sandbox/tenant:acme") is not None
    # The canary is tried again when its lease ends.
    assert await redis.zscore(keys.lost_tails, CANARY) > services.now_us
    await redis.delete(keys.tenants("live"))
    services.clock.advance(61)
    await tails.step()
    assert await redis.zcard(keys.lost_tails) == 0
