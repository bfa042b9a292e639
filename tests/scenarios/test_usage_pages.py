"""Usage in open pages: through every door, from several gateways, in time, and after the store has lost its tail."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from planwire_client.core.commit import BILLING
from sync.store.models import Change
from sync.store.redis.connect import connect
from sync.store.store import Store
from sync.usage.calls import Answer, Call, UsageCalls
from tests.integration.test_lost_tail import ask as command
from tests.integration.test_usage import KEY, ask, entitle, gateway, shown
from tests.integration.test_usage_calls import METERS
from tests.support.cluster import start_cluster
from tests.support.gateway import Client, Running, open_client, token
from tests.support.proxy import run_proxy
from tests.support.sentinel import FAILOVER_S, watched_primary
from tests.support.servers import Server, redis_binary, start_valkey, valkey_binary
from tests.support.wait import until

USAGE = "usage:acme"
TENANT = "tenant:acme"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    with start_valkey(tcp=True) as server:
        yield server


@pytest.fixture
async def store(server: Server) -> AsyncIterator[Store]:
    store = connect(server.url).store
    yield store
    await store.aclose()


async def count(store: Store, amount: int, times: int = 1) -> None:
    """Count as a process that is gone right after: it announces nothing that is due later."""
    for _ in range(times):
        (found,) = await UsageCalls(store, lambda: METERS).run([Call(TENANT, "consume", "api_calls", amount)])
        assert isinstance(found, Answer)
        assert found.is_allowed


async def read(running: Running, path: str = "", jwt: str = "", status: int = 200) -> Any:
    headers = {"Authorization": f"Bearer {jwt or token(TENANT)}"}
    async with httpx2.AsyncClient(base_url=running.url, headers=headers, timeout=30) as http:
        answer = await http.get(f"/v1/state/{USAGE}{path}")
    assert answer.status_code == status, answer.text
    return answer.json()


@dataclass(frozen=True)
class At:
    """A store at an address."""

    url: str


async def announced(store: Store, units: int) -> None:
    """Announce what is due, once it is."""

    async def is_announced() -> bool:
        await UsageCalls(store, lambda: METERS).run([Call(TENANT, "read")])
        state: Any = orjson.loads((await store.read(USAGE)).state)
        return bool(state["meters"]["api_calls"]["used"] == units)

    await until(is_announced)


def used(answer: Any) -> int:
    return int(answer["state"]["meters"]["api_calls"]["used"])


class TestDoors:
    """Scenario 114."""

    async def test_s114_the_state_route_answers_the_count_of_now(
        self, server: Server, store: Store, tmp_path: Path
    ) -> None:
        await entitle(store, api_calls=100)
        async with gateway(server, tmp_path) as running:
            await count(store, 1, times=4)
            found = await read(running)
            assert used(found) == 1, "announced at most four times a second"
            waiting = asyncio.create_task(read(running, f"?min_version={found['version'] + 1}&wait_ms=20000"))
            assert used(await waiting) == 4
            await read(running, jwt=token("tenant:other"), status=403)

    async def test_s114_the_event_stream_shows_it(self, server: Server, store: Store, tmp_path: Path) -> None:
        await entitle(store, api_calls=100)
        headers = {"Authorization": f"Bearer {token(TENANT)}"}
        async with (
            gateway(server, tmp_path) as running,
            httpx2.AsyncClient(base_url=running.url, headers=headers, timeout=30) as http,
            http.stream("GET", f"/v1/state/{USAGE}/events") as stream,
        ):
            counted = False
            async for line in stream.aiter_lines():
                if line.startswith("data: ") and (frame := orjson.loads(line[6:]))["type"] == "snapshot":
                    if used(frame) == 3:
                        break
                    if not counted:
                        counted = True
                        await ask(running, "/api_calls/consume", {"amount": 3})

    async def test_s114_one_of_several_gateways_announces_and_all_show(
        self, server: Server, store: Store, tmp_path: Path
    ) -> None:
        await entitle(store, api_calls=100)
        (tmp_path / "b").mkdir()
        async with (
            gateway(server, tmp_path) as one,
            gateway(server, tmp_path / "b") as other,
            open_client(one, USAGE, jwt=token(TENANT)) as here,
            open_client(other, USAGE, jwt=token(TENANT)) as there,
        ):
            first = [await versions(client, limit=100) for client in (here, there)]
            assert first[0] == first[1]
            up = await entitle(store, api_calls=200)
            second = [await versions(client, limit=200) for client in (here, there)]
            assert second[0] == second[1]
            await until(lambda: one.node.metrics.sweeps > 3 and other.node.metrics.sweeps > 3)
            newest = await store.read(USAGE)
            assert newest.version == second[0], "what is shown already makes no version"
            assert orjson.loads(newest.state)["entitlements"] == up

    async def test_s114_a_page_that_is_open_writes_nothing(self, server: Server, store: Store, tmp_path: Path) -> None:
        await entitle(store, api_calls=100)
        async with gateway(server, tmp_path) as running, open_client(running, USAGE, jwt=token(TENANT)) as client:
            await shown(client, limit=100)
            before, sweeps = await written(store), running.node.metrics.sweeps
            await until(lambda: running.node.metrics.sweeps >= sweeps + 3)
            assert await written(store) == before

    async def test_s114_a_page_of_a_catalog_without_meters_leaves_no_keys(
        self, server: Server, store: Store, tmp_path: Path
    ) -> None:
        path = tmp_path / "catalog.toml"
        async with gateway(server, tmp_path, CATALOG=str(path)) as running:
            path.write_text('[plans.free]\nname = "Free"\nrank = 0\ndefault = true\n')
            await until(lambda: not _meters(running))
            async with open_client(running, USAGE, jwt=token(TENANT)) as client:
                assert (await client.until("snapshot"))["state"] is None
            assert [key async for key in store.redis.scan_iter("*usage*")] == []

    async def test_s114_what_a_killed_process_has_counted_is_shown(
        self, server: Server, store: Store, tmp_path: Path
    ) -> None:
        await entitle(store, api_calls=100)
        async with gateway(server, tmp_path) as running, open_client(running, USAGE, jwt=token(TENANT)) as client:
            await shown(client, used=0)
            await count(store, 1, times=5)
            await shown(client, used=5)

    async def test_s114_a_new_window_is_shown_when_it_begins(
        self, server: Server, store: Store, tmp_path: Path
    ) -> None:
        """No call and no sweep comes meanwhile."""
        ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=3)
        period = {"starts_at": (ends - datetime.timedelta(days=7)).isoformat(), "ends_at": ends.isoformat()}
        state = {"plan": {"key": "pro"}, "status": "active", "limits": {"api_calls": 100}, "period": period}
        await store.commit(Change(TENANT, orjson.dumps(state), owner=BILLING))
        await count(store, 7)
        async with (
            gateway(server, tmp_path, SWEEP_S="600") as running,
            open_client(running, USAGE, jwt=token(TENANT)) as client,
        ):
            await shown(client, used=7)
            await shown(client, used=0)
            assert time.time() - ends.timestamp() < 2

    async def test_s114_who_may_no_longer_read_the_tenant_loses_its_usage(
        self, server: Server, store: Store, tmp_path: Path
    ) -> None:
        await entitle(store, api_calls=100)
        jwt = token(TENANT, USAGE)
        async with gateway(server, tmp_path) as running, open_client(running, USAGE, jwt=jwt) as client:
            await shown(client, used=0)
            async with httpx2.AsyncClient(base_url=running.url, headers=KEY) as http:
                assert (await http.post("/v1/sessions/revoke", json={"topic": TENANT})).status_code == 200
            assert (await client.until("gone"))["topic"] == USAGE
            await client.send("subscribe", topic=USAGE)
            assert (await client.until("error"))["code"] == "forbidden"
            await read(running, jwt=jwt, status=401)

    async def test_s114_expect_and_ack(self, server: Server, store: Store, tmp_path: Path) -> None:
        await entitle(store, api_calls=100)
        async with gateway(server, tmp_path) as running, open_client(running, USAGE, jwt=token(TENANT)) as client:
            version = await versions(client, limit=100)
            await client.send("ack", topic=USAGE, version=version)
            await client.send("expect", topic=USAGE, after=version, timeout_ms=20000)
            assert (await client.until("pending"))["after"] == version
            await ask(running, "/api_calls/consume", {"amount": 3})
            await shown(client, used=3)
            await until(lambda: running.node.metrics.acks == 1)
            assert await store.redis.zcard(store.keys.reconcile) == 0, "no provider knows a usage topic"

    async def test_s114_an_erased_tenant_is_gone_from_open_pages(
        self, server: Server, store: Store, tmp_path: Path
    ) -> None:
        await entitle(store, api_calls=100)
        async with gateway(server, tmp_path) as running, open_client(running, USAGE, jwt=token(TENANT)) as client:
            await shown(client, used=0)
            await store.commit(Change(TENANT, b"null", owner=BILLING, erases=True))
            gone = await client.until("gone")
            assert (gone["topic"], gone["reason"]) == (USAGE, "erased")


def _meters(running: Running) -> Any:
    usage: Any = running.node._usage
    return usage._calls._meters().by_name


async def versions(client: Client, **expected: object) -> int:
    """Return the version of the first state whose meter has these members."""
    while True:
        frame = await client.until("snapshot")
        if frame["state"] and expected.items() <= frame["state"]["meters"]["api_calls"].items():
            return int(frame["version"])


async def written(store: Store) -> int:
    """How many usage keys were changed: `usage_meters` and the snapshot, by their digests."""
    names = sorted([key async for key in store.redis.scan_iter("*usage*")])
    return hash(tuple([await store.redis.dump(name) for name in names]))


class TestLosses:
    """Scenario 115."""

    async def test_s115_a_gateway_that_missed_announcements_finds_that_the_store_has_lost_some(
        self, server: Server, store: Store, tmp_path: Path
    ) -> None:
        """A replica that lacks the tail is promoted, and has counted several times before the gateway is back."""
        with start_valkey(tcp=True) as replica:
            other = connect(replica.url).store
            await entitle(store, api_calls=100)
            async with (
                run_proxy("127.0.0.1", server.port) as wire,
                gateway(At(f"redis://127.0.0.1:{wire.port}"), tmp_path, SWEEP_S="600") as running,  # type: ignore[arg-type]
                open_client(running, USAGE, jwt=token(TENANT)) as client,
            ):
                await count(store, 1)
                await shown(client, used=1)
                await command(replica, "REPLICAOF", "127.0.0.1", str(server.port))

                async def is_replicated() -> bool:
                    return (await other.read(USAGE)).version == (await store.read(USAGE)).version

                await until(is_replicated, timeout_s=15)
                await command(replica, "REPLICAOF", "NO", "ONE")
                await ask(running, "/api_calls/consume", {"amount": 19})
                await shown(client, used=20)
                for used_there in (2, 3, 4):
                    await count(other, 1)
                    await announced(other, used_there)  # and nobody hears it
                wire.target = ("127.0.0.1", replica.port)
                server.kill()
                wire.cut()

                async def is_restored() -> bool:
                    return used(await read(running)) == 20

                await until(is_restored, timeout_s=15)
                await ask(running, "/api_calls/consume", {"amount": 1})
                await shown(client, used=21)
            await other.aclose()

    async def test_s115_on_a_cluster_usage_is_shown_and_counted_in_the_tenant_s_slot(self, tmp_path: Path) -> None:
        with start_cluster(redis_binary()) as cluster:
            store = connect(cluster.url).store
            async with gateway(cluster, tmp_path) as running:  # type: ignore[arg-type]
                for name in ("t1", "t2", "t3", "acme"):
                    topic = f"usage:{name}"
                    async with open_client(running, topic, jwt=token(f"tenant:{name}")) as client:
                        await shown(client, limit=3)
                        await ask(running, "/api_calls/consume", {"amount": 2}, tenant=name)
                        await shown(client, used=2)
            await store.aclose()

    async def test_s115_after_a_failover_of_sentinel_pages_show_what_is_counted(self, tmp_path: Path) -> None:
        with watched_primary(valkey_binary()) as watched:
            async with (
                gateway(watched, tmp_path) as running,  # type: ignore[arg-type]
                open_client(running, USAGE, jwt=token(TENANT)) as client,
            ):
                await ask(running, "/api_calls/consume", {"amount": 1})
                await shown(client, used=1)
                await asyncio.to_thread(watched.down_after, 400)
                watched.primary.kill()

                async def is_counted() -> bool:
                    async with httpx2.AsyncClient(base_url=running.url, headers=KEY, timeout=5) as http:
                        path = "/v1/tenants/acme/usage/api_calls/consume"
                        answer = await http.post(path, json={"amount": 1, "key": "k"})
                    return answer.status_code == 200

                await until(is_counted, timeout_s=FAILOVER_S)
                await shown(client, used=2)
