"""A store behind one name that moves to another server, as managed ones do: new connections reach the new primary, and
those made before stay at the old one. Everything that has a connection follows the name, without a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import orjson
import psycopg
import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError

from planwire_client import AsyncPublisher, Publisher, Verdict, outbox
from sync.billing.catalog.watcher import EXAMPLE, CatalogWatcher
from sync.billing.services.wiring import BillingServices
from sync.outbox.relay import Relay
from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.models import Change
from sync.store.redis.connect import connect
from sync.worker import Worker
from tests.support.gateway import PUBLISH_KEY, Client, Running, environment, open_client, run_gateway
from tests.support.postgres import start_postgres
from tests.support.proxy import Proxy, run_proxy
from tests.support.servers import Server, start_redis, start_valkey
from tests.support.wait import until

TOPIC = "tenant:acme"
HEALS_S = 10.0
"""Seconds until everything works again, on a busy machine; without one it takes as long as a probe interval or two."""

PROBE_S = 0.4
QUICK = {"PROBE_S": str(PROBE_S), "SWEEP_S": "600", "HEARTBEAT_S": "0.3", "READY_TIMEOUT_S": "0.3"}
"""Without sweeps: what arrives has come over the bus, or was read after it was connected anew."""

KEYS = 3000
"""What a demoted server has to load, each for KEY_DELAY_US."""

KEY_DELAY_US = 2000


class Name:
    """Two servers, and a proxy that is the name of the primary."""

    def __init__(self, primary: Server, replica: Server, wire: Proxy, login: str = "") -> None:
        self.primary, self.replica, self.wire = primary, replica, wire
        self.url = f"redis://{login}127.0.0.1:{wire.port}"

    async def promote(self) -> None:
        """Make the replica a primary, and the primary its replica. Nobody is told, and every connection stays."""
        self.primary, self.replica = self.replica, self.primary
        await ask(self.primary, "REPLICAOF", "NO", "ONE")
        await ask(self.replica, "REPLICAOF", "127.0.0.1", str(self.primary.port))

    def move(self) -> None:
        """Have new connections go to the present primary."""
        self.wire.target = ("127.0.0.1", self.primary.port)


async def ask(server: Server, *command: Any) -> Any:
    """Return the server's own answer, past the name."""
    client: Any = redis.asyncio.Redis(port=server.port, retry=Retry(NoBackoff(), 0))
    async with client:
        return await client.execute_command(*command)


async def is_in_step(replica: Server) -> bool:
    role = await ask(replica, "ROLE")
    return bool(role[0] in (b"slave", b"replica") and role[3] == b"connected")


@asynccontextmanager
async def named(start: Callable[..., Any], login: str = "", user: tuple[str, ...] = ()) -> AsyncIterator[Name]:
    """A primary with a replica in step, and its name; `user`: the rules of an ACL user that both have."""
    with start(tcp=True) as primary, start(tcp=True) as replica:
        for server in (primary, replica):
            await ask(server, "CONFIG", "SET", "repl-diskless-sync-delay", "0")
            await ask(server, "CONFIG", "SET", "repl-backlog-size", "16384")
            if user:
                await ask(server, "ACL", "SETUSER", *user)
        await ask(replica, "REPLICAOF", "127.0.0.1", str(primary.port))
        await until(lambda: is_in_step(replica), timeout_s=HEALS_S)
        async with run_proxy("127.0.0.1", primary.port) as wire:
            yield Name(primary, replica, wire, login)


@pytest.fixture(params=[start_redis, start_valkey], ids=["redis", "valkey"])
async def name(request: pytest.FixtureRequest) -> AsyncIterator[Name]:
    async with named(request.param) as name:
        yield name


@pytest.fixture
async def redis_name() -> AsyncIterator[Name]:
    """The same on Redis alone, where the engine is not the point."""
    async with named(start_redis) as name:
        yield name


async def publish(running: Running, state: object) -> int:
    """The version that a gateway has given the topic; 0: it was answered 503."""
    async with httpx2.AsyncClient(base_url=running.url, trust_env=False) as http:
        answer = await http.post(
            "/v1/publish",
            json={"topic": TOPIC, "state": state},
            headers={"Authorization": f"Bearer {PUBLISH_KEY}"},
            timeout=HEALS_S,
        )
    if answer.status_code == 503:
        return 0
    assert answer.status_code == 200, answer.text
    return int(answer.json()["version"])


async def is_told_fresh(client: Client) -> bool:
    return bool((await client.until("heartbeat"))["fresh"])


async def heals(running: Running, client: Client) -> None:
    """A publish goes through again, the tab shows it and is told that it is fresh, and the next one comes at once."""
    version = await until(lambda: publish(running, {"after": "failover"}), timeout_s=HEALS_S)
    async with asyncio.timeout(HEALS_S):
        while (await client.until("snapshot"))["version"] != version:
            pass
    await until(lambda: is_told_fresh(client), timeout_s=HEALS_S)
    again = await publish(running, {"and": "again"})
    assert (await client.until("snapshot"))["version"] == again
    async with httpx2.AsyncClient(base_url=running.url, trust_env=False) as http:
        assert (await http.get("/readyz")).status_code == 200


@pytest.mark.parametrize("when", ["at once", "late"])
async def test_a_gateway_and_its_tabs_follow_the_name(name: Name, when: str) -> None:
    """Late: for a while new connections, too, are led to the old primary, as by a name server that is behind."""
    async with run_gateway(environment(name.url, **QUICK)) as running, open_client(running, TOPIC) as client:
        assert await publish(running, {"before": "failover"})
        await client.until("snapshot")
        await name.promote()
        if when == "late":
            await until(lambda: not running.node.hub.fresh)
            assert await publish(running, {"nobody": "takes it"}) == 0
        name.move()
        await heals(running, client)


async def test_an_old_primary_without_a_link_holds_nobody(redis_name: Name) -> None:
    """It answers MASTERDOWN even to those who read."""
    name = redis_name
    async with run_gateway(environment(name.url, **QUICK)) as running, open_client(running, TOPIC) as client:
        assert await publish(running, {"before": "failover"})
        old = name.primary
        await ask(old, "CONFIG", "SET", "replica-serve-stale-data", "no")
        await name.promote()
        await ask(old, "REPLICAOF", "127.0.0.1", "1")
        await until(lambda: not running.node.hub.fresh)
        name.move()
        await heals(running, client)


async def test_an_old_primary_that_loads_the_new_ones_data_holds_nobody(redis_name: Name) -> None:
    name = redis_name
    async with run_gateway(environment(name.url, **QUICK)) as running, open_client(running, TOPIC) as client:
        assert await publish(running, {"before": "failover"})
        old = name.primary
        # It answers while it loads, as one does that has more to load than a test can wait for.
        await ask(old, "CONFIG", "SET", "loading-process-events-interval-bytes", "1024")
        await ask(old, "CONFIG", "SET", "key-load-delay", str(KEY_DELAY_US))
        await ask(name.replica, "REPLICAOF", "NO", "ONE")
        fill = "for i = 1, tonumber(ARGV[1]) do redis.call('SET', 'fill:' .. i, i) end"
        await ask(name.replica, "EVAL", fill, "0", str(KEYS))  # more than its backlog: it has to be sent as a whole
        await name.promote()
        await until(lambda: is_loading(old), timeout_s=HEALS_S)
        name.move()
        await heals(running, client)
        assert await is_loading(old), "healed before it was loaded: that may take minutes"
        await ask(old, "CONFIG", "SET", "key-load-delay", "0")


async def is_loading(server: Server) -> bool:
    try:
        await ask(server, "GET", "x")
    except BusyLoadingError:
        return True
    return False


async def test_a_password_that_is_rotated_heals_once_both_are_valid() -> None:
    """The new primary knows the new password alone at first."""
    app = ("app", "on", ">old", "~*", "&*", "+@all")
    async with AsyncExitStack() as stack:
        name = await stack.enter_async_context(named(start_redis, login="app:old@", user=app))
        running = await stack.enter_async_context(run_gateway(environment(name.url, **QUICK)))
        client = await stack.enter_async_context(open_client(running, TOPIC))
        assert await publish(running, {"before": "failover"})
        await ask(name.replica, "ACL", "SETUSER", "app", "resetpass", ">new")
        await name.promote()
        name.move()
        await until(lambda: not running.node.hub.fresh)
        assert await publish(running, {"nobody": "takes it"}) == 0
        await ask(name.primary, "ACL", "SETUSER", "app", ">old")
        await heals(running, client)


async def test_where_only_commits_have_moved_the_canary_has_the_feed_follow(redis_name: Name) -> None:
    """The old primary is cut off and never knew of its demotion: to the feed that stays there it is just silent."""
    name = redis_name
    async with run_gateway(environment(name.url, **QUICK)) as running, open_client(running, TOPIC) as client:
        assert await publish(running, {"before": "failover"})
        old = name.primary
        await ask(name.replica, "REPLICAOF", "NO", "ONE")
        name.primary, name.replica = name.replica, old
        name.move()
        await ask(old, "CLIENT", "KILL", "TYPE", "normal")
        await heals(running, client)
        assert await ask(old, "PUBSUB", "NUMPAT") == 0
        assert not await ask(old, "PUBSUB", "CHANNELS", "pw:*"), "nobody listens there any more"


async def test_a_feed_does_not_stay_at_a_replica(redis_name: Name) -> None:
    """A replica announces what its primary does, but not what it missed while it was behind: that is no proof."""
    name = redis_name
    async with run_gateway(environment(name.url, **QUICK)) as running, open_client(running, TOPIC) as client:
        assert await publish(running, {"before": "failover"})
        name.wire.target = ("127.0.0.1", name.replica.port)
        await ask(name.primary, "CLIENT", "KILL", "TYPE", "pubsub")
        accepted = name.wire.accepted
        await until(lambda: name.wire.accepted >= accepted + 3, timeout_s=HEALS_S)
        assert not running.node.hub.fresh
        name.move()
        await heals(running, client)


async def test_a_worker_follows_the_name(name: Name) -> None:
    store, direct = connect(name.url).store, connect(name.replica.url).store
    async with AsyncExitStack() as stack:
        stack.push_async_callback(store.aclose)
        stack.push_async_callback(direct.aclose)
        services = BillingServices(store, CatalogWatcher(EXAMPLE), {})
        stack.push_async_callback(services.aclose)
        worker = Worker(services, ("live",), poll_s=0.02)

        async def is_done() -> bool:
            return bool(await store.redis.zcard(keys.reconcile) == 0)

        async with asyncio.TaskGroup() as group:
            group.create_task(worker.run())
            await store.want_reconcile([TOPIC])
            await until(is_done)
            await name.promote()
            name.move()
            await direct.want_reconcile([TOPIC])

            async def is_taken() -> bool:
                return bool(await direct.redis.zcard(keys.reconcile) == 0)

            await until(is_taken, timeout_s=HEALS_S)
            worker.stop()


async def test_publishers_straight_to_the_store_follow_the_name(name: Name) -> None:
    """Within one call, whichever of their connections it takes."""
    calls = 4
    async with AsyncPublisher(name.url) as publisher:
        with Publisher(name.url) as blocking:
            for before in range(2):

                async def both(number: int, before: int = before) -> None:
                    topic = f"tenant:t{number}"
                    done = await publisher.publish(topic, {"async": before})
                    assert done.verdict is Verdict.APPLIED
                    done = await asyncio.to_thread(blocking.publish, topic, {"blocking": before})
                    assert done.verdict is Verdict.APPLIED

                async with asyncio.TaskGroup() as group:
                    for number in range(calls):
                        group.create_task(both(number))
                if not before:
                    await name.promote()
                    name.move()
    direct = connect(name.primary.url).store
    snapshots = await direct.read_many([f"tenant:t{number}" for number in range(calls)])
    assert {snapshot.state for snapshot in snapshots} == {b'{"blocking":1}'}
    await direct.aclose()


@contextmanager
def database() -> Iterator[str]:
    """A database with the outbox in it."""
    with start_postgres() as server, server.database() as url:
        with psycopg.connect(url) as connection:
            connection.execute(outbox.DDL.encode())
        yield url


async def test_a_relay_follows_the_name(name: Name) -> None:
    with database() as url:
        store = connect(name.url).store
        relay = Relay(url, store, poll_s=0.1)

        def put(state: object) -> None:
            with psycopg.connect(url) as connection:
                outbox.enqueue(connection, TOPIC, state)

        async def shows(state: bytes) -> bool:
            snapshot = await direct.read(TOPIC)
            return snapshot.state == state

        async with asyncio.TaskGroup() as group:
            group.create_task(relay.run())
            direct = connect(name.primary.url).store
            put({"before": 1})
            await until(lambda: shows(b'{"before":1}'), timeout_s=HEALS_S)
            await direct.aclose()
            await name.promote()
            name.move()
            direct = connect(name.primary.url).store
            put({"after": 1})
            await until(lambda: shows(b'{"after":1}'), timeout_s=HEALS_S)
            relay.stop()
        await direct.aclose()
        await store.aclose()


async def test_many_calls_at_once_all_go_through(redis_name: Name) -> None:
    """Each of the pool's connections has been at the old primary, and none is answered an error."""
    name = redis_name
    store = connect(name.url).store
    changes = [Change(f"user:{number}", orjson.dumps({"n": 1})) for number in range(30)]
    await asyncio.gather(*map(store.commit, changes))
    await name.promote()
    name.move()
    changes = [Change(f"user:{number}", orjson.dumps({"n": 2})) for number in range(30)]
    done = await asyncio.gather(*map(store.commit, changes))
    assert {one.verdict for one in done} == {"applied"}
    await store.aclose()


async def test_the_process_of_a_worker_follows_the_name(redis_name: Name, tmp_path: Path) -> None:
    """As it is started in production, event loop and all."""
    from tests.support.processes import clean_environ, python, running

    name = redis_name
    direct = connect(name.replica.url).store
    environ = clean_environ(tmp_path, PLANWIRE_REDIS_URL=name.url, PLANWIRE_LOG_LEVEL="warning")
    with running(python("-m", "sync.worker"), environ) as worker:
        store = connect(name.primary.url).store
        await store.want_reconcile([TOPIC])

        async def is_done() -> bool:
            assert worker.status() is None, worker.text
            return bool(await store.redis.zcard(keys.reconcile) == 0)

        await until(is_done, timeout_s=20)
        await name.promote()
        name.move()
        await direct.want_reconcile([TOPIC])

        async def is_taken() -> bool:
            assert worker.status() is None, worker.text
            return bool(await direct.redis.zcard(keys.reconcile) == 0)

        await until(is_taken, timeout_s=HEALS_S)
    await store.aclose()
    await direct.aclose()
