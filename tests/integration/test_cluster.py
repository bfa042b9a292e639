"""A gateway, a worker and publishers on a real Redis Cluster: every shard is heard, and none holds up the others."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from gateway.auth import revocation_store
from gateway.auth.revocations import Revocation
from gateway.console.reports.topic_list import StoredTopics
from gateway.freshness.probe import STALE_AFTER
from planwire_client import AsyncPublisher, Publisher
from sync import bootstrap
from sync.billing.catalog.watcher import CatalogWatcher
from sync.billing.providers.paddle.webhooks import PaddleWebhooks
from sync.billing.services.wiring import BillingServices
from sync.core import instants
from sync.settings import SyncSettings
from sync.store.command_pipeline import CommandPipeline, run_commands
from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.models import Change, Committed, StoreError, Verdict
from sync.store.redis import cluster_commands
from sync.store.redis.cluster_commands import run
from sync.store.redis.connect import connect
from sync.store.redis.slots import slot_of
from sync.store.store import Store
from sync.worker import Worker
from tests.support.bodies import SECRET, signature, webhook
from tests.support.cluster import Cluster, start_cluster
from tests.support.gateway import Client, environment, open_client, run_gateway
from tests.support.servers import redis_binary, valkey_binary
from tests.support.wait import until

PROBE_S = 0.4
SLACK_S = 4.0
"""What a busy machine may add to a bound."""

FAILOVER_S = 20.0
"""How long a Cluster with a node timeout of 1 s may take to promote a replica, on a busy machine."""

QUICK = {"PROBE_S": str(PROBE_S), "HEARTBEAT_S": "0.5", "READY_TIMEOUT_S": "0.3"}
NO_SWEEP = {**QUICK, "SWEEP_S": "600"}
"""What arrives with it came over the bus, or by the read that follows a subscription."""

CATALOG = """
[plans.free]
name = "Free"
rank = 0
default = true

[plans.pro]
name = "Pro"
rank = 20
prices.paddle.live = ["pri_pro"]
"""


@pytest.fixture(scope="module")
def redis_cluster() -> Iterator[Cluster]:
    """Three primaries, each with a replica."""
    with start_cluster(redis_binary(), replicas=3) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def valkey_cluster() -> Iterator[Cluster]:
    """Three primaries with a password and an append-only file, and no replicas."""
    with start_cluster(valkey_binary(), password="p@ss:word/1", aof=True) as cluster:
        yield cluster


@pytest.fixture(params=["redis", "valkey"])
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """Each engine's Cluster."""
    found: Cluster = request.getfixturevalue(f"{request.param}_cluster")
    return found


@pytest.fixture(params=["redis", "valkey"])
def replicated(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Each engine's, with replicas."""
    if request.param == "redis":
        yield request.getfixturevalue("redis_cluster")
    else:
        with start_cluster(valkey_binary(), replicas=3) as cluster:
            yield cluster


@contextlib.asynccontextmanager
async def store_of(cluster: Cluster, **options: Any) -> AsyncIterator[Store]:
    store = connect(cluster.url, **options).store
    yield store
    await store.aclose()


async def commit(store: Store, topic: str, state: object) -> int:
    return (await store.commit(Change(topic, orjson.dumps(state)))).version


async def committed(store: Store, topic: str, state: object) -> int:
    """0 while the shard takes nothing: nobody owns it yet, or its primary has not found back to the others."""
    with contextlib.suppress(StoreError):
        return await commit(store, topic, state)
    return 0


def topics_of(cluster: Cluster, stem: str) -> list[str]:
    """One topic of each shard, of the test's own."""
    return [cluster.topic_at(index, f"tenant:{stem}") for index in range(3)]


def slot(topic: str) -> int:
    return slot_of(keys.channel(topic).encode())


class Seen:
    """What a tab is told, read as it comes: the newest version of each topic, whether ever less, and freshness.

    `stale_at`: when it was last told that what it shows may be old, and `proof_age_s` how old the bus's proof was then.
    """

    def __init__(self, client: Client) -> None:
        self.versions: dict[str, int] = {}
        self.fresh: bool | None = None
        self.stale_at = self.proof_age_s = 0.0
        self.went_back: list[dict[str, Any]] = []
        self._client = client
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while True:
            frame = await self._client.receive(60, heartbeats=True)
            if frame["type"] == "heartbeat":
                if self.fresh is not False and not frame["fresh"]:
                    self.stale_at = time.monotonic()
                    self.proof_age_s = (frame["at"] - frame["verified_at"]) / 1e6
                self.fresh = frame["fresh"]
            elif "version" in frame:
                if frame["version"] < self.versions.get(frame["topic"], 0) or frame.get("reset"):
                    self.went_back.append(frame)
                self.versions[frame["topic"]] = frame["version"]

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        assert not self.went_back
        if not self._task.cancelled():
            self._task.result()


@contextlib.asynccontextmanager
async def watching(url: str, *topics: str, **settings: str) -> AsyncIterator[tuple[Any, Seen]]:
    """A gateway and a tab that knows all topics."""
    async with run_gateway(environment(url, **settings)) as running, open_client(running, *topics) as client:
        seen = Seen(client)
        try:
            await until(lambda: set(seen.versions) == set(topics) and seen.fresh)
            yield running, seen
        finally:
            await seen.close()


async def test_every_verdict_and_a_batch_over_all_shards(cluster: Cluster) -> None:
    async with store_of(cluster) as store:
        for topic in topics_of(cluster, "verdict"):
            first = await store.commit(Change(topic, b'{"a":1}', event_id="e1", order="5"))
            assert first.verdict is Verdict.APPLIED
            said = [
                (await store.commit(change)).verdict
                for change in (
                    Change(topic, b'{"a":2}', event_id="e1"),
                    Change(topic, b'{"a":2}', if_version=1),
                    Change(topic, b'{"a":2}', order="4"),
                    Change(topic, b'{"a":1}'),
                )
            ]
            assert said == [Verdict.DUPLICATE, Verdict.CONFLICT, Verdict.STALE, Verdict.UNCHANGED]
            assert (await store.read(topic)).version == first.version
            assert [entry.version for entry in await store.log(topic)] == [first.version]
        names = [f"tenant:many{number}" for number in range(60)]
        for forget in (False, True):
            if forget:  # as a primary does that was restarted, and a replica that was promoted
                for server in cluster.masters():
                    cluster.ask(server, "SCRIPT", "FLUSH")
            done = await store.commit_many([Change(name, orjson.dumps({"n": forget, "of": name})) for name in names])
            assert all(isinstance(one, Committed) and one.verdict is Verdict.APPLIED for one in done)
            versions = [one.version for one in done if isinstance(one, Committed)]
            assert await store.versions([*names, "tenant:none"]) == [*versions, 0]
            assert [found.version for found in await store.read_many(names)] == versions
        cluster.ask(cluster.masters()[0], "SCRIPT", "FLUSH")
        assert (await store.commit(Change(cluster.topic_at(0), b'{"after":"flush"}'))).version
        await store.ping()


async def test_a_tab_hears_of_every_shard_at_once_and_so_do_revocations(cluster: Cluster) -> None:
    topics = topics_of(cluster, "push")
    async with store_of(cluster) as store, watching(cluster.url, *topics, **NO_SWEEP) as (running, seen):
        for topic in topics:
            sent = time.monotonic()
            version = await commit(store, topic, {"at": sent})
            await until(lambda topic=topic, version=version: seen.versions[topic] == version, every_s=0.001)  # type: ignore[misc]
            assert time.monotonic() - sent < SLACK_S
        assert len(running.node.probe.canaries) == 3
        revocation = Revocation("sub", "somebody", time.time())
        await revocation_store.announce(store, revocation, keep_s=60, limit=10)
        await until(lambda: len(running.node.auth.revocations) == 1)
    async with run_gateway(environment(cluster.url, **QUICK)) as later:
        await until(lambda: len(later.node.auth.revocations) == 1)


async def test_what_is_asked_of_all_shards_has_each_ones_answer(cluster: Cluster) -> None:
    topics = topics_of(cluster, "asked")
    async with store_of(cluster) as store, watching(cluster.url, topics[0], **QUICK):
        await store.commit_many([Change(topic, b"{}") for topic in topics])
        stored = StoredTopics(store)
        await stored.refresh()
        assert set(topics) <= set(stored.names)
        assert [await store.is_watched(topic) for topic in topics] == [True, False, False]


async def test_publishers_commit_straight_to_the_shards(cluster: Cluster) -> None:
    topics = topics_of(cluster, "direct")
    async with watching(cluster.url, *topics, **NO_SWEEP) as (_, seen):
        async with AsyncPublisher(cluster.url) as publisher:
            versions = {topic: (await publisher.publish(topic, {"by": "async"})).version for topic in topics}
        await until(lambda: seen.versions == versions)

        def publish() -> dict[str, int]:
            with Publisher(cluster.url) as publisher:
                return {topic: publisher.publish(topic, {"by": "thread"}).version for topic in topics}

        later = await asyncio.to_thread(publish)
        await until(lambda: seen.versions == later)


@pytest.mark.parametrize("has_ids", [True, False])
async def test_a_live_topic_moves_to_another_shard_amid_a_stream_of_versions(cluster: Cluster, has_ids: bool) -> None:
    """Nobody misses the newest, without any sweep; a commit waits for the move where it has to, and none is lost.

    It has to where a key does not exist yet, as that of event ids: then the servers cannot tell where it belongs.
    """
    moving, staying, _ = topics_of(cluster, f"move{has_ids}")
    async with store_of(cluster) as store, watching(cluster.url, moving, staying, **NO_SWEEP) as (running, seen):
        stopped = asyncio.Event()
        newest: dict[str, int] = {}

        async def publish(topic: str) -> None:
            number = 0
            while not stopped.is_set():
                number += 1
                change = Change(topic, orjson.dumps({"n": number}), event_id=f"{topic}{number}" if has_ids else "")
                newest[topic] = (await store.commit(change)).version
                await asyncio.sleep(0.002)

        async with asyncio.TaskGroup() as group:
            for topic in (moving, staying):
                group.create_task(publish(topic))
            await until(lambda: len(newest) == 2)
            source = cluster.owner(slot(moving))
            target = next(server for server in cluster.masters() if not cluster.owns(server, slot(moving)))
            for step in (
                lambda: cluster.begin_move(slot(moving), source, target),
                lambda: cluster.move_keys(slot(moving), source, target),
                lambda: cluster.end_move(slot(moving), target),
            ):
                await asyncio.to_thread(step)
                await asyncio.sleep(0.05)
            await until(lambda: seen.versions[moving] >= newest[moving])
            stopped.set()
        await until(lambda: seen.versions == newest)
        assert await store.versions([moving]) == [newest[moving]]
        await until(lambda: running.node.hub.fresh)
        after = await commit(store, moving, {"after": "the move"})
        await until(lambda: seen.versions[moving] == after)
        assert running.node.metrics.resets == 0
    await asyncio.to_thread(cluster.move, slot(moving), source)


async def test_a_killed_primary_gives_way_to_its_replica_and_no_tab_goes_back(replicated: Cluster) -> None:
    cluster = replicated
    lost, *others = topics_of(cluster, "failover")
    settings = {**QUICK, "SWEEP_S": "1"}
    async with store_of(cluster) as store, watching(cluster.url, lost, *others, **settings) as (running, seen):
        before = {topic: await commit(store, topic, {"before": 1}) for topic in (lost, *others)}
        await until(lambda: seen.versions == before)
        victim = cluster.owner(slot(lost))
        heir = next(one for one in cluster.servers if cluster.ask(one, "ROLE")[:3:2] == [b"slave", victim.port])
        heir.pause()  # until the time without a primary was looked at
        try:
            victim.kill()
            await until(lambda: seen.fresh is False)
            with pytest.raises(StoreError):
                await commit(store, lost, {"nobody": "there"})
            for topic in others:  # the others go on meanwhile
                version = await commit(store, topic, {"meanwhile": 1})
                await until(lambda topic=topic, version=version: seen.versions[topic] == version)  # type: ignore[misc]
        finally:
            heir.resume()
        version = await until(lambda: committed(store, lost, {"after": "promotion"}), timeout_s=FAILOVER_S)
        healed = time.monotonic()
        await until(lambda: seen.versions[lost] == version, every_s=0.005)
        assert time.monotonic() - healed < 1 + SLACK_S
        await until(lambda: seen.fresh)
        assert running.node.metrics.resets == 0
        again = await commit(store, lost, {"once": "more"})
        await until(lambda: seen.versions[lost] == again)
    cluster.heal()  # not in a thread: servers die with the thread that has started them


async def test_one_deaf_shard_makes_every_tab_stale_within_two_probe_intervals(valkey_cluster: Cluster) -> None:
    cluster = valkey_cluster
    deaf, *others = topics_of(cluster, "deaf")
    async with store_of(cluster) as store, watching(cluster.url, deaf, *others, **QUICK) as (_, seen):
        frozen = time.monotonic()
        cluster.primaries[0].pause()
        try:
            await until(lambda: seen.fresh is False, every_s=0.005)
            assert seen.stale_at - frozen < 2 * PROBE_S + SLACK_S
            assert seen.proof_age_s > STALE_AFTER * PROBE_S - 0.01, "not before its canary is overdue"
            version = await commit(store, others[0], {"others": "go on"})
            await until(lambda: seen.versions[others[0]] == version)
            assert seen.fresh is False
        finally:
            cluster.primaries[0].resume()
        await until(lambda: seen.fresh, timeout_s=FAILOVER_S)
        version = await until(lambda: committed(store, deaf, {"heard": "again"}), timeout_s=FAILOVER_S)
        await until(lambda: seen.versions[deaf] == version)
    await asyncio.to_thread(cluster.settle)


async def test_webhooks_timers_and_parked_events_on_a_cluster(cluster: Cluster, tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG)
    environ = environment(cluster.url, **QUICK, INTAKE="1", CATALOG=str(catalog), PADDLE_SECRETS=f"live:{SECRET}")
    unlinked = webhook(id="sub_9", customer_id="ctm_9", tenant=None, items=[("pri_pro", 1)])
    ends = instants.text(time.time_ns() + 60_000_000_000)
    trial = webhook(
        id="sub_9",
        customer_id="ctm_9",
        tenant="cl",
        items=[("pri_pro", 1)],
        status="trialing",
        next_billed_at=ends,
        current_billing_period={"starts_at": "2026-11-01T00:00:00Z", "ends_at": ends},
    )
    async with store_of(cluster, durable=cluster.primaries[0]._aof) as store, run_gateway(environ) as running:
        settings = SyncSettings.from_env({name: environ[name] for name in environ if name in _SYNC})
        services = await bootstrap.build_services(store, settings)
        async with httpx2.AsyncClient(base_url=running.url) as http, open_client(running, "tenant:cl") as client:
            await client.until("snapshot")

            async def post(body: bytes) -> str:
                headers = {"Paddle-Signature": signature(body, int(time.time()), SECRET)}
                answer = await http.post("/webhooks/paddle", content=body, headers=headers)
                assert answer.status_code == 200, answer.text
                return str(answer.json()["outcome"])

            assert await post(unlinked) == "parked"
            inbox = services.environment("live").inbox
            assert [record.status for record in await inbox.parked(None, 9)] == ["parked"]
            assert await post(trial) == "applied"
            assert await post(trial) == "duplicate"
            frame = await client.until("snapshot")
            assert frame["state"]["plan"]["key"] == "pro"
            assert await inbox.counts() == (0, 0), "what waited on the link was released by it"
            await store.wait_durable()
            batch = CommandPipeline(store)
            batch.command("ZADD", "pw:{timers/live}:due", 1, "tenant:cl")
            await batch.run()
            worker = Worker(services, ("live",), poll_s=0.05)
            async with asyncio.TaskGroup() as group:
                group.create_task(worker.run())

                async def fired() -> bool:
                    (score,) = await _one(store, "ZSCORE", "pw:{timers/live}:due", "tenant:cl")
                    return score is None or float(score) > 1

                await until(fired)
                worker.stop()


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    """Three primaries that no other test has broken."""
    with start_cluster(valkey_binary()) as cluster:
        yield cluster


@pytest.mark.parametrize("lasts", [1, 10**9])
async def test_whichever_shard_has_no_memory_from_any_moment_on_no_event_is_done_too_early(
    own_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lasts: int
) -> None:
    """Timer, audit and list of tenants are on other shards than the tenant. `lasts`: for how many round trips."""
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG)
    ends = instants.text(time.time_ns() + 3600 * 10**9)
    change = {"action": "cancel", "effective_at": ends, "resume_at": None}
    sent, topics = 0, set[str]()
    async with store_of(own_cluster) as store:
        services = BillingServices(store, CatalogWatcher(catalog), {"paddle": PaddleWebhooks()})

        async def is_settled(topic: str) -> bool:
            asked = [("ZSCORE", keys.timers("live"), topic), ("ZSCORE", keys.audits("live"), topic)]
            timer, audit, is_listed = await run_commands(store, *asked, ("SISMEMBER", keys.tenants("live"), topic))
            shown = b'"key":"pro"' in (await store.read(topic)).state
            return None not in (timer, audit) and bool(is_listed) and shown

        for shard, server in enumerate(own_cluster.primaries):
            for at in range(12):
                topic = own_cluster.topic_at(at % 3, f"tenant:memory{lasts % 7}x{shard}x{at}x")
                fields: dict[str, Any] = {"id": f"sub_{topic[7:]}", "tenant": topic[7:], "scheduled_change": change}
                body = webhook(event_id=f"evt_{topic[7:]}", items=[("pri_pro", 1)], **fields)
                sent = 0

                async def scarce(nodes: Any, commands: Any, at: int = at, server: Any = server) -> list[Any]:
                    nonlocal sent
                    sent += 1
                    own_cluster.ask(server, "CONFIG", "SET", "maxmemory", int(at < sent <= at + lasts))
                    return await run(nodes, commands)

                with monkeypatch.context() as patch, contextlib.suppress(StoreError):
                    patch.setattr(cluster_commands, "run", scarce)
                    await services.ingest.receive(services.adapters["paddle"], body, "live")
                    topics.add(topic)
                own_cluster.ask(server, "CONFIG", "SET", "maxmemory", 0)
                record = await services.environment("live").inbox.read(f"evt_{topic[7:]}")
                if record is not None:
                    topics.add(topic)
                    assert record.status != "done" or await is_settled(topic), (shard, at)
        assert sent > 0
        pending = keys.inbox("live", "pending")
        (left,) = await run_commands(store, ("ZRANGE", pending, 0, -1))
        for event_id in left:  # as the end of its lease does, later
            await run_commands(store, ("ZADD", pending, 0, event_id))
        worker = Worker(services, ("live",), poll_s=0.02)
        working = asyncio.create_task(worker.run())
        try:
            for topic in topics:
                await until(partial(is_settled, topic), 20)
        finally:
            worker.stop()
            await working


async def test_what_depends_on_an_earlier_command_is_not_sent_when_that_fails(cluster: Cluster) -> None:
    """Whichever shards they are for: those work side by side, and one would not wait for another's refusal."""
    first, second, third = (f"pw:{{{topic}}}:then" for topic in topics_of(cluster, "then"))
    async with store_of(cluster) as store:
        batch = CommandPipeline(store)
        batch.command("SET", first, "text")
        batch.barrier()
        batch.command("INCR", first)
        batch.command("SET", second, "beside it")
        batch.barrier()
        batch.command("SET", third, "after it")
        with pytest.raises(StoreError, match="not an integer"):
            await batch.run()
        values = [await _one(store, "GET", key) for key in (first, second, third)]
        assert values == [[b"text"], [b"beside it"], [None]]
        batch = CommandPipeline(store)
        batch.command("STRLEN", first)
        batch.barrier()
        batch.command("STRLEN", second)
        batch.command("STRLEN", third)
        assert await batch.run() == [4, 9, 0]


_SYNC = ("PLANWIRE_REDIS_URL", "PLANWIRE_CATALOG", "PLANWIRE_PADDLE_SECRETS")


async def _one(store: Store, *command: str | int) -> list[Any]:
    batch = CommandPipeline(store)
    batch.command(*command)
    return await batch.run()


async def test_a_cluster_that_is_not_there_or_will_not_let_one_in_is_a_clear_error(valkey_cluster: Cluster) -> None:
    for url, text in (
        ("redis+cluster://127.0.0.1:1,127.0.0.1:2", "no node of the Cluster returns its slots"),
        (f"redis+cluster://:wrong@{valkey_cluster.hosts}", "invalid username-password"),
    ):
        store = connect(url).store
        started = time.monotonic()
        with pytest.raises(StoreError, match=text):
            await store.ping()
        with pytest.raises(StoreError):
            await store.read("tenant:acme")
        with pytest.raises(StoreError):
            await store.commit_many([Change("tenant:a", b"{}")])
        assert time.monotonic() - started < 10
        await store.aclose()
