"""A gateway that goes deaf says so within two probe intervals, and makes up for all it missed once it hears again."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any, cast

import httpx2
import orjson
import pytest

from gateway.bus.subscriber import BusSubscriber
from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.models import Change, Committed, StoreError
from sync.store.redis.connect import connect
from sync.store.redis.pubsub import Bus, Endpoint
from sync.store.store import Store
from tests.support.gateway import Client, Running, environment, open_client, run_gateway
from tests.support.proxy import Proxy, run_proxy
from tests.support.servers import Server, start_valkey
from tests.support.wait import until

TOPIC = "tenant:acme"
PROBE_S = 0.5
QUICK = {"PROBE_S": str(PROBE_S), "SWEEP_S": "0.3", "HEARTBEAT_S": "0.5", "READY_TIMEOUT_S": "0.3"}
SLACK_S = 0.5
"""What a busy machine may add to a bound."""

ATTEMPTS = 4
"""One of these that keeps a bound will do: a machine that stalls breaks one, whoever is late breaks them all."""


@pytest.fixture
def valkey() -> Iterator[Server]:
    """On a port, with an append-only file that loses nothing: killed and restarted, it knows what it knew."""
    with start_valkey(tcp=True, aof=True, args=["--appendfsync", "always"]) as server:
        yield server


def url_of(proxy: Proxy) -> str:
    return f"redis://127.0.0.1:{proxy.port}"


async def write_unannounced(store: Store, topic: str, state: object) -> int:
    """Write a newer version behind the bus's back."""
    version = (await store.versions([topic]))[0] + 1
    fields: Mapping[Any, Any] = {"version": str(version), "state": orjson.dumps(state), "digest": "", "cause": ""}
    await store.redis.hset(keys.snap(topic), mapping=fields)
    return version


async def commit(store: Store, state: object, topic: str = TOPIC) -> int:
    done = await store.commit(Change(topic, orjson.dumps(state)))
    return done.version


async def heartbeat(client: Client, fresh: bool, timeout_s: float = 20.0, since_us: int = 0) -> dict[str, Any]:
    """Return the next heartbeat that says so, and was not sent before `since_us`."""
    async with asyncio.timeout(timeout_s):
        while True:
            frame = await client.until("heartbeat", timeout_s)
            if frame["fresh"] is fresh and frame["at"] >= since_us:
                return frame


async def converge(client: Client, version: int, timeout_s: float = 20.0) -> None:
    """Read until `version`; nothing older than before comes on the way."""
    last = -1
    async with asyncio.timeout(timeout_s):
        while last < version:
            frame = await client.receive(timeout_s)
            if frame["type"] in ("snapshot", "patch"):
                assert not frame.get("reset")
                assert frame["version"] >= last
                last = frame["version"]
    assert last == version


async def ready(running: Running) -> tuple[int, dict[str, Any]]:
    async with httpx2.AsyncClient(timeout=10) as http:
        response = await http.get(f"{running.url}/readyz")
        return response.status_code, response.json()


@contextlib.asynccontextmanager
async def watching(url: str, **settings: str) -> AsyncIterator[tuple[Running, Client]]:
    """A gateway and a tab that holds the topic's absence and was told that the bus is fresh."""
    async with (
        run_gateway(environment(url, **{**QUICK, **settings})) as running,
        open_client(running, TOPIC) as client,
    ):
        await heartbeat_and_version(client, 0)
        yield running, client


async def deafened(
    running: Running,
    clients: Sequence[Client],
    deafen: Callable[[], object],
    heal: Callable[[], object],
    bound_s: float = 2 * PROBE_S,
) -> dict[str, Any]:
    """Make a gateway deaf, so that every tab hears of it within the bound, and leave it so. Return a heartbeat."""
    took: list[float] = []
    while True:
        await until(lambda: running.node.hub.fresh, timeout_s=20)
        began_us, began = time.time_ns() // 1000, time.monotonic()
        deafen()
        beats = await asyncio.gather(*[heartbeat(client, False, 20, began_us) for client in clients])
        took.append(time.monotonic() - began)
        if took[-1] < bound_s + SLACK_S:
            return beats[-1]
        assert len(took) < ATTEMPTS, f"every tab was told only after {took} s"
        heal()


async def test_a_frozen_store_makes_every_tab_stale_within_two_probe_intervals_and_readyz_fail(
    valkey: Server, store: Store
) -> None:
    async with (
        watching(valkey.url) as (running, client),
        open_client(running, "user:another") as another,
        open_client(running) as idle,
    ):
        await until(lambda: _is_ready(running))
        beat = await deafened(running, [another, idle, client], valkey.pause, valkey.resume)
        assert beat["at"] - beat["verified_at"] >= PROBE_S * 1e6
        status, problem = await ready(running)
        assert status == 503
        assert problem["checks"]["bus"] is False
        assert problem["checks"]["store"] is False
        assert problem["checks"]["serving"] is True
        valkey.resume()
        beat = await heartbeat(client, True, 20)
        assert beat["verified_at"] > 0
        await until(lambda: _is_ready(running), timeout_s=20)
        await converge(client, await commit(store, {"a": 1}))
        assert running.node.metrics.feed_losses >= 1, "what went deaf was not renewed"


async def _is_ready(running: Running) -> bool:
    return (await ready(running))[0] == 200


async def test_a_store_killed_and_restarted_amid_a_stream_of_versions(valkey: Server, store: Store) -> None:
    async with watching(valkey.url) as (running, client):
        for number in range(5):
            await commit(store, {"n": number})
        valkey.kill()
        await heartbeat(client, False)
        with pytest.raises(StoreError):
            await commit(store, {"lost": True})
        assert (await ready(running))[0] == 503
        valkey.restart()
        newest = await commit(store, {"n": "after"})
        await heartbeat_and_version(client, newest)
        await converge_again(client, store)
        assert running.node.metrics.resets == 0


async def heartbeat_and_version(client: Client, version: int) -> None:
    """Read until both have come, in whichever order: the version, and that the bus is fresh again."""
    fresh, last = False, -1
    async with asyncio.timeout(20):
        while not (fresh and last == version):
            frame = await client.receive(20, heartbeats=True)
            if frame["type"] == "heartbeat":
                fresh = frame["fresh"]
            elif "version" in frame:
                assert frame["version"] >= last
                last = frame["version"]


async def test_a_proof_that_had_run_out_before_anybody_looked_is_told_when_it_is_there_again(valkey: Server) -> None:
    """A process stood still: a heartbeat has said so, and the next canary is heard before the probe has looked."""
    async with (
        run_gateway(environment(valkey.url, **QUICK | {"HEARTBEAT_S": "60"})) as running,
        open_client(running, TOPIC) as client,
    ):
        await client.until("snapshot")
        # Its heartbeats by the clock are a minute apart, and the first one was at the second tick at the latest.
        await until(lambda: running.node.registry._heartbeats._turn > 1 and running.node.hub.fresh, timeout_s=20)
        since_us = time.time_ns() // 1000
        running.node.hub.set_fresh_until(-math.inf)
        await heartbeat(client, True, since_us=since_us)


async def converge_again(client: Client, store: Store) -> None:
    await converge(client, await commit(store, {"and": "again"}))


async def test_a_store_that_comes_back_empty_is_given_back_what_its_tabs_hold(store: Store, valkey: Server) -> None:
    async with watching(valkey.url) as (running, client):
        held = await commit(store, {"a": 1})
        await converge(client, held)
        await store.redis.config_set("appendonly", "no")
        valkey.kill()
        for path in (valkey.directory / "appendonlydir").iterdir():
            path.unlink()
        valkey.restart()
        await until(lambda: running.node.metrics.restored == 1, timeout_s=10)
        assert (await store.versions([TOPIC])) == [held]
        await converge_again(client, store)
        assert running.node.metrics.resets == 0


async def kill_pubsub(store: Store) -> None:
    """A gateway that has just given its connection up by itself, since the machine stood still, is waited for."""
    await until(lambda: store.redis.client_kill_filter(_type="pubsub"), timeout_s=20)


async def overflow_output_buffer(store: Store) -> None:
    """The server drops a subscriber that does not take what it is sent quickly enough: here, anything at all."""
    await store.redis.config_set("client-output-buffer-limit", "pubsub 1 1 1")
    await store.redis.publish(keys.channel(TOPIC), b"x" * 2_000_000)
    await store.redis.config_set("client-output-buffer-limit", "pubsub 32mb 8mb 60")


@pytest.mark.parametrize("cut", [kill_pubsub, overflow_output_buffer])
async def test_a_subscriber_connection_cut_by_the_server_is_renewed_and_all_is_read_again(
    valkey: Server, store: Store, cut: Callable[[Store], Awaitable[None]]
) -> None:
    async with watching(valkey.url, SWEEP_S="600") as (running, client):
        losses = running.node.metrics.feed_losses
        await cut(store)
        newest = await commit(store, {"right": "after"})
        await heartbeat(client, False)
        await converge(client, newest)
        await until(lambda: running.node.metrics.feed_losses > losses)
        await until(lambda: running.node.hub.fresh)
        await converge_again(client, store)


async def test_a_subscriber_that_cannot_read_is_dropped_by_the_store_and_its_tabs_are_told(
    valkey: Server, store: Store
) -> None:
    """Its connection looks open all the while: that the store has given it up stands behind what is not read."""
    probe_s = 2.0
    async with (
        run_proxy("127.0.0.1", valkey.port) as proxy,
        watching(url_of(proxy), SWEEP_S="600", PROBE_S=str(probe_s)) as (running, client),
        open_client(running) as idle,
    ):
        await until(lambda: _is_ready(running))
        await store.redis.config_set("client-output-buffer-limit", "pubsub 1mb 1mb 1")
        floods: list[asyncio.Task[None]] = []

        def stick() -> None:
            """The gateway's subscriber takes nothing any more, and gets more than the system's buffers hold."""
            transport = running.node.subscriber._connections[""]._transport
            assert transport is not None
            address = transport.get_extra_info("sockname")
            (link,) = [one for one in proxy.links if one.client_writer.get_extra_info("peername") == address]
            cast(asyncio.ReadTransport, link.server_writer.transport).pause_reading()
            proxy.is_refusing = True  # so that it stays deaf for as long as this test looks at it
            floods.append(asyncio.create_task(flood()))

        async def flood() -> None:
            while await store.redis.publish(keys.channel(TOPIC), b"x" * 10_000_000):
                pass

        def release() -> None:
            proxy.is_refusing = False

        async def is_dropped() -> bool:
            async with asyncio.timeout(20):
                await asyncio.gather(*floods)
            return bool((await store.redis.info("stats"))["client_output_buffer_limit_disconnections"])

        await deafened(running, [idle, client], stick, release, 2 * probe_s)
        while not await is_dropped():  # the gateway was quicker than the flood and gave the connection up by itself
            assert len(floods) < 2 * ATTEMPTS
            release()
            await deafened(running, [idle, client], stick, release, 2 * probe_s)
        missed = await commit(store, {"missed": True})
        status, problem = await ready(running)
        assert (status, problem["checks"]["bus"], problem["checks"]["serving"]) == (503, False, True)
        release()
        await heartbeat_and_version(client, missed)
        await until(lambda: _is_ready(running), timeout_s=20)
        await converge_again(client, store)


async def test_what_is_missed_while_the_subscription_is_gone_is_read_after_it_returns(
    valkey: Server, store: Store
) -> None:
    """Without any sweep: the read that follows the subscription finds it."""
    async with watching(valkey.url, SWEEP_S="600", PROBE_S="30") as (running, client):
        bus, running.node.subscriber.bus = (
            running.node.subscriber.bus,
            Bus(_nowhere),
        )  # or it might be back and have read
        running.node.subscriber.reset("")
        await until(lambda: not running.node.subscriber.connected)
        missed = await write_unannounced(store, TOPIC, {"missed": True})
        running.node.subscriber.bus = bus
        await converge(client, missed)
        await until(lambda: running.node.hub.fresh)
        assert running.node.hub.unread == set()


async def test_a_wire_that_swallows_everything_is_noticed_and_replaced(valkey: Server, store: Store) -> None:
    async with run_proxy("127.0.0.1", valkey.port) as proxy, watching(url_of(proxy)) as (running, client):
        await deafened(running, [client], lambda: proxy.swallow(to_server=True, to_client=True), proxy.swallow)
        missed = await commit(store, {"missed": True})
        assert (await ready(running))[0] == 503
        proxy.swallow()
        await heartbeat_and_version(client, missed)
        await converge_again(client, store)


async def test_channels_unsubscribed_behind_our_back_are_subscribed_again(
    valkey: Server, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watching(valkey.url, SWEEP_S="600", PROBE_S="30") as (running, client):
        transport = running.node.subscriber._connections[""]._transport
        assert transport is not None
        channel = keys.channel(TOPIC).encode()
        confirmed: list[bytes] = []
        note = running.node.hub.confirmed

        def noted(channel: bytes) -> None:
            confirmed.append(channel)
            note(channel)

        monkeypatch.setattr(running.node.hub, "confirmed", noted)
        transport.write(b"*2\r\n$11\r\nUNSUBSCRIBE\r\n$%d\r\n%b\r\n" % (len(channel), channel))
        await until(lambda: channel in confirmed)
        newest = await commit(store, {"after": "that"})
        await converge(client, newest)

        async def counted() -> bool:
            return (await store.redis.pubsub_numsub(channel))[0][1] == 1

        await until(counted)
        await converge_again(client, store)
        transport.write(b"*1\r\n$11\r\nUNSUBSCRIBE\r\n")  # all of them
        await converge(client, await commit(store, {"after": "all"}))
        await until(lambda: running.node.hub.fresh)


async def test_what_the_bus_lost_arrives_within_one_sweep(valkey: Server, store: Store) -> None:
    sweep_s = 1.0
    # With a probe so slow, a machine that stalls does not have the bus renewed and the topic read for that.
    async with watching(valkey.url, SWEEP_S=str(sweep_s), PROBE_S="30") as (running, client):
        took: list[float] = []
        while len(took) < 3 or (median(took) >= sweep_s + SLACK_S and len(took) < 3 * ATTEMPTS):
            lost = await write_unannounced(store, TOPIC, {"lost": len(took)})
            written = time.monotonic()
            await converge(client, lost)
            took.append(time.monotonic() - written)
        assert median(took) < sweep_s + SLACK_S, took
        # More where a comparison came before the read that the one before it had asked for.
        assert running.node.metrics.sweep_repairs >= len(took)


async def test_the_sweep_repairs_many_topics_in_one_round(valkey: Server, store: Store) -> None:
    topics = [f"tenant:t{number}" for number in range(40)]
    async with watching(valkey.url) as (_, client):
        for topic in topics:
            await client.send("subscribe", topic=topic)
            assert (await client.until("snapshot"))["topic"] == topic
        wanted = {topic: await write_unannounced(store, topic, {"lost": topic}) for topic in topics}
        async with asyncio.timeout(20):
            while wanted:
                frame = await client.until("snapshot")
                assert wanted.pop(frame["topic"]) == frame["version"]


async def test_a_tab_that_comes_while_the_bus_is_away_is_told_the_state_and_that_it_is_not_fresh(
    valkey: Server, store: Store
) -> None:
    """The store is the truth: what is there is shown, and said to be unverified. Also where there is nothing."""
    version = await commit(store, {"a": 1})
    async with run_gateway(environment(valkey.url, **QUICK)) as running:
        running.node.subscriber.bus = Bus(_nowhere)
        running.node.subscriber.reset("")
        await until(lambda: not running.node.hub.fresh)
        async with open_client(running, TOPIC, "tenant:none") as client:
            assert (await client.receive())["fresh"] is False
            told = [await client.until("snapshot"), await client.until("snapshot")]
            assert {frame["topic"]: frame["version"] for frame in told} == {TOPIC: version, "tenant:none": 0}
            assert not running.node.hub.fresh


async def _nowhere(shard: str) -> Any:
    raise StoreError("no server is known")


async def test_fresh_is_claimed_only_once_every_topic_was_read_again(valkey: Server, store: Store) -> None:
    async with watching(valkey.url, SWEEP_S="600") as (running, client):
        reads = asyncio.Event()
        read_many = running.node.store.read_many

        async def held_up(topics: Any) -> Any:
            await reads.wait()
            return await read_many(topics)

        running.node.store.read_many = held_up  # type: ignore[method-assign]
        await kill_pubsub(store)
        await heartbeat(client, False)
        await until(lambda: running.node.subscriber.connected)
        probes = running.node.metrics.probes
        await until(lambda: running.node.metrics.probes >= probes + 2)
        assert not running.node.hub.fresh
        reads.set()
        await heartbeat(client, True)


async def test_a_gateway_that_never_heard_its_probe_is_never_fresh(valkey: Server) -> None:
    async with run_gateway(environment(valkey.url, **QUICK), until_fresh=False) as running:
        running.node.probe.heard = lambda channel, payload: None  # type: ignore[method-assign]
        for canary in running.node.probe.canaries.values():
            canary.verified_at = float("-inf")
        running.node.probe.check()
        async with open_client(running, TOPIC) as client:
            assert (await client.receive())["fresh"] is False
            assert (await ready(running))[0] == 503


async def test_a_bus_that_hangs_up_at_once_is_not_stormed() -> None:
    """As a server does that has too many clients, or refuses the password."""
    connections = 0

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(b"-ERR max number of clients reached\r\n")
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        endpoint = Endpoint(port=server.sockets[0].getsockname()[1])

        async def where(shard: str) -> Endpoint:
            return endpoint

        subscriber = BusSubscriber(
            Bus(where), lambda channel, payload: None, lambda channel: None, lambda channels: None
        )
        task = asyncio.create_task(subscriber.run())
        await until(lambda: connections >= 2, timeout_s=20)
        await asyncio.wait([task], timeout=1.0)
        assert not task.done()
        assert connections < 15
        task.cancel()
        await asyncio.wait([task])


async def test_two_gateways_notice_and_recover_each_by_itself(valkey: Server, store: Store) -> None:
    async with (
        run_proxy("127.0.0.1", valkey.port) as proxy,
        watching(url_of(proxy)) as (deaf, there),
        watching(valkey.url) as (well, here),
    ):
        proxy.swallow(to_server=True, to_client=True)
        await until(lambda: not deaf.node.hub.fresh)
        version = await commit(store, {"a": 1})
        await converge(here, version)
        await until(lambda: well.node.hub.fresh)
        await until(lambda: not deaf.node.hub.fresh)
        proxy.swallow()
        await heartbeat_and_version(there, version)


async def test_many_versions_published_while_it_was_deaf_arrive_as_one(valkey: Server, store: Store) -> None:
    async with run_proxy("127.0.0.1", valkey.port) as proxy, watching(url_of(proxy)) as (running, client):
        losses = running.node.metrics.feed_losses
        proxy.swallow(to_server=True, to_client=True)
        await until(lambda: running.node.metrics.feed_losses > losses and not running.node.hub.fresh)
        results = await store.commit_many([Change(TOPIC, b'{"n":%d}' % number) for number in range(50)])
        newest = results[-1]
        assert isinstance(newest, Committed)
        sent = running.node.metrics.sent
        proxy.swallow()
        await heartbeat_and_version(client, newest.version)
        assert running.node.metrics.sent - sent <= 2


@pytest.fixture
async def store(valkey: Server) -> AsyncIterator[Store]:
    """A connection of the test's own, past any proxy."""
    store = connect(valkey.url).store
    yield store
    await store.aclose()
