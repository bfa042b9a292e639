"""The worker's queues: an item that fails stops no other, and a store without memory loses nothing."""

from __future__ import annotations

import itertools
import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sync.store.keys import DEFAULT_KEYS as keys
from tests.support.scarce import out_of_memory
from tests.support.system import System, ago, event, run_system, selling
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


@pytest.mark.timeout(120)
async def test_s70_damaged_items_stop_neither_the_worker_nor_the_others(system: System) -> None:
    """Damaged items in every queue, in front of a good one; the worker is started twice upon them."""
    redis: Any = system.store.redis
    change = {"action": "cancel", "effective_at": ago(-3), "resume_at": None}
    await system.apply(event(ago(60), tenant="zzz", event_id="evt_zzz", scheduled_change=change))
    damaged = ["not a topic", b"tenant:\xff", "tenant:type", "tenant:facts"]
    await redis.set(keys.snap("tenant:type"), "a string where a hash should be")
    await redis.hset(
        keys.snap("tenant:facts"), mapping={"version": 5, "rev": 5, "state": "{}", "private": "{", "owner": "billing"}
    )
    for queue in (keys.timers("live"), keys.audits("live"), keys.reconcile, keys.hydrate, keys.compare):
        await redis.zadd(queue, dict.fromkeys(damaged, 1))
    await redis.sadd(keys.tenants("live"), *damaged)
    await redis.set(keys.inbox("live", "event:evt_type"), "a string where a hash should be")
    unknown = {"body": "{}", "provider": "of a newer build", "status": "pending", "attempts": 1, "tries": 7}
    await redis.hset(keys.inbox("live", "event:evt_unknown"), mapping=unknown)
    event_of_zzy = event(ago(50), tenant="zzy", event_id="evt_zzy")
    stored = {"body": event_of_zzy, "provider": "paddle", "status": "pending", "attempts": 1}
    await redis.hset(keys.inbox("live", "event:evt_zzy"), mapping=stored)
    await redis.zadd(keys.inbox("live", "pending"), dict.fromkeys([b"\xff", "evt_type", "evt_unknown", "evt_zzy"], 1))

    async def are_parked() -> bool:
        return {one["event_id"] for one in await system.parked()} == {"evt_type", "evt_unknown"}

    async with system.tab("tenant:zzz") as tab, system.tab("tenant:zzy") as other:
        await tab.until(lambda tab: tab.plan == "pro")
        async with system.working() as worker:
            await other.until(lambda tab: tab.plan == "pro", 30)
            await until(are_parked, 30)
            assert worker.status() is None
        async with system.working() as worker:
            await tab.until(lambda tab: tab.state["scheduled"]["overdue"], 40)
            assert worker.status() is None, worker.text
            assert all(name in worker.text for name in ("item_failed", "not a topic", "tenant:type", "tenant:facts"))


LEASE_S = 1.0


@pytest.mark.timeout(120)
async def test_a_worker_that_is_paused_longer_than_its_lease_changes_nothing_of_its_successors_work(
    store_url: str, tmp_path: Path
) -> None:
    """SIGSTOP in the middle of an event, while the provider is asked: the next worker takes it over and ends it."""
    async with selling(tmp_path) as seller, run_system(store_url, tmp_path, **seller.settings) as system:
        redis: Any = system.store.redis
        await seller.act("upgrade", plan="pro")
        body = next(body for body in seller.events() if b"subscription.created" in body)
        record = keys.inbox("live", f"event:{json.loads(body)['event_id']}")
        stored = {"body": body, "provider": "paddle", "status": "pending", "attempts": 1, "type": "x"}
        await redis.hset(record, mapping=stored)
        await redis.zadd(keys.inbox("live", "pending"), {json.loads(body)["event_id"]: 1})
        seller.gate.close()
        async with system.working("first", lease_s=LEASE_S) as first:
            await until(lambda: seller.gate.kept_back == 1, 40)
            os.kill(first.process.pid, signal.SIGSTOP)
            held = await redis.hget(record, "claim")
            async with system.working("second", lease_s=LEASE_S) as second:
                await until(lambda: seller.gate.kept_back == 2, 40)
                claim = await redis.hget(record, "claim")
                assert claim != held
                os.kill(first.process.pid, signal.SIGCONT)
                await until(lambda: "event_recovered" in first.text, 30)
                if "event_recovered" not in second.text:
                    assert await redis.hmget(record, "status", "claim") == [b"pending", claim]
                seller.gate.open()
                await until(lambda: "event_recovered" in second.text, 30)
                assert await redis.hget(record, "status") == b"done"
                assert (first.status(), second.status()) == (None, None)
        assert len(await system.history()) == 1
        async with system.tab() as tab:
            await tab.until(lambda tab: tab.plan == "pro")
