"""The tenants of a shard that has lost facts are compared once, where a provider can be asked."""

from __future__ import annotations

from typing import Any

import pytest

from sync.billing.services.tenants.lost_tails import LostTails
from tests.support.services import TOPIC, Billing

CANARY = "probe:a.1"


@pytest.mark.parametrize("environments", [["live"], []], ids=["a provider", "no provider"])
async def test_a_lost_tail_is_handled_once(services: Billing, environments: list[str]) -> None:
    await services.receive()
    await services.receive("other", id="sub_other")
    redis: Any = services.store.redis
    keys = services.store.keys
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
