"""Several installations on one server: none hears, changes or revokes anything of another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import orjson
import pytest
import redis.asyncio

from gateway.freshness import reconciler
from planwire_client import AsyncPublisher, PlanwireError, Publisher
from planwire_client.core.commit import PrefixError
from sync import bootstrap
from sync.core.announcement import Announcement
from sync.settings import SyncSettings
from sync.store.keys import DEFAULT_KEYS, Keys
from sync.store.models import Change
from sync.store.redis.connect import connect, open_store
from sync.store.store import Store
from sync.worker import Worker
from tests.support.announcements import payload_of
from tests.support.bodies import SECRET, signature, webhook
from tests.support.cluster import start_cluster
from tests.support.gateway import open_client, token
from tests.support.installations import TOPIC, check_apart, installation, publish, revoke, shown
from tests.support.servers import Server, redis_binary, start_redis, start_valkey
from tests.support.wait import until


@pytest.fixture(params=[start_valkey, start_redis], ids=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with request.param(tcp=True) as running:
        yield running


def apart(kind: str, server: Server) -> list[tuple[str, str]]:
    """The store URLs and prefixes of two installations, by what tells them apart."""
    return {
        "databases": [(f"{server.url}/0", "pw"), (f"{server.url}/1", "pw")],
        "other databases": [(f"{server.url}/7", "pw"), (f"{server.url}?db=6", "pw")],
        "prefixes": [(server.url, "pw"), (server.url, "pw:staging")],
        "both": [(f"{server.url}/3", "acme/prod"), (f"{server.url}/4", "acme/staging")],
    }[kind]


@pytest.mark.parametrize("kind", ["databases", "other databases", "prefixes", "both"])
async def test_two_installations_on_one_server_know_nothing_of_each_other(server: Server, kind: str) -> None:
    await check_apart(*apart(kind, server))


async def test_two_installations_on_one_cluster_know_nothing_of_each_other() -> None:
    with start_cluster(redis_binary()) as cluster:
        await check_apart((cluster.url, "pw"), (cluster.url, "pw.staging"))


@pytest.mark.parametrize("kind", ["databases", "prefixes"])
async def test_direct_publishers_and_the_relay_reach_their_own_installation_alone(server: Server, kind: str) -> None:
    first, second = apart(kind, server)
    async with (
        installation(*first) as (one, _),
        installation(*second) as (two, _),
        open_client(one, TOPIC) as one_tab,
        open_client(two, TOPIC) as two_tab,
    ):
        assert [await shown(one_tab), await shown(two_tab)] == [None, None]
        url, prefix = second
        async with AsyncPublisher(url, prefix=prefix) as publisher:
            await publisher.publish(TOPIC, {"by": "asyncio"})
        assert await shown(two_tab) == {"by": "asyncio"}
        await asyncio.to_thread(blocking, url, prefix)
        assert await shown(two_tab) == {"by": "a thread"}
        relay = SyncSettings.from_env({"PLANWIRE_REDIS_URL": url, "PLANWIRE_PREFIX": prefix})
        async with open_store(relay) as connected:
            await connected.store.commit_many([Change(TOPIC, b'{"by":"the relay"}')])
        assert await shown(two_tab) == {"by": "the relay"}
        await publish(one, {"of": "one"})
        assert await shown(one_tab) == {"of": "one"}
        assert one.node.metrics.foreign == 0


def blocking(url: str, prefix: str) -> None:
    with Publisher(url, prefix=prefix) as publisher:
        publisher.publish(TOPIC, {"by": "a thread"})


async def test_every_key_and_channel_begins_with_the_prefix(tmp_path: Path, server: Server) -> None:
    """Of a gateway with a console that somebody looks at, the intake, and a worker that handles what came in."""
    url, prefix = f"{server.url}/2", "acme/prod.eu:1"
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(
        '[plans.free]\nname = "Free"\nrank = 0\ndefault = true\n\n[plans.pro]\nname = "Pro"\nrank = 20\n'
        'prices.paddle.live = ["pri_pro"]\n'
    )
    billing = {"PADDLE_SECRETS": f"live:{SECRET}", "CATALOG": str(catalog), "INTAKE": "1"}
    console = "a-console-token-of-enough-characters"
    async with installation(url, prefix, CONSOLE_TOKEN=console, **billing) as (running, store):
        body = webhook()
        signed = {"Paddle-Signature": signature(body, int(time.time()), SECRET)}
        async with (
            httpx2.AsyncClient(base_url=running.url) as http,
            open_client(running, TOPIC) as tab,
            watching(store) as channels,
        ):
            answer = await http.post("/webhooks/paddle", content=body, headers=signed)
            assert answer.status_code == 200, answer.text
            bearer = {"Authorization": f"Bearer {console}", "Planwire-Console": "1"}
            looked = await http.post("/console/api/look", json={"topics": [TOPIC]}, headers=bearer)
            assert looked.status_code == 200, looked.text
            await revoke(running, "nobody")
            settings = SyncSettings.from_env(
                {f"PLANWIRE_{name}": value for name, value in billing.items() if name != "INTAKE"}
            )
            services = await bootstrap.build_services(store, settings)
            worker = Worker(services, settings.environments, poll_s=0.01)
            working = asyncio.create_task(worker.run())
            await until(lambda: running.node.metrics.sweeps > 3)
            worker.stop()
            await working
            await services.aclose()
            assert (await tab.until("welcome"))["fresh"]
        found = [key.decode() async for key in store.redis.scan_iter(count=1000)]
        assert len(found) > 8
        assert [key for key in found if not key.startswith(f"{prefix}:")] == []
        assert len(channels) > 3
        assert [name for name in channels if not name.startswith(f"{prefix}@2:")] == []


@asynccontextmanager
async def watching(store: Store) -> AsyncIterator[set[str]]:
    """The names of the channels on which anything is said meanwhile."""
    heard: set[str] = set()
    async with store.redis.pubsub() as pubsub:
        await pubsub.psubscribe("*")

        async def listen() -> None:
            async for message in pubsub.listen():
                if message["type"] == "pmessage":
                    heard.add(message["channel"].decode())

        listening = asyncio.create_task(listen())
        try:
            yield heard
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


@pytest.mark.parametrize("prefix", ["", "a b", "{a}", "a\n", "a@b", ":a", "a" * 65, "å", "a*"])
def test_what_can_be_no_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(PrefixError, match="is not a prefix"):
        connect("redis://127.0.0.1", prefix=prefix)
    with pytest.raises(PlanwireError, match="is not a prefix"):
        Publisher("redis://127.0.0.1", prefix=prefix)


def test_the_default_prefix_on_database_0_keeps_its_names() -> None:
    assert (DEFAULT_KEYS.channel(TOPIC), DEFAULT_KEYS.control_channel) == ("pw:{tenant:acme}", "pw:control")
    assert DEFAULT_KEYS.snap(TOPIC) == Keys("pw", 5).snap(TOPIC) == "pw:{tenant:acme}:snap"
    assert Keys("pw", 5).channel(TOPIC) == "pw@5:{tenant:acme}"


# An installation of a build whose channels name no database.


async def announce_from_elsewhere(url: str, version: int, state: bytes) -> None:
    """What such a build on another database announces of TOPIC."""
    async with redis.asyncio.Redis.from_url(f"{url}/9") as elsewhere:
        said = payload_of(Announcement(version, 0, b"", b"", state))
        await elsewhere.publish(DEFAULT_KEYS.channel(TOPIC), said)


async def test_an_older_builds_announcement_from_another_database_is_neither_kept_nor_written(server: Server) -> None:
    async with installation(server.url, "pw") as (running, store), open_client(running, TOPIC) as tab:
        assert await shown(tab) is None
        own = await publish(running, {"of": "production"})
        assert await shown(tab) == {"of": "production"}
        await announce_from_elsewhere(server.url, own + 1_000_000, b'{"of":"staging"}')
        # Nobody can tell at once; the store does within a moment, and the tab is sent back.
        while (frame := await tab.until("snapshot"))["state"] != {"of": "production"}:
            assert frame["state"] == {"of": "staging"}
        assert (frame["version"], frame["reset"]) == (own, True)
        assert (await store.read(TOPIC)).state == b'{"of":"production"}'
        assert (running.node.metrics.restored, running.node.metrics.foreign) == (0, 1)
        # What is published since is shown as ever.
        await publish(running, {"of": "production", "n": 2})
        assert await shown(tab) == {"of": "production", "n": 2}


async def test_an_older_builds_announcement_of_a_topic_without_state_is_taken_back(server: Server) -> None:
    async with installation(server.url, "pw") as (running, store), open_client(running, TOPIC) as tab:
        assert await shown(tab) is None
        await announce_from_elsewhere(server.url, time.time_ns() // 1000, b'{"of":"staging"}')
        while (frame := await tab.until("snapshot"))["state"] is not None:
            assert frame["state"] == {"of": "staging"}
        assert (frame["version"], frame["reset"]) == (0, True)
        assert (await store.read(TOPIC)).version == 0


async def test_an_older_builds_revocation_from_another_database_revokes_nothing(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    async with (
        installation(server.url, "pw") as (running, _),
        open_client(running, TOPIC, jwt=token(sub="alice")) as tab,
    ):
        assert await shown(tab) is None
        said = {"op": "revoke", "kind": "sub", "value": "alice", "at": time.time() + 60}
        async with redis.asyncio.Redis.from_url(f"{server.url}/9") as elsewhere:
            await elsewhere.publish(DEFAULT_KEYS.control_channel, orjson.dumps(said))
        await until(lambda: running.node.metrics.foreign == 1)
        await publish(running, {"n": 1})
        assert await shown(tab) == {"n": 1}
        assert reconciler.FOREIGN_HINT in capsys.readouterr().out
