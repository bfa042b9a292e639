"""The worker's queues: an item that fails stops no other, and a store without memory loses nothing."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import pytest

from sync.store.keys import DEFAULT_KEYS as keys
from tests.support.scarce import out_of_memory
from tests.support.system import System, ago, event
from tests.support.wait import until

FOREVER = 10**9


async def is_settled(system: System, tenant: str) -> bool:
    """Whether everything that follows from a tenant's event is in the store."""
    redis, topic = system.store.redis, f"tenant:{tenant}"
    timer = await redis.zscore(keys.timers("live"), topic)
    audit = await redis.zscore(keys.audits("live"), topic)
    is_listed = await redis.sismember(keys.tenants("live"), topic)
    pending = await redis.zscore(keys.inbox("live", "pending"), f"evt_{tenant[1:]}")
    outcomes = [entry["outcome"] for entry in await system.processed(topic)]
    return None not in (timer, audit) and bool(is_listed) and pending is None and "applied" in outcomes


@pytest.mark.timeout(120)
@pytest.mark.parametrize("lasts", [1, FOREVER])
@pytest.mark.parametrize("again", ["the provider", "the worker"])
async def test_s71_whichever_command_the_store_has_no_memory_for_nothing_is_lost(
    system: System, monkeypatch: pytest.MonkeyPatch, lasts: int, again: str
) -> None:
    """Timer, list of tenants and audit are there before the event is done. `lasts`: for how many commands."""
    change = {"action": "cancel", "effective_at": ago(-3600), "resume_at": None}
    redis, pending = system.store.redis, keys.inbox("live", "pending")
    stored, answers = [], []
    for at in itertools.count():
        tenant = f"t{at}"
        body = event(ago(60), tenant=tenant, scheduled_change=change, event_id=f"evt_{at}")
        with out_of_memory(monkeypatch, at, at + lasts) as scarcity:
            response = await system.deliver(body)
        await redis.config_set("maxmemory", "0")
        if scarcity.seen <= at:
            break
        assert response.status_code in (200, 503), response.text
        answers.append(response.status_code)
        if response.status_code == 200 or (again == "the provider" and await system.outcome(body) != "duplicate"):
            assert await is_settled(system, tenant), f"out of memory at command {at}"
        if await redis.exists(keys.inbox("live", f"event:evt_{at}")):
            stored.append(tenant)
    assert 503 in answers
    assert len(stored) >= len(answers) - 1
    # As the end of the leases does, later.
    members: Any = await redis.zrange(pending, 0, -1)
    await redis.zadd(pending, dict.fromkeys(members, 0) or {"none": 0}, xx=True)
    async with system.working():
        for tenant in stored:
            await until(partial(is_settled, system, tenant), 30)
            async with system.tab(f"tenant:{tenant}") as tab:
                await tab.until(lambda tab: tab.plan == "pro" and tab.state["scheduled"]["action"] == "cancel")
