"""A store that lost its newest commits, of which none made a version: the gateways' canaries show it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis.asyncio

from planwire_client.core.commit import BILLING
from sync.billing.catalog.watcher import CatalogWatcher
from sync.billing.domain.facts import codec
from sync.billing.services.tenants.lost_tails import LostTails
from sync.billing.services.wiring import BillingServices
from sync.store.command_pipeline import CommandPipeline
from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.models import Change
from sync.store.redis.connect import connect
from sync.store.store import Store
from tests.support.cluster import Cluster, start_cluster
from tests.support.gateway import Running, environment, run_gateway
from tests.support.proxy import run_proxy
from tests.support.servers import Server, redis_binary, start_valkey
from tests.support.system import CATALOG, TOPIC, Seller, run_system, selling
from tests.support.wait import until

PROBE_S = 0.3
QUICK = {"PROBE_S": str(PROBE_S), "SWEEP_S": "600", "HEARTBEAT_S": "1"}
DAY_US = 86_400_000_000


@pytest.fixture
async def seller(tmp_path: Path) -> AsyncIterator[Seller]:
    async with selling(tmp_path / "seller") as seller:
        yield seller


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with start_cluster(redis_binary()) as cluster:
        yield cluster


async def ask(server: Server, *command: Any) -> Any:
    """Return the server's own answer, past the proxy."""
    client: Any = redis.asyncio.Redis(port=server.port)
    async with client:
        return await client.execute_command(*command)


async def units(store: Store) -> int:
    """The units in the facts of the tenant's only subscription."""
    facts = codec.decode((await store.read(TOPIC)).private)
    ((entry,),) = [entry.subscription.items for entry in facts.subscriptions.values()]
    return entry.quantity


async def test_after_a_failover_that_lost_facts_alone_the_provider_is_asked(tmp_path: Path, seller: Seller) -> None:
    """The plan has no price per unit, so other units change nothing public. The replica never gets them."""
    with start_valkey(tcp=True) as primary, start_valkey(tcp=True) as replica:
        await ask(replica, "REPLICAOF", "127.0.0.1", str(primary.port))
        async with (
            run_proxy("127.0.0.1", primary.port) as wire,
            run_system(f"redis://127.0.0.1:{wire.port}", tmp_path, **seller.settings, **QUICK) as system,
            system.working(),
            system.tab() as tab,
        ):
            await system.tell(seller.events((await seller.act("upgrade", plan="scale", quantity=1))["event_ids"]))
            await tab.until(lambda tab: tab.plan == "scale")
            before = await system.store.read(TOPIC)

            async def is_replicated() -> bool:
                return bool(await ask(replica, "HGET", keys.snap(TOPIC), "rev") == str(before.rev).encode())

            await until(is_replicated, timeout_s=15)
            await ask(replica, "REPLICAOF", "NO", "ONE")
            await system.tell(seller.events((await seller.act("seats", quantity=5))["event_ids"]))
            after = await system.store.read(TOPIC)
            assert (await units(system.store), after.version, after.rev > before.rev) == (5, before.version, True)
            probes = system.gateway.node.metrics.probes
            await until(lambda: system.gateway.node.metrics.probes >= probes + 2)
            wire.target = ("127.0.0.1", replica.port)
            primary.kill()

            async def is_repaired() -> bool:
                return await units(system.store) == 5

            await until(lambda: system.gateway.node.metrics.lost_tails == 1, timeout_s=15)
            await until(is_repaired, timeout_s=15)
            found = await system.store.read(TOPIC)
            assert (found.version, found.state) == (before.version, before.state)

            async def recorded() -> list[dict[str, Any]]:
                found: list[dict[str, Any]] = (await system.ask("GET", "/v1/drift"))["drift"]
                return found

            (drift,) = await until(recorded)
            assert (drift["kind"], drift["topic"], drift["why"]) == ("differs", TOPIC, "audit")
            assert await system.store.redis.zcard(keys.lost_tails) == 0
            assert [version for version, _ in tab.shown][-1] == before.version


@pytest.fixture
async def running(store_url: str) -> AsyncIterator[Running]:
    async with run_gateway(environment(store_url, **QUICK)) as running:
        await until(lambda: all(canary.version for canary in running.node.probe.canaries.values()))
        yield running


async def told(store: Store) -> list[str]:
    members: Any = await store.redis.zrange(keys.lost_tails, 0, -1)
    return [member.decode() for member in members]


async def probed(running: Running) -> None:
    """Wait for the canaries after those that are under way."""
    count = running.node.probe._count
    await until(lambda: running.node.probe._count >= count + 3)


async def test_a_canary_that_expired_while_the_process_stood_still_shows_nothing(
    running: Running, store: Store
) -> None:
    """Nor do canaries that come back as they are."""
    (canary,) = running.node.probe.canaries.values()
    await probed(running)
    assert (running.node.metrics.lost_tails, await told(store)) == (0, [])
    canary.version -= 200_000_000
    await store.redis.delete(keys.snap(canary.topic))
    await probed(running)
    assert (running.node.metrics.lost_tails, await told(store)) == (0, [])


@pytest.mark.parametrize("is_gone", [True, False])
async def test_a_canary_that_is_older_or_gone_is_told_once(running: Running, store: Store, is_gone: bool) -> None:
    (canary,) = running.node.probe.canaries.values()
    snap: Any = keys.snap(canary.topic)
    if is_gone:
        await store.redis.delete(snap)
    else:
        await store.redis.hset(snap, mapping={"version": "1", "rev": "1"})
    await until(lambda: running.node.metrics.lost_tails == 1)
    await probed(running)
    assert (running.node.metrics.lost_tails, await told(store)) == (1, [canary.topic])


def _follows(canary: Any, rev: int) -> bool:
    return bool(canary.version > rev)


async def test_a_canary_follows_facts_at_once(store_url: str) -> None:
    """Else, what a store loses within a probe's interval would not be noticed."""
    async with run_gateway(environment(store_url, **QUICK | {"PROBE_S": "15"})) as running:
        probe, store = running.node.probe, running.node.store
        await store.commit(Change(TOPIC, b"1", b'{"p":0}', owner=BILLING))
        await until(lambda: running.node.hub.fresh)
        began = time.monotonic()
        # More than once: a gateway that has just subscribed sends a canary anyway.
        for number in range(1, 4):
            facts = await store.commit(Change(TOPIC, b"1", b'{"p":%d}' % number, owner=BILLING))
            (canary,) = probe.canaries.values()
            await until(partial(_follows, canary, facts.rev))
        assert time.monotonic() - began < 10


async def test_only_the_tenants_of_the_shard_are_compared_and_nobody_else(cluster: Cluster, tmp_path: Path) -> None:
    """A canary in each shard; those of one are set back."""
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG)
    store = connect(cluster.url).store
    services = BillingServices(store, CatalogWatcher(catalog), {}, now_ns=time.time_ns)
    known, later_us = services.environment("live"), time.time_ns() // 1000 + DAY_US
    topics = [cluster.topic_at(index, f"tenant:tail{number}-") for index in range(3) for number in range(4)]
    try:
        batch = CommandPipeline(store)
        for topic in topics:
            known.enlist(batch, topic, later_us)
        await batch.run()
        async with run_gateway(environment(cluster.url, **QUICK)) as running:
            probe = running.node.probe
            await until(lambda: len(probe.canaries) == 3 and all(one.version for one in probe.canaries.values()))
            shard = store.shard_of(topics[0])
            (canary,) = [one for one in probe.canaries.values() if one.shard == shard]
            fields: Any = {"version": "1", "rev": "1", "state": orjson.dumps({"count": 0})}
            await store.redis.hset(keys.snap(canary.topic), mapping=fields)
            await until(lambda: running.node.metrics.lost_tails == 1)
            worker = LostTails(services, ["live"])

            async def is_done() -> bool:
                await worker.step()
                due = [await store.redis.zscore(keys.audits("live"), topic) for topic in topics]
                return [at < later_us for at in due if at] == [True] * 4 + [False] * 8

            await until(is_done)
            assert await told(store) == []
            assert await worker.step() is False
    finally:
        await store.aclose()
